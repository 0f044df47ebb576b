package submit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/ref/internal/metric"
	"qmtl.internal/plumbline/ref/internal/service"
)

// Worker works off the accepted strategies (gateway.md 2.12): it takes them from
// the queue, pays the diff that a submission still owes, and writes down that
// they are completed or have failed. Any number of workers in any number of
// gateways share one queue. A strategy is held by a lock that is renewed while
// its work goes on, and nothing is written by who lost it; what a worker that
// died held is taken by another once the lease is over. A diff may be repeated,
// which changes nothing.
//
// A DAG Manager that is away is waited for, however long. Attempts that fail
// while it answers are bounded (PersistencePlan), and a refusal ends them.
//
// A diff that only outlasts its submission's limit goes on meanwhile, a bounded
// number at a time, and settles the debt itself.
type Worker struct {
	registry *Registry
	manager  *DagManager
	notify   Notifier
	log      *slog.Logger
	name     string // of this process, in locks
	metrics  *workMetrics
	silent   service.Throttle
	calls    atomic.Uint64 // makes each Take an owner of its own
	away     atomic.Bool   // the DAG Manager did not answer

	life context.Context // of everything that is under way
	end  context.CancelFunc
	late chan struct{} // a place for each diff that outlasts its submission

	mu     sync.Mutex // orders the start of work before Close's wait
	closed bool
	work   sync.WaitGroup
}

// Notifier tells clients how a strategy gets on. The zero value tells nobody.
type Notifier struct {
	// Wanted says whether anybody listens; only then is a queue map fetched that
	// nothing else needs.
	Wanted   func() bool
	Progress func(id string, s State)
	QueueMap func(id string, topics map[string]string)
}

func (n Notifier) wanted() bool { return n.Wanted != nil && n.Wanted() }

func (n Notifier) progress(id string, s State) {
	if n.wanted() {
		n.Progress(id, s)
	}
}

const (
	takeBatch   = 32              // strategies at once
	diffsAtOnce = 4               // of a batch
	payLimit    = 7 * time.Second // of one attempt: more than a broker that fails takes to be told of
	pauseMin    = 50 * time.Millisecond
	pauseMax    = 200 * time.Millisecond
	awayPause   = 500 * time.Millisecond // between two looks at a DAG Manager that is away
	countEvery  = time.Second
	reasonBytes = 500 // of a failure's text
)

// StartWorker begins to work with n goroutines; none at all only follows late
// diffs. They end with Close.
func StartWorker(n int, registry *Registry, manager *DagManager, notify Notifier, reg prometheus.Registerer, log *slog.Logger) *Worker {
	w := &Worker{
		registry: registry, manager: manager, notify: notify, log: log, name: uuid.NewString(),
		metrics: newWorkMetrics(reg), late: make(chan struct{}, lateDiffs),
	}
	w.life, w.end = context.WithCancel(context.Background())
	for range n {
		w.spawn(w.loop)
	}
	w.spawn(w.count)
	return w
}

// Close stops taking work and waits for what is under way, which is put back;
// what is queued or owed stays written down.
func (w *Worker) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.end()
	done := make(chan struct{})
	go func() { w.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spawn runs f unless Close has begun.
func (w *Worker) spawn(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.work.Go(f)
	}
	return !w.closed
}

