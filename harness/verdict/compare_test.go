package verdict_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// compared makes a comparison whose candidate is slower by shift (0.03: 3 %)
// within a noise of the given spread.
func compared(rounds int, shift, spread float64) *record.Comparison {
	rng := rand.New(rand.NewPCG(uint64(rounds), 9))
	c := &record.Comparison{
		ID: "c", Method: record.Paired, Looks: []float64{1}, Plan: record.ComparisonPlan{Profile: "turns"},
		Base:      record.Arm{Given: "main", Ledger: load.Ledger{Offered: 100, Answered: 100, Accepted: 100}},
		Candidate: record.Arm{Given: "tree", Ledger: load.Ledger{Offered: 100, Answered: 100, Accepted: 100}},
	}
	for range rounds {
		r := record.Round{Base: map[string]float64{}, Candidate: map[string]float64{}, Generator: load.Quantiles{P99: 0.2}}
		for _, name := range []string{"p50_ms/all", "p50_ms/single", "cpu_us_per_request/all", "allocs_per_request/all", "unknown/all"} {
			r.Base[name] = 10
			r.Candidate[name] = 10 * (1 + spread*(rng.Float64()-0.5))
		}
		r.Candidate["p50_ms/all"] *= 1 + shift
		c.Rounds = append(c.Rounds, r)
	}
	return c
}

func effect(t *testing.T, e record.Effects, metric, of string) record.Effect {
	t.Helper()
	for _, x := range e.Effects {
		if x.Metric == metric && x.Of == of {
			return x
		}
	}
	t.Fatalf("no effect on %s of %s among %+v", metric, of, e.Effects)
	return record.Effect{}
}

func TestCompareTellsSlowerFromNotSlower(t *testing.T) {
	p := policy(t)
	for _, r := range []struct {
		name    string
		c       *record.Comparison
		want    verdict.Verdict
		exit    int
		outcome string
	}{
		{"the same", compared(20, 0, 0.02), verdict.Pass, 0, "equivalent"},
		{"three per cent", compared(20, 0.03, 0.01), verdict.Fail, 1, "slower"},
		{"less than anyone cares", compared(20, 0.006, 0.004), verdict.Pass, 0, "equivalent"},
		{"faster", compared(20, -0.05, 0.01), verdict.Pass, 0, "faster"},
		{"too noisy", compared(6, 0.01, 0.3), verdict.Inconclusive, 1, "undecided"},
		{"one round", compared(1, 0.5, 0), verdict.Inconclusive, 1, "undecided"},
	} {
		e := verdict.Compare(p, r.c)
		p50 := effect(t, e, "p50_ms", "all")
		if e.Verdict != r.want.String() || e.ExitCode != r.exit || p50.Outcome != r.outcome {
			t.Errorf("%s: %s (exit %d), p50 %s; want %v (exit %d), %s: %s", r.name, e.Verdict, e.ExitCode, p50.Outcome, r.want, r.exit, r.outcome, e.Summary)
		}
		if len(e.Effects) != 4 {
			t.Errorf("%s: %d effects; want those four that have a margin", r.name, len(e.Effects))
		}
		if len(r.c.Rounds) > 1 && (p50.Detectable == nil || !strings.Contains(p50.Reason, "would have seen")) {
			t.Errorf("%s: %q does not say what would have been seen", r.name, p50.Reason)
		}
	}
}

func TestUndecidedIsGreenOnlyWhereThePolicySaysSo(t *testing.T) {
	p, c := policy(t), compared(6, 0.01, 0.3)
	paired := *p.Comparison.Paired
	paired.UndecidedIsGreen = []string{"turns"}
	p.Comparison.Paired = &paired
	if e := verdict.Compare(p, c); e.Verdict != verdict.Pass.String() {
		t.Errorf("undecided in a profile where that is green: %s: %s", e.Verdict, e.Summary)
	}
	c.Plan.Profile = "burst2"
	if e := verdict.Compare(p, c); e.Verdict != verdict.Inconclusive.String() {
		t.Errorf("undecided elsewhere: %s: %s", e.Verdict, e.Summary)
	}
}

