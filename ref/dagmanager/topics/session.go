package topics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"qmtl.internal/plumbline/ref/dagmanager/batch"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// Options are the settings of a session. A zero field takes its default.
type Options struct {
	// Replication, when it is not zero, replaces the replication factor of
	// every topic; a single broker needs 1.
	Replication int
	Timeout     time.Duration // of one call to the broker; 5 s
	RefreshAge  time.Duration // how old the view may get before Run renews it; 60 s
	TripAfter   int           // consecutive failures that open the breaker; 3
	HalfOpen    time.Duration // pause before an open breaker tries again; 1 s
	// Trust is how long after it was made or compared a topic counts as there
	// without being asked for; 10 s. Who deletes a topic keeps its name from
	// others for longer than that.
	Trust   time.Duration
	Observe func(op string, took time.Duration, err error) // called after each conversation; may be nil
	OnOpen  func()                                         // called when the breaker opens; may be nil
	// Batch is the most topics of one request to the broker; 200. A controller
	// takes no more than 10,000 records of metadata at once, six of them for a
	// topic of ours, and answers others meanwhile.
	Batch int
	Log   *slog.Logger // nil logs nothing
}

func (o Options) withDefaults() Options {
	set(&o.Timeout, 5*time.Second)
	set(&o.RefreshAge, time.Minute)
	set(&o.TripAfter, 3)
	set(&o.HalfOpen, time.Second)
	set(&o.Batch, 200)
	set(&o.Trust, 10*time.Second)
	if o.Observe == nil {
		o.Observe = func(string, time.Duration, error) {}
	}
	if o.OnOpen == nil {
		o.OnOpen = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Session is a conversation with one broker about topics, shared by all diffs.
// It is safe for concurrent use and holds no lock while it waits for the broker.
//
// A broker takes as long for one new topic as for fifty, and makes them one
// request after the other. So what diffs want while a request is on its way goes
// with the next one.
type Session struct {
	broker  Broker
	opts    Options
	breaker *gobreaker.CircuitBreaker[any]
	orders  *batch.Group[string, *order]

	mu       sync.Mutex
	view     view
	loaded   bool
	renewing chan struct{} // held by who renews the view
}

// NewSession returns a session that has not spoken to the broker yet.
func NewSession(b Broker, o Options) *Session {
	s := &Session{broker: b, opts: o.withDefaults(), renewing: make(chan struct{}, 1)}
	s.orders = batch.New(s.opts.Batch, func(o *order) string { return o.Name }, s.work)
	s.breaker = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:        "kafka-admin",
		MaxRequests: 1,
		Timeout:     s.opts.HalfOpen,
		ReadyToTrip: func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= s.opts.TripAfter },
		// An answer that we do not like is an answer.
		IsSuccessful: func(err error) bool { return !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrTimeout) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			s.opts.Log.Warn("kafka breaker", "from", from.String(), "to", to.String())
			if to == gobreaker.StateOpen {
				s.opts.OnOpen()
			}
		},
	})
	return s
}

// call runs one conversation under the breaker and the time limit. The end of
// the caller's context does not interrupt it: others may wait for its outcome.
func (s *Session) call(ctx context.Context, op string, extra time.Duration, talk func(context.Context) error) error {
	start := time.Now()
	_, err := s.breaker.Execute(func() (any, error) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout+extra)
		defer cancel()
		return nil, talk(limited)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, ErrOpen)
	}
	s.opts.Observe(op, time.Since(start), err)
	return err
}

