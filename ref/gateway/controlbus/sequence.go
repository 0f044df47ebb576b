package controlbus

import (
	"context"
	"math/big"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// heldAtMost bounds the activations that wait for one before them, over all
// series; beyond it the oldest gap counts as passed.
const heldAtMost = 10_000

// series keeps the activations of each world and run in the order of their
// numbers (controlbus.md 3).
type series struct {
	gap   time.Duration   // how long a missing number is waited for
	known recent[*run]    // every run, by name
	open  map[string]*run // the runs that wait for a number
	held  int             // messages in all of them
}

func newSeries(gap time.Duration) series {
	return series{gap: gap, known: newRecent[*run](memory), open: map[string]*run{}}
}

// A run is one series.
type run struct {
	name  string
	next  *big.Int            // the number that is due
	held  map[string]*message // what came early, by number
	until time.Time           // when the missing number is given up
}

// inSequence lets an activation take effect when its number is due, holds it
// while an earlier one is missing, and drops it when its turn is over.
func (p *processor) inSequence(ctx context.Context, m *message) {
	number := m.data.Member("sequence")
	if number.Kind() != pyjson.Int {
		p.log.Warn("activation_sequence_invalid", "key", m.key, "sequence", number.Text())
		p.metrics.dropped.WithLabelValues(m.topic).Inc()
		return
	}
	m.sequence, _ = new(big.Int).SetString(number.Text(), 10)
	r := p.run(m)
	switch m.sequence.Cmp(r.next) {
	case -1:
		p.metrics.dropped.WithLabelValues(m.topic).Inc()
	case 1:
		p.hold(ctx, r, m)
	default:
		p.drain(ctx, r, m)
	}
}

// run finds the series of m, or starts it with m's number.
func (p *processor) run(m *message) *run {
	name := m.world() + "\x00" + m.run()
	if r, ok := p.series.open[name]; ok {
		return r
	}
	if r, ok := p.series.known.get(name); ok {
		return r
	}
	r := &run{name: name, next: m.sequence, held: map[string]*message{}}
	p.series.known.put(name, r)
	return r
}

// hold keeps the first copy of an early message.
func (p *processor) hold(ctx context.Context, r *run, m *message) {
	number := m.sequence.String()
	if r.held[number] != nil {
		return
	}
	r.held[number] = m
	p.series.held++
	if len(r.held) == 1 {
		r.until = p.now().Add(p.series.gap)
		p.series.open[r.name] = r
	}
	if p.series.held > heldAtMost {
		p.resume(ctx, p.series.first())
	}
}

// unhold takes the message of a number out of a run.
func (s *series) unhold(r *run, number string) *message {
	m := r.held[number]
	if m != nil {
		delete(r.held, number)
		s.held--
	}
	if len(r.held) == 0 {
		delete(s.open, r.name)
	}
	return m
}

// drain has m and what follows it without a gap take effect. One that fails is
// buried and leaves its number due, so that the gap decides.
func (p *processor) drain(ctx context.Context, r *run, m *message) {
	one := big.NewInt(1)
	for m != nil && p.settle(ctx, m) {
		r.next = new(big.Int).Add(m.sequence, one)
		m = p.series.unhold(r, r.next.String())
	}
	r.until = p.now().Add(p.series.gap)
}

// due says when the first gap ends, if there is one.
func (s *series) due() (time.Time, bool) {
	r := s.first()
	if r == nil {
		return time.Time{}, false
	}
	return r.until, true
}

// first gives the run whose gap ends first.
func (s *series) first() *run {
	var first *run
	for _, r := range s.open {
		if first == nil || r.until.Before(first.until) {
			first = r
		}
	}
	return first
}

// expire goes on behind every gap that has lasted long enough.
func (p *processor) expire(ctx context.Context) {
	for {
		r := p.series.first()
		if r == nil || r.until.After(p.now()) {
			return
		}
		p.resume(ctx, r)
	}
}

// resume gives up the missing numbers of r and goes on with the least that is
// held.
func (p *processor) resume(ctx context.Context, r *run) {
	var least *message
	for _, m := range r.held {
		if least == nil || m.sequence.Cmp(least.sequence) < 0 {
			least = m
		}
	}
	if least.sequence.Cmp(r.next) > 0 {
		p.log.Warn("activation_gap", "world_id", least.world(), "run_id", least.run(), "expected", r.next, "available", least.sequence)
		p.metrics.dropped.WithLabelValues(least.topic).Inc()
		r.next = least.sequence
	}
	p.drain(ctx, r, p.series.unhold(r, least.sequence.String()))
}

// waiting gives every record whose effect is still to come.
func (s *series) waiting() (records []*kgo.Record) {
	for _, r := range s.open {
		for _, m := range r.held {
			records = append(records, m.record)
		}
	}
	return records
}
