package mutant

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// fileMutants harm the files behind the record.
func fileMutants() []Mutant {
	file := func(name, want string, spoil func(*Bench) error) Mutant {
		return Mutant{Kind: "files", Name: name, Want: want, spoil: spoil}
	}
	outcomes, timings, result := in("load", load.OutcomesFile), in("load", load.TimingsFile), in("load", load.ResultFile)
	return []Mutant{
		file("missing histogram", "latency.hlog: no such file", drop(timings)),
		file("histogram cut off", "measurement.evidence", cut(timings, 0.3)),
		file("empty histogram", "measurement.evidence", fill(timings, "")),
		file("a class renamed in the histogram", "measurement.evidence", text(timings, "Tag=catalogue/latency", "Tag=catalog/latency")),
		file("missing requests", "outcomes.jsonl: no such file", drop(outcomes)),
		file("empty list of requests", "measurement.evidence", fill(outcomes, "")),
		file("list of requests cut off", "measurement.evidence", cut(outcomes, 0.5)),
		file("an accepted request that was lost", "measurement.evidence", text(outcomes, `"fate":"accepted"`, `"fate":"lost"`)),
		file("a refusal that was no answer at all", "booked as answered with status 0", text(outcomes, `"fate":"rejected","status":409`, `"fate":"rejected"`)),
		file("an acknowledgement that was a refusal", "no acknowledgement", text(outcomes, `"fate":"accepted","status":202`, `"fate":"accepted","status":409`)),
		file("a request moved into the warm-up", "wrong side of the warm-up", text(outcomes, `"window":true`, `"window":false`)),
		file("missing report of the generator", "load.json: no such file", drop(result)),
		file("report of the generator cut off", "measurement.evidence", cut(result, 0.5)),
		file("report of another load", "measurement.evidence", text(result, `"seed": 1`, `"seed": 2`)),
		file("no record at all", "never finished", drop(in(record.RunFile))),
	}
}

// baseMutants harm what the record is compared with.
func baseMutants() []Mutant {
	acc := func(name, want string, spoil func(*Bench) error) Mutant {
		return Mutant{Kind: "baseline", Name: name, Want: want, spoil: spoil}
	}
	snap := func(name, want string, spoil func(*Bench) error) Mutant {
		return Mutant{Kind: "snapshot", Name: name, Want: want, spoil: spoil}
	}
	return []Mutant{
		acc("accepted record cut off", "baseline.broken", cut(baseFile, 0.5)),
		acc("empty accepted record", "baseline.broken", fill(baseFile, "")),
		acc("accepted record of another environment", "baseline.broken", base(func(r *record.Run) { r.Env.Class = "moon" })),
		{Kind: "baseline", Name: "base of another environment, named", Want: "baseline.environment", args: []string{"judge", "--format", "json", "--base", "DIR/foreign.json", "RUN"}, spoil: foreign},
		{Kind: "baseline", Name: "base that does not exist, named", Want: "--base", args: []string{"judge", "--format", "json", "--base", "DIR/nowhere.json", "RUN"}},
		{Kind: "baseline", Name: "base and candidate swapped", Want: "swapped", args: []string{"judge", "--format", "json", "--base", "RUN", "DIR/older.json"}, spoil: older},
		acc("stale base", "baseline.age", base(func(r *record.Run) { r.Started, r.Ended = r.Started.AddDate(-1, 0, 0), r.Ended.AddDate(-1, 0, 0) })),
		acc("base from the future", "baseline.trust", base(func(r *record.Run) { r.Started, r.Ended = r.Started.AddDate(1, 0, 0), r.Ended.AddDate(1, 0, 0) })),
		acc("partial base", "baseline.trust", base(func(r *record.Run) { r.Partial, r.PartialReason = true, "Ctrl-C" })),
		acc("base made slower by hand", "baseline.trust", func(b *Bench) error {
			return withBase(b, false, metric(record.P99, func(m *record.Measure) { m.Value *= 100 }))
		}),
		acc("base that was much faster", "baseline.p50_ms", base(func(r *record.Run) {
			for i := range r.Load.Seconds {
				r.Load.Seconds[i].P50 /= 50
			}
		})),
		acc("base of no seconds", "baseline.p50_ms", base(func(r *record.Run) {
			for i := range r.Load.Seconds {
				r.Load.Seconds[i].Answered = 0
			}
		})),
		snap("no accepted snapshot", "baseline.complexity", drop(snapshotFile)),
		snap("empty file as snapshot", "baseline.broken", fill(snapshotFile, "")),
		snap("snapshot without a function", "baseline.broken", fill(snapshotFile, "{}")),
		snap("snapshot with a file that radon could not parse", "baseline.broken", fill(snapshotFile, `{"a.py": {"error": "invalid syntax"}}`)),
		snap("snapshot cut off", "baseline.broken", cut(snapshotFile, 0.5)),
		snap("snapshot of another tree", "baseline.functions", fill(snapshotFile, `{"other.py": [{"type": "function", "name": "f", "lineno": 1, "endline": 9, "complexity": 3}]}`)),
	}
}

