package dagmanager

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/internal/service"
)

// metrics are the families of dagmanager.md 8.1 that this service moves, under
// their names there, and its own behind the prefix dagmanager_.
type metrics struct {
	durations      window
	requests       prometheus.Counter
	failures       prometheus.Counter
	createErrors   prometheus.Counter
	gap            prometheus.Gauge
	breakerOpen    prometheus.Gauge
	weight         *prometheus.GaugeVec
	crossHit       *prometheus.CounterVec
	crossViolation *prometheus.CounterVec
	crossSeen      seen
	versionsSeen   seen
	panics         prometheus.Counter
	log            *slog.Logger

	rpc       *prometheus.HistogramVec
	replays   prometheus.Counter
	published *prometheus.CounterVec
	retried   prometheus.Counter
	lost      prometheus.Counter

	neverAcked atomic.Int64 // streams that ended because their client never acknowledged
	orphans    prometheus.Gauge
	collected  prometheus.Gauge // when
	collect    *prometheus.CounterVec
	admin      *prometheus.HistogramVec
	httpTook   *prometheus.HistogramVec
	failing    service.Throttle
	calls      tokens
}

func newMetrics(reg prometheus.Registerer, log *slog.Logger) *metrics {
	m := &metrics{
		log:          log,
		calls:        newTokens(),
		panics:       counter("dagmanager_panics_total", "Calls that ended in a panic, which is a bug."),
		requests:     counter("diff_requests_total", "Diffs that were answered and acknowledged."),
		failures:     counter("diff_failures_total", "Diffs that failed, from reading the DAG to the last acknowledgement."),
		createErrors: counter("queue_create_error_total", "Diffs that failed to make topics."),
		gap:          gauge("sentinel_gap_count", "Sentinels that were stored without a new node."),
		breakerOpen:  gauge("kafka_breaker_open_total", "How often the breaker of the broker opened."),
		weight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dagmanager_active_version_weight", Help: "Last traffic weight of a version."}, []string{"version"}),
		crossHit: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cross_context_cache_hit_total", Help: "Nodes whose queue serves another compute context."},
			[]string{"node_id", "world_id", "execution_domain", "as_of", "partition"}),
		crossViolation: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cross_context_cache_violation_total", Help: "Diffs refused because a queue serves another compute context."},
			[]string{"node_id", "world_id", "execution_domain"}),
		rpc: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dagmanager_grpc_request_seconds", Help: "Time of a call, for a Diff until the last acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14)}, []string{"method", "code"}),
		replays: counter("dagmanager_chunks_replayed_total", "Chunks that were sent again."),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dagmanager_events_published_total", Help: "Events that the ControlBus took."}, []string{"topic"}),
		retried: counter("dagmanager_events_retried_total", "Events whose publication failed and was tried again."),
		lost:    counter("dagmanager_events_lost_total", "Events that were given up."),
	}
	m.orphans = gauge("orphan_queue_total", "Orphans that the last garbage collection observed.")
	m.collected = gauge("gc_last_run_timestamp", "End of the last garbage collection in Unix seconds.")
	m.collect = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dagmanager_gc_orphans_total", Help: "What garbage collections did with orphans."}, []string{"action", "reason"})
	m.admin = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dagmanager_kafka_admin_seconds", Help: "Time of one conversation with the broker about topics.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 3, 10)}, []string{"operation", "outcome"})
	m.httpTook = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dagmanager_http_request_seconds", Help: "Time of a request over HTTP.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 3, 10)}, []string{"route", "code"})
	reg.MustRegister(m.orphans, m.collected, m.collect, m.admin, m.httpTook)
	reg.MustRegister(m.requests, m.failures, m.createErrors, m.gap, m.breakerOpen, m.weight, m.crossHit, m.crossViolation,
		m.rpc, m.panics, m.replays, m.published, m.retried, m.lost,
		gaugeFunc("diff_duration_ms_p95", "95th percentile of the last 100 diffs in milliseconds, the wait for acknowledgements included.",
			m.durations.p95))
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func gaugeFunc(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// window holds the last durations of diffs in milliseconds.
type window struct {
	mu   sync.Mutex
	last [100]float64
	n    int
}

func (w *window) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[w.n%len(w.last)] = float64(d) / float64(time.Millisecond)
	w.n++
}

func (w *window) p95() float64 {
	w.mu.Lock()
	some := slices.Clone(w.last[:min(w.n, len(w.last))])
	w.mu.Unlock()
	if len(some) == 0 {
		return 0
	}
	slices.Sort(some)
	return some[max(0, int(float64(len(some))*0.95)-1)]
}

// weighed shows the weight of a version.
func (m *metrics) weighed(version string, weight float64) {
	m.weight.WithLabelValues(m.versionsSeen.limit(version)).Set(weight)
}

// crossed counts a violation. Its labels come from clients, so that there are
// only so many of them.
func (m *metrics) crossed(e *diff.ContextError) {
	node, c := m.crossSeen.limit(e.NodeID), e.Attempted
	if node != e.NodeID {
		c = dag.ComputeContext{}
	}
	m.crossHit.WithLabelValues(node, c.WorldID, c.ExecutionDomain, unset(c.AsOf), unset(c.Partition)).Inc()
	m.crossViolation.WithLabelValues(node, unset(c.WorldID), unset(c.ExecutionDomain)).Inc()
}

func unset(s string) string {
	if s == "" {
		return "__unset__"
	}
	return s
}

// seen bounds the values of a label.
type seen struct {
	mu  sync.Mutex
	set map[string]bool
}

const (
	mostLabels    = 1000
	overflowLabel = "__overflow__"
)

func (s *seen) limit(value string) string {
	value = strings.ToValidUTF8(strings.Clone(value), "\uFFFD")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = map[string]bool{}
	}
	if !s.set[value] && len(s.set) >= mostLabels {
		return overflowLabel
	}
	s.set[value] = true
	return value
}

// observe ends a call. A panic in it is told to this client and harms no other.
func (m *metrics) observe(ctx context.Context, c *call, method string, err *error, start time.Time) {
	if bug := recover(); bug != nil {
		m.panics.Inc()
		m.log.Error("panic", "method", method, "request_id", c.request, "error", bug, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "a bug ended this call; the log has its stack")
	}
	took := time.Since(start)
	m.rpc.WithLabelValues(method, status.Code(*err).String()).Observe(took.Seconds())
	m.logCall(ctx, c, method, *err, took)
}
