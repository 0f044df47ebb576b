package controlbus

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/internal/metric"
)

// metrics are the families of controlbus.md 7.1 that the consumer moves, and
// four of its own: for what it could not read, buries and tries again.
type metrics struct {
	events, dropped, acks, plans, downgrades *prometheus.CounterVec
	lag, relaySkew, ackLatency               *prometheus.GaugeVec
	ratio, skew, deltas                      *prometheus.GaugeVec
	buried, unburied, unparsed, retries      *prometheus.CounterVec

	acked, sentinels, worlds metric.Labels // labels that records bring: bounded, and UTF-8
}

// droppedHelp is the help text of event_relay_dropped_total, which the hub
// shares.
const droppedHelp = "Events that were not relayed: duplicate, stale, unusable, or pushed out of a full queue."

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{}
	ackLabels := []string{"world_id", "run_id", "phase"}
	var errs []error
	for _, c := range []struct {
		to         **prometheus.CounterVec
		name, help string
		labels     []string
	}{
		{&m.events, "event_relay_events_total", "ControlBus messages that were accepted.", []string{"topic"}},
		{&m.dropped, "event_relay_dropped_total", droppedHelp, []string{"topic"}},
		{&m.acks, "controlbus_apply_ack_total", "Activations that asked for an acknowledgement and came in order.", ackLabels},
		{&m.plans, "rebalance_plans_observed_total", "Rebalancing plans that were accepted.", []string{"world_id"}},
		{&m.downgrades, "worlds_compute_context_downgrade_total", "Compute contexts of worlds that were downgraded.", []string{"reason"}},
		{&m.buried, "controlbus_dead_letters_total", "Records that could not be used and went to the dead-letter topic.", []string{"topic"}},
		{&m.unparsed, "gateway_controlbus_unparsed_total", "Records whose key, headers or value could not be read.", []string{"topic"}},
		{&m.retries, "gateway_controlbus_retry_total", "Further tries of what the bus did not take: acknowledgements and dead letters by the topic they tell of, and commits.", []string{"topic"}},
		{&m.unburied, "controlbus_dead_letters_lost_total", "Records that could not be used and could not be kept either.", []string{"topic"}},
	} {
		*c.to = prometheus.NewCounterVec(prometheus.CounterOpts{Name: c.name, Help: c.help}, c.labels)
		errs = append(errs, metric.Share(reg, c.to))
	}
	for _, g := range []struct {
		to         **prometheus.GaugeVec
		name, help string
		labels     []string
	}{
		{&m.lag, "controlbus_lag_ms", "Age of the last accepted message, in milliseconds.", []string{"topic"}},
		{&m.relaySkew, "event_relay_skew_ms", "Broker time less own time of the last accepted message, in milliseconds.", []string{"topic"}},
		{&m.ackLatency, "controlbus_apply_ack_latency_ms", "Time from sending to acknowledging the last activation, in milliseconds.", ackLabels},
		{&m.ratio, "gateway_sentinel_traffic_ratio", "Share of the traffic that a version gets.", []string{"sentinel_id"}},
		{&m.skew, "sentinel_skew_seconds", "Time from receiving to applying a sentinel weight, in seconds.", []string{"sentinel_id"}},
		{&m.deltas, "rebalance_plan_last_delta_count", "Deltas in the last plan of a world.", []string{"world_id"}},
	} {
		*g.to = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.labels)
		errs = append(errs, metric.Share(reg, g.to))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) relayed(topic string, now, written time.Time) {
	m.events.WithLabelValues(topic).Inc()
	skew := float64(written.Sub(now).Microseconds()) / 1000
	m.relaySkew.WithLabelValues(topic).Set(skew)
	m.lag.WithLabelValues(topic).Set(max(-skew, 0))
}
