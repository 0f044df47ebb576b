package verdict_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// Each of these contradicts another part of the record.
func TestPartsThatDoNotFitTogether(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*record.Run)
		check string
	}{
		"a shorter window":              {func(r *record.Run) { r.Plan.Window *= 3 }, "measurement.plan"},
		"another warm-up":               {func(r *record.Run) { r.Plan.WarmUp = 0 }, "measurement.plan"},
		"a renamed profile":             {func(r *record.Run) { r.Plan.Profile = "bursts" }, "measurement.plan"},
		"another seed":                  {func(r *record.Run) { r.Load.Seed = 9 }, "measurement.plan"},
		"excuses without a fault":       {func(r *record.Run) { r.Outages = &record.Outages{Calm: r.Load.Classes["all"]} }, "measurement.plan"},
		"a load before its run":         {func(r *record.Run) { r.Load.Started = r.Started.Add(-time.Hour) }, "measurement.clock"},
		"a clock that was set back":     {func(r *record.Run) { r.Ended = r.Started.Add(3 * time.Second) }, "measurement.clock"},
		"a run without a start":         {func(r *record.Run) { r.Load.Started = time.Time{} }, "measurement.clock"},
		"answers before the window":     {func(r *record.Run) { r.Load.Wall = time.Second }, "measurement.clock"},
		"seconds of another load":       {func(r *record.Run) { r.Load.Seconds[3].Offered += 5 }, "measurement.seconds"},
		"seconds without order":         {func(r *record.Run) { r.Load.Seconds[3].At = 1 }, "measurement.seconds"},
		"quantiles of no distribution":  {func(r *record.Run) { r.Load.Generator.P50 = 9 }, "measurement.quantiles"},
		"a negative latency":            {func(r *record.Run) { r.Load.Classes["all"] = load.Class{N: 10000, Latency: load.Quantiles{P50: -1}} }, "measurement.quantiles"},
		"probes that looked away":       {func(r *record.Run) { r.Series[0].Points = r.Series[0].Points[:1] }, "measurement.probes"},
		"no process":                    {func(r *record.Run) { r.SUT.Processes = nil }, "measurement.processes"},
		"a cap that nobody kept":        {func(r *record.Run) { r.SUT.Processes[0].Limit = "none" }, "measurement.cap"},
		"a cap that was not planned":    {func(r *record.Run) { r.Plan.HeapCap = 0 }, "measurement.cap"},
		"another machine":               {func(r *record.Run) { r.Env.Cores = 64 }, "measurement.environment"},
		"an audit of nothing":           {func(r *record.Run) { r.Audit.Records = 0 }, "measurement.stored"},
		"an audit without topics":       {func(r *record.Run) { r.Audit.Topics = 3 }, "measurement.stored"},
		"a figure in another unit":      {func(r *record.Run) { change(r, "p99_ms", func(m *record.Measure) { m.Unit = record.Seconds }) }, "measurement.consistent"},
		"a figure of other observation": {func(r *record.Run) { change(r, "p99_ms", func(m *record.Measure) { m.N = 3 }) }, "measurement.consistent"},
	} {
		r := good()
		c.spoil(r)
		if m := r.Metrics; !strings.HasPrefix(name, "a figure") {
			r.Metrics = record.Metrics{}
			record.SetDerived(r)
			if len(r.Metrics) == 0 {
				t.Fatalf("%s: nothing is derived, before it was %v", name, m)
			}
		}
		j := verdict.Judge(policy(t), baseline(), r)
		if got := named(j, c.check); len(got) != 1 || got[0].Verdict != verdict.Invalid || j.ExitCode != verdict.ExitBroken {
			t.Errorf("%s: %s is %+v, exit %d:\n%s", name, c.check, got, j.ExitCode, listed(j))
		}
	}
}

func change(r *record.Run, metric string, how func(*record.Measure)) {
	m := r.Metrics[metric]
	how(&m)
	r.Metrics[metric] = m
}

