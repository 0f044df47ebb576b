package topics

import (
	"context"
	"slices"
	"time"
)

// List returns all topics of the broker as they are now, without their
// configuration, and renews the view.
func (s *Session) List(ctx context.Context) (all map[string]Shape, err error) {
	select {
	case s.renewing <- struct{}{}:
		defer func() { <-s.renewing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	err = s.call(ctx, "list", 0, func(ctx context.Context) (err error) {
		all, err = s.renew(ctx)
		return err
	})
	return all, err
}

// renew asks for all topics and makes the view of them. The caller holds
// renewing.
func (s *Session) renew(ctx context.Context) (map[string]Shape, error) {
	all, err := s.broker.List(ctx)
	if err != nil {
		return nil, err
	}
	next := viewOf(all)
	s.mu.Lock()
	defer s.mu.Unlock()
	next.learn(s.view)
	s.view, s.loaded = next, true
	return all, nil
}

// mostNamed is how many topics one conversation about names is about.
const mostNamed = 500

// Describe returns those of the topics that exist, with configuration.
func (s *Session) Describe(ctx context.Context, names []string) (map[string]Shape, error) {
	return inParts(ctx, s, "describe", names, s.broker.Describe)
}

// Extents returns what the topics hold, of all when no name is given.
func (s *Session) Extents(ctx context.Context, names ...string) (out map[string]Extent, err error) {
	if len(names) > 0 {
		return inParts(ctx, s, "sizes", names, func(ctx context.Context, part []string) (map[string]Extent, error) {
			return s.broker.Extents(ctx, part...)
		})
	}
	err = s.call(ctx, "sizes", 0, func(ctx context.Context) (err error) {
		out, err = s.broker.Extents(ctx)
		return err
	})
	return out, err
}

func inParts[T any](ctx context.Context, s *Session, op string, names []string, ask func(context.Context, []string) (map[string]T, error)) (map[string]T, error) {
	out := make(map[string]T, len(names))
	for part := range slices.Chunk(names, mostNamed) {
		err := s.call(ctx, op, time.Duration(len(part))*perTopic, func(ctx context.Context) error {
			found, err := ask(ctx, part)
			for name, what := range found {
				out[name] = what
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Delete deletes topics and says what went wrong with each; one that is not
// there is deleted. A topic that somebody is making or comparing is busy. The
// caller sees to it that nobody takes a topic up for longer than Trust.
func (s *Session) Delete(ctx context.Context, names []string) ([]error, error) {
	errs := make([]error, len(names))
	var mine []int
	var going []string
	s.mu.Lock()
	for i, name := range names {
		has := s.view.find(name)
		if has != nil && has.order != nil {
			errs[i] = &BusyError{name, ErrInUse}
			continue
		}
		s.view.remove(name) // a look at it, from now on, asks the broker
		mine, going = append(mine, i), append(going, name)
	}
	s.mu.Unlock()
	if len(going) == 0 {
		return errs, nil
	}
	err := s.call(ctx, "delete", time.Duration(len(going))*perTopic, func(ctx context.Context) error {
		each, err := s.broker.Delete(ctx, going)
		for i, err := range each {
			errs[mine[i]] = err
		}
		return err
	})
	return errs, err
}