// foreign writes a base of another environment.
func foreign(b *Bench) error {
	return copyRecord(b, "foreign.json", func(r *record.Run) {
		r.ID += "-foreign"
		r.Env.Cores *= 8
		r.Env.Class = record.Class(r.Env, r.Provider.Kind)
	})
}

// older writes a candidate from before its base.
func older(b *Bench) error {
	return copyRecord(b, "older.json", func(r *record.Run) {
		r.ID += "-older"
		r.Started, r.Ended = r.Started.AddDate(0, 0, -1), r.Ended.AddDate(0, 0, -1)
		r.Load.Started = r.Load.Started.AddDate(0, 0, -1)
	})
}

func copyRecord(b *Bench, name string, change func(*record.Run)) error {
	text, err := os.ReadFile(b.Run(record.RunFile))
	to := filepath.Join(b.dir, name)
	return errors.Join(err, os.WriteFile(to, text, 0o600), rewrite(to, true, change))
}

// policyMutants harm the policy.
func policyMutants() []Mutant {
	pol := func(name, want, old, new string) Mutant {
		return Mutant{Kind: "policy", Name: name, Want: want, spoil: text(policyFile, old, new)}
	}
	waiver := func(w string) string { return `"waivers": [` + w + `]` }
	return []Mutant{
		{Kind: "policy", Name: "empty policy", Want: "policy", spoil: fill(policyFile, "")},
		{Kind: "policy", Name: "policy cut off", Want: "policy", spoil: cut(policyFile, 0.6)},
		{Kind: "policy", Name: "no policy", Want: "no policy", spoil: drop(policyFile)},
		pol("policy with a misspelt key", "unknown field", `"latency":`, `"latencies":`),
		pol("policy that calls fail green", "green may not hold fail", `["no-baseline"]`, `["no-baseline", "fail"]`),
		pol("policy that calls invalid green", "green may not hold invalid", `["no-baseline"]`, `["invalid"]`),
		pol("limit wider than any run", "limits nothing", `"p95_ms": 5000`, `"p95_ms": 1e12`),
		pol("limit that is NaN", "policy", `"p95_ms": 5000`, `"p95_ms": NaN`),
		pol("limit that limits nothing", "limits nothing", `"p95_ms": 5000`, `"p95_ms": null`),
		pol("limit for a profile that has no runs", "latency.", `"profile": "", "provider": "", "p95_ms": 5000`, `"profile": "tinny", "provider": "", "p95_ms": 5000`),
		pol("generator trusted however late", "limits nothing", `"generator_lag_p99_ms": 500`, `"generator_lag_p99_ms": 1e9`),
		pol("contract of no scenario", "min_passed", `"min_passed": 3`, `"min_passed": 0`),
		pol("complexity without a limit", "limits nothing", `"limit": 10, "growth`, `"limit": 100000, "growth`),
		pol("comparison of no metric", "comparison.metrics is empty", `{ "p50_ms": { "ratio": 0.25, "absolute": 0.1 } }`, `{}`),
		pol("comparison of a metric that does not exist", "is not compared", `"p50_ms": { "ratio"`, `"p51_ms": { "ratio"`),
		pol("comparison that cares for nothing", "limits nothing", `"ratio": 0.25`, `"ratio": 1e9`),
		pol("heap that may grow without end", "limits nothing", `"heap_peak_bytes": { "ratio": 0.5`, `"heap_peak_bytes": { "ratio": 1e9`),
		pol("expired waiver", "expired", `"waivers": []`, waiver(`{"check": "loss.lost", "only": "", "reason": "known", "until": "2020-01-01"}`)),
		pol("waiver that nothing needs", "policy.waiver", `"waivers": []`, waiver(`{"check": "loss.lost", "only": "", "reason": "known", "until": "2027-01-01"}`)),
		pol("waiver for ever", "more than a year", `"waivers": []`, waiver(`{"check": "loss.lost", "only": "", "reason": "known", "until": "2999-01-01"}`)),
		pol("waiver without a date", "until", `"waivers": []`, waiver(`{"check": "loss.lost", "only": "", "reason": "known"}`)),
		pol("waiver without a reason", "reason", `"waivers": []`, waiver(`{"check": "loss.lost", "only": "", "reason": " ", "until": "2027-01-01"}`)),
		{Kind: "policy", Name: "waiver of a broken measurement", Want: "measurement.dropped", spoil: both(
			text(policyFile, `"waivers": []`, waiver(`{"check": "measurement.dropped", "only": "", "reason": "known", "until": "2027-01-01"}`)),
			edit(func(r *record.Run) { l := &r.Load.Ledger; l.Dropped += 5; l.Answered -= 5; l.Accepted -= 5 }))},
	}
}

