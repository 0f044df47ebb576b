package submit

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the families of gateway.md section 4 that a submission moves, and
// the duration of its stages.
type Metrics struct {
	Lost             prometheus.Counter
	ChecksumMismatch prometheus.Counter
	TagQueryMismatch prometheus.Counter
	MissingFields    *bounded // field, node_type
	IDMismatch       *bounded // node_type
	SchemaConflict   *bounded // node_type
	Downgrades       *bounded // reason
	diffs            *prometheus.CounterVec
	stages           *prometheus.HistogramVec
	latency          window
}

// NewMetrics registers the families with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Lost:             counter(reg, "lost_requests_total", "Submissions that failed in registration, commit log or queue."),
		TagQueryMismatch: counter(reg, "tagquery_nodeid_mismatch_total", "TagQuery nodes whose id is not canonical."),
		MissingFields:    newBounded(reg, "nodeid_missing_fields_total", "Fields that a node lacks for its id.", "field", "node_type"),
		IDMismatch:       newBounded(reg, "nodeid_mismatch_total", "Nodes whose id is not canonical.", "node_type"),
		SchemaConflict:   newBounded(reg, "nodeid_schema_conflict_total", "Nodes with two different schema ids.", "node_type"),
		Downgrades:       newBounded(reg, "strategy_compute_context_downgrade_total", "Submissions whose compute context was downgraded.", "reason"),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_stage_seconds", Help: "Duration of one stage of a submission.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"stage", "outcome"}),
	}
	crc := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nodeid_checksum_mismatch_total", Help: "Submissions whose node_ids_crc32 is wrong.",
	}, []string{"source"})
	m.diffs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_diffs_total", Help: "Diffs by how they ended for their request: ok, late, no_reply, refused, crc_differs.",
	}, []string{"outcome"})
	m.ChecksumMismatch = crc.WithLabelValues("dag")
	reg.MustRegister(crc, m.stages, m.diffs, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gateway_e2e_latency_p95", Help: "95th percentile of the last 100 accepted submissions, milliseconds.",
	}, m.latency.p95))
	return m
}

func counter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	reg.MustRegister(c)
	return c
}

func (m *Metrics) stage(name string, err error, d time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.stages.WithLabelValues(name, outcome).Observe(d.Seconds())
}

// bounded is a counter vector whose label values come from clients: the first
// 256 combinations have a series of their own, all later ones share "other".
type bounded struct {
	vec  *prometheus.CounterVec
	mu   sync.Mutex
	seen map[string]struct{} // guarded by mu
}

const maxSeries = 256

func newBounded(reg prometheus.Registerer, name, help string, labels ...string) *bounded {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	reg.MustRegister(vec)
	return &bounded{vec: vec, seen: map[string]struct{}{}}
}

// With gives the counter for values.
func (b *bounded) With(values ...string) prometheus.Counter {
	for i := range values {
		values[i] = strings.ToValidUTF8(values[i], "\uFFFD")
	}
	if !b.admit(strings.Join(values, "\x00")) {
		for i := range values {
			values[i] = "other"
		}
	}
	return b.vec.WithLabelValues(values...)
}

func (b *bounded) admit(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.seen[key]; ok {
		return true
	}
	if len(b.seen) >= maxSeries {
		return false
	}
	b.seen[key] = struct{}{}
	return true
}

// window keeps the last 100 latencies in milliseconds.
type window struct {
	mu   sync.Mutex
	last [100]float64
	n    int // ever added
}

func (w *window) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[w.n%len(w.last)] = float64(d) / float64(time.Millisecond)
	w.n++
}

// p95 is the value at floor(0.95 n) - 1 of the sorted window, 0 when empty.
func (w *window) p95() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.n, len(w.last))
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(w.last[:n]))
	return sorted[max(0, n*95/100-1)]
}
