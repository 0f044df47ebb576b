package verdict_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func policy(t *testing.T) verdict.Policy {
	t.Helper()
	f, err := os.Open("../../baselines/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := verdict.ReadPolicy(f)
	if err != nil {
		t.Fatal(err)
	}
	p.Contract = verdict.ContractPolicy{MinPassed: 2, AllowedSkips: map[string][]string{"embedded": {"GW-SKIP"}}}
	p.Waivers = nil
	return p
}

// good is a run that nothing is wrong with: 10 s of 1,000/s.
func good() *record.Run {
	began := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	q := load.Quantiles{P50: 1.2, P90: 2, P95: 2.5, P99: 4, P999: 8, Max: 9, Mean: 1.3}
	r := &record.Run{
		ID: "cand", Started: began, Ended: began.Add(time.Minute),
		Plan:     record.Plan{Stages: verdict.Stages(), Profile: "burst", Rate: 1000, WarmUp: 2 * time.Second, Window: 10 * time.Second, HeapCap: 128 << 20, SUT: "reference", Provider: "auto"},
		Env:      here("embedded"),
		Provider: record.Provider{Kind: "embedded"},
		SUT:      record.SUT{Name: "reference", Processes: []record.SUTProcess{{Name: "gateway", HeapCap: 128 << 20, Limit: "cgroup-v2"}}},
		Contract: []record.Outcome{
			{ID: "GW-1", Status: record.Passed, File: "scenarios/gateway/one.yaml"},
			{ID: "GW-2", Status: record.Passed, File: "scenarios/gateway/two.yaml"},
			{ID: "GW-SKIP", Status: record.Skipped, Reason: "no graph", File: "scenarios/gateway/skip.yaml"},
		},
		Load: &load.Result{
			Version: load.ResultVersion, Started: began, Rate: 1000, Window: 10 * time.Second, WarmUp: 2 * time.Second, Wall: 12 * time.Second, Profile: "burst",
			Ledger:       load.Ledger{Offered: 10000, Answered: 10000, Accepted: 9800, Rejected: 200},
			WarmUpLedger: load.Ledger{Offered: 2000, Answered: 2000, Accepted: 1960, Rejected: 40},
			Classes:      map[string]load.Class{"all": {N: 10000, Latency: q, Lag: load.Quantiles{P99: 7}}},
			Generator:    load.Quantiles{P50: 0.02, P90: 0.04, P95: 0.05, P99: 0.1, P999: 0.9, Max: 1},
		},
		Audit: &record.Audit{Accepted: 11760, Records: 11760, Registered: 11760, Nodes: 50, Topics: 50},
		Series: []record.Series{
			{Name: "heap_live_bytes", Process: "gateway", Unit: record.Bytes, Points: [][2]float64{{0, 50 << 20}, {4, 60 << 20}, {8, 55 << 20}, {11, 55 << 20}}},
			{Name: "rss_peak_bytes", Process: "gateway", Unit: record.Bytes, Points: [][2]float64{{0, 90 << 20}}},
		},
		Complexity: &record.Complexity{Limit: 10, Funcs: []record.Func{{Lang: "go", File: "ref/a.go", Line: 3, Name: "Fine", CC: 9}}},
	}
	for i := range 10 {
		wobble := float64(i%3) * 0.1
		r.Load.Seconds = append(r.Load.Seconds, load.Second{At: float64(2 + i), Offered: 1000, Answered: 1000, P50: 1.2 + wobble, P95: 2.5 + wobble, P99: 4 + 3*wobble})
	}
	record.SetDerived(r)
	return r
}

// here is a machine, with backends of a kind.
func here(provider string) record.Env {
	e := record.Env{OS: "linux", Arch: "amd64", CPU: "Example CPU", Cores: 2, MemBytes: 4 << 30, Go: "go1.26.1"}
	e.Class = record.Class(e, provider)
	return e
}

func baseline() verdict.Base { return baseOf(good()) }

// baseOf is a copy of r, accepted the day before.
func baseOf(r *record.Run) verdict.Base {
	b := *r
	b.ID, b.Started, b.Ended = "base", r.Started.AddDate(0, 0, -1), r.Ended.AddDate(0, 0, -1)
	return verdict.Base{Run: &b, Complexity: slices.Clone(b.Complexity.Funcs)}
}

// with spoils a good run and derives its metrics again.
func with(spoil func(r *record.Run)) *record.Run {
	r := good()
	spoil(r)
	if r.Load != nil {
		mend(r.Load)
	}
	r.Metrics, r.Absent = nil, nil
	record.SetDerived(r)
	return r
}

// mend makes the rest of a load follow what was spoilt of it, as in a real one.
func mend(l *load.Result) {
	missing := l.Ledger
	for _, s := range l.Seconds {
		missing.Offered, missing.Answered = missing.Offered-s.Offered, missing.Answered-s.Answered
	}
	if n := len(l.Seconds); n > 0 {
		l.Seconds[n-1].Offered += missing.Offered
		l.Seconds[n-1].Answered += missing.Answered
	}
	for name, c := range l.Classes {
		q := &c.Latency
		q.P90 = max(q.P50, min(q.P90, q.P95))
		q.P99 = max(q.P99, q.P95)
		q.P999 = max(q.P999, q.P99)
		q.Max = max(q.Max, q.P999)
		l.Classes[name] = c
	}
}

func slower(by float64) func(*record.Run) {
	return func(r *record.Run) {
		for i := range r.Load.Seconds {
			s := &r.Load.Seconds[i]
			s.P50, s.P95, s.P99 = s.P50+by, s.P95+by, s.P99+by
		}
		all := r.Load.Classes["all"]
		all.Latency.P50, all.Latency.P95, all.Latency.P99 = all.Latency.P50+by, all.Latency.P95+by, all.Latency.P99+by
		r.Load.Classes["all"] = all
	}
}

func TestGoodRunPasses(t *testing.T) {
	j := verdict.Judge(policy(t), baseline(), good())
	if j.Verdict != verdict.Pass || j.ExitCode != verdict.ExitPass || j.Base != "base" {
		t.Errorf("Judge(good) = %s, exit %d, base %q: %s\n%s", j.Verdict, j.ExitCode, j.Base, j.Summary, listed(j))
	}
	groups := map[string]bool{}
	for _, c := range j.Checks {
		groups[c.Group] = true
		if c.Reason == "" || c.Verdict == verdict.Unjudged {
			t.Errorf("check %+v has no reason or no verdict", c)
		}
	}
	for _, g := range []string{"measurement", "contract", "loss", "latency", "memory", "complexity", "baseline"} {
		if !groups[g] {
			t.Errorf("no check of group %s was made", g)
		}
	}
}

func listed(j verdict.Judged) string {
	var b strings.Builder
	for _, c := range j.Checks {
		if c.Verdict != verdict.Pass {
			b.WriteString(c.Verdict.String() + " " + c.Name + ": " + c.Reason + "\n")
		}
	}
	return b.String()
}

func TestJudgeIsPure(t *testing.T) {
	a, err := json.Marshal(verdict.Judge(policy(t), baseline(), good()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(verdict.Judge(policy(t), baseline(), good()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(a), string(b)); diff != "" {
		t.Errorf("two judgements of one record differ:\n%s", diff)
	}
}

// One thing wrong: the verdict, the check that must say so, and words of its reason.
func TestOneThingWrong(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(r *record.Run)
		want  verdict.Verdict
		check string
		words string
	}{
		"cut short":           {func(r *record.Run) { r.Partial, r.PartialReason = true, "Ctrl-C" }, verdict.Invalid, "measurement.complete", "Ctrl-C"},
		"asked for nothing":   {func(r *record.Run) { r.Plan.Stages = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"an unknown stage":    {func(r *record.Run) { r.Plan.Stages = append(r.Plan.Stages, "magic") }, verdict.Invalid, "measurement.parts", "missing"},
		"no scenario at all":  {func(r *record.Run) { r.Contract = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"no load":             {func(r *record.Run) { r.Load = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"no audit":            {func(r *record.Run) { r.Audit = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"no complexity":       {func(r *record.Run) { r.Complexity = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"no functions":        {func(r *record.Run) { r.Complexity.Funcs = nil }, verdict.Invalid, "measurement.parts", "missing"},
		"one request too few": {func(r *record.Run) { r.Load.Ledger.Offered--; r.Load.Ledger.Answered--; r.Load.Ledger.Accepted-- }, verdict.Invalid, "measurement.schedule", "10000"},
		"another rate":        {func(r *record.Run) { r.Plan.Rate = 2000 }, verdict.Invalid, "measurement.rate", "2000"},
		"broken off":          {func(r *record.Run) { r.Load.Aborted = "threshold" }, verdict.Invalid, "measurement.schedule", "threshold"},
		"a torn ledger":       {func(r *record.Run) { r.Load.Ledger.Accepted-- }, verdict.Invalid, "measurement.ledger", "accepted"},
		"a torn warm-up":      {func(r *record.Run) { r.Load.WarmUpLedger.Accepted-- }, verdict.Invalid, "measurement.ledger", "accepted"},
		"still in flight":     {func(r *record.Run) { l := &r.Load.Ledger; l.InFlight, l.Answered, l.Accepted = 1, 9999, 9799 }, verdict.Invalid, "measurement.ledger", "in flight"},
		"no samples":          {func(r *record.Run) { r.Load.Classes = nil }, verdict.Invalid, "measurement.samples", "0 latencies"},
		"samples missing":     {func(r *record.Run) { a := r.Load.Classes["all"]; a.N = 9; r.Load.Classes["all"] = a }, verdict.Invalid, "measurement.samples", "9 latencies"},
		"a late generator":    {func(r *record.Run) { r.Load.Generator.P99 = 6 }, verdict.Invalid, "measurement.generator", "6 ms late"},
		"dropped by a slow SUT": {func(r *record.Run) {
			r.Load.Waited = 900
			l := &r.Load.Ledger
			l.Dropped, l.Answered, l.Accepted = 5, 9995, 9795
			a := r.Load.Classes["all"]
			a.N = 9995
			r.Load.Classes["all"] = a
		}, verdict.Fail, "measurement.dropped", "the SUT left"},
		"dropped by itself": {func(r *record.Run) {
			l := &r.Load.Ledger
			l.Dropped, l.Answered, l.Accepted = 5, 9995, 9795
			a := r.Load.Classes["all"]
			a.N = 9995
			r.Load.Classes["all"] = a
		}, verdict.Invalid, "measurement.dropped", "never left"},
		"audit of too little": {func(r *record.Run) { r.Audit.Accepted = 5 }, verdict.Invalid, "measurement.audit", "5 of 11760"},
		"NaN":                 {func(r *record.Run) { a := r.Load.Classes["all"]; a.Service.P50 = math.NaN(); r.Load.Classes["all"] = a }, verdict.Invalid, "measurement.finite", "NaN"},
		"a NaN quantile":      {func(r *record.Run) { a := r.Load.Classes["all"]; a.Latency.P95 = math.NaN(); r.Load.Classes["all"] = a }, verdict.Invalid, "latency.p95_ms", "not measured"},
		"a failed scenario":   {func(r *record.Run) { r.Contract[0].Status, r.Contract[0].Reason = record.Failed, "answered 500" }, verdict.Fail, "contract.failed", "GW-1"},
		"no status":           {func(r *record.Run) { r.Contract[0].Status = "" }, verdict.Fail, "contract.failed", "GW-1"},
		"a skip not allowed":  {func(r *record.Run) { r.Contract[0].Status = record.Skipped }, verdict.Fail, "contract.skipped", "GW-1"},
		"too few scenarios":   {func(r *record.Run) { r.Contract = r.Contract[:1] }, verdict.Fail, "contract.passed", "at least 2"},
		"one lost answer": {func(r *record.Run) {
			l := &r.Load.Ledger
			l.Lost, l.Answered, l.Accepted = 1, 9999, 9799
			a := r.Load.Classes["all"]
			a.N = 9999
			r.Load.Classes["all"] = a
		}, verdict.Fail, "loss.lost", "1 lost"},
		"one lost in warm-up": {func(r *record.Run) { l := &r.Load.WarmUpLedger; l.Lost, l.Answered, l.Accepted = 1, 1999, 1959 }, verdict.Fail, "loss.lost", "1 lost"},
		"one not stored":      {func(r *record.Run) { r.Audit.Lost = []record.Finding{{ID: "id-7", What: "no record"}} }, verdict.Fail, "loss.lost", "1 lost"},
		"one doubled":         {func(r *record.Run) { r.Audit.Duplicates = []record.Finding{{ID: "id-7", What: "two"}} }, verdict.Fail, "loss.duplicates", "1 doubled"},
		"one orphan":          {func(r *record.Run) { r.Audit.Orphans = []record.Finding{{ID: "id-7", What: "left"}} }, verdict.Fail, "loss.orphans", "1 stored"},
		"an odd answer": {func(r *record.Run) {
			l := &r.Load.Ledger
			l.Unexpected, l.Accepted = 1, 9799
			r.Load.Unexpected = map[string]int64{"500 x": 1}
		}, verdict.Fail, "loss.unexpected", "1 requests"},
		"p95 over 10 ms": {func(r *record.Run) { a := r.Load.Classes["all"]; a.Latency.P95 = 10.5; r.Load.Classes["all"] = a }, verdict.Fail, "latency.p95_ms.burst", "10.5 ms"},
		"p99 over 25 ms": {func(r *record.Run) { a := r.Load.Classes["all"]; a.Latency.P99 = 25.5; r.Load.Classes["all"] = a }, verdict.Fail, "latency.p99_ms.burst", "25.5 ms"},
		"lag explains p95": {func(r *record.Run) {
			a := r.Load.Classes["all"]
			a.Latency.P95 = 10.5
			r.Load.Generator.P95 = 1
			r.Load.Classes["all"] = a
		}, verdict.Invalid, "latency.p95_ms.burst", "could explain"},
		"heap over the cap":    {func(r *record.Run) { r.Series[0].Points[1][1] = 129 << 20 }, verdict.Fail, "memory.heap", "129.0 MiB"},
		"no heap told":         {func(r *record.Run) { r.Series = nil }, verdict.Invalid, "memory.heap", "not measured"},
		"a death":              {func(r *record.Run) { r.SUT.Processes[0].Died = "killed" }, verdict.Fail, "memory.alive", "killed"},
		"CC 11":                {func(r *record.Run) { r.Complexity.Funcs[0].CC = 11 }, verdict.Fail, "complexity.limit", "ref/a.go:3: Fine has complexity 11"},
		"a file not parsed":    {func(r *record.Run) { r.Complexity.Unparsed = []record.Finding{{ID: "ref/b.go", What: "syntax"}} }, verdict.Invalid, "complexity.unparsed", "ref/b.go"},
		"a function grew":      {func(r *record.Run) { r.Complexity.Funcs[0].CC = 12 }, verdict.Fail, "baseline.complexity", "9 → 12"},
		"5 ms slower":          {slower(5), verdict.Fail, "baseline.p50_ms", "regressed"},
		"a scenario vanished":  {func(r *record.Run) { r.Contract[0].ID = "GW-9" }, verdict.Fail, "baseline.contract", "1 scenarios"},
		"heap grew":            {func(r *record.Run) { r.Series[0].Points[1][1] = 100 << 20 }, verdict.Fail, "baseline.heap", "100.0 MiB"},
		"another environment":  {func(r *record.Run) { r.Env.Class = "there" }, verdict.Invalid, "baseline.environment", "do not compare"},
		"another profile":      {func(r *record.Run) { r.Plan.Profile, r.Load.Profile = "smoke", "smoke" }, verdict.NoBaseline, "baseline.record", "profile"},
		"one second only":      {func(r *record.Run) { r.Load.Seconds = r.Load.Seconds[:1] }, verdict.Inconclusive, "baseline.p50_ms", "cannot show"},
		"seconds without data": {func(r *record.Run) { r.Load.Seconds = nil }, verdict.Invalid, "measurement.seconds", "0 offered"},
	} {
		t.Run(name, func(t *testing.T) {
			j := verdict.Judge(policy(t), baseline(), with(c.spoil))
			if j.Verdict != c.want {
				t.Errorf("verdict %s, want %s: %s\n%s", j.Verdict, c.want, j.Summary, listed(j))
			}
			if !slices.ContainsFunc(j.Checks, func(k verdict.Check) bool {
				return k.Name == c.check && k.Verdict == c.want && strings.Contains(k.Reason, c.words)
			}) {
				t.Errorf("no check %s says %q:\n%s", c.check, c.words, listed(j))
			}
			if want := exitOf[c.want]; j.ExitCode != want {
				t.Errorf("exit code %d, want %d", j.ExitCode, want)
			}
		})
	}
}

var exitOf = map[verdict.Verdict]int{verdict.Pass: 0, verdict.NoBaseline: 0, verdict.Fail: 1, verdict.Inconclusive: 1, verdict.Invalid: 3}

// Metrics that were touched by hand prove that the record is not of one piece.
func TestFiguresMustFollowFromTheirParts(t *testing.T) {
	r := good()
	m := r.Metrics["p99_ms"]
	m.Value = 0.1
	r.Metrics["p99_ms"] = m
	j := verdict.Judge(policy(t), baseline(), r)
	if j.Verdict != verdict.Invalid || !strings.Contains(listed(j), "measurement.consistent") {
		t.Errorf("Judge = %s: %s", j.Verdict, listed(j))
	}
}

// A run that was cut short because the SUT died failed; it is not broken.
func TestDeathIsTheFinding(t *testing.T) {
	r := with(func(r *record.Run) {
		r.SUT.Processes[0].Died = "out of memory"
		r.Partial, r.PartialReason = true, "the gateway died"
		r.Load, r.Audit = nil, nil
	})
	j := verdict.Judge(policy(t), verdict.Base{}, r)
	if j.Verdict != verdict.Fail || j.ExitCode != verdict.ExitFail {
		t.Errorf("Judge = %s, exit %d: %s", j.Verdict, j.ExitCode, listed(j))
	}
}

func TestNoBaselineIsGreenOnlyWherePolicySaysSo(t *testing.T) {
	p := policy(t)
	base := baseline()
	base.Run, base.Reason = nil, "none for profile burst"
	j := verdict.Judge(p, base, good())
	if j.Verdict != verdict.NoBaseline || j.ExitCode != 0 || !strings.Contains(j.Summary, "plumbline accept") {
		t.Errorf("Judge = %s, exit %d: %s; want no-baseline, 0, and how to accept", j.Verdict, j.ExitCode, j.Summary)
	}
	p.Green = nil
	if j := verdict.Judge(p, base, good()); j.ExitCode != verdict.ExitFail {
		t.Errorf("exit %d without leave of the policy; want 1", j.ExitCode)
	}
}

func TestABrokenBaseIsNoBase(t *testing.T) {
	base := baseline()
	base.Broken = []string{"baseline x.json: cut off"}
	if j := verdict.Judge(policy(t), base, good()); j.Verdict != verdict.Invalid || !strings.Contains(j.Summary, "cut off") {
		t.Errorf("Judge = %s: %s", j.Verdict, j.Summary)
	}
}

func TestNothingAtAllIsNeverGreen(t *testing.T) {
	j := verdict.Judge(policy(t), verdict.Base{}, &record.Run{})
	if j.Verdict != verdict.Invalid || j.ExitCode != verdict.ExitBroken {
		t.Errorf("Judge(empty) = %s, exit %d", j.Verdict, j.ExitCode)
	}
}

func TestPartOfTheGateSaysSo(t *testing.T) {
	r := with(func(r *record.Run) {
		r.Plan.Stages = []string{verdict.StageContract}
		r.Load, r.Audit, r.Complexity = nil, nil, nil
	})
	j := verdict.Judge(policy(t), verdict.Base{}, r)
	if j.Verdict != verdict.Pass || !strings.Contains(j.Summary, "not the whole gate") {
		t.Errorf("Judge = %s: %s", j.Verdict, j.Summary)
	}
}

func TestWaivers(t *testing.T) {
	day := func(s string) (d verdict.Date) {
		if err := d.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	two := func(r *record.Run) {
		for i := range 2 {
			r.Contract[i].Status, r.Contract[i].Reason = record.Failed, "answered 500"
		}
		r.Contract = append(r.Contract, record.Outcome{ID: "GW-3", Status: record.Passed}, record.Outcome{ID: "GW-4", Status: record.Passed})
	}
	late := func(r *record.Run) { r.Load.Aborted = "x" }
	nothing := func(*record.Run) {}
	w := func(check, only, until string) verdict.Waiver {
		return verdict.Waiver{Check: check, Only: only, Reason: "known", Until: day(until)}
	}
	for name, c := range map[string]struct {
		spoil   func(*record.Run)
		waivers []verdict.Waiver
		want    verdict.Verdict
		words   string
	}{
		"lets the check through":  {two, []verdict.Waiver{w("contract.failed", "", "2026-03-01")}, verdict.Pass, "waived"},
		"lets only the named one": {two, []verdict.Waiver{w("contract.failed", "GW-1", "2026-12-31")}, verdict.Fail, "GW-2"},
		"two for two":             {two, []verdict.Waiver{w("contract.failed", "GW-1", "2026-12-31"), w("contract.failed", "GW-2", "2026-12-31")}, verdict.Pass, "2 waived"},
		"expired":                 {two, []verdict.Waiver{w("contract.failed", "", "2026-02-28")}, verdict.Fail, "expired"},
		"unmatched":               {nothing, []verdict.Waiver{w("contract.nonsense", "", "2026-12-31")}, verdict.Fail, "no check of this run"},
		"no longer needed":        {nothing, []verdict.Waiver{w("loss.lost", "", "2026-12-31")}, verdict.Fail, "passes now"},
		"cannot mend measurement": {late, []verdict.Waiver{w("measurement.schedule", "", "2026-12-31")}, verdict.Invalid, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy(t)
			p.Waivers = c.waivers
			base := baseline()
			base.Run.Contract = nil
			record.SetDerived(base.Run)
			for _, gone := range []string{record.ContractPassed, record.ContractFailed, record.ContractSkipped} {
				delete(base.Run.Metrics, gone)
			}
			j := verdict.Judge(p, base, with(c.spoil))
			if j.Verdict != c.want || !strings.Contains(j.Summary+listed(j), c.words) {
				t.Errorf("Judge = %s: %s\n%s; want %s naming %q", j.Verdict, j.Summary, listed(j), c.want, c.words)
			}
		})
	}
}

func TestSlightNoiseIsNoRegression(t *testing.T) {
	for _, by := range []float64{-1, 0.2, 0.9} {
		if j := verdict.Judge(policy(t), baseline(), with(slower(by))); j.Verdict != verdict.Pass {
			t.Errorf("%+.1f ms: %s: %s", by, j.Verdict, listed(j))
		}
	}
}

func TestReadPolicyRefuses(t *testing.T) {
	b, err := os.ReadFile("../../baselines/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"an unknown key":        {`"green"`, `"greens"`, "greens"},
		"a wrong schema":        {`"schema": 1`, `"schema": 9`, "schema is 9"},
		"pass as green":         {`["no-baseline"]`, `["fail"]`, "green may not hold fail"},
		"an unknown verdict":    {`["no-baseline"]`, `["fine"]`, "fine"},
		"an empty contract":     {`"min_passed": 80`, `"min_passed": 0`, "min_passed"},
		"no lag limit":          {`"generator_lag_p99_ms": 5`, `"generator_lag_p99_ms": 0`, "generator_lag"},
		"a limit of nothing":    {`"p95_ms": 150`, `"why": "x"`, "limits nothing"},
		"an unknown metric":     {`"p99_ms": { "ratio"`, `"p98_ms": { "ratio"`, "p98_ms"},
		"no least care":         {`{ "ratio": 1, "absolute": 10 }`, `{ "ratio": 0, "absolute": 0 }`, "least care"},
		"a waiver without date": {`"waivers": []`, `"waivers": [{"check":"x","only":"","reason":"y"}]`, "until"},
		"a date that is none":   {`"waivers": []`, `"waivers": [{"check":"x","only":"","reason":"y","until":"soon"}]`, "soon"},
		"cut off":               {"\"waivers\": []\n}", "", "line"},
		"two values":            {"\"waivers\": []\n}", "\"waivers\": []\n}{}", "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(b), c.old, c.new, 1)
			if text == string(b) {
				t.Fatalf("the policy has no %q", c.old)
			}
			if _, err := verdict.ReadPolicy(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ReadPolicy = %v; want an error naming %q", err, c.want)
			}
		})
	}
}

// A waiver as the policy's file has it.
func TestAWaiverIsReadFromThePolicy(t *testing.T) {
	b, err := os.ReadFile("../../baselines/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), `"waivers": []`, `"waivers": [{"check": "loss.lost", "only": "", "reason": "known", "until": "2026-12-31"}]`, 1)
	p, err := verdict.ReadPolicy(strings.NewReader(text))
	if err != nil || len(p.Waivers) != 1 || p.Waivers[0].Until.Format(time.DateOnly) != "2026-12-31" {
		t.Fatalf("ReadPolicy = %+v, %v", p.Waivers, err)
	}
	again, err := json.Marshal(p.Waivers[0])
	if err != nil || !strings.Contains(string(again), `"until":"2026-12-31"`) {
		t.Errorf("Marshal = %s, %v", again, err)
	}
}

func TestWhatNobodyLookedAtIsNotGreen(t *testing.T) {
	if zero := verdict.Verdict(0); zero != verdict.Unjudged || zero.String() != "unjudged" || verdict.Pass.String() != "pass" {
		t.Errorf("the zero verdict is %s; what nobody looked at must not be green", zero)
	}
}

func TestWorstAndText(t *testing.T) {
	if verdict.Worst() != verdict.Unjudged {
		t.Error("Worst of nothing is not unjudged")
	}
	for v := verdict.Unjudged; v <= verdict.NoBaseline; v++ {
		b, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back verdict.Verdict
		if err := back.UnmarshalText(b); err != nil || back != v {
			t.Errorf("%s reads back as %s, %v", b, back, err)
		}
	}
	if got := verdict.Worst(verdict.Fail, verdict.Invalid, verdict.Pass); got != verdict.Invalid {
		t.Errorf("Worst = %s", got)
	}
	var v verdict.Verdict
	if v.UnmarshalText([]byte("green")) == nil {
		t.Error("a verdict named green was read")
	}
}
