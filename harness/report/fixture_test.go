package report_test

import (
	"fmt"
	"math"
	"slices"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/report"
	"qmtl.internal/plumbline/harness/verdict"
)

func begun() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// latencyAt is a made-up distribution: flat to p90, then a tail.
func latencyAt(p float64) float64 { return 0.8 + 0.6*p/100 + 0.9*math.Pow(-math.Log10(1-p/100), 1.6) }

func loadResult(worse float64) *load.Result {
	r := &load.Result{
		Version: 1, Started: begun().Add(8 * time.Second), Seed: 42, Rate: 1000,
		WarmUp: 5 * time.Second, Window: 30 * time.Second, Wall: 35 * time.Second, MaxInFlight: 512, Backlog: 4096,
		Ledger:       load.Ledger{Offered: 30000, Answered: 29998, Lost: 2, Accepted: 29400, Rejected: 597, Unexpected: 1},
		WarmUpLedger: load.Ledger{Offered: 5000, Answered: 5000, Accepted: 4900, Rejected: 100},
		Unexpected:   map[string]int64{"500 E_INTERNAL": 1},
		LostBy:       map[string]int64{"timeout": 2},
	}
	for _, p := range []float64{0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99} {
		r.Curve = append(r.Curve, load.CurvePoint{Percentile: p, MS: worse * latencyAt(p)})
	}
	r.Curve = append(r.Curve, load.CurvePoint{Percentile: 100, MS: worse * 14.2})
	q := load.Quantiles{P50: worse * latencyAt(50), P90: worse * latencyAt(90), P95: worse * latencyAt(95),
		P99: worse * latencyAt(99), P999: worse * latencyAt(99.9), Max: worse * 14.2, Mean: worse * 1.2}
	lag := load.Quantiles{P50: 0.0005, P90: 0.004, P95: 0.01, P99: 0.041, P999: 0.2, Max: 1.1, Mean: 0.002}
	r.Generator = lag
	r.Classes = map[string]load.Class{
		"all":   {N: 29998, Lag: lag, Service: q, Latency: q},
		"fresh": {N: 29401, Lag: lag, Service: q, Latency: q},
		"again": {N: 597, Lag: lag, Service: q, Latency: q},
	}
	for i := range 30 {
		wave := 1 + 0.15*math.Sin(float64(i)/3)
		r.Seconds = append(r.Seconds, load.Second{
			At: float64(5 + i), Offered: 1000, Answered: 1000 - int64(i/29)*2,
			P50: worse * wave * q.P50, P95: worse * wave * q.P95, P99: worse * wave * q.P99, Max: worse * wave * 9,
		})
	}
	return r
}

func memorySeries() []record.Series {
	series := func(name, process string, at func(i int) float64) record.Series {
		s := record.Series{Name: name, Process: process, Unit: record.Bytes}
		for i := range 90 {
			s.Points = append(s.Points, [2]float64{float64(i) / 2, at(i)})
		}
		return s
	}
	const mib = 1 << 20
	return []record.Series{
		series("heap_live_bytes", "gateway", func(i int) float64 { return (14 + 20*(1-math.Exp(-float64(i)/20))) * mib }),
		series("heap_live_bytes", "dagmanager", func(i int) float64 { return (9 + 0.3*float64(i)) * mib }),
		series("rss_bytes", "gateway", func(i int) float64 { return (38 + 40*(1-math.Exp(-float64(i)/25))) * mib }),
		series("rss_bytes", "dagmanager", func(i int) float64 { return (30 + 0.4*float64(i)) * mib }),
	}
}

func fn(file string, line int, name, class string, cc int) record.Func {
	return record.Func{Lang: "go", File: file, Line: line, EndLine: line + 20, Name: name, Class: class, CC: cc, Cognitive: cc + 1}
}

