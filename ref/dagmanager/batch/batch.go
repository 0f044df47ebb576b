// Package batch lets calls share their way: what many callers want while one
// call is on its way goes with the next (group commit).
package batch

import (
	"slices"
	"sync"
)

// Group gathers the jobs of many callers into calls of one function, one call at
// a time. A caller that comes when none is on its way does not wait for others.
// Group has no goroutine of its own: one of the callers makes each call. It is
// safe for concurrent use.
type Group[J any] struct {
	most int
	work func([]J)

	mu      sync.Mutex
	led     bool         // a caller makes calls
	waiting []*caller[J] // who has jobs that no call has taken, oldest first
}

// caller is one Do. Whoever leads changes its fields.
type caller[J any] struct {
	todo []J // that no call has taken
	left int // that are not done
	turn chan bool
}

// New returns a group that hands at most most jobs, of which there is at least
// one, to a call of work. Callers with many jobs do not keep others waiting: a
// call is parted among who waits.
func New[J any](most int, work func([]J)) *Group[J] {
	return &Group[J]{most: max(most, 1), work: work}
}

// Do returns when work has been called with each of the jobs. Jobs that come
// together need not go with one call, though they do where there is room.
func (g *Group[J]) Do(jobs []J) {
	if len(jobs) == 0 {
		return
	}
	c := &caller[J]{todo: jobs, left: len(jobs), turn: make(chan bool, 1)}
	if !g.join(c) && !<-c.turn {
		return // done
	}
	defer g.resign()
	for c.left > 0 {
		g.call(c)
	}
}

// join says whether c is to lead.
func (g *Group[J]) join(c *caller[J]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, c)
	lead := !g.led
	g.led = true
	return lead
}

// resign lets the next one lead who has jobs left.
func (g *Group[J]) resign() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.led = len(g.waiting) > 0; g.led {
		g.waiting[0].turn <- true
	}
}

// call does one call and tells who has nothing left. A panic of work ends the
// caller that leads and leaves the others as if their jobs were done.
func (g *Group[J]) call(leader *caller[J]) {
	jobs, from := g.take()
	defer func() {
		for _, s := range from {
			s.of.left -= s.jobs
			if s.of.left == 0 && s.of != leader {
				s.of.turn <- false
			}
		}
	}()
	g.work(jobs)
}

// share is how many jobs of a call are of one caller.
type share[J any] struct {
	of   *caller[J]
	jobs int
}

// take parts the room of a call evenly among who waits.
func (g *Group[J]) take() (jobs []J, from []share[J]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, c := range g.waiting {
		others := len(g.waiting) - i
		n := min(len(c.todo), (g.most-len(jobs)+others-1)/others)
		if n == 0 {
			break // there is no room for the rest
		}
		jobs = append(jobs, c.todo[:n]...)
		c.todo = c.todo[n:]
		from = append(from, share[J]{c, n})
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(c *caller[J]) bool { return len(c.todo) == 0 })
	return jobs, from
}
