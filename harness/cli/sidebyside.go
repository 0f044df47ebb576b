package cli

import (
	"context"
	"errors"
	"time"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/duet"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// pairWindows is how many windows of the profile a comparison within the gate
// lasts at most; worthwhile is the least budget that is spent on one.
const (
	pairWindows = 3
	worthwhile  = 20 * time.Second
)

// pairedKey is where the record says why it holds no comparison.
const pairedKey = "paired"

// sideBySide measures the tree of a gate side by side with the commit of its
// accepted record, where there is one and git has it; the record says why where
// it did not. Only an interruption is an error: without this comparison the
// stored record serves.
func (a *app) sideBySide(ctx context.Context, ask *question, plan harness.Plan, run *record.Run) error {
	budget := a.pairBudget(run)
	if budget == 0 || run.Load == nil {
		return nil
	}
	dir := harness.Dir(a.flags.artifacts, run.ID)
	rev, why := a.pairable(ctx, ask.baseFor("", run).Run, run)
	if why == "" {
		p := harness.ComparePlan{
			Plan: plan, Root: a.flags.root, Base: rev, Budget: budget, Into: dir.Path("compare"), Differing: true,
			Enough:  func(c *record.Comparison) bool { return verdict.Clear(ask.policy, c) },
			Explain: slowed(ask.policy),
		}
		p.Profile, p.Rate, p.Window, p.WarmUp, p.HeapCap = harness.TurnsProfile, "", "", "", ""
		p.Provider = backend.KindEmbedded
		c, into, err := harness.Compare(ctx, p)
		if ctx.Err() != nil {
			run.Partial, run.PartialReason = true, "interrupted while it was measured side by side with "+rev
			return errors.Join(context.Cause(ctx), dir.WriteRun(run))
		}
		if err == nil {
			run.Paired = c
			if p.Explain(c) {
				run.Notes = append(run.Notes, c.Notes...)
			}
			err = keepComparison(into, &record.Compared{Measured: *c, Judged: verdict.Compare(ask.policy, c)})
		}
		if err != nil {
			why = err.Error()
		}
	}
	if why != "" {
		run.Absent[pairedKey] = why
	}
	return dir.WriteRun(run)
}

// pairBudget is zero where no comparison is wanted.
func (a *app) pairBudget(run *record.Run) time.Duration {
	if a.flags.compareBudget >= 0 || run.Load == nil {
		return max(0, a.flags.compareBudget)
	}
	if b := pairWindows * run.Load.Window; b >= worthwhile {
		return b
	}
	return 0
}

// pairable gives the commit to measure the tree beside, or why there is none.
func (a *app) pairable(ctx context.Context, base, run *record.Run) (rev, why string) {
	switch {
	case base == nil:
		return "", "no record was accepted yet"
	case base.Env.Class != run.Env.Class:
		return "", "the base was measured in another environment"
	case base.Commit.Revision == "" || base.Commit.Dirty:
		return "", "the accepted record " + base.ID + " is of a tree that was not committed"
	case run.SUT.Name != "reference" || base.SUT.Name != "reference":
		return "", "the SUT is not built from this tree"
	case len(run.Plan.Faults)+len(base.Plan.Faults) > 0:
		return "", "the load was harmed on purpose"
	}
	was, err := duet.Revision(ctx, a.flags.root, base.Commit.Revision)
	if err != nil {
		return "", err.Error()
	}
	return was.Revision, ""
}
