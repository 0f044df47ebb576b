package hub

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the families of controlbus.md 7.1 and 7.2 that a hub moves.
type metrics struct {
	fanout      *prometheus.CounterVec
	dropped     *prometheus.CounterVec // shared with the ControlBus consumer
	subscribers *prometheus.GaugeVec
	left        prometheus.Counter
	limited     prometheus.Counter
}

// droppedHelp is the help text of event_relay_dropped_total, which several
// packages share.
const droppedHelp = "Events that were not relayed: duplicate, stale, unusable, or pushed out of a full queue."

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		fanout: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "event_fanout_total", Help: "Clients that events were handed to.",
		}, []string{"topic"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "event_relay_dropped_total", Help: droppedHelp,
		}, []string{"topic"}),
		subscribers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ws_subscribers", Help: "Clients that get events of a topic.",
		}, []string{"topic"}),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ws_dropped_subscribers_total", Help: "Clients that left, whatever the reason.",
		}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ws_rate_limited_frames_total", Help: "Frames that were left out because their client gets only so many a second.",
		}),
	}
	return m, errors.Join(
		register(reg, &m.fanout), register(reg, &m.dropped), register(reg, &m.subscribers), register(reg, &m.left), register(reg, &m.limited))
}

// register registers *c, or makes it the family that is there already.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var there prometheus.AlreadyRegisteredError
	if !errors.As(err, &there) {
		return err
	}
	have, ok := there.ExistingCollector.(C)
	if !ok {
		return fmt.Errorf("metrics: %w as a %T", err, there.ExistingCollector)
	}
	*c = have
	return nil
}

// topics are those that a client can be counted for.
var topics = [...]string{"activation", "policy", "queue", "rebalancing", "deprecation"}

// count sets how many clients each topic has.
func (m *metrics) count(clients map[*client]struct{}) {
	for _, topic := range topics {
		n := 0
		for c := range clients {
			if c.filter.Topics == nil || c.filter.Topics[topic] {
				n++
			}
		}
		m.subscribers.WithLabelValues(topic).Set(float64(n))
	}
}
