package submit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A stage is one step of a submission, and how it is run.
type stage struct {
	name  string // in errors, metrics and traces
	run   func(*Pipeline, context.Context, *submission) error
	limit func(*Pipeline) time.Duration // nil: it waits for nobody, or for a client that has limits of its own
	again []repetition
}

// repetition says which failures of a stage are worth another try.
type repetition struct {
	of     error                         // failures that are this
	within func(*Pipeline) time.Duration // of the stage's begin
	times  int                           // tries after the first; 0: any number
	pause  time.Duration                 // before the first of them; it doubles
	most   time.Duration                 // longest pause
}

// next gives the pause before the stage is tried again; false when it is not.
func (st *stage) next(p *Pipeline, err error, tried int, begun time.Time) (time.Duration, bool) {
	for i := range st.again {
		if r := &st.again[i]; errors.Is(err, r.of) {
			pause := min(r.pause<<min(tried, 16), r.most)
			return pause, (r.times == 0 || tried < r.times) && time.Since(begun)+pause < r.within(p)
		}
	}
	return 0, false
}

// A claim may be repeated. Somebody else's that is not settled may yet be taken
// back; and Redis may have closed a connection that nobody used.
func claimAgain() []repetition {
	return []repetition{
		{of: ErrPending, within: pendingLimit, pause: 2 * time.Millisecond, most: 100 * time.Millisecond},
		{of: ErrRegistry, within: reconnectLimit, times: 1},
	}
}

func pendingLimit(p *Pipeline) time.Duration { return p.Limits.Pending }

func reconnectLimit(*Pipeline) time.Duration { return 250 * time.Millisecond }

// diffLimit: lookups beside the diff have a limit of their own.
func diffLimit(p *Pipeline) time.Duration { return p.Limits.Diff }

func dryRunLimit(p *Pipeline) time.Duration {
	return max(p.Limits.DryRun, p.Limits.DryRunMany) + p.Limits.Lookups
}

func commitLogLimit(p *Pipeline) time.Duration {
	if p.CommitLog == nil {
		return time.Hour // nothing is written
	}
	return p.CommitLog.limit
}

// run goes through stages until one fails, then undoes what was done.
func (p *Pipeline) run(ctx context.Context, s *submission, stages []stage) error {
	for i := range stages {
		if err := p.runStage(ctx, s, &stages[i]); err != nil {
			return p.unwind(ctx, s, fmt.Errorf("stage %s: %w", stages[i].name, err))
		}
	}
	return nil
}

// runStage runs a stage as it is declared: in a span of its own, timed, within
// its limit and again where that may help.
func (p *Pipeline) runStage(ctx context.Context, s *submission, st *stage) error {
	ctx, span := p.Traces.Start(ctx, st.name)
	if st.limit != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, st.limit(p))
		defer cancel()
	}
	begun := time.Now()
	err := st.run(p, ctx, s)
	for tried := 0; err != nil; tried++ {
		pause, worth := st.next(p, err, tried, begun)
		if !worth || !wait(ctx, pause) {
			break
		}
		p.Metrics.retries.With(st.name).Inc()
		err = st.run(p, ctx, s)
	}
	p.Metrics.stage(st.name, err, time.Since(begun))
	span.End(err)
	return err
}

// wait gives false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