func TestWhatWasNotMeasuredRightConcludesNothing(t *testing.T) {
	p := policy(t)
	for name, r := range map[string]struct {
		harm func(*record.Comparison)
		want verdict.Verdict
	}{
		"cut short":            {func(c *record.Comparison) { c.Partial, c.PartialReason = true, "Ctrl-C" }, verdict.Invalid},
		"late generator":       {func(c *record.Comparison) { c.Rounds[3].Generator.P99 = 50 }, verdict.Invalid},
		"no rounds":            {func(c *record.Comparison) { c.Rounds = nil }, verdict.Invalid},
		"base lost":            {func(c *record.Comparison) { c.Base.Ledger.Lost = 1 }, verdict.Invalid},
		"base died":            {func(c *record.Comparison) { c.Base.Died, c.Partial = "exit status 2", true }, verdict.Invalid},
		"candidate lost":       {func(c *record.Comparison) { c.Candidate.Ledger.Lost = 1 }, verdict.Fail},
		"candidate unexpected": {func(c *record.Comparison) { c.Candidate.Ledger.Unexpected = 1 }, verdict.Fail},
		"candidate died":       {func(c *record.Comparison) { c.Candidate.Died, c.Partial = "exit status 2", true }, verdict.Fail},
		"impossible looks":     {func(c *record.Comparison) { c.Looks = []float64{0.5, 0.2} }, verdict.Invalid},
	} {
		c := compared(20, 0, 0.02)
		r.harm(c)
		if e := verdict.Compare(p, c); e.Verdict != r.want.String() || e.Summary == "" {
			t.Errorf("%s: %s (%s); want %v", name, e.Verdict, e.Summary, r.want)
		}
	}
}

func TestClearAnswersEndTheComparison(t *testing.T) {
	p := policy(t)
	for name, r := range map[string]struct {
		c    *record.Comparison
		want bool
	}{
		"slower": {compared(20, 0.2, 0.01), true}, "the same": {compared(20, 0, 0.005), true}, "noisy": {compared(6, 0, 0.3), false},
		"nothing yet": {compared(0, 0, 0), false},
	} {
		if got := verdict.Clear(p, r.c); got != r.want {
			t.Errorf("%s: Clear = %v; want %v", name, got, r.want)
		}
	}
}

// In the gate the comparison takes the place of the stored record's timing.
func TestGateTrustsTheBuildsSideBySide(t *testing.T) {
	p, base, cand := policy(t), good(), good()
	base.ID = "base"
	for i := range cand.Load.Seconds { // slower than the record: another day
		cand.Load.Seconds[i].P50 *= 3
	}
	stored := verdict.Judge(p, verdict.Base{Run: base, Complexity: base.Complexity.Funcs}, cand)
	if check(stored, "baseline.p50_ms").Verdict == verdict.Unjudged {
		t.Fatalf("without a comparison the stored record was not asked: %+v", stored.Checks)
	}
	cand.Paired = compared(20, 0, 0.02)
	j := verdict.Judge(p, verdict.Base{Run: base, Complexity: base.Complexity.Funcs}, cand)
	if c := check(j, "baseline.paired.p50_ms"); c.Verdict != verdict.Pass || check(j, "baseline.p50_ms").Name != "" {
		t.Errorf("side by side they are the same, but: %+v, %+v", c, check(j, "baseline.p50_ms"))
	}
	cand.Paired = compared(20, 0.05, 0.01)
	if c := check(verdict.Judge(p, verdict.Base{Run: base, Complexity: base.Complexity.Funcs}, cand), "baseline.paired.p50_ms"); c.Verdict != verdict.Fail {
		t.Errorf("side by side it is slower, but: %+v", c)
	}
	cand.Paired = compared(20, 0, 0.02)
	cand.Paired.Partial = true
	j = verdict.Judge(p, verdict.Base{Run: base, Complexity: base.Complexity.Funcs}, cand)
	if c := check(j, "baseline.paired"); c.Verdict != verdict.NoBaseline || check(j, "baseline.p50_ms").Name == "" {
		t.Errorf("a comparison that broke: %+v; want the stored record instead", c)
	}
}

func check(j verdict.Judged, name string) verdict.Check {
	for _, c := range j.Checks {
		if c.Name == name {
			return c
		}
	}
	return verdict.Check{}
}

func TestPairedPolicyIsChecked(t *testing.T) {
	for name, harm := range map[string]func(*verdict.PairedPolicy){
		"alpha":   func(p *verdict.PairedPolicy) { p.Alpha = 1 },
		"margin":  func(p *verdict.PairedPolicy) { p.Metrics = map[string]verdict.Margin{"p50_ms": {}} },
		"metric":  func(p *verdict.PairedPolicy) { p.Metrics = map[string]verdict.Margin{"p51_ms": {Ratio: 1}} },
		"nothing": func(p *verdict.PairedPolicy) { p.Metrics = nil },
	} {
		p := policy(t)
		paired := *p.Comparison.Paired
		harm(&paired)
		p.Comparison.Paired = &paired
		if err := p.Check(); err == nil || !strings.Contains(fmt.Sprint(err), "comparison.paired") {
			t.Errorf("%s: Check = %v; want a complaint", name, err)
		}
	}
}