// pause waits; false when the life ended.
func (w *Worker) pause(d time.Duration) bool {
	select {
	case <-w.life.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// loop takes batch after batch. Small batches are gathered for a moment, and an
// empty queue is looked at less often.
func (w *Worker) loop() {
	for pause := pauseMin; w.pause(pause); {
		if w.away.Load() && !w.manager.waitHealthy(w.life) {
			pause = awayPause
			continue
		}
		w.away.Store(false)
		switch n := w.round(); n {
		case 0:
			pause = min(2*pause, pauseMax)
		case takeBatch:
			pause = 0
		default:
			pause = pauseMin
		}
	}
}

// round works on one batch and says how large it was.
func (w *Worker) round() int {
	owner := fmt.Sprintf("%s:%d", w.name, w.calls.Add(1))
	batch, err := w.registry.Take(w.life, owner, takeBatch, time.Now())
	if err != nil {
		w.complain("worker", err)
		return 0
	}
	if len(batch) > 0 {
		w.batch(owner, batch)
	}
	return len(batch)
}

// batch holds the locks while it works on what was taken. What needs no diff is
// finished first and together.
func (w *Worker) batch(owner string, batch []Work) {
	h := hold(w, owner, batch)
	defer h.release()
	var ready []Outcome
	var rest []Work
	for _, work := range batch {
		w.notify.progress(work.ID, StateProcessing)
		if o, done := w.withoutDiff(work); done {
			ready = append(ready, o)
		} else {
			rest = append(rest, work)
		}
	}
	w.finish(h, ready...)
	var group errgroup.Group
	group.SetLimit(diffsAtOnce)
	for _, work := range rest {
		group.Go(func() error {
			w.finish(h, w.attempt(h.context(work.ID), work))
			return nil
		})
	}
	_ = group.Wait() // gives no error
}

// errGivenUp: workers keep dying over a strategy.
var errGivenUp = errors.New("given up: no attempt came to an end")

// withoutDiff is the outcome of work that needs no diff now, if it is such.
func (w *Worker) withoutDiff(work Work) (Outcome, bool) {
	switch {
	case work.Owed.IsZero() && !w.notify.wanted():
		return Outcome{ID: work.ID, Event: EventComplete}, true
	case work.Owed.After(time.Now()): // its late diff is still under way
		return Outcome{ID: work.ID, Event: PutOff, Due: work.Owed}, true
	case work.Attempt > w.registry.plan.Attempts:
		return w.failed(work, errGivenUp, time.Time{}), true
	default:
		return Outcome{}, false
	}
}

// attempt runs the diff of one strategy. Past the breaker: what one strategy's
// diff comes to says nothing about the others.
func (w *Worker) attempt(ctx context.Context, work Work) Outcome {
	ctx, cancel := context.WithTimeout(ctx, payLimit)
	defer cancel()
	req, err := w.registry.Request(ctx, work.ID)
	if err == nil {
		var reply *DiffReply
		if reply, err = w.manager.attempt(ctx, req); err == nil && w.notify.wanted() {
			w.notify.QueueMap(work.ID, reply.QueueMap)
		}
	}
	return w.outcome(ctx, work, err)
}

// outcome decides what an attempt comes to.
func (w *Worker) outcome(ctx context.Context, work Work, err error) Outcome {
	now := time.Now()
	switch {
	case err == nil || work.Owed.IsZero(): // only its queue map was to be told
		if !work.Owed.IsZero() {
			w.metrics.paid.Inc()
		}
		return Outcome{ID: work.ID, Event: EventComplete}
	case w.life.Err() != nil:
		return Outcome{ID: work.ID, Event: PutOff, Due: now}
	case final(err) || errors.Is(err, errUnpayable):
		return w.failed(work, err, time.Time{})
	case errors.Is(err, ErrRegistry) || !w.manager.waitHealthy(w.life):
		w.away.Store(true)
		w.complain("worker: strategy put off", err)
		return Outcome{ID: work.ID, Event: PutOff, Due: now.Add(awayPause)}
	case work.Attempt >= w.registry.plan.Attempts:
		return w.failed(work, err, time.Time{})
	default:
		return w.failed(work, err, now.Add(w.registry.plan.backoff(work.Attempt)))
	}
}

// failed is the outcome of an attempt that failed, for good when due is zero.
func (w *Worker) failed(work Work, err error, due time.Time) Outcome {
	if due.IsZero() {
		w.metrics.dropped.Inc()
		w.log.Warn("strategy failed", "strategy", work.ID, "attempt", work.Attempt, "error", err)
	} else {
		w.complain("worker: strategy is tried again", err)
	}
	reason := err.Error()
	return Outcome{ID: work.ID, Event: EventFail, Due: due, Reason: reason[:min(len(reason), reasonBytes)]}
}

// finish writes down outcomes and tells of them, save of those that this worker
// lost meanwhile.
func (w *Worker) finish(h *held, outcomes ...Outcome) {
	if len(outcomes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.life), bookLimit)
	defer cancel()
	lost, err := w.registry.Finish(ctx, h.owner, outcomes)
	if err != nil {
		w.complain("worker", err) // their leases end, and they are taken again
		return
	}
	gone := make(map[string]bool, len(lost))
	for _, id := range lost {
		gone[id] = true
	}
	w.metrics.lost.Add(float64(len(lost)))
	for _, o := range outcomes {
		h.drop(o.ID)
		if to, err := o.state(); err == nil && !gone[o.ID] {
			w.metrics.outcomes.WithLabelValues(string(to)).Inc()
			w.notify.progress(o.ID, to)
		}
	}
}

// complain logs what will be tried again, once a second at most.
func (w *Worker) complain(what string, err error) {
	if w.life.Err() != nil {
		return
	}
	if unsaid, ok := w.silent.Pass(time.Now()); ok {
		w.log.Warn(what, "error", err, "more_unsaid", unsaid)
	}
}

// count keeps the gauges of what waits.
func (w *Worker) count() {
	for w.pause(countEvery) {
		queued, inWork, owed, err := w.registry.Backlog(w.life)
		if err != nil {
			w.complain("worker", err)
			continue
		}
		w.metrics.queued.Set(float64(queued))
		w.metrics.inWork.Set(float64(inWork))
		w.metrics.owed.Set(float64(owed))
	}
}

// held is one batch's locks, renewed until release.
type held struct {
	w     *Worker
	owner string
	stop  func()

	mu  sync.Mutex
	ids map[string]*lease // guarded by mu
}

// lease is one strategy's; its context ends when the lease is lost.
type lease struct {
	ctx context.Context
	end context.CancelFunc
}

func hold(w *Worker, owner string, batch []Work) *held {
	h := &held{w: w, owner: owner, ids: make(map[string]*lease, len(batch))}
	for _, work := range batch {
		ctx, cancel := context.WithCancel(w.life)
		h.ids[work.ID] = &lease{ctx, cancel}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); h.renew(stop) }()
	h.stop = func() { close(stop); <-done }
	return h
}

