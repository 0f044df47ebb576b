package dagmanager

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/internal/tracing"
)

// stages times what diffs wait for, each as the diff sees it: what is done
// together with others counts from when the diff came to want it.
type stages struct {
	seconds *prometheus.HistogramVec
	traces  *tracing.Tracer // nil: none
}

func newStages(reg prometheus.Registerer, traces *tracing.Tracer) *stages {
	s := &stages{traces: traces, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dagmanager_stage_seconds", Help: "Time that a diff waits for a stage: lookup, claim, ensure, confirm, record, stream.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14)}, []string{"stage"})}
	reg.MustRegister(s.seconds)
	return s
}

// time is for defer: the time from its call on is observed.
func (s *stages) time(stage string, start time.Time) {
	s.seconds.WithLabelValues(stage).Observe(time.Since(start).Seconds())
}

// timed is a stage under way.
type timed struct {
	stages *stages
	stage  string
	start  time.Time
	span   tracing.Span
}

// begin times a stage, in a span of its own, until end.
func (s *stages) begin(ctx context.Context, stage string) (context.Context, timed) {
	ctx, span := s.traces.Start(ctx, stage)
	return ctx, timed{s, stage, time.Now(), span}
}

func (t timed) end() {
	t.stages.time(t.stage, t.start)
	t.span.End(nil)
}

// timedNodes are nodes whose every call is timed.
type timedNodes struct {
	diff.Nodes
	stages *stages
}

func (n timedNodes) Lookup(ctx context.Context, ids []string) ([]*diff.Node, error) {
	ctx, done := n.stages.begin(ctx, "lookup")
	defer done.end()
	return n.Nodes.Lookup(ctx, ids)
}

func (n timedNodes) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	ctx, done := n.stages.begin(ctx, "claim")
	defer done.end()
	return n.Nodes.Claim(ctx, claims)
}

func (n timedNodes) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	ctx, done := n.stages.begin(ctx, "confirm")
	defer done.end()
	return n.Nodes.Confirm(ctx, queues)
}

func (n timedNodes) Record(ctx context.Context, f diff.Findings) error {
	ctx, done := n.stages.begin(ctx, "record")
	defer done.end()
	return n.Nodes.Record(ctx, f)
}

// timedTopics are topics whose making is timed.
type timedTopics struct {
	diff.Topics
	stages *stages
}

func (t timedTopics) Ensure(ctx context.Context, topics []diff.Topic) error {
	ctx, done := t.stages.begin(ctx, "ensure")
	defer done.end()
	return t.Topics.Ensure(ctx, topics)
}