// Refresh loads the view when there is none yet.
func (s *Session) Refresh(ctx context.Context) error {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if loaded {
		return nil
	}
	select { // one loads, the others wait for it
	case s.renewing <- struct{}{}:
		defer func() { <-s.renewing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	loaded = s.loaded
	s.mu.Unlock()
	if loaded {
		return nil
	}
	return s.load(ctx)
}

func (s *Session) load(ctx context.Context) error {
	return s.call(ctx, "list", 0, func(ctx context.Context) error {
		_, err := s.renew(ctx)
		return err
	})
}

// Run loads the view and renews it at intervals until ctx ends. A failure is
// logged; the old view stays.
func (s *Session) Run(ctx context.Context) {
	if err := s.Refresh(ctx); err != nil {
		s.opts.Log.Debug("topics not listed yet", "error", err)
	}
	for pause(ctx, jitter(s.opts.RefreshAge)) {
		select {
		case s.renewing <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if err := s.load(ctx); err != nil {
			s.opts.Log.Warn("topics not listed; the old view stays", "error", err)
		}
		<-s.renewing
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter keeps several processes from asking at once.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d)/5+1))
}

// Broken says whether the broker failed so often that it is left alone for now.
func (s *Session) Broken() bool { return s.breaker.State() == gobreaker.StateOpen }

// Count returns how many topics the view holds.
func (s *Session) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.count
}

// Fit implements diff.Topics.
func (s *Session) Fit(t diff.Topic) diff.Fit {
	s.mu.Lock()
	defer s.mu.Unlock()
	has := s.view.find(t.Name)
	switch {
	case has == nil || !has.exists:
		return diff.Absent
	case has.foreign || !configs[t.Kind].Fits(has.shape):
		return diff.Foreign
	default:
		return diff.Same
	}
}

// Begins implements diff.Topics.
func (s *Session) Begins(stem string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.begins(stem)
}

// order is a topic that somebody asks the broker about: to make it or, when it
// exists, to look at it. Whoever needs the same topic waits for the same order.
type order struct {
	Spec
	exists bool
	done   chan struct{}
	err    error // set when done is closed
	answer error // of the last request; it may be worth another one
}

// Ensure implements diff.Topics. A name that equals another but for case is a
// *CollisionError, found before anything is made; a topic that exists and is
// made in another way is a *MismatchError. Topics that another call is making
// are waited for.
func (s *Session) Ensure(ctx context.Context, wanted []diff.Topic) error {
	specs, err := s.specs(wanted)
	if err != nil {
		return err
	}
	mine, all, err := s.reserve(specs)
	if err != nil {
		return err
	}
	s.fulfil(mine)
	for _, o := range all {
		select {
		case <-o.done:
			err = cmp.Or(err, o.err)
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		}
	}
	return err
}

func (s *Session) specs(wanted []diff.Topic) ([]Spec, error) {
	specs := make([]Spec, len(wanted))
	for i, t := range wanted {
		c, err := ConfigOf(t.Kind)
		if err != nil {
			return nil, fmt.Errorf("topic %s: %w", t.Name, err)
		}
		if s.opts.Replication > 0 {
			c.Replication = s.opts.Replication
		}
		specs[i] = Spec{t.Name, c}
	}
	return specs, nil
}

// reserve gives the orders of the specs that there is anything to do about, and
// those among them that are the caller's to fulfil. Topics to be made are in the
// view from now on, so that nobody else makes them or takes a name like theirs.
func (s *Session) reserve(specs []Spec) (mine, all []*order, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spec := range specs {
		if near := s.view.near(spec.Name); len(near) > 0 {
			err := &CollisionError{Topic: spec.Name, Others: near}
			for _, o := range mine {
				s.settle(o, err)
			}
			return nil, nil, err
		}
		has := s.view.find(spec.Name)
		if has == nil {
			has = s.view.add(spec.Name, Shape{Partitions: spec.Partitions, Replication: spec.Replication})
		}
		if has.order == nil && time.Since(has.verified) > s.opts.Trust {
			has.order = &order{Spec: spec, exists: has.exists, done: make(chan struct{})}
			mine = append(mine, has.order)
		}
		if has.order != nil {
			all = append(all, has.order)
		}
	}
	return mine, all, nil
}

const (
	orderAttempts = 5
	orderPause    = 100 * time.Millisecond
)

