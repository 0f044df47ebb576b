package dagmanager

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// stages times what diffs wait for, each as the diff sees it: what is done
// together with others counts from when the diff came to want it.
type stages struct{ seconds *prometheus.HistogramVec }

func newStages(reg prometheus.Registerer) *stages {
	s := &stages{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dagmanager_stage_seconds", Help: "Time that a diff waits for a stage: lookup, claim, ensure, confirm, record, stream.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14)}, []string{"stage"})}
	reg.MustRegister(s.seconds)
	return s
}

// time is for defer: the time from its call on is observed.
func (s *stages) time(stage string, start time.Time) {
	s.seconds.WithLabelValues(stage).Observe(time.Since(start).Seconds())
}

// timedNodes are nodes whose every call is timed.
type timedNodes struct {
	diff.Nodes
	stages *stages
}

func (n timedNodes) Lookup(ctx context.Context, ids []string) ([]*diff.Node, error) {
	defer n.stages.time("lookup", time.Now())
	return n.Nodes.Lookup(ctx, ids)
}

func (n timedNodes) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	defer n.stages.time("claim", time.Now())
	return n.Nodes.Claim(ctx, claims)
}

func (n timedNodes) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	defer n.stages.time("confirm", time.Now())
	return n.Nodes.Confirm(ctx, queues)
}

func (n timedNodes) Record(ctx context.Context, f diff.Findings) error {
	defer n.stages.time("record", time.Now())
	return n.Nodes.Record(ctx, f)
}

// timedTopics are topics whose making is timed.
type timedTopics struct {
	diff.Topics
	stages *stages
}

func (t timedTopics) Ensure(ctx context.Context, topics []diff.Topic) error {
	defer t.stages.time("ensure", time.Now())
	return t.Topics.Ensure(ctx, topics)
}
