// Package batch lets calls share their way: what many callers want while one
// call is on its way goes with the next (group commit).
package batch

import (
	"context"
	"slices"
	"sync"
)

// Group gathers the jobs of many callers into calls of one function, one call at
// a time. A caller that comes when none is on its way does not wait for others.
// Group has no goroutine of its own: one of the callers makes each call. It is
// safe for concurrent use.
type Group[K comparable, J any] struct {
	most int
	key  func(J) K
	work func([]J)

	mu      sync.Mutex
	led     bool            // a caller makes calls
	waiting []*caller[K, J] // who has jobs that no call has taken, oldest first
}

// caller is one Do. Whoever leads changes its fields, under the lock.
type caller[K comparable, J any] struct {
	todo []J // that no call has taken
	all  int
	left int // that are not done
	turn chan bool
}

// New returns a group that calls work with jobs of at most most, and at least
// one, different keys. Jobs that want the same have the same key and go together
// where they can: they take no room. Callers with many jobs do not keep others
// waiting.
func New[K comparable, J any](most int, key func(J) K, work func([]J)) *Group[K, J] {
	return &Group[K, J]{most: max(most, 1), key: key, work: work}
}

// Do returns when work has been called with each of the jobs, or with an error
// when ctx ended before it was called with any. Jobs that come together need not
// go with one call, though they do where there is room.
func (g *Group[K, J]) Do(ctx context.Context, jobs []J) error {
	if len(jobs) == 0 {
		return nil
	}
	c := &caller[K, J]{todo: slices.Clone(jobs), all: len(jobs), left: len(jobs), turn: make(chan bool, 1)}
	if !g.join(c) {
		lead, err := g.await(ctx, c)
		if !lead {
			return err
		}
	}
	defer g.resign()
	for c.left > 0 {
		g.call(c)
	}
	return nil
}

// join says whether c is to lead.
func (g *Group[K, J]) join(c *caller[K, J]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, c)
	lead := !g.led
	g.led = true
	return lead
}

// await waits until c is to lead, is done, or leaves.
func (g *Group[K, J]) await(ctx context.Context, c *caller[K, J]) (lead bool, err error) {
	select {
	case lead = <-c.turn:
		return lead, nil
	case <-ctx.Done():
	}
	if g.leave(c) {
		return false, context.Cause(ctx)
	}
	return <-c.turn, nil
}

// leave takes back what nobody has begun.
func (g *Group[K, J]) leave(c *caller[K, J]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(c.todo) < c.all || len(c.turn) > 0 {
		return false
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *caller[K, J]) bool { return w == c })
	return true
}

// resign lets the next one lead who has jobs left.
func (g *Group[K, J]) resign() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.led = len(g.waiting) > 0; g.led {
		g.waiting[0].turn <- true
	}
}

// call does one call and tells who has nothing left. A panic of work ends the
// caller that leads and leaves the others as if their jobs were done.
func (g *Group[K, J]) call(leader *caller[K, J]) {
	jobs, from := g.take()
	defer g.finish(leader, from)
	g.work(jobs)
}

func (g *Group[K, J]) finish(leader *caller[K, J], from []share[K, J]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range from {
		s.of.left -= s.jobs
		if s.of.left == 0 && s.jobs > 0 && s.of != leader {
			s.of.turn <- false
		}
	}
}

// share is how many jobs of a call are of one caller.
type share[K comparable, J any] struct {
	of   *caller[K, J]
	jobs int
}

// take fills a call: who came first goes first, but nobody with more than a
// quarter of it while others wait.
func (g *Group[K, J]) take() (jobs []J, from []share[K, J]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	keys := map[K]bool{}
	for _, limit := range []int{max(g.most/4, 1), g.most} {
		for _, c := range g.waiting {
			before := len(jobs)
			jobs = g.pick(jobs, keys, c, limit)
			if n := len(jobs) - before; n > 0 {
				from = append(from, share[K, J]{c, n})
			}
		}
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(c *caller[K, J]) bool { return len(c.todo) == 0 })
	return jobs, from
}

// pick adds the jobs of one caller whose keys the call has, and others as long
// as there is room for their keys.
func (g *Group[K, J]) pick(jobs []J, keys map[K]bool, c *caller[K, J], limit int) []J {
	c.todo = slices.DeleteFunc(c.todo, func(j J) bool {
		k := g.key(j)
		if !keys[k] {
			if limit == 0 || len(keys) >= g.most {
				return false
			}
			limit--
			keys[k] = true
		}
		jobs = append(jobs, j)
		return true
	})
	return jobs
}