func TestBasesThatCannotBeTrusted(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*verdict.Base)
		want  verdict.Verdict
		check string
	}{
		"partial":             {func(b *verdict.Base) { b.Run.Partial, b.Run.PartialReason = true, "Ctrl-C" }, verdict.Invalid, "baseline.trust"},
		"from the future":     {func(b *verdict.Base) { b.Run.Started = b.Run.Started.AddDate(0, 0, 9) }, verdict.Invalid, "baseline.trust"},
		"touched by hand":     {func(b *verdict.Base) { change(b.Run, "p99_ms", func(m *record.Measure) { m.Value = 900 }) }, verdict.Invalid, "baseline.trust"},
		"the run itself":      {func(b *verdict.Base) { b.Run.ID = "cand" }, verdict.NoBaseline, "baseline.record"},
		"stale":               {func(b *verdict.Base) { b.Run.Started = b.Run.Started.AddDate(-1, 0, 0) }, verdict.Fail, "baseline.age"},
		"with another class":  {func(b *verdict.Base) { b.Run.Load.Classes["single"] = load.Class{N: 5} }, verdict.Fail, "baseline.classes"},
		"of another tree":     {func(b *verdict.Base) { b.Complexity = []record.Func{{File: "x.go", Name: "Gone"}} }, verdict.Invalid, "baseline.functions"},
		"without a snapshot":  {func(b *verdict.Base) { b.Complexity = nil }, verdict.Invalid, "baseline.complexity"},
		"files that disagree": {func(b *verdict.Base) { b.Evidence = &verdict.Evidence{Against: []string{"x"}} }, verdict.Invalid, "measurement.evidence"},
	} {
		b := baseline()
		c.spoil(&b)
		j := verdict.Judge(policy(t), b, good())
		if got := named(j, c.check); len(got) != 1 || got[0].Verdict != c.want {
			t.Errorf("%s: %s is %+v, want %s:\n%s", name, c.check, got, c.want, listed(j))
		}
	}
}

func TestRequiredStages(t *testing.T) {
	p := policy(t)
	p.RequireStages = verdict.Stages()
	if j := verdict.Judge(p, baseline(), good()); j.Verdict != verdict.Pass {
		t.Errorf("the whole gate: %s", listed(j))
	}
	part := with(func(r *record.Run) { r.Plan.Stages = []string{verdict.StageContract} })
	if j := verdict.Judge(p, baseline(), part); j.Verdict != verdict.Invalid || len(named(j, "measurement.stages")) != 1 {
		t.Errorf("part of the gate: %s: %s", j.Verdict, listed(j))
	}
}

func TestPoliciesThatLimitNothing(t *testing.T) {
	wide := 1e9
	for name, c := range map[string]struct {
		spoil func(*verdict.Policy)
		want  string
	}{
		"latency":     {func(p *verdict.Policy) { p.Latency[0].P95 = &wide }, "latency[0].p95_ms"},
		"lag":         {func(p *verdict.Policy) { p.Measurement.GeneratorLagP99 = wide }, "generator_lag"},
		"complexity":  {func(p *verdict.Policy) { p.Complexity.Limit = 1000 }, "complexity.limit"},
		"care":        {func(p *verdict.Policy) { p.Comparison.Metrics["p50_ms"] = verdict.LeastCare{Ratio: 99} }, "p50_ms.ratio"},
		"heap":        {func(p *verdict.Policy) { p.Comparison.Heap.Ratio = 99 }, "heap_peak_bytes"},
		"no metric":   {func(p *verdict.Policy) { p.Comparison.Metrics = nil }, "comparison.metrics is empty"},
		"no stage":    {func(p *verdict.Policy) { p.RequireStages = []string{"sleep"} }, "no stage is named"},
		"the share":   {func(p *verdict.Policy) { p.Complexity.MinKept = 2 }, "min_kept"},
		"the recover": {func(p *verdict.Policy) { p.Faults.RecoveryS = 1e6 }, "recovery_s"},
	} {
		p := policy(t)
		c.spoil(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Check = %v; want it to name %q", name, err, c.want)
		}
	}
}

func TestWaiversForEverAreNoWaivers(t *testing.T) {
	p := policy(t)
	w := verdict.Waiver{Check: "contract.failed", Reason: "one day"}
	if err := w.Until.UnmarshalText([]byte("2999-01-01")); err != nil {
		t.Fatal(err)
	}
	p.Waivers = []verdict.Waiver{w}
	j := verdict.Judge(p, baseline(), with(func(r *record.Run) { r.Contract[0].Status = record.Failed }))
	if j.Verdict != verdict.Fail || !strings.Contains(listed(j), "more than a year") {
		t.Errorf("Judge = %s: %s", j.Verdict, listed(j))
	}
}

func TestJudgementsThatDoNotFollowFromTheirChecks(t *testing.T) {
	whole := verdict.Judge(policy(t), baseline(), good())
	if err := whole.Check(); err != nil {
		t.Errorf("Check = %v", err)
	}
	failed := verdict.Judge(policy(t), baseline(), with(func(r *record.Run) { r.Contract[0].Status = record.Failed }))
	if err := failed.Check(); err != nil {
		t.Errorf("Check = %v", err)
	}
	forged := failed
	forged.Verdict, forged.ExitCode = verdict.Pass, 0
	swallowed := failed
	swallowed.ExitCode = 0
	empty := whole
	empty.Checks = nil
	blanked := whole
	blanked.Checks = slices.Clone(whole.Checks)
	blanked.Checks[0].Verdict = verdict.Unjudged
	for name, j := range map[string]verdict.Judged{"forged": forged, "swallowed": swallowed, "empty": empty, "blanked": blanked} {
		if j.Check() == nil {
			t.Errorf("%s: Check found nothing", name)
		}
	}
}
