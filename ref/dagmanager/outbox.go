package dagmanager

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"qmtl.internal/plumbline/scenarios/contract"
)

// publish hands records to the bus, in order, and returns for each whether it was
// stored. It may wait for a broker that is away until ctx ends.
type publish func(ctx context.Context, records []contract.Record) []error

// queueFinder finds the queues that an update is about.
type queueFinder interface {
	Queues(ctx context.Context, tags []string, interval int64, mode string) ([]contract.QueueRef, error)
}

// outbox holds events until the bus took them. Adding never waits: a slow or
// absent broker delays events and nothing else. What an update says is looked up
// when it leaves, so that it is true then; that is also why, once very many
// wait, one that repeats another may be left out.
type outbox struct {
	publish publish
	queues  queueFinder
	topic   string // of queue updates
	crowded int    // events above which repetitions are left out
	metrics *metrics
	log     *slog.Logger

	mu       sync.Mutex
	pending  []*event
	leaving  int               // events that are being published
	latest   map[string]*event // by key, among pending
	wake     chan struct{}
	revision uint64 // of the last update; only grows; used by run only
}

// event is a weight, the end of a queue or, when it is neither, an update.
type event struct {
	key       string
	tags      []string
	interval  int64
	none      bool // the update says that there are no queues
	weight    *contract.SentinelWeight
	lifecycle *contract.QueueLifecycle
}

// Sizes of an outbox.
const (
	outboxCrowded = 10_000
	outboxBatch   = 500
	outboxFull    = 10 // times crowded: the oldest is given up
)

func newOutbox(send publish, queues queueFinder, topic string, m *metrics, log *slog.Logger) *outbox {
	return &outbox{publish: send, queues: queues, topic: topic, crowded: outboxCrowded, metrics: m, log: log,
		latest: map[string]*event{}, wake: make(chan struct{}, 1)}
}

// queueUpdated announces that the queues of these tags and interval changed.
func (o *outbox) queueUpdated(tags []string, interval int64) { o.update(tags, interval, false) }

// queueCompleted announces that the queues of these tags and interval grow no
// more.
func (o *outbox) queueCompleted(tags []string, interval int64) { o.update(tags, interval, true) }

// queueEnded announces that a queue was dropped or archived.
func (o *outbox) queueEnded(l contract.QueueLifecycle) {
	l.Topic = o.topic
	o.add(&event{key: "lifecycle\x00" + l.Queue + "\x00" + l.Action, lifecycle: &l})
}

func (o *outbox) update(tags []string, interval int64, none bool) {
	e := &event{tags: make([]string, len(tags)), interval: interval, none: none}
	for i, tag := range tags {
		e.tags[i] = strings.Clone(tag) // it shares the memory of a whole DAG
	}
	e.key = fmt.Sprintf("queue\x00%d\x00%t\x00%s", interval, none, strings.Join(e.tags, "\x00"))
	o.add(e)
}

// weightChanged announces the weight of a version.
func (o *outbox) weightChanged(w contract.SentinelWeight) {
	w.SentinelID, w.SentinelVersion, w.WorldID = strings.Clone(w.SentinelID), strings.Clone(w.SentinelVersion), strings.Clone(w.WorldID)
	o.add(&event{key: "weight\x00" + w.WorldID + "\x00" + w.SentinelID, weight: &w})
}

func (o *outbox) add(e *event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if same := o.latest[e.key]; same != nil && len(o.pending) >= o.crowded {
		same.weight, same.lifecycle = e.weight, e.lifecycle
		return
	}
	if len(o.pending) >= o.crowded*outboxFull {
		o.giveUp(o.pending[:1], "the outbox is full")
		o.forget(o.pending[0])
		o.pending = o.pending[1:]
	}
	o.pending = append(o.pending, e)
	o.latest[e.key] = e
	select {
	case o.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (o *outbox) forget(e *event) {
	if o.latest[e.key] == e {
		delete(o.latest, e.key)
	}
}

func (o *outbox) giveUp(events []*event, why string) {
	if len(events) == 0 {
		return
	}
	o.metrics.lost.Add(float64(len(events)))
	o.log.Error("events lost", "count", len(events), "first", strings.ReplaceAll(events[0].key, "\x00", " "), "reason", why)
}

// waiting says how many events the bus has not taken yet.
func (o *outbox) waiting() float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return float64(len(o.pending) + o.leaving)
}

// take cuts the next batch from the outbox.
func (o *outbox) take() []*event {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(len(o.pending), outboxBatch)
	batch := o.pending[:n:n]
	o.pending = o.pending[n:]
	o.leaving = n
	for _, e := range batch {
		o.forget(e)
	}
	return batch
}

// run publishes until ctx ends; then it has grace for what still waits, and
// counts what did not leave as lost.
func (o *outbox) run(ctx context.Context, grace time.Duration) {
	for ctx.Err() == nil {
		select {
		case <-o.wake:
			o.flush(ctx)
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	o.flush(last)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.giveUp(o.pending, "the process ends")
	o.pending = nil
}

// flush publishes until nothing waits or ctx ends. What failed goes first again.
func (o *outbox) flush(ctx context.Context) {
	delay := firstDelay
	for ctx.Err() == nil {
		batch := o.take()
		if len(batch) == 0 {
			return
		}
		failed := o.send(ctx, batch)
		o.putBack(failed)
		if len(failed) == 0 {
			delay = firstDelay
			continue
		}
		sleep(ctx, delay)
		delay = min(delay*2, lastDelay)
	}
}

// Pauses between attempts.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 4 * time.Second
)

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// putBack ends the publication of a batch.
func (o *outbox) putBack(failed []*event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leaving = 0
	o.pending = append(failed, o.pending...)
	o.metrics.retried.Add(float64(len(failed)))
}

// send returns the events that did not leave, in order.
func (o *outbox) send(ctx context.Context, batch []*event) (failed []*event) {
	records := make([]contract.Record, 0, len(batch))
	events := make([]*event, 0, len(batch))
	for _, e := range batch {
		r, err := o.record(ctx, e)
		if err != nil {
			o.log.Warn("event not made", "error", err)
			failed = append(failed, e)
			continue
		}
		records, events = append(records, r), append(events, e)
	}
	var first error
	for i, err := range o.publish(ctx, records) {
		if err != nil {
			failed = append(failed, events[i])
			first = err
			continue
		}
		o.metrics.published.WithLabelValues(records[i].Topic).Inc()
	}
	if first != nil {
		o.log.Warn("events not published; they will be tried again", "count", len(failed), "error", first)
	}
	return failed
}

func (o *outbox) record(ctx context.Context, e *event) (contract.Record, error) {
	now := time.Now()
	stamp := contract.Stamp{ID: uuid.NewString(), Time: now}
	if e.weight != nil {
		return e.weight.Record(stamp), nil
	}
	if e.lifecycle != nil {
		return e.lifecycle.Record(stamp), nil
	}
	queues, err := o.queuesOf(ctx, e)
	if err != nil {
		return contract.Record{}, fmt.Errorf("queues of %s at %d s: %w", strings.Join(e.tags, ","), e.interval, err)
	}
	o.revision = max(o.revision+1, uint64(now.UnixMicro()))
	return contract.QueueUpdate{
		Topic: o.topic, Tags: e.tags, Interval: e.interval, Queues: queues, Revision: o.revision,
	}.Record(stamp), nil
}

func (o *outbox) queuesOf(ctx context.Context, e *event) ([]contract.QueueRef, error) {
	if e.none {
		return nil, nil
	}
	return o.queues.Queues(ctx, e.tags, e.interval, contract.MatchAny)
}
