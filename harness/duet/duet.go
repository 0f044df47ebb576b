// Package duet measures two builds side by side: both live at once, each on
// backends of its own, and take turns in short slots in seeded order under one
// generator; between rounds they are started anew in the other order. What
// befalls the machine befalls both, so small differences between them show.
// It measures and judges nothing.
package duet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
)

// DefaultSlot is the length of one turn: long enough that what a SUT does after
// an answer falls into its own turn, short enough that the machine is the same
// in neighbouring turns.
const DefaultSlot = 50 * time.Millisecond

const (
	warmUp     = 1200 * time.Millisecond // of load before each round counts
	stopWithin = 30 * time.Second
	// Neither this process, in which embedded servers live, nor the generator
	// collects garbage while load is offered, unless its memory grows to this.
	roomOfServers   = 2 << 30
	roomOfGenerator = 512 << 20
)

// Options of one comparison. The arms must have been built.
type Options struct {
	Dir        string // of logs and slots.jsonl; exists
	K6         string // file of our k6
	Profile    load.Profile
	ProfileAt  string // its file
	Rate       string // overrides the profile's; "": as it says
	HeapCap    int64
	Budget     time.Duration // of the rounds; what is built before takes its own time
	Slot       time.Duration // 0: DefaultSlot
	Seed       uint64
	Descriptor sut.Descriptor
	Provider   backend.Provider
	Kind       string // of Provider
	Builds     [2]Build
	Faults     []sut.Rule // before the candidate; the base gets a proxy as well then
	ID         string

	// Enough is asked at a third and at two thirds of the budget whether the
	// answer is clear. nil: never.
	Enough func(*record.Comparison) bool
	// Explain is asked when the measuring has ended whether profiles of both
	// arms are wanted: one more round, whose figures count for nothing. nil: never.
	Explain func(*record.Comparison) bool
	// Progress is told what goes on; nil: silence.
	Progress func(text string, gone, total time.Duration)
	Log      *slog.Logger // nil: discard
}

// The arms, by index.
const (
	base = iota
	candidate
)

var armNames = [2]string{"base", "candidate"}

// looks are the shares of the budget at which Enough is asked.
var looks = []float64{1. / 3, 2. / 3, 1}

// Run measures until the budget is spent or Enough is told. c tells what is
// compared and is filled in; after an error it is partial and holds what was
// gathered before. Everything that was started has ended when Run returns.
func Run(ctx context.Context, o Options, c *record.Comparison) (err error) {
	d, err := begin(ctx, o, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close(ctx)) }()
	// The embedded servers live in this process; its collections slow both arms
	// and are noise. After each round it collects what the round left.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(roomOfServers))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if err := d.rounds(ctx); err != nil || o.Explain == nil || !o.Explain(c) {
		return err
	}
	d.explain(ctx)
	return nil
}

// duet is one comparison under way.
type duet struct {
	Options
	c        *record.Comparison
	gen      *generator
	slots    *slotFile
	rng      *rand.Rand
	sets     [2]*backend.Set // by place; nil between rounds where they are fresh each round
	planner  planner
	firstWas int
}

func begin(ctx context.Context, o Options, c *record.Comparison) (*duet, error) {
	if o.Slot == 0 {
		o.Slot = DefaultSlot
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, time.Duration, time.Duration) {}
	}
	d := &duet{Options: o, c: c, rng: rand.New(rand.NewPCG(o.Seed, 0x706c756d62)), planner: planner{budget: o.Budget, slot: o.Slot}}
	d.firstWas = d.rng.IntN(2)
	var err error
	if d.slots, err = createSlots(o.Dir); err != nil {
		return nil, err
	}
	if d.gen, err = startGenerator(o); err != nil {
		return nil, errors.Join(err, d.slots.close())
	}
	return d, nil
}

func (d *duet) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(d.closeSets(ctx), d.gen.close(), d.slots.close())
}

// rounds runs rounds as long as the budget has room for one more.
func (d *duet) rounds(ctx context.Context) error {
	began := time.Now()
	next := 0 // look
	for n := 1; ; n++ {
		gone := time.Since(began)
		for next < len(looks)-1 && gone >= time.Duration(looks[next]*float64(d.Budget)) {
			if d.clear(looks[next]) {
				return nil
			}
			next++
		}
		length, ok := d.planner.next(gone)
		if !ok {
			break
		}
		d.Progress(fmt.Sprintf("round %d, %g requests/s in turns", n, float64(d.Profile.Rate)), min(gone, d.Budget), d.Budget)
		if err := d.round(ctx, length); err != nil {
			return err
		}
	}
	d.c.Looks = append(d.c.Looks, 1)
	return nil
}

// clear looks at the answer so far. A look at fewer than three rounds is none.
func (d *duet) clear(at float64) bool {
	if d.Enough == nil || len(d.c.Rounds) < 3 {
		return false
	}
	d.c.Looks = append(d.c.Looks, at)
	return d.Enough(d.c)
}

// round starts both arms anew, measures them and stops them.
func (d *duet) round(ctx context.Context, length time.Duration) (err error) {
	began := time.Now()
	r := d.next()
	defer func() {
		err = errors.Join(err, r.stop(ctx))
		debug.FreeOSMemory() // what the embedded servers held; now, not while the next round is measured
		if err == nil {
			d.planner.took(time.Since(began), r.measured, r.blocks())
		}
	}()
	if err := r.start(ctx); err != nil {
		return r.blame(err)
	}
	if err := r.measure(ctx, length); err != nil {
		return r.blame(err)
	}
	return r.book()
}

// next is the round to come, with the arms in the other order.
func (d *duet) next() *round {
	d.firstWas = 1 - d.firstWas
	return &round{duet: d, n: len(d.c.Rounds) + 1, place: [2]int{d.firstWas, 1 - d.firstWas}}
}

// openSets starts the backends of both places. Embedded ones are fresh in every
// round: a SUT that keeps its graph in memory forgets what the last one stored,
// and what they hold costs memory.
func (d *duet) openSets(ctx context.Context) error {
	for i := range d.sets {
		if d.sets[i] != nil {
			continue
		}
		set, err := d.Provider.Start(ctx, backend.Options{RunID: fmt.Sprintf("%s-%d", d.ID, i), LogDir: d.Dir, Log: d.Log})
		if err != nil {
			return fmt.Errorf("backends: %w", err)
		}
		d.sets[i] = set
	}
	return nil
}

func (d *duet) closeSets(ctx context.Context) error {
	var errs []error
	for i, set := range d.sets {
		if set != nil {
			errs = append(errs, set.Close(ctx))
			d.sets[i] = nil
		}
	}
	return errors.Join(errs...)
}
