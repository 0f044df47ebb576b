package mutant

import (
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

// recordMutants harm what run.json says.
func recordMutants() []Mutant {
	rec := func(name, want string, spoil func(*Bench) error) Mutant {
		return Mutant{Kind: "record", Name: name, Want: want, spoil: spoil}
	}
	run := in(record.RunFile)
	return []Mutant{
		rec("empty record", "the file is empty", fill(run, "")),
		rec("record cut in the middle", "cut off", cut(run, 0.5)),
		rec("record without its last brace", "cut off", cut(run, 0.9999)),
		rec("another schema version", "schema version 2", text(run, `"schema": 1`, `"schema": 2`)),
		rec("no schema version", "no schema version", text(run, `"schema": 1,`, ``)),
		rec("a key that nobody knows", "additional properties", text(run, `"schema": 1,`, `"schema": 1, "verdict": "pass",`)),
		rec("two records in one file", "line", text(run, `{`, `{}{`)),
		rec("p99 is NaN", "NaN is not a number", text(run, `"p99_ms": {`, `"p99_ms": NaN, "was": {`)),
		rec("heap cap is infinite", "is not a number", text(run, `"heap_cap_bytes": 1`, `"heap_cap_bytes": Infinity, "was": 1`)),
		rec("p95 as a text", "want number", text(run, `"rate_per_s": 200`, `"rate_per_s": "200"`)),
		rec("run cut short", "measurement.complete", edit(func(r *record.Run) { r.Partial, r.PartialReason = true, "Ctrl-C" })),
		rec("p99 made smaller by hand", "measurement.consistent", forge(metric(record.P99, func(m *record.Measure) { m.Value = 0.1 }))),
		rec("p99 in seconds, called milliseconds", "measurement.consistent", forge(metric(record.P99, func(m *record.Measure) { m.Value /= 1000 }))),
		rec("p99 with the unit of bytes", "measurement.consistent", forge(metric(record.P99, func(m *record.Measure) { m.Unit = record.Bytes }))),
		rec("p99 of other observations", "measurement.consistent", forge(metric(record.P99, func(m *record.Measure) { m.N = 1 }))),
		rec("p95 left out", "measurement.consistent", forge(func(r *record.Run) { delete(r.Metrics, record.P95) })),
		rec("p95 under another name", "measurement.consistent", forge(func(r *record.Run) { r.Metrics["p95"] = r.Metrics[record.P95]; delete(r.Metrics, record.P95) })),
		rec("lost forged to zero after one was lost", "measurement.consistent", forge(func(r *record.Run) { r.Audit.Lost = []record.Finding{{ID: "x", What: "no record"}} })),
		rec("asked for nothing", "measurement.parts", edit(func(r *record.Run) { r.Plan.Stages = nil })),
		rec("asked for a stage that does not exist", "measurement.parts", edit(func(r *record.Run) { r.Plan.Stages[0] = "contracts" })),
		{Kind: "record", Name: "load left out of what was asked for", Want: "measurement.stages", args: []string{"judge", "--format", "json", "--require-stages", "contract,load,complexity", "RUN"},
			spoil: edit(func(r *record.Run) {
				r.Plan.Stages = []string{"contract", "complexity"}
				r.Load, r.Audit = nil, nil
			})},
		rec("no scenario", "measurement.parts", edit(func(r *record.Run) { r.Contract = nil })),
		rec("a scenario failed", "contract.failed", edit(func(r *record.Run) { r.Contract[0].Status = record.Failed })),
		rec("a scenario of unknown status", "contract.0.status", edit(func(r *record.Run) { r.Contract[0].Status = "green" })),
		rec("a scenario without a status", "contract.0.status", edit(func(r *record.Run) { r.Contract[0].Status = "" })),
		rec("a skipped scenario counted as pass", "contract.skipped", edit(func(r *record.Run) { r.Contract[0].Status, r.Contract[0].Reason = record.Skipped, "not today" })),
		rec("a scenario that vanished", "baseline.contract", edit(func(r *record.Run) { r.Contract = r.Contract[1:] })),
		rec("a renamed scenario", "baseline.contract", edit(func(r *record.Run) { r.Contract[0].ID += "-NEW" })),
		rec("a scenario twice", "is there twice", edit(func(r *record.Run) { r.Contract[1].ID = r.Contract[0].ID })),
		rec("fewer scenarios than the policy wants", "contract.passed", edit(func(r *record.Run) { r.Contract = r.Contract[:1] })),
		rec("containers without the fidelity pass", "measurement.parts", edit(func(r *record.Run) { r.Provider.Kind = "containers"; r.Env.Class = record.Class(r.Env, "containers") })),
		rec("no load", "measurement.parts", edit(func(r *record.Run) { r.Load = nil })),
		rec("ledger that does not add up", "ledger", edit(func(r *record.Run) { r.Load.Ledger.Answered-- })),
		rec("warm-up ledger that does not add up", "ledger", edit(func(r *record.Run) { r.Load.WarmUpLedger.Accepted-- })),
		rec("lost counted as rejected", "measurement.evidence", edit(func(r *record.Run) { r.Load.Ledger.Accepted--; r.Load.Ledger.Rejected++ })),
		rec("one request lost", "loss.lost", edit(func(r *record.Run) { l := &r.Load.Ledger; l.Lost++; l.Answered--; l.Accepted-- })),
		rec("one request lost in the warm-up", "loss.lost", edit(func(r *record.Run) { l := &r.Load.WarmUpLedger; l.Lost++; l.Answered--; l.Accepted-- })),
		rec("one unexpected answer", "loss.unexpected", edit(func(r *record.Run) { l := &r.Load.Ledger; l.Unexpected++; l.Accepted-- })),
		rec("requests dropped by the generator", "measurement.dropped", edit(func(r *record.Run) { l := &r.Load.Ledger; l.Dropped += 5; l.Answered -= 5; l.Accepted -= 5 })),
		rec("requests still in flight", "measurement.ledger", edit(func(r *record.Run) { l := &r.Load.Ledger; l.InFlight++; l.Answered--; l.Accepted-- })),
		rec("fewer requests than were due", "measurement.schedule", edit(func(r *record.Run) { l := &r.Load.Ledger; l.Offered -= 100; l.Answered -= 100; l.Accepted -= 100 })),
		rec("half the rate", "measurement.rate", edit(func(r *record.Run) { r.Load.Rate /= 2 })),
		rec("a shorter window", "measurement.plan", edit(func(r *record.Run) { r.Load.Window /= 6 })),
		rec("no warm-up", "measurement.plan", edit(func(r *record.Run) { r.Load.WarmUp = 0 })),
		rec("load broken off", "measurement.schedule", edit(func(r *record.Run) { r.Load.Aborted = "interrupted" })),
		rec("load of another seed", "measurement.plan", edit(func(r *record.Run) { r.Load.Seed = 99 })),
		rec("load of another profile", "measurement.plan", edit(func(r *record.Run) { r.Load.Profile = "burst" })),
		rec("zero samples", "measurement.samples", edit(class(load.All, func(c *load.Class) { *c = load.Class{} }))),
		rec("samples thrown away", "measurement.samples", edit(class(load.All, func(c *load.Class) { c.N /= 2 }))),
		rec("a renamed class of requests", "baseline.classes", edit(func(r *record.Run) { c := r.Load.Classes; c["catalog"] = c["catalogue"]; delete(c, "catalogue") })),
		rec("histograms in microseconds, called milliseconds", "measurement.evidence", edit(class(load.All, func(c *load.Class) { c.Latency.P99 /= 1000; c.Latency.P95 /= 1000; c.Latency.P50 /= 1000 }))),
		rec("quantiles out of order", "measurement.quantiles", edit(class(load.All, func(c *load.Class) { c.Latency.P50 = c.Latency.Max + 1 }))),
		rec("p95 over the limit", "latency.p95_ms", edit(class(load.All, func(c *load.Class) {
			c.Latency.P95, c.Latency.P99, c.Latency.P999, c.Latency.Max = 6000, 6000, 6000, 6000
		}))),
		rec("a generator that was late", "measurement.generator", edit(func(r *record.Run) { q := &r.Load.Generator; q.P99, q.P999, q.Max = 900, 900, 900 })),
		rec("seconds of the window left out", "measurement.seconds", edit(func(r *record.Run) { r.Load.Seconds = r.Load.Seconds[:2] })),
		rec("slow seconds made fast", "measurement.evidence", edit(func(r *record.Run) { r.Load.Seconds[1].P50 = 0.01 })),
		rec("every second 50 ms slower", "baseline.p50_ms", edit(func(r *record.Run) { slower(r, 50) })),
		rec("clock set back during the run", "is before started", edit(func(r *record.Run) { r.Ended = r.Started.Add(-time.Hour) })),
		rec("clock set forward before the load", "measurement.clock", edit(func(r *record.Run) { r.Load.Started = r.Load.Started.Add(time.Hour) })),
		rec("load from before the run", "measurement.clock", edit(func(r *record.Run) { r.Load.Started = r.Load.Started.Add(-time.Hour) })),
		rec("run shorter than its load", "measurement.clock", edit(func(r *record.Run) { r.Ended = r.Started.Add(time.Second) })),
		rec("outages that nobody planned excuse requests", "measurement.plan", edit(func(r *record.Run) {
			r.Outages = &record.Outages{AllowanceS: 1, LimitMS: 1, Calm: r.Load.Classes[load.All]}
		})),
		rec("outages excused for too long", "faults.allowance", edit(func(r *record.Run) {
			r.Outages = &record.Outages{AllowanceS: 1e6, LimitMS: 1e6, Calm: r.Load.Classes[load.All], Outages: []record.Outage{}}
		})),
		rec("no audit", "measurement.parts", edit(func(r *record.Run) { r.Audit = nil })),
		rec("an audit of nothing", "measurement.audit", edit(func(r *record.Run) { r.Audit = &record.Audit{} })),
		rec("an audit that saw no record and found nothing", "measurement.stored", edit(func(r *record.Run) { r.Audit.Records, r.Audit.Registered = 0, 0 })),
		rec("an audit that saw no topic and found nothing", "measurement.stored", edit(func(r *record.Run) { r.Audit.Topics = 0 })),
		rec("acknowledged, but not stored", "loss.lost", edit(func(r *record.Run) { r.Audit.Lost = []record.Finding{{ID: "x", What: "no record"}} })),
		rec("stored twice", "loss.duplicates", edit(func(r *record.Run) { r.Audit.Duplicates = []record.Finding{{ID: "x", What: "two records"}} })),
		rec("stored, but never acknowledged", "loss.orphans", edit(func(r *record.Run) { r.Audit.Orphans = []record.Finding{{ID: "x", What: "nobody was told"}} })),
		rec("no series of the heap", "memory.heap", edit(func(r *record.Run) { r.Series = nil })),
		rec("heap series without a point", "memory.heap", edit(series("heap_live_bytes", func(s *record.Series) { s.Points = [][2]float64{} }))),
		rec("probes that looked away", "measurement.probes", edit(series("heap_live_bytes", func(s *record.Series) { s.Points = s.Points[:1] }))),
		rec("heap above the cap", "memory.heap", edit(series("heap_live_bytes", func(s *record.Series) { s.Points[len(s.Points)-1][1] = 1 << 40 }))),
		rec("heap grown beyond the base", "baseline.heap", edit(series("heap_live_bytes", func(s *record.Series) { s.Points[len(s.Points)-1][1] = 120 << 20 }))),
		rec("a heap that grows without end", "memory.leak", edit(series("heap_live_bytes", func(s *record.Series) {
			for i := range s.Points {
				s.Points[i][1] = 5e6 + 8e6*s.Points[i][0]
			}
		}))),
		rec("growth of the heap made smaller by hand", "measurement.consistent", forge(metric(record.HeapSlope, func(m *record.Measure) { m.Value = -1 }))),
		rec("a cap that leaves no room", "memory.headroom", edit(series("heap_live_bytes", func(s *record.Series) { s.Points[len(s.Points)-1][1] = 127 << 20 }))),
		rec("a cap that nobody kept", "measurement.cap", edit(func(r *record.Run) { processes(r, func(p *record.SUTProcess) { p.Limit = "none" }) })),
		rec("a cap taken out of the plan", "measurement.cap", edit(func(r *record.Run) { r.Plan.HeapCap = 0 })),
		rec("the SUT died", "memory.alive", edit(func(r *record.Run) { r.SUT.Processes[0].Died = "signal: killed" })),
		rec("no process of the SUT", "measurement.processes", edit(func(r *record.Run) { r.SUT.Processes = nil })),
		rec("figures of another machine", "measurement.environment", edit(func(r *record.Run) { r.Env.Cores += 62 })),
		rec("another environment claimed", "measurement.environment", edit(func(r *record.Run) { r.Env.Class = "moon" })),
		rec("no function was measured", "measurement.parts", edit(func(r *record.Run) { r.Complexity.Funcs = nil })),
		rec("a file that was not measured", "complexity.unparsed", edit(func(r *record.Run) { r.Complexity.Unparsed = []record.Finding{{ID: "a.go", What: "syntax"}} })),
		rec("a function above the limit", "complexity.limit", edit(func(r *record.Run) { r.Complexity.Funcs[0].CC = 11 })),
		rec("a function above a limit that was raised", "complexity.limit", edit(func(r *record.Run) { r.Complexity.Limit, r.Complexity.Funcs[0].CC = 99, 50 })),
		rec("hardly any function was measured", "baseline.functions", edit(func(r *record.Run) { r.Complexity.Funcs = r.Complexity.Funcs[:2] })),
	}
}

func metric(name string, change func(*record.Measure)) func(*record.Run) {
	return func(r *record.Run) {
		m := r.Metrics[name]
		change(&m)
		r.Metrics[name] = m
	}
}

func class(name string, change func(*load.Class)) func(*record.Run) {
	return func(r *record.Run) {
		c := r.Load.Classes[name]
		change(&c)
		r.Load.Classes[name] = c
	}
}

// series changes the series of the capped processes.
func series(name string, change func(*record.Series)) func(*record.Run) {
	return func(r *record.Run) {
		capped := map[string]bool{}
		processes(r, func(p *record.SUTProcess) { capped[p.Name] = p.HeapCap > 0 })
		for i := range r.Series {
			if s := &r.Series[i]; s.Name == name && capped[s.Process] {
				change(s)
			}
		}
	}
}

func processes(r *record.Run, change func(*record.SUTProcess)) {
	for i := range r.SUT.Processes {
		change(&r.SUT.Processes[i])
	}
}

func slower(r *record.Run, by float64) {
	for i := range r.Load.Seconds {
		s := &r.Load.Seconds[i]
		s.P50, s.P95, s.P99, s.Max = s.P50+by, s.P95+by, s.P99+by, s.Max+by
	}
}
