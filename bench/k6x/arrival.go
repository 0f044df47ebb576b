package k6x

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"go.k6.io/k6/errext"
	"go.k6.io/k6/lib"
	"go.k6.io/k6/lib/executor"
	"go.k6.io/k6/lib/types"
	"go.k6.io/k6/metrics"
	"gopkg.in/guregu/null.v3"

	"qmtl.internal/plumbline/bench/load"
)

// ArrivalRate is the name of our executor in a script's options. It starts
// iterations as k6's constant-arrival-rate does, but by the precise pacer, and
// a slot that finds no free VU keeps its number, so that later due times stay
// where they are (k6's own executor gives the number to the next slot).
const ArrivalRate = "plumbline-arrival-rate"

// activation is the time set aside before the first due time to get VUs ready.
const activation = 200 * time.Millisecond

// arrivalConfig is the executor in a script's options:
//
//	{ executor: 'plumbline-arrival-rate', rate: 1000, duration: '30s', vus: 200 }
type arrivalConfig struct {
	executor.BaseConfig
	Rate     null.Int           `json:"rate"`     // iterations per second, over all instances
	Duration types.NullDuration `json:"duration"` // of the schedule
	VUs      null.Int           `json:"vus"`      // over all instances; none is added later
}

func newArrivalConfig(name string, raw []byte) (lib.ExecutorConfig, error) {
	c := &arrivalConfig{BaseConfig: executor.NewBaseConfig(name, ArrivalRate)}
	return c, lib.StrictJSONUnmarshal(raw, c)
}

// Validate implements lib.ExecutorConfig.
func (c *arrivalConfig) Validate() []error {
	errs := c.BaseConfig.Validate()
	if c.Rate.Int64 < 1 || c.Rate.Int64 > 1_000_000 {
		errs = append(errs, fmt.Errorf("rate: %d is not a number of iterations per second from 1 to 1000000", c.Rate.Int64))
	}
	if c.Duration.TimeDuration() <= 0 {
		errs = append(errs, fmt.Errorf("duration: %v is no time", c.Duration.TimeDuration()))
	}
	if c.VUs.Int64 < 1 {
		errs = append(errs, fmt.Errorf("vus: %d is not a number of VUs", c.VUs.Int64))
	}
	return errs
}

// GetDescription implements lib.ExecutorConfig.
func (c *arrivalConfig) GetDescription(*lib.ExecutionTuple) string {
	return fmt.Sprintf("%d iterations/s for %v, %d VUs, precisely paced", c.Rate.Int64, c.Duration.TimeDuration(), c.VUs.Int64)
}

// GetExecutionRequirements implements lib.ExecutorConfig.
func (c *arrivalConfig) GetExecutionRequirements(et *lib.ExecutionTuple) []lib.ExecutionStep {
	return []lib.ExecutionStep{
		{PlannedVUs: uint64(et.ScaleInt64(c.VUs.Int64))},
		{TimeOffset: activation + c.Duration.TimeDuration() + c.GracefulStop.TimeDuration()},
	}
}

// HasWork implements lib.ExecutorConfig.
func (c *arrivalConfig) HasWork(et *lib.ExecutionTuple) bool { return et.ScaleInt64(c.VUs.Int64) > 0 }

// NewExecutor implements lib.ExecutorConfig.
func (c *arrivalConfig) NewExecutor(es *lib.ExecutionState, log *logrus.Entry) (lib.Executor, error) {
	return &arrivalExecutor{BaseExecutor: executor.NewBaseExecutor(c, es, log), c: c, es: es, log: log}, nil
}

func (c *arrivalConfig) schedule() load.Schedule {
	return load.Constant{Rate: c.Rate.Int64, For: c.Duration.TimeDuration()}
}

type arrivalExecutor struct {
	*executor.BaseExecutor
	c   *arrivalConfig
	es  *lib.ExecutionState
	log *logrus.Entry
}

// slot is one start of an iteration: its number on this instance and among all.
type slot struct{ local, global uint64 }

// Run implements lib.Executor.
func (e *arrivalExecutor) Run(parent context.Context, out chan<- metrics.SampleContainer) error {
	zero := time.Now().Add(activation)
	end := zero.Add(e.c.Duration.TimeDuration() + e.c.GetGracefulStop())
	life, cancel := context.WithDeadline(parent, end)
	defer cancel()
	life = lib.WithScenarioState(life, &lib.ScenarioState{
		Name: e.c.Name, Executor: ArrivalRate, StartTime: zero,
		ProgressFn: func() (float64, []string) {
			return min(1, max(0, float64(time.Since(zero))/float64(e.c.Duration.TimeDuration()))), []string{e.c.Duration.String()}
		},
	})
	pool := &vuPool{es: e.es, log: e.log, life: life, stop: cancel}
	err := pool.open(e.c)
	if err == nil {
		e.pace(life, zero, pool, out)
	}
	return errors.Join(err, pool.close())
}