// release ends the renewing.
func (h *held) release() {
	h.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.ids {
		l.end()
	}
}

func (h *held) context(id string) context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.ids[id]; l != nil {
		return l.ctx
	}
	ctx, cancel := context.WithCancel(h.w.life)
	cancel() // it was lost already
	return ctx
}

// drop forgets a strategy that is finished or lost.
func (h *held) drop(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.ids[id]; l != nil {
		l.end()
		delete(h.ids, id)
	}
}

func (h *held) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]string, 0, len(h.ids))
	for id := range h.ids {
		ids = append(ids, id)
	}
	return ids
}

// renew prolongs the leases three times in their length and ends the work on
// those that are lost.
func (h *held) renew(stop <-chan struct{}) {
	t := time.NewTicker(h.w.registry.plan.Lease / 3)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		ids := h.all()
		if len(ids) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(h.w.life, bookLimit)
		lost, err := h.w.registry.Renew(ctx, h.owner, time.Now(), ids)
		cancel()
		if err != nil {
			h.w.complain("worker", err)
		}
		for _, id := range lost {
			h.drop(id)
		}
	}
}

// workMetrics say how the queue is worked off.
type workMetrics struct {
	queued, inWork, owed prometheus.Gauge
	outcomes             *prometheus.CounterVec
	lost, paid, dropped  prometheus.Counter
}

func newWorkMetrics(reg prometheus.Registerer) *workMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m := &workMetrics{
		queued: gauge("gateway_queued_strategies", "Accepted strategies that wait in the queue; as of the last look."),
		inWork: gauge("gateway_strategies_in_work", "Strategies that workers hold or put off, of all gateways; as of the last look."),
		owed:   gauge("gateway_owed_diffs", "Accepted submissions whose diff is still owed, of all gateways; as of the last look."),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_worked_total", Help: "Attempts at strategies by the state that they ended in; processing: put off.",
		}, []string{"state"}),
		lost:    metric.NewCounter(reg, "gateway_work_lost_total", "Strategies that a worker finished after it had lost its lock; nothing was written."),
		paid:    metric.NewCounter(reg, "gateway_owed_diffs_paid_total", "Diffs that ended well after their submission was answered."),
		dropped: metric.NewCounter(reg, "gateway_owed_diffs_dropped_total", "Strategies that failed for good."),
	}
	reg.MustRegister(m.outcomes)
	return m
}
