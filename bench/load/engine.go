package load

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Source makes the requests of a run.
type Source interface {
	// Request prepares request i. It is called by one goroutine at a time, in
	// the order of the schedule, some way ahead of the due time, so that making
	// a body delays nothing.
	Request(i int64) Request
}

// Request is one prepared request. It is sent once or dropped.
type Request interface {
	Class() string
	Key() string // Outcome.Key
	// Send returns when the terminal answer has been read to its end, or with
	// an error when none came. It must return soon after ctx ends.
	Send(ctx context.Context) error
	// Reply says what the answer means. It is called once, after a Send
	// without error, when the clock no longer counts.
	Reply() Reply
}

// Reply is what an answer means.
type Reply struct {
	Fate   Fate // Accepted, Rejected or Unexpected
	Status int
	ID     string // strategy_id of the answer
	Why    string // of Unexpected: a class of reasons, few in number
	Body   []byte // of Unexpected: shown in samples, valid until the next use of the request
}

// Config of one offering.
type Config struct {
	Schedule    Schedule      // covers warm-up and window
	Stripe      Stripe        // share of the schedule; zero: all of it
	WarmUp      time.Duration // requests due before are counted apart
	Window      time.Duration // what is judged; follows the warm-up
	MaxInFlight int           // most requests without an answer, > 0
	Backlog     int           // due requests that may wait for a sender, >= 0; one more is dropped
	Drain       time.Duration // how long an answer may take, and how long to wait for the last ones, > 0
	StartAt     time.Time     // offset zero; zero: as soon as the first requests are prepared
	GoTimers    bool          // pace with Go's timers (virtual time, comparisons) instead of the precise pacer

	// Observe, if not nil, sees every settled request, warm-up included, from
	// one goroutine, in the order in which they were settled. Its error ends
	// the offering, for evidence that cannot be kept is worth no load.
	Observe func(Outcome) error
}

// errAborted ends the requests that were on their way when a run was aborted.
var errAborted = errors.New("run aborted")

// Evidence is what one offering leaves behind.
type Evidence struct {
	Result  Result
	Timings Timings // of the window, by class
	Ended   time.Time
}

const (
	lead        = 100 * time.Millisecond // from Offer to offset zero
	lookahead   = 64                     // requests prepared ahead of their due time
	observed    = 4096                   // outcomes that may wait for Observe
	abortedWait = time.Second            // longest drain after a cancellation
)

// Offer offers the schedule and returns when every request is settled. It
// never waits for answers to send the next request. Cancelling ctx ends the
// offering at once: what is on its way gets a moment to be answered, the
// evidence so far is returned, and Result.Aborted says why. An error means that
// nothing may be concluded; evidence comes with it once offering has begun.
func Offer(ctx context.Context, c Config, src Source) (*Evidence, error) {
	zero, err := c.check(time.Now())
	if err != nil {
		return nil, err
	}
	offering, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	sending, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)

	e := &engine{c: c, zero: zero, rec: newRecorder(c.WarmUp), sending: sending}
	observing := e.observe(stop)
	e.senders = senders{serve: e.serve, limit: c.MaxInFlight, queue: newRing(c.Backlog)}
	cores := e.pace(offering, e.prepare(offering, src))
	e.drain(offering, giveUp)
	close(e.outcomes)
	return e.evidence(offering, cores, <-observing)
}

func (c Config) check(now time.Time) (zero time.Time, err error) {
	var errs []error
	bad := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	bad(c.Schedule != nil, "no schedule")
	bad(c.MaxInFlight > 0, "max in flight %d: want at least 1", c.MaxInFlight)
	bad(c.Backlog >= 0, "backlog %d: want 0 or more", c.Backlog)
	bad(c.Drain > 0, "drain %v: want more than 0", c.Drain)
	bad(c.WarmUp >= 0, "warm-up %v: want 0 or more", c.WarmUp)
	bad(c.StartAt.IsZero() || c.StartAt.After(now), "start at %v: has passed", c.StartAt)
	if zero = now.Add(lead); !c.StartAt.IsZero() {
		zero = now.Add(c.StartAt.Sub(now)) // keeps the monotonic clock
	}
	return zero, errors.Join(errs...)
}

// engine is the state of one Offer.
type engine struct {
	c        Config
	zero     time.Time
	rec      *recorder
	senders  senders
	sending  context.Context // ends when answers are no longer waited for
	outcomes chan Outcome
}

// job is one request on its way.
type job struct {
	i      int64
	due    time.Duration
	req    Request
	handed time.Duration // when it was given to the senders
	waited bool          // none of them was free
}

