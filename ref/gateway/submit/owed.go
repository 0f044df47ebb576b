package submit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/ref/internal/metric"
	"qmtl.internal/plumbline/ref/internal/service"
)

// OwedDiffs pays what accepted submissions still owe to the DAG Manager. A
// submission is accepted whatever becomes of its diff (gateway.md 2.9); a diff
// that was late or got no reply is written down with the acceptance (OwedKey)
// and repeated from the stored DAG until it ends well, whichever gateway finds
// it and however long the DAG Manager is away. A diff that is refused for good
// is not owed: it is dropped, counted and logged.
//
// A diff that only outlasts its submission's limit goes on meanwhile, a bounded
// number at a time, and settles the debt itself.
type OwedDiffs struct {
	registry *Registry
	manager  *DagManager
	log      *slog.Logger

	waiting       prometheus.Gauge
	paid, dropped prometheus.Counter
	silent        service.Throttle

	life context.Context // of everything that is under way
	end  context.CancelFunc
	late chan struct{} // a place for each diff that outlasts its submission

	mu     sync.Mutex // orders the start of work before Close's wait
	closed bool
	work   sync.WaitGroup
}

const (
	owedBatch  = 64              // debts read at once
	owedAtOnce = 4               // debts that are being paid
	payLimit   = 7 * time.Second // of one attempt: more than a broker that fails takes to be told of
	claimFor   = 10 * time.Second
	tryAgain   = 5 * time.Second // after a failed attempt
	owedEvery  = time.Second     // between two looks while nothing is due
	pauseMin   = 100 * time.Millisecond
	pauseMax   = 2 * time.Second
	lateDiffs  = 64
	lateLimit  = 5 * time.Second // of a late diff, from the acceptance on
	lateBytes  = 64 << 10        // a larger DAG is not kept in memory for it
	bookLimit  = time.Second     // of writing down how an attempt ended
)

// StartOwedDiffs begins to pay the debts in registry. Its goroutines end with
// Close.
func StartOwedDiffs(registry *Registry, manager *DagManager, reg prometheus.Registerer, log *slog.Logger) *OwedDiffs {
	o := &OwedDiffs{
		registry: registry, manager: manager, log: log, late: make(chan struct{}, lateDiffs),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gateway_owed_diffs", Help: "Accepted submissions whose diff is still owed, of all gateways; as of the last look."}),
		paid:    metric.NewCounter(reg, "gateway_owed_diffs_paid_total", "Diffs that ended well after their submission was answered."),
		dropped: metric.NewCounter(reg, "gateway_owed_diffs_dropped_total", "Diffs of accepted submissions that were refused for good."),
	}
	reg.MustRegister(o.waiting)
	o.life, o.end = context.WithCancel(context.Background())
	o.spawn(o.loop)
	return o
}