func baseFuncs() []record.Func {
	return []record.Func{
		fn("ref/gateway/submit/submit.go", 40, "Submitter.Submit", "Submitter", 6),
		fn("ref/gateway/health/health.go", 22, "Check", "", 4),
		fn("ref/dagmanager/diff/diff.go", 61, "Plan", "", 9),
		fn("ref/dag/order.go", 12, "Order", "", 8),
	}
}

func outcomes() []record.Outcome {
	out := []record.Outcome{{
		ID: "GW-DUP-003", Title: "the same DAG in another dress is a duplicate", Class: "strict",
		Clause: "contract/gateway.md#26-registration-duplicate-detection-sentinel", File: "scenarios/gateway/gw-dup-003.yaml",
		Status: record.Failed, Reason: "step 2: status 202, want 409", DurationMS: 12.5,
		Steps: []record.StepOutcome{{Index: 1, Line: 9, Action: "submit", Problems: "status: 202, want 409", Observed: `{"strategy_id":"…"}`}},
	}, {
		ID: "FL-KAFKA-001", Title: "Kafka away for ten seconds loses nothing", Class: "reference", Clause: "contract/gateway.md#13-faults",
		File: "scenarios/faults/fl-kafka-001.yaml", Status: record.Skipped, Reason: "embedded backends cannot pause a broker",
	}}
	for i := range 31 {
		out = append(out, record.Outcome{
			ID: fmt.Sprintf("GW-SUB-%03d", i+1), Title: "a good submission is accepted", Class: "strict",
			Clause: "contract/gateway.md#12-submit", File: "scenarios/gateway/gw-sub.yaml", Status: record.Passed, DurationMS: 4.25,
		})
	}
	return out
}

func run(id string, worse float64) *record.Run {
	r := &record.Run{
		Schema: 1, ID: id, Started: begun(), Ended: begun().Add(49 * time.Second),
		Plan:     record.Plan{Profile: "burst", Seed: 42, SUT: "reference", Provider: "auto", HeapCap: 128 << 20, Rate: 1000, Scenarios: "embedded"},
		Commit:   record.Commit{Revision: "84245efa1c0ffee0", Dirty: true},
		Env:      record.Env{Class: "linux-amd64-2c-9f3a", OS: "linux", Arch: "amd64", CPU: "Example CPU @ 2.50GHz", Cores: 2, MemBytes: 8 << 30, Kernel: "6.1", Go: "go1.26"},
		Provider: record.Provider{Kind: "embedded", Reason: "Docker does not answer", Versions: map[string]string{"kfake": "0.1", "miniredis": "2.40.0"}},
		SUT: record.SUT{Name: "reference", Processes: []record.SUTProcess{
			{Name: "gateway", HeapCap: 128 << 20, Limit: "gomemlimit+watchdog"}, {Name: "dagmanager"}}},
		Contract: outcomes(), Load: loadResult(worse), Series: memorySeries(),
		Audit: &record.Audit{Accepted: 29400, Records: 29400, Registered: 29399, Nodes: 812, Topics: 812,
			Lost: []record.Finding{{ID: "6f1d", What: "acknowledged, but no registration"}}},
		Complexity: &record.Complexity{Limit: 10, Funcs: []record.Func{
			fn("ref/gateway/submit/submit.go", 44, "Submitter.Submit", "Submitter", 11),
			fn("ref/gateway/health/collect.go", 10, "Check", "", 4),
			fn("ref/dagmanager/diff/diff.go", 61, "Plan", "", 7),
			fn("ref/dag/order.go", 12, "Order", "", 8),
			fn("ref/dag/key.go", 5, "ComputeKey", "", 2),
		}},
		Metrics: record.Metrics{}, Absent: map[string]string{},
		Notes: []string{"the share of GC was below 1 %"},
	}
	record.SetDerived(r)
	return r
}

// fidelity holds the outcomes against those of embedded servers, where one
// scenario fails and another cannot run.
func fidelity(all []record.Outcome) *record.Fidelity {
	other := slices.Clone(all)
	other[2].Status, other[2].Reason = record.Failed, "line 12, http: status: 503, want 202"
	other[2].Steps = []record.StepOutcome{{Index: 1, Line: 12, Action: "http"}}
	other[3].Status, other[3].Reason = record.Skipped, "needs <faults> | a *real* broker"
	f := record.Compare([2]string{"containers", "embedded"}, all, other)
	f.DurationMS = 2500
	return f
}