// pace starts iterations until the schedule ends, and reports dropped slots.
func (e *arrivalExecutor) pace(ctx context.Context, zero time.Time, pool *vuPool, out chan<- metrics.SampleContainer) {
	var dropped atomic.Int64
	tags := e.es.Test.RunTags
	if e.es.Test.Options.SystemTags.Has(metrics.TagScenario) {
		tags = tags.With("scenario", e.c.Name)
	}
	report := func() {
		if n := dropped.Swap(0); n > 0 {
			out <- metrics.Sample{TimeSeries: metrics.TimeSeries{Metric: e.es.Test.BuiltinMetrics.DroppedIterations, Tags: tags}, Time: time.Now(), Value: float64(n)}
		}
	}
	stopReporting := every(flushEvery, report)
	start, offsets, _ := e.es.ExecutionTuple.GetStripedOffsets()
	local := uint64(0)
	load.Pace(ctx, zero, e.c.schedule(), load.Stripe{Start: start, Offsets: offsets}, func(i int64) {
		if !pool.give(slot{local, uint64(i)}) {
			dropped.Add(1)
		}
		local++
	})
	stopReporting()
}

// every calls f again and again until the returned function is called, which
// calls it once more.
func every(d time.Duration, f func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f()
			case <-quit:
				f()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// vuPool is the VUs of one scenario, each with a goroutine of its own.
type vuPool struct {
	es   *lib.ExecutionState
	log  *logrus.Entry
	life context.Context
	stop context.CancelFunc

	idle     chan chan slot // one entry for each VU that waits
	vus      int
	running  sync.WaitGroup // goroutines of VUs
	returned sync.WaitGroup // VUs given back to k6

	mu  sync.Mutex
	err error // why a script ended the run; guarded by mu
}

func (p *vuPool) open(c *arrivalConfig) error {
	want := int(p.es.ExecutionTuple.ScaleInt64(c.VUs.Int64))
	p.idle = make(chan chan slot, want)
	for range want {
		vu, err := p.es.GetPlannedVU(p.log, false)
		if err != nil {
			return err
		}
		p.add(c, vu)
	}
	return nil
}

func (p *vuPool) add(c *arrivalConfig, vu lib.InitializedVU) {
	var now slot // of the iteration that runs; only its goroutine touches it
	p.returned.Add(1)
	active := vu.Activate(&lib.VUActivationParams{
		RunContext: p.life, Scenario: c.Name, Exec: c.GetExec(), Env: c.GetEnv(), Tags: c.GetTags(),
		DeactivateCallback:       func(u lib.InitializedVU) { p.es.ReturnVU(u, false); p.returned.Done() },
		GetNextIterationCounters: func() (uint64, uint64) { return now.local, now.global },
	})
	in := make(chan slot, 1)
	p.idle <- in
	p.vus++
	p.running.Go(func() {
		for now = range in {
			p.iterate(active)
			p.idle <- in
		}
	})
}

// give starts an iteration on a VU that waits; false when none does.
func (p *vuPool) give(s slot) bool {
	select {
	case in := <-p.idle:
		in <- s
		return true
	default:
		return false
	}
}

// iterate runs one iteration and books it as k6's own executors do.
func (p *vuPool) iterate(vu lib.ActiveVU) {
	p.es.ModCurrentlyActiveVUsCount(+1)
	err := vu.RunOnce()
	p.es.ModCurrentlyActiveVUsCount(-1)
	if p.life.Err() != nil || errext.IsInterruptError(err) {
		p.es.AddInterruptedIterations(1)
		p.abort(err)
		return
	}
	p.es.AddFullIterations(1)
	var exception errext.Exception
	if errors.As(err, &exception) {
		p.log.WithField("source", "stacktrace").Error(exception.StackTrace())
	} else if err != nil {
		p.log.Error(err)
	}
}

// abort ends the scenario when the script asked for it.
func (p *vuPool) abort(err error) {
	if !errext.IsInterruptError(err) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.stop()
}

// close waits for the iterations that run, until the end of the graceful stop,
// and gives the VUs back. It returns why a script ended the run, if one did.
func (p *vuPool) close() error {
	for range p.vus {
		close(<-p.idle)
	}
	p.running.Wait()
	p.stop()
	p.returned.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
