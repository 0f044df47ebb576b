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
	OnOpen      func()        // called when the breaker opens; may be nil
	Log         *slog.Logger  // nil logs nothing
}

func (o Options) withDefaults() Options {
	set(&o.Timeout, 5*time.Second)
	set(&o.RefreshAge, time.Minute)
	set(&o.TripAfter, 3)
	set(&o.HalfOpen, time.Second)
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
type Session struct {
	broker  Broker
	opts    Options
	breaker *gobreaker.CircuitBreaker[any]

	mu       sync.Mutex
	view     view
	loaded   bool
	renewing chan struct{} // held by who renews the view
}

// NewSession returns a session that has not spoken to the broker yet.
func NewSession(b Broker, o Options) *Session {
	s := &Session{broker: b, opts: o.withDefaults(), renewing: make(chan struct{}, 1)}
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
func (s *Session) call(ctx context.Context, extra time.Duration, talk func(context.Context) error) error {
	_, err := s.breaker.Execute(func() (any, error) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout+extra)
		defer cancel()
		return nil, talk(limited)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return fmt.Errorf("%w: %w", ErrUnavailable, ErrOpen)
	}
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
	return s.call(ctx, 0, func(ctx context.Context) error {
		all, err := s.broker.List(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.view = s.view.renewed(all)
		s.loaded = true
		return nil
	})
}

// Run renews the view at intervals until ctx ends. A failure is logged; the old
// view stays.
func (s *Session) Run(ctx context.Context) {
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

// jitter keeps several processes from asking at once.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d)/5+1))
}

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
	case has == nil || has.making != nil:
		return diff.Absent
	case has.foreign || !configs[t.Kind].Fits(has.shape):
		return diff.Foreign
	default:
		return diff.Same
	}
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
	p, err := s.reserve(specs)
	if err != nil {
		return err
	}
	if err := s.make(ctx, p); err != nil {
		return err
	}
	for _, m := range p.others {
		select {
		case <-m.done:
			if m.err != nil {
				return m.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
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

// parts are the topics that a call makes itself, those that exist and were never
// looked at, and those that somebody else is making.
type parts struct {
	mine, look []Spec
	others     []*making
}

// reserve parts the specs. Those to be made are in the view from now on, so that
// nobody else makes them or takes a name like theirs.
func (s *Session) reserve(specs []Spec) (parts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p parts
	for _, spec := range specs {
		if near := s.view.near(spec.Name); len(near) > 0 {
			err := &CollisionError{Topic: spec.Name, Others: near}
			s.unmake(p.mine, err)
			return parts{}, err
		}
		has := s.view.find(spec.Name)
		switch {
		case has == nil:
			s.view.add(spec.Name, Shape{Partitions: spec.Partitions, Replication: spec.Replication}).making =
				&making{done: make(chan struct{})}
			p.mine = append(p.mine, spec)
		case has.making != nil:
			p.others = append(p.others, has.making)
		case !has.verified:
			p.look = append(p.look, spec)
		}
	}
	return p, nil
}

// unmake gives up what reserve took. The caller holds the lock.
func (s *Session) unmake(specs []Spec, err error) {
	for _, spec := range specs {
		m := s.view.find(spec.Name).making
		s.view.remove(spec.Name)
		m.err = err
		close(m.done)
	}
}

// make creates and looks, then tells who waits. A topic that came into being
// meanwhile is looked at.
func (s *Session) make(ctx context.Context, p parts) error {
	errs, err := s.create(ctx, p.mine)
	look := p.look
	for i, spec := range p.mine {
		if errors.Is(errs[i], ErrExists) {
			look = append(look, spec)
		}
	}
	found, lookErr := s.look(ctx, look)
	s.mu.Lock()
	defer s.mu.Unlock()
	var first error
	for i, spec := range p.mine {
		outcome := cmp.Or(err, errs[i])
		if errors.Is(outcome, ErrExists) {
			outcome = cmp.Or(lookErr, found[spec.Name])
		}
		s.settle(spec, outcome)
		first = cmp.Or(first, outcome)
	}
	for _, spec := range p.look {
		outcome := cmp.Or(lookErr, found[spec.Name])
		s.note(spec, outcome)
		first = cmp.Or(first, outcome)
	}
	return first
}

// create makes the specs. An error for all is returned apart from those of
// single topics.
func (s *Session) create(ctx context.Context, specs []Spec) ([]error, error) {
	errs := make([]error, len(specs))
	if len(specs) == 0 {
		return errs, nil
	}
	err := s.call(ctx, time.Duration(len(specs))*perTopic, func(ctx context.Context) error {
		got, err := s.broker.Create(ctx, specs)
		if err != nil {
			return err
		}
		copy(errs, got)
		return firstFailure(got)
	})
	if firstFailure(errs) != nil {
		err = nil // it is told topic by topic
	}
	return errs, err
}

// perTopic is what a broker may take for each topic of a large request.
const perTopic = 2 * time.Millisecond

// firstFailure shows the breaker that single topics failed for want of a broker.
func firstFailure(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTimeout) {
			return err
		}
	}
	return nil
}

// look compares topics that exist with what we would make.
func (s *Session) look(ctx context.Context, specs []Spec) (map[string]error, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	wrong := make(map[string]error, len(specs))
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Name
	}
	err := s.call(ctx, time.Duration(len(specs))*perTopic, func(ctx context.Context) error {
		has, err := s.broker.Describe(ctx, names)
		if err != nil {
			return err
		}
		for _, spec := range specs {
			wrong[spec.Name] = s.judge(spec, has)
		}
		return nil
	})
	return wrong, err
}

// judge forgives what an override asked for.
func (s *Session) judge(spec Spec, has map[string]Shape) error {
	want := spec.Config
	if s.opts.Replication > 0 {
		want.Replication = 0
	}
	shape, there := has[spec.Name]
	if !there { // deleted meanwhile: the next diff makes it
		return fmt.Errorf("topic %s: %w: %w", spec.Name, ErrUnavailable, ErrMissing)
	}
	return compare(spec.Name, want, shape)
}

// settle ends the making of a topic. The caller holds the lock.
func (s *Session) settle(spec Spec, outcome error) {
	has := s.view.find(spec.Name)
	m := has.making
	has.making = nil
	m.err = outcome
	close(m.done)
	var mismatch *MismatchError
	if outcome != nil && !errors.As(outcome, &mismatch) {
		s.view.remove(spec.Name)
		return
	}
	s.note(spec, outcome)
}

// note keeps what was learned about a topic that exists. The caller holds the lock.
func (s *Session) note(spec Spec, wrong error) {
	has := s.view.find(spec.Name)
	if has == nil { // renewed away meanwhile
		return
	}
	var mismatch *MismatchError
	switch {
	case wrong == nil:
		has.verified = true
	case errors.As(wrong, &mismatch):
		has.foreign = true
	case errors.Is(wrong, ErrMissing):
		s.view.remove(spec.Name)
	}
}
