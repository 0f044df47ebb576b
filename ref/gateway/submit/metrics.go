package submit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/internal/metric"
)

// Metrics are the families of gateway.md section 4 that a submission moves, and
// the duration of its stages.
type Metrics struct {
	Lost             prometheus.Counter
	ChecksumMismatch prometheus.Counter
	TagQueryMismatch prometheus.Counter
	MissingFields    *metric.Counters // field, node_type
	IDMismatch       *metric.Counters // node_type
	SchemaConflict   *metric.Counters // node_type
	Downgrades       *metric.Counters // reason
	diffs            *prometheus.CounterVec
	stages           *prometheus.HistogramVec
	retries          *metric.Counters // stage
	latency          metric.Window
}

// NewMetrics registers the families with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Lost:             metric.NewCounter(reg, "lost_requests_total", "Submissions that failed in registration, commit log or queue."),
		TagQueryMismatch: metric.NewCounter(reg, "tagquery_nodeid_mismatch_total", "TagQuery nodes whose id is not canonical."),
		MissingFields:    metric.NewCounters(reg, "nodeid_missing_fields_total", "Fields that a node lacks for its id.", "field", "node_type"),
		IDMismatch:       metric.NewCounters(reg, "nodeid_mismatch_total", "Nodes whose id is not canonical.", "node_type"),
		SchemaConflict:   metric.NewCounters(reg, "nodeid_schema_conflict_total", "Nodes with two different schema ids.", "node_type"),
		Downgrades:       metric.NewCounters(reg, "strategy_compute_context_downgrade_total", "Submissions whose compute context was downgraded.", "reason"),
		retries:          metric.NewCounters(reg, "gateway_stage_retries_total", "Stages of a submission that were tried again.", "stage"),
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
	}, m.latency.P95))
	return m
}

func (m *Metrics) stage(name string, err error, d time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.stages.WithLabelValues(name, outcome).Observe(d.Seconds())
}