func both(a, b func(*Bench) error) func(*Bench) error {
	return func(x *Bench) error { return errors.Join(a(x), b(x)) }
}

// commandMutants harm the way the gate is asked, and how it answers.
func commandMutants() []Mutant {
	return []Mutant{
		{Kind: "command", Name: "no record named", Want: "accepts 1 arg", args: []string{"judge"}},
		{Kind: "command", Name: "a record that does not exist", Want: "no such file", args: []string{"judge", "DIR/nowhere"}},
		{Kind: "command", Name: "a misspelt command", Want: "unknown command", args: []string{"jugde", "RUN"}},
		{Kind: "command", Name: "a misspelt format", Want: "--format", args: []string{"judge", "--format", "consol", "RUN"}},
		{Kind: "command", Name: "no format", Want: "--format", args: []string{"judge", "--format", "", "RUN"}},
		{Kind: "command", Name: "a stage required that does not exist", Want: "no stage is named", args: []string{"judge", "--require-stages", "contracts", "RUN"}},
		{Kind: "command", Name: "scenarios that no pattern matches", Want: "GW-NOTHING", args: []string{"contract", "--provider", "embedded", "--only", "GW-NOTHING"}},
		{Kind: "command", Name: "a judgement that cannot be written", Want: "judged.json", spoil: blocked(record.JudgedFile)},
		{Kind: "command", Name: "a summary that cannot be written", Want: "summary.json", spoil: blocked(record.SummaryFile)},
		{Kind: "command", Name: "a report that cannot be written", Want: "report.html", spoil: blocked("report.html")},
		{Kind: "command", Name: "comparison of empty snapshots", Want: "holds no function", args: []string{"complexity", "--base", "DIR/empty.json", "--candidate", "DIR/empty.json"},
			spoil: fill(func(b *Bench) (string, error) { return filepath.Join(b.dir, "empty.json"), nil }, "{}")},
		{Kind: "command", Name: "accepting a run that failed", Want: "not accepted", args: []string{"accept", "--reason", "let it through", "RUN"},
			spoil: edit(func(r *record.Run) { l := &r.Load.Ledger; l.Lost++; l.Answered--; l.Accepted-- })},
		{Kind: "judgement", Name: "green written over a failed judgement", Want: "its checks make", args: []string{"report", "RUN"}, spoil: judgement(func(j *verdict.Judged) { j.Checks[0].Verdict = verdict.Fail })},
		{Kind: "judgement", Name: "judgement of another run", Want: "judge the record again", args: []string{"report", "RUN"}, spoil: text(in(record.JudgedFile), `"run": "`, `"run": "x`)},
		{Kind: "judgement", Name: "judgement without checks", Want: "its checks make", args: []string{"report", "RUN"},
			spoil: judgement(func(j *verdict.Judged) { j.Checks = nil })},
		{Kind: "judgement", Name: "a verdict that does not exist", Want: "no verdict is named", args: []string{"report", "RUN"}, spoil: text(in(record.JudgedFile), `"verdict": "`, `"verdict": "very-`)},
	}
}

// blocked puts a folder where a file must be written.
func blocked(name string) func(*Bench) error {
	return func(b *Bench) error {
		if err := os.RemoveAll(b.Run(name)); err != nil {
			return err
		}
		return errors.Join(os.MkdirAll(b.Run(name), 0o755), os.WriteFile(b.Run(name, "taken"), nil, 0o600))
	}
}

// judgement changes the judgement that lies beside the record.
func judgement(change func(*verdict.Judged)) func(*Bench) error {
	return func(b *Bench) error {
		text, err := os.ReadFile(b.Run(record.JudgedFile))
		if err != nil {
			return err
		}
		var j verdict.Judged
		if err := json.Unmarshal(text, &j); err != nil {
			return err
		}
		change(&j)
		if text, err = json.Marshal(j); err != nil {
			return err
		}
		return os.WriteFile(b.Run(record.JudgedFile), text, 0o600)
	}
}
