package world

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"qmtl.internal/plumbline/ref/internal/metric"
)

// metrics are the families of controlbus.md 7.3.
type metrics struct {
	requests, hits, stale prometheus.Counter
	opened                prometheus.Gauge
	downgrades            *prometheus.CounterVec
	bindings              *prometheus.CounterVec
	latency               metric.Window
}

func newMetrics(reg prometheus.Registerer, c *Client) (*metrics, error) {
	m := &metrics{
		requests: metric.NewCounter(reg, "worlds_proxy_requests_total", "Answers received from WorldService."),
		hits:     metric.NewCounter(reg, "worlds_cache_hits_total", "Decisions and activations that were still true."),
		stale:    metric.NewCounter(reg, "worlds_stale_responses_total", "Old answers that were served, and decisions that submissions did not get."),
		opened:   metric.NewGauge(reg, "worlds_breaker_open_total", "How often WorldService's breaker opened."),
		downgrades: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "worlds_compute_context_downgrade_total", Help: "Compute contexts of worlds that were downgraded."}, []string{"reason"}),
		bindings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_world_bindings_total", Help: "Bindings of accepted strategies to worlds by outcome: ok, failed."}, []string{"outcome"}),
	}
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("worlds_proxy_latency_p95", "95th percentile of the last 100 answers of WorldService, milliseconds.", m.latency.P95)
	gauge("worlds_cache_hit_ratio", "Hits among hits and requests.", m.hitRatio)
	gauge("worlds_breaker_state", "1 while WorldService's breaker refuses calls.", func() float64 {
		if c.Open() {
			return 1
		}
		return 0
	})
	gauge("worlds_breaker_failures", "Consecutive failures of WorldService.", c.failures)
	reg.MustRegister(m.bindings)
	return m, metric.Share(reg, &m.downgrades)
}

// failures counts on while the breaker is open, when its own count is gone.
func (c *Client) failures() float64 {
	if c.Open() {
		return breakerTrips
	}
	return float64(c.breaker.Counts().ConsecutiveFailures)
}

func (m *metrics) answered(d time.Duration) {
	m.requests.Inc()
	m.latency.Add(d)
}

func (m *metrics) hitRatio() float64 {
	hits, requests := value(m.hits), value(m.requests)
	if hits+requests == 0 {
		return 0
	}
	return hits / (hits + requests)
}

func (m *metrics) downgraded(reason string) {
	if reason != "" {
		m.downgrades.WithLabelValues(reason).Inc()
	}
}

// value reads a counter.
func value(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return 0
	}
	return m.GetCounter().GetValue()
}