// fulfil settles orders, with those of others. What the broker asks to be tried
// again is tried again after growing pauses, which hold up nobody else.
func (s *Session) fulfil(orders []*order) {
	for attempt := 0; len(orders) > 0; attempt++ {
		if attempt > 0 {
			time.Sleep(orderPause << (attempt - 1))
		}
		_ = s.orders.Do(context.Background(), orders) // others wait for them: nobody leaves
		var again []*order
		s.mu.Lock()
		for _, o := range orders {
			if errors.As(o.answer, new(*BusyError)) && attempt+1 < orderAttempts {
				again = append(again, o)
			} else {
				s.settle(o, o.answer)
			}
		}
		s.mu.Unlock()
		orders = again
	}
}

// work answers orders of any callers: what is to be made with one request, and
// what exists with another. A topic that came into being meanwhile is looked at.
func (s *Session) work(orders []*order) {
	var create, look []*order
	for _, o := range orders {
		if o.exists {
			look = append(look, o)
		} else {
			create = append(create, o)
		}
	}
	s.create(create)
	for _, o := range create {
		if errors.Is(o.answer, ErrExists) {
			look = append(look, o)
		}
	}
	s.look(look)
}

// talk has one conversation about all of the orders: tell answers each. What
// goes wrong with all is told to all.
func (s *Session) talk(op string, orders []*order, tell func(context.Context, []Spec) error) {
	if len(orders) == 0 {
		return
	}
	specs := make([]Spec, len(orders))
	for i, o := range orders {
		specs[i], o.answer = o.Spec, nil
	}
	if err := s.call(context.Background(), op, time.Duration(len(specs))*perTopic, func(ctx context.Context) error {
		return tell(ctx, specs)
	}); err != nil {
		for _, o := range orders {
			o.answer = cmp.Or(o.answer, err)
		}
	}
}

// perTopic is what a broker may take for each topic of a large request.
const perTopic = 2 * time.Millisecond

func (s *Session) create(orders []*order) {
	s.talk("create", orders, func(ctx context.Context, specs []Spec) error {
		errs, err := s.broker.Create(ctx, specs)
		if err != nil {
			return err
		}
		for i, o := range orders {
			o.answer = errs[i]
		}
		return allFailed(errs)
	})
}

// allFailed shows the breaker that nothing was made for want of a broker.
func allFailed(errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrTimeout) {
			return nil
		}
	}
	return errs[0]
}

// look compares topics that exist with what we would make.
func (s *Session) look(orders []*order) {
	s.talk("describe", orders, func(ctx context.Context, specs []Spec) error {
		names := make([]string, len(specs))
		for i, spec := range specs {
			names[i] = spec.Name
		}
		has, err := s.broker.Describe(ctx, names)
		if err != nil {
			return err
		}
		for _, o := range orders {
			o.answer = s.judge(o.Spec, has)
			o.exists = !errors.Is(o.answer, ErrMissing)
		}
		return nil
	})
}

// judge forgives what an override asked for. A topic that exists and is not
// found was deleted meanwhile, or made so lately that the broker does not show
// it yet: it is to be asked for again.
func (s *Session) judge(spec Spec, has map[string]Shape) error {
	want := spec.Config
	if s.opts.Replication > 0 {
		want.Replication = 0
	}
	shape, there := has[spec.Name]
	if !there {
		return &BusyError{spec.Name, ErrMissing}
	}
	return compare(spec.Name, want, shape)
}

// settle ends an order, tells who waits and keeps what was learned of the topic.
// The caller holds the lock.
func (s *Session) settle(o *order, outcome error) {
	has := s.view.find(o.Name)
	has.order = nil
	o.err = outcome
	close(o.done)
	var mismatch *MismatchError
	switch {
	case outcome == nil:
		has.verified, has.exists = time.Now(), true
	case errors.As(outcome, &mismatch):
		has.foreign, has.exists = true, true
	case errors.Is(outcome, ErrMissing) || !has.exists:
		s.view.remove(o.Name)
	}
}