func (e *engine) since() time.Duration { return time.Since(e.zero) }

// prepare makes requests ahead of their due times until ctx ends.
func (e *engine) prepare(ctx context.Context, src Source) <-chan job {
	jobs := make(chan job, lookahead)
	go func() { // ends before pace does: pace reads until the channel is closed
		defer close(jobs)
		for i := range e.c.Stripe.Indexes(e.c.Schedule.N()) {
			select {
			case jobs <- job{i: i, due: e.c.Schedule.Due(i), req: src.Request(i)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return jobs
}

// pace hands each job to the senders when it is due. It returns the CPU time
// per wall time that this took.
func (e *engine) pace(ctx context.Context, jobs <-chan job) (cores float64) {
	p := newPacer()
	if e.c.GoTimers {
		p = &timerPacer{}
	}
	return paced(p, e.zero, func(p pacer) {
		for j := range jobs {
			if !waitUntil(ctx, p, e.zero, j.due) {
				continue // cancelled: what is not due yet was never offered
			}
			e.rec.offered(j.due)
			j.handed = e.since()
			if !e.senders.give(j) {
				e.drop(j)
			}
		}
	})
}

// drain waits for the answers on their way, then gives up on them.
func (e *engine) drain(offering context.Context, giveUp context.CancelCauseFunc) {
	idle := make(chan struct{})
	go func() { e.senders.wg.Wait(); close(idle) }()
	grace := time.NewTimer(e.c.Drain)
	defer grace.Stop()
	why := error(nil)
	select {
	case <-idle:
	case <-grace.C:
	case <-offering.Done():
		why = errAborted
		e.discard()
		select {
		case <-idle:
		case <-grace.C:
		case <-time.After(abortedWait):
		}
	}
	e.discard()
	giveUp(why)
	<-idle
}

// discard drops what waits for a sender.
func (e *engine) discard() {
	for _, j := range e.senders.takeAll() {
		e.drop(j)
	}
}

func (e *engine) drop(j job) {
	e.settle(e.outcome(j, Dropped), Reply{})
}

// serve sends one request and books its end.
func (e *engine) serve(j job) {
	sent := e.since()
	ctx, cancel := context.WithTimeout(e.sending, e.c.Drain)
	defer cancel()
	err := j.req.Send(ctx)
	done := e.since()
	var reply Reply
	if err != nil {
		reply = Reply{Fate: Lost, Why: whyLost(ctx, err)}
	} else {
		reply = j.req.Reply()
	}
	o := e.outcome(j, reply.Fate)
	o.Sent, o.Done, o.Status, o.ID, o.Error = sent, done, reply.Status, reply.ID, reply.Why
	if j.waited {
		o.Wait = sent - j.handed
	}
	if err != nil {
		o.Error = err.Error()
	}
	e.settle(o, reply)
}

func (e *engine) outcome(j job, f Fate) Outcome {
	return Outcome{Index: j.i, Class: j.req.Class(), Key: j.req.Key(), Window: j.due >= e.c.WarmUp, Fate: f, Due: j.due}
}

func (e *engine) settle(o Outcome, reply Reply) {
	e.rec.settled(o, reply)
	e.outcomes <- o
}

// observe runs Observe until outcomes is closed. The returned channel then
// holds its first error, after which the offering was stopped.
func (e *engine) observe(stop context.CancelCauseFunc) <-chan error {
	ended := make(chan error, 1)
	e.outcomes = make(chan Outcome, observed)
	see := e.c.Observe
	if see == nil {
		see = func(Outcome) error { return nil }
	}
	go func() {
		var first error
		for o := range e.outcomes {
			if first != nil {
				continue
			}
			if first = see(o); first != nil {
				stop(first)
			}
		}
		ended <- first
	}()
	return ended
}

func (e *engine) evidence(offering context.Context, cores float64, observeErr error) (*Evidence, error) {
	ev := &Evidence{Timings: e.rec.timings, Ended: time.Now()}
	ev.Result = Result{
		Version: ResultVersion, Started: e.zero.Round(0), WarmUp: e.c.WarmUp, Window: e.c.Window,
		MaxInFlight: e.c.MaxInFlight, Backlog: e.c.Backlog, PacerCPU: cores,
	}
	if offering.Err() != nil {
		ev.Result.Aborted = context.Cause(offering).Error()
	}
	err := errors.Join(observeErr, e.rec.fill(&ev.Result))
	return ev, errors.Join(err, ev.Result.Ledger.Check(), ev.Result.WarmUpLedger.Check())
}
