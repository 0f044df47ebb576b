package harness

import (
	"context"
	"fmt"
	"time"

	"qmtl.internal/plumbline/harness/duet"
	"qmtl.internal/plumbline/harness/record"
)

// againstRecord measures the candidate as the record was measured, again and
// again while the budget lasts. How far these runs of one build lie apart is the
// machine's own noise, and the record is one more draw from it. Nothing is
// looked at in between.
func (x *comparing) againstRecord(ctx context.Context, path string) error {
	was, err := record.Read(path)
	if err != nil {
		return usageError{fmt.Errorf("--base: %w", err)}
	}
	plan, err := x.likeRecord(ctx, was)
	if err != nil {
		return err
	}
	x.c.Method = record.Unpaired
	x.c.Notes = append(x.c.Notes, "the base is a record of another time, so what the machine did differently then counts as a difference; a revision as --base is measured side by side")
	x.c.Base = record.Arm{Given: was.ID, Revision: was.Commit.Revision, Dirty: was.Commit.Dirty, Ledger: was.Load.Ledger}
	before := recordFigures(was)
	began := time.Now()
	for longest := time.Duration(0); len(x.c.Rounds) == 0 || time.Since(began)+longest < x.plan.Budget; {
		started := time.Now()
		run, err := Run(ctx, plan)
		if err == nil {
			err = x.add(before, run)
		}
		if err != nil {
			return fmt.Errorf("run %d of the candidate: %w", len(x.c.Rounds)+1, err)
		}
		longest = max(longest, time.Since(started))
	}
	x.c.Looks = []float64{1}
	return nil
}

// likeRecord plans a run of the candidate under the same load.
func (x *comparing) likeRecord(ctx context.Context, was *record.Run) (Plan, error) {
	bad := func(format string, args ...any) (Plan, error) {
		return Plan{}, usageError{fmt.Errorf("--base "+was.ID+" "+format, args...)}
	}
	p := x.plan.Plan
	switch {
	case was.Partial || was.Load == nil:
		return bad("holds no whole load; take another record, or a revision")
	case was.Env.Class != x.c.Env.Class:
		return bad("was measured in environment %s, this is %s: their numbers do not compare; take a revision", was.Env.Class, x.c.Env.Class)
	case was.Plan.Profile != x.profile.Name:
		return bad("is of profile %s; add --profile %s", was.Plan.Profile, was.Plan.Profile)
	}
	s, err := x.source(ctx, x.plan.Candidate)
	if err != nil {
		return p, fmt.Errorf("--candidate %w", err)
	}
	x.Progress(Event{Stage: "build", Text: "candidate"})
	x.c.Candidate = record.Arm{Given: shownSource(s), Revision: s.Revision, Tree: s.Tree, Dirty: s.Dirty}
	b, err := duet.Make(ctx, "candidate", s, x.builds(), x.into)
	p.Programs = b.Bin
	p.Rate, p.Window, p.WarmUp = fmt.Sprint(int64(was.Load.Rate)), was.Load.Window.String(), was.Load.WarmUp.String()
	p.HeapCap = fmt.Sprint(was.Plan.HeapCap)
	return p, err
}

// add books one run of the candidate as a round.
func (x *comparing) add(before map[string]float64, run *record.Run) error {
	if run.Load == nil {
		return fmt.Errorf("it holds no load")
	}
	x.c.Rounds = append(x.c.Rounds, record.Round{
		Measured: run.Load.Window, Generator: run.Load.Generator, Base: before, Candidate: recordFigures(run),
	})
	x.c.Candidate.Ledger.Add(run.Load.Ledger)
	for why, n := range run.Load.Unexpected {
		x.reason(why, n)
	}
	for why, n := range run.Load.LostBy {
		x.reason(why, n)
	}
	return nil
}

func (x *comparing) reason(why string, n int64) {
	if x.c.Candidate.Reasons == nil {
		x.c.Candidate.Reasons = map[string]int64{}
	}
	x.c.Candidate.Reasons[why] += n
}

// recordFigures are the figures of a record that compare.
func recordFigures(r *record.Run) map[string]float64 {
	out := map[string]float64{}
	for class, c := range r.Load.Classes {
		for q, v := range map[string]float64{"p50_ms": c.Latency.P50, "p90_ms": c.Latency.P90, "p95_ms": c.Latency.P95, "p99_ms": c.Latency.P99, "mean_ms": c.Latency.Mean} {
			if v > 0 && duet.Enough(q, c.N) {
				out[q+"/"+class] = v
			}
		}
	}
	if m, err := r.Metrics.Get(record.HeapPeak); err == nil && m.Value > 0 {
		out["heap_peak_bytes/all"] = m.Value
	}
	return out
}