// Close stops paying and waits for what is under way; what is still owed stays
// written down.
func (o *OwedDiffs) Close(ctx context.Context) error {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.end()
	done := make(chan struct{})
	go func() { o.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spawn runs f unless Close has begun.
func (o *OwedDiffs) spawn(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.work.Go(f)
	}
	return !o.closed
}

// owes says whether a diff that ended with err is to be repeated. A wrong CRC is
// not: the diff was done, only its answer is not ours.
func owes(err error) bool {
	return err != nil && !errors.Is(err, errCRC) && !final(err)
}

// loop looks for debts that are due until the life ends. A round that comes to
// nothing doubles the pause.
func (o *OwedDiffs) loop() {
	for pause := owedEvery; ; {
		select {
		case <-o.life.Done():
			return
		case <-time.After(pause):
		}
		switch tried, settled := o.round(); {
		case tried == 0:
			pause = owedEvery
		case settled > 0:
			pause = 0
		default:
			pause = min(max(2*pause, pauseMin), pauseMax)
		}
	}
}

// round pays a batch of debts and says how many it tried and how many of them
// are settled. It tries none that the DAG Manager is not ready for.
func (o *OwedDiffs) round() (tried, settled int) {
	due, all, err := o.registry.Owed(o.life, time.Now(), owedBatch)
	if err != nil {
		o.complain("owed diffs", err)
		return 0, 0
	}
	o.waiting.Set(float64(all))
	if len(due) == 0 {
		return 0, 0
	}
	if !o.manager.waitHealthy(o.life) {
		return len(due), 0
	}
	var done atomic.Int64
	var group errgroup.Group
	group.SetLimit(owedAtOnce)
	for _, d := range due {
		group.Go(func() error {
			if o.pay(d) {
				done.Add(1)
			}
			return nil
		})
	}
	_ = group.Wait() // gives no error
	return len(due), int(done.Load())
}

// complain logs what will be tried again, once a second at most.
func (o *OwedDiffs) complain(what string, err error) {
	if o.life.Err() != nil {
		return
	}
	if unsaid, ok := o.silent.Pass(time.Now()); ok {
		o.log.Warn(what, "error", err, "more_unsaid", unsaid)
	}
}

// pay runs one owed diff; true when the debt is settled. Past the breaker: what
// one strategy's diff comes to says nothing about the others.
func (o *OwedDiffs) pay(d owed) bool {
	mine, err := o.registry.ClaimOwed(o.life, d, time.Now().Add(claimFor))
	if err != nil {
		o.complain("owed diffs", err)
	}
	if err != nil || !mine {
		return false
	}
	ctx, cancel := context.WithTimeout(o.life, payLimit)
	defer cancel()
	req, err := o.registry.OwedRequest(ctx, d.id)
	if err == nil {
		_, err = o.manager.attempt(ctx, req, o.manager.head)
	}
	return o.enter(d.id, err)
}

// enter writes down how the diff of an accepted strategy ended after its
// submission was answered; true when nothing is owed any more.
func (o *OwedDiffs) enter(id string, err error) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.life), bookLimit)
	defer cancel()
	var unwritten error
	forGood := err != nil && (final(err) || errors.Is(err, errUnpayable))
	switch {
	case forGood:
		o.dropped.Inc()
		o.log.Warn("owed diff dropped", "strategy", id, "error", err)
		unwritten = o.registry.SettleOwed(ctx, id)
	case owes(err):
		o.complain("owed diff not paid yet", err)
		unwritten = o.registry.DeferOwed(ctx, id, o.nextTry())
	default:
		o.paid.Inc()
		unwritten = o.registry.SettleOwed(ctx, id)
	}
	if unwritten != nil {
		o.complain("owed diffs", unwritten) // it comes up again; a diff may be repeated
	}
	return forGood || !owes(err)
}

// nextTry is when a failed attempt is due again: at once where it failed only
// because this process stops.
func (o *OwedDiffs) nextTry() time.Time {
	if o.life.Err() != nil {
		return time.Now()
	}
	return time.Now().Add(tryAgain)
}

// A lateDiff is a diff that goes on after its submission's limit.
type lateDiff struct {
	ended  chan diffEnd // of room for one
	cancel context.CancelFunc
}

// diffEnd is how a diff ended.
type diffEnd struct {
	reply *DiffReply
	err   error
}

// keep finds a place for a diff of size bytes that is late; false when it must
// be ended instead.
func (o *OwedDiffs) keep(size int) bool {
	if size > lateBytes {
		return false
	}
	select {
	case o.late <- struct{}{}:
		return true
	default:
		return false
	}
}

// follow waits for a late diff of an accepted strategy and settles the debt.
func (o *OwedDiffs) follow(id string, d *lateDiff) {
	if !o.spawn(func() { o.await(id, d) }) {
		o.abandon(d)
	}
}

func (o *OwedDiffs) await(id string, d *lateDiff) {
	limit := time.AfterFunc(lateLimit, d.cancel)
	defer limit.Stop()
	end := <-d.ended
	o.enter(id, end.err)
	o.abandon(d)
}

// abandon ends a late diff that nobody waits for and frees its place.
func (o *OwedDiffs) abandon(d *lateDiff) {
	d.cancel()
	<-o.late
}