// failing is a run with a bit of everything.
func failing() *report.Input {
	r := run("20260102T030405Z-a1b2", 1.2)
	r.Provider = record.Provider{Kind: "containers", Reason: "Docker 20.10.24 answers and the images are here", Versions: map[string]string{"kafka": "plumbline/kafka:4.2.2"}}
	r.Fidelity = fidelity(r.Contract)
	record.SetDerived(r)
	return &report.Input{
		Run: r, Base: run("20251231T101010Z-c3d4", 1), BaseFuncs: baseFuncs(), BeforeAfter: story(), Dir: ".artifacts/" + r.ID,
		Judged: &verdict.Judged{
			Schema: 1, Run: r.ID, Base: "20251231T101010Z-c3d4", Verdict: verdict.Fail, ExitCode: verdict.ExitFail,
			Summary: "3 lost; scenario GW-DUP-003 failed; Submitter.Submit has complexity 11",
			Checks: []verdict.Check{
				{Name: "measurement.ledger", Group: "measurement", Verdict: verdict.Pass, Reason: "the ledger balances"},
				{Name: "measurement.generator", Group: "measurement", Verdict: verdict.Pass, Value: "0.041 ms", Limit: "1.00 ms", Reason: "the generator kept its schedule"},
				{Name: "contract.passed", Group: "contract", Verdict: verdict.Pass, Value: "31", Limit: "30", Reason: "31 of 33 scenarios passed, at least 30 must"},
				{Name: "contract.failed", Group: "contract", Verdict: verdict.Fail, File: "scenarios/gateway/gw-dup-003.yaml", Line: 9,
					Reason: "scenario GW-DUP-003 failed: step 2: status 202, want 409", Details: []string{"GW-DUP-003", "step 1 (submit): status: 202, want 409"}},
				{Name: "fidelity.compared", Group: "fidelity", Verdict: verdict.Pass, Value: "31", Reason: "31 scenarios ran on both containers and embedded, 1 on one of them only, 0 on neither"},
				{Name: "fidelity.share", Group: "fidelity", Verdict: verdict.Pass, Value: "96.8 %", Limit: "95.0 %", Reason: "30 of 31 scenarios came to the same on containers and embedded (96.8 %), at least 95.0 % must"},
				{Name: "fidelity.disagreement", Group: "fidelity", Verdict: verdict.Fail, File: "scenarios/gateway/gw-sub.yaml", Line: 12, Details: []string{"GW-SUB-001"},
					Reason: "scenario GW-SUB-001 is passed on containers, but failed (line 12, http: status: 503, want 202) on embedded"},
				{Name: "loss.lost", Group: "loss", Verdict: verdict.Fail, Value: "3", Limit: "0", Reason: "3 lost",
					Details: []string{"6f1d: acknowledged, but no registration", "71: no answer", "72: no answer", "73: no answer"}},
				{Name: "loss.duplicates", Group: "loss", Verdict: verdict.Pass, Value: "0", Limit: "0", Reason: "0 doubled"},
				{Name: "loss.orphans", Group: "loss", Verdict: verdict.Pass, Value: "0", Limit: "0", Reason: "0 stored without an acknowledgement"},
				{Name: "latency.p95_ms", Group: "latency", Verdict: verdict.Pass, Value: "2.92 ms", Limit: "150 ms", Base: "2.43 ms", Reason: "p95_ms is 2.92 ms, at most 150 ms (published target)"},
				{Name: "latency.p99_ms.burst", Group: "latency", Verdict: verdict.Pass, Value: "4.96 ms", Limit: "25.0 ms", Reason: "p99_ms is 4.96 ms, at most 25 ms"},
				{Name: "memory.heap", Group: "memory", Verdict: verdict.Pass, Value: "33.8 MiB", Limit: "128.0 MiB", Reason: "live heap peaked at 33.8 MiB, the cap is 128.0 MiB"},
				{Name: "complexity.limit", Group: "complexity", Verdict: verdict.Fail, File: "ref/gateway/submit/submit.go", Line: 44, Value: "11", Limit: "10",
					Reason: "ref/gateway/submit/submit.go:44: Submitter.Submit has complexity 11, at most 10", Details: []string{"Submitter.Submit"}},
				{Name: "baseline.timing.p95_ms", Group: "baseline", Verdict: verdict.Inconclusive, Base: "2.43 ms", Value: "2.92 ms", Reason: "p95_ms moved by +20 % (−2 % to +44 %): too noisy to tell"},
				{Name: "baseline.heap", Group: "baseline", Verdict: verdict.Pass, Value: "33.8 MiB", Base: "30.1 MiB", Limit: "34.0 MiB", Reason: "within least care",
					Waived: "known growth of the node cache (until 2026-03-01)"},
			},
		},
	}
}

