package duet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/probe"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
)

// perBlock is how many turns make a block, the unit in which a round's own noise
// is known to the planner.
const perBlock = 10

// heapReads is how often the heap is read during a round's load.
const heapReads = 3

// round is one life of both arms. A place is where an arm stands in this round:
// place 0 is started first and is target 0 of the generator.
type round struct {
	*duet
	n        int
	place    [2]int // of an arm
	suts     [2]*sut.Instance
	meters   [2][]*meter // by arm
	result   *load.TurnsResult
	measured time.Duration
	values   [2]map[string]float64
}

// meter reads one process of an arm.
type meter struct {
	*probe.Meter
	name   string
	before probe.Reading
	peak   float64 // of the live heap
	broken error   // why the heap cannot be read
}

// armAt is the arm at a place.
func (r *round) armAt(place int) int {
	if r.place[base] == place {
		return base
	}
	return candidate
}

func (r *round) start(ctx context.Context) error {
	if err := r.openSets(ctx); err != nil {
		return err
	}
	var targets [2]string
	for place := range 2 {
		arm := r.armAt(place)
		if err := r.startArm(ctx, arm); err != nil {
			return &armError{arm, fmt.Errorf("%s: %w", armNames[arm], err)}
		}
		targets[place] = r.suts[arm].Endpoints().Gateway
	}
	_, err := r.gen.do(ctx, load.TurnsCommand{Open: &load.TurnsOpen{
		Targets: targets, Seed: r.Seed + uint64(r.n), Tag: fmt.Sprintf("%s-%d", strings.ToLower(r.ID), r.n),
	}})
	return err
}

func (r *round) startArm(ctx context.Context, arm int) error {
	rules, err := r.rules(arm)
	if err != nil {
		return err
	}
	in, err := sut.Start(ctx, r.Descriptor, sut.Options{
		Backends: r.sets[r.place[arm]], BinDir: r.Builds[arm].Bin, LogDir: filepath.Join(r.Dir, "logs", armNames[arm]),
		RunID: fmt.Sprintf("%s-%s", r.ID, armNames[arm]), HeapCap: r.HeapCap, Tamper: rules, Seed: r.Seed, Log: r.Log,
	})
	if err != nil {
		return err
	}
	r.suts[arm] = in
	for _, p := range in.Processes() {
		r.meters[arm] = append(r.meters[arm], &meter{
			Meter: probe.NewMeter(probe.Target{Process: p.Name, PID: probe.Fixed(p.PID), Admin: p.Admin}), name: p.Name,
		})
	}
	return nil
}

// rules are what stands before an arm. Where the candidate has a proxy, the base
// has one as well, which delays by next to nothing.
func (r *round) rules(arm int) ([]sut.Rule, error) {
	if arm == candidate || len(r.Faults) == 0 {
		return r.Faults, nil
	}
	return sut.ParseRules(sut.TamperDelay + "=1ns")
}

// measure offers the warm-up and then the load that counts.
func (r *round) measure(ctx context.Context, length time.Duration) error {
	alive, die := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	for arm := range 2 {
		watching.Go(func() {
			select {
			case <-r.suts[arm].Dead():
				die(&armError{arm, fmt.Errorf("%s: %w", armNames[arm], r.suts[arm].Err())})
			case <-alive.Done():
			}
		})
	}
	defer watching.Wait()
	defer die(nil)
	if _, err := r.gen.do(alive, r.offer(warmUp)); err != nil {
		return err
	}
	if err := r.read(alive, func(m *meter, v probe.Reading) { m.before = v }); err != nil {
		return err
	}
	stop := r.watchHeap(alive, length)
	result, err := r.gen.do(alive, r.offer(length))
	stop()
	if err != nil {
		return err
	}
	r.result, r.measured = result, length
	return r.read(alive, r.note)
}

// offer draws the order of turns: of every two neighbours each arm has one.
func (r *round) offer(length time.Duration) load.TurnsCommand {
	pairs := max(1, int(length/(2*r.Slot)))
	order := make([]byte, 0, 2*pairs)
	for range pairs {
		if r.rng.IntN(2) == 0 {
			order = append(order, '0', '1')
		} else {
			order = append(order, '1', '0')
		}
	}
	return load.TurnsCommand{Offer: &load.TurnsOffer{Slots: string(order), Slot: r.Slot}}
}

// read reads every process while nothing is offered. That a process has no
// admin address is no error; that it has no clock is.
func (r *round) read(ctx context.Context, use func(*meter, probe.Reading)) error {
	for arm := range 2 {
		for _, m := range r.meters[arm] {
			v := m.heap(ctx)
			cpu, err := m.CPU()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", armNames[arm], m.name, err)
			}
			v.CPU = cpu
			use(m, v)
		}
	}
	return nil
}

