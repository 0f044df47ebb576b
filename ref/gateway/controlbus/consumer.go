// Package controlbus relays what the DAG Manager and the WorldService write to
// Kafka to the clients of the Gateway. Each record is parsed, checked and takes
// effect by the strategy of its topic; offsets are committed after the effects
// of a poll; a record that cannot be used is counted, kept in the topic
// <topic>.dlq and passed over.
package controlbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Config says where the bus is and how it is read; what is zero takes its
// default, save the first three.
type Config struct {
	Brokers []string // host:port
	Topics  []string
	Metrics prometheus.Registerer // families that are there already are shared

	Group    string        // consumer group; "gateway"
	AckTopic string        // of acknowledgements; "control.activation.ack"
	Gap      time.Duration // how long a missing activation is waited for; 3 s
	Since    time.Time     // where a group without offsets starts; when Run is called
	Log      *slog.Logger
	Now      func() time.Time
}

const (
	defaultGroup = "gateway"
	defaultAcks  = "control.activation.ack"
	defaultGap   = 3 * time.Second

	pollRecords  = 2_000
	fetchBytes   = 8 << 20 // also what one broker may have waiting in memory
	writeWithin  = 2 * time.Second
	firstPause   = 500 * time.Millisecond // before a write is tried again (controlbus.md 3.4)
	secondPause  = time.Second
	restAfter    = 30 * time.Second // of a dead-letter topic that took no record
	commitWithin = 10 * time.Second
	pause        = 250 * time.Millisecond // after a poll that failed
)

func (c Config) withDefaults() Config {
	if c.Group == "" {
		c.Group = defaultGroup
	}
	if c.AckTopic == "" {
		c.AckTopic = defaultAcks
	}
	if c.Gap <= 0 {
		c.Gap = defaultGap
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Consumer reads the bus. Run once.
type Consumer struct {
	cfg     Config
	sink    Sink
	metrics *metrics
}

// New makes a consumer that relays to sink. It opens nothing; the error names a
// missing setting or a metric family that is registered in another shape.
func New(cfg Config, sink Sink) (*Consumer, error) {
	cfg = cfg.withDefaults()
	switch {
	case len(cfg.Brokers) == 0:
		return nil, errors.New("controlbus: no brokers")
	case len(cfg.Topics) == 0:
		return nil, errors.New("controlbus: no topics")
	case cfg.Metrics == nil:
		return nil, errors.New("controlbus: no registry for metrics")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("controlbus: %w", err)
	}
	return &Consumer{cfg: cfg, sink: sink, metrics: m}, nil
}

// Run reads until ctx ends, which is no error; a record in hand is finished and
// committed first. Brokers that are away are waited for. The error is a setting
// that Kafka's client refuses.
func (c *Consumer) Run(ctx context.Context) error {
	writer, err := kgo.NewClient(
		kgo.SeedBrokers(c.cfg.Brokers...), kgo.AllowAutoTopicCreation(), kgo.MetadataMinAge(pause),
		// Acknowledgements carry their own key against repetition, and only a
		// plain write can be given up in time.
		kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return fmt.Errorf("controlbus writer: %w", err)
	}
	defer writer.Close()
	offsets := newOffsets()
	reader, err := kgo.NewClient(c.reading(offsets)...)
	if err != nil {
		return fmt.Errorf("controlbus reader: %w", err)
	}
	defer reader.CloseAllowingRebalance()
	out := &kafkaOutbox{
		client: writer, ackTopic: c.cfg.AckTopic, within: writeWithin, rest: restAfter, pauses: []time.Duration{firstPause, secondPause},
		metrics: c.metrics, log: c.cfg.Log, resting: map[string]time.Time{},
	}
	p := newProcessor(c.sink, out, c.metrics, c.cfg.Log, c.cfg.Now, c.cfg.Gap)
	for ctx.Err() == nil {
		c.turn(ctx, reader, p, offsets)
	}
	return nil
}

func (c *Consumer) reading(o *offsets) []kgo.Opt {
	since := c.cfg.Since
	if since.IsZero() {
		since = c.cfg.Now()
	}
	gone := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) { o.forget(partitions) }
	return []kgo.Opt{
		kgo.SeedBrokers(c.cfg.Brokers...),
		kgo.ConsumeTopics(c.cfg.Topics...),
		kgo.ConsumerGroup(c.cfg.Group),
		kgo.Balancers(kgo.RoundRobinBalancer()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(gone), kgo.OnPartitionsLost(gone),
		// "Latest", but counted from the start of the process: neither the time
		// that joining takes nor a topic that appears later hides a record.
		kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(since.UnixMilli())),
		kgo.SessionTimeout(10 * time.Second), kgo.HeartbeatInterval(3 * time.Second),
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes / 8), kgo.FetchMaxWait(time.Second),
		kgo.MetadataMinAge(pause), kgo.MetadataMaxAge(5 * time.Second),
	}
}

// turn is one poll, its effects and their commit. Not polling is what holds the
// bus back: no more than one fetch waits in memory.
func (c *Consumer) turn(ctx context.Context, reader *kgo.Client, p *processor, o *offsets) {
	defer reader.AllowRebalance()
	wait, cancel := ctx, context.CancelFunc(func() {})
	if at, gap := p.series.due(); gap {
		wait, cancel = context.WithTimeout(ctx, max(at.Sub(p.now()), 0))
	}
	fetched := reader.PollRecords(wait, pollRecords)
	cancel()
	work := context.WithoutCancel(ctx) // every step below has its own limit
	fetched.EachRecord(func(r *kgo.Record) {
		if !o.again(r) {
			p.handle(work, r)
		}
		o.done(r)
	})
	p.expire(work)
	p.out.flush(work)
	c.commit(work, reader, o, p.series.waiting())
	if c.failed(fetched) {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// failed tells of fetches that failed for another reason than the end of the
// wait.
func (c *Consumer) failed(fetched kgo.Fetches) (failed bool) {
	fetched.EachError(func(topic string, partition int32, err error) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed) {
			return
		}
		failed = true
		c.cfg.Log.Warn("controlbus_fetch_failed", "topic", topic, "partition", partition, "error", err)
	})
	return failed
}

// commit tells the group how far effects have come. A failure is told; the
// next turn tries again, and a restart would repeat what was not committed.
func (c *Consumer) commit(ctx context.Context, reader *kgo.Client, o *offsets, waiting []*kgo.Record) {
	ready := o.ready(waiting)
	if len(ready) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	reader.CommitOffsetsSync(ctx, ready, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err == nil {
			err = refusals(resp)
		}
		if err != nil {
			c.metrics.retries.WithLabelValues("commit").Inc()
			c.cfg.Log.Warn("controlbus_commit_failed", "error", err)
			return
		}
		o.committed(ready)
	})
}

func refusals(resp *kmsg.OffsetCommitResponse) error {
	var errs []error
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				errs = append(errs, fmt.Errorf("topic %s partition %d: %w", t.Topic, p.Partition, err))
			}
		}
	}
	return errors.Join(errs...)
}