func story() *complexity.Story {
	f := func(cc int) *record.Func { return &record.Func{CC: cc} }
	return &complexity.Story{
		Revisions: []string{"before-fff37b8c", "head-fc06bd80"},
		Totals: []complexity.Totals{
			{Functions: 668, Ranks: map[string]int{"A": 564, "B": 70, "C": 27, "D": 7}, Average: 3.3278, Max: 25, Closures: 65, MaxClosure: 48},
			{Functions: 1052, Ranks: map[string]int{"A": 901, "B": 141, "C": 10}, Average: 3.0199, Max: 18, Closures: 67, MaxClosure: 49},
		},
		Rows: []complexity.StoryRow{
			{Label: "health", Name: "get_health", File: "gateway_health.py", Funcs: []*record.Func{f(25), f(10)}},
			{Label: "submission", Name: "StrategySubmissionHelper.process", File: "strategy_submission.py", Funcs: []*record.Func{f(22), nil}},
		},
	}
}

// passing is a first run on a machine: green, with no base.
func passing() *report.Input {
	r := run("20260102T030405Z-e5f6", 1)
	r.Contract = r.Contract[2:]
	r.Load.Ledger = load.Ledger{Offered: 30000, Answered: 30000, Accepted: 29400, Rejected: 600}
	r.Load.Unexpected, r.Load.LostBy, r.Audit.Lost = nil, nil, nil
	r.Complexity.Funcs = r.Complexity.Funcs[1:]
	record.SetDerived(r)
	return &report.Input{Run: r, Dir: ".artifacts/" + r.ID, Judged: &verdict.Judged{
		Schema: 1, Run: r.ID, Verdict: verdict.Pass, Summary: "every check passed",
		Checks: []verdict.Check{{Name: "loss.lost", Group: "loss", Verdict: verdict.Pass, Value: "0", Limit: "0", Reason: "0 lost"}},
	}}
}

// cutShort is a partial run that measured next to nothing.
func cutShort() *report.Input {
	r := &record.Run{
		Schema: 1, ID: "20260102T030405Z-0000", Started: begun(), Ended: begun().Add(time.Second), Partial: true,
		PartialReason: "gateway ended before it was ready: exit status 1", Absent: map[string]string{"load": "the SUT was never ready"},
	}
	record.SetDerived(r)
	return &report.Input{Run: r, Judged: &verdict.Judged{
		Schema: 1, Run: r.ID, Verdict: verdict.Invalid, ExitCode: verdict.ExitBroken, Summary: "the run was cut short",
		Checks: []verdict.Check{{Name: "measurement.complete", Group: "measurement", Verdict: verdict.Invalid, Reason: "the run was cut short"}},
	}}
}

// unreadable is a record that could not be read at all.
func unreadable() *report.Input {
	j := verdict.Broken("20260102T030405Z-dead", fmt.Errorf("run.json: offset 17: unexpected end"))
	return &report.Input{Judged: &j}
}