func (m *meter) heap(ctx context.Context) probe.Reading {
	v, err := m.Heap(ctx)
	if err != nil {
		m.broken = err
		return probe.Reading{}
	}
	m.peak = max(m.peak, v.HeapLive)
	return v
}

// watchHeap reads the heaps a few times during the load, each arm as often as
// the other. What it returns ends it.
func (r *round) watchHeap(ctx context.Context, length time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(length / (heapReads + 1))
		defer tick.Stop()
		for range heapReads {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, m := range slices.Concat(r.meters[base], r.meters[candidate]) {
				m.heap(context.WithoutCancel(ctx))
			}
		}
	}()
	return func() { cancel(); <-done }
}

// note turns what a process used into figures of its arm.
func (r *round) note(m *meter, after probe.Reading) {
	arm := base
	if slices.Contains(r.meters[candidate], m) {
		arm = candidate
	}
	if r.values[arm] == nil {
		r.values[arm] = map[string]float64{}
	}
	answered := float64(r.answered(arm))
	if answered == 0 {
		return
	}
	add := func(metric string, v float64) {
		r.values[arm][metric+"/"+m.name] = v
		r.values[arm][metric+"/all"] += v
	}
	add(CPU, (after.CPU-m.before.CPU)*1e6/answered)
	if m.broken == nil {
		add(Allocs, (after.Allocs-m.before.Allocs)/answered)
		add(Heap, m.peak)
	}
}

func (r *round) answered(arm int) (n int64) {
	for _, s := range r.result.Slots {
		if s.Target == r.place[arm] {
			n += s.Ledger.Answered
		}
	}
	return n
}

// book adds the round to the comparison.
func (r *round) book() error {
	out := record.Round{First: armNames[r.armAt(0)], Measured: r.measured, Generator: r.result.Generator}
	arms := [2]*record.Arm{&r.c.Base, &r.c.Candidate}
	for arm, to := range []*map[string]float64{&out.Base, &out.Candidate} {
		latencies := load.Latencies{}
		for _, s := range r.result.Slots {
			if s.Target != r.place[arm] {
				continue
			}
			if err := latencies.Add(s); err != nil {
				return err
			}
			arms[arm].Ledger.Add(s.Ledger)
		}
		*to = Quantiles(latencies)
		maps.Copy(*to, r.values[arm])
		if l := arms[arm].Ledger; l.Lost+l.Unexpected > 0 {
			arms[arm].Reasons = r.result.Reasons
		}
	}
	r.noteAbsent()
	r.c.Rounds = append(r.c.Rounds, out)
	return r.slots.line.Encode(slotLine{r.n, [2]string{armNames[r.armAt(0)], armNames[r.armAt(1)]}, r.Slot, r.result})
}

// noteAbsent says what cannot be read of a process.
func (r *round) noteAbsent() {
	for _, m := range slices.Concat(r.meters[base], r.meters[candidate]) {
		if m.broken != nil {
			for _, metric := range []string{Allocs, Heap} {
				r.c.Absent[metric+"/"+m.name] = m.broken.Error()
			}
		}
	}
}

// blocks are the log-ratios of the median latency, block by block.
func (r *round) blocks() (out []float64) {
	if r.result == nil {
		return nil
	}
	for chunk := range slices.Chunk(r.result.Slots, 2*perBlock) {
		var medians [2]float64
		for arm := range 2 {
			l := load.Latencies{}
			for _, s := range chunk {
				if s.Target == r.place[arm] && l.Add(s) != nil {
					return nil // book has told
				}
			}
			medians[arm] = quantile(l.Union(), 0.5)
		}
		if medians[base] > 0 && medians[candidate] > 0 {
			out = append(out, math.Log(medians[candidate]/medians[base]))
		}
	}
	return out
}

func (r *round) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	var errs []error
	for arm, in := range r.suts {
		for _, m := range r.meters[arm] {
			m.Close()
		}
		if in != nil {
			errs = append(errs, in.Stop(ctx))
		}
	}
	if r.Kind == backend.KindEmbedded {
		errs = append(errs, r.closeSets(ctx))
	}
	return errors.Join(errs...)
}

// armError is about one arm, not about the measurement.
type armError struct {
	arm int
	error
}

func (e *armError) Unwrap() error { return e.error }

// blame notes the death of a process of an arm.
func (r *round) blame(err error) error {
	var of *armError
	var died *sut.DeathError
	if !errors.As(err, &of) || !errors.As(err, &died) {
		return err
	}
	arm := &r.c.Base
	if of.arm == candidate {
		arm = &r.c.Candidate
	}
	arm.Died = died.Error()
	return err
}
