package verdict

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"qmtl.internal/plumbline/harness/record"
)

// contract asks that the scenarios held. Each failed one is a check of its own.
func (j *judge) contract() {
	if !j.asked(StageContract) || len(j.cand.Contract) == 0 {
		return
	}
	passed := 0
	allowed := j.policy.Contract.AllowedSkips[j.cand.Provider.Kind]
	for _, o := range j.cand.Contract {
		switch {
		case o.Status == record.Passed:
			passed++
		case o.Status != record.Skipped:
			j.add(failedScenario(o))
		case !slices.Contains(allowed, o.ID) && j.promised(o.Class):
			j.add(Check{
				Name: "contract.skipped", Group: Contract, Verdict: Fail, File: o.File, Details: []string{o.ID},
				Reason: fmt.Sprintf("scenario %s was skipped (%s), and the policy allows no such skip on %s", o.ID, o.Reason, j.cand.Provider.Kind),
			})
		}
	}
	least := j.policy.Contract.MinPassed
	j.put(passed >= least, Fail, Check{
		Name: "contract.passed", Group: Contract, Value: fmt.Sprint(passed), Limit: fmt.Sprint(least),
		Reason: fmt.Sprintf("%d of %d scenarios passed, at least %d must", passed, len(j.cand.Contract), least),
	})
}

// promised tells whether scenarios of a class were asked of the SUT.
func (j *judge) promised(class string) bool {
	asked := j.cand.SUT.Classes
	return len(asked) == 0 || slices.Contains(asked, class)
}

func failedScenario(o record.Outcome) Check {
	c := Check{
		Name: "contract.failed", Group: Contract, Verdict: Fail, File: o.File, Line: 1,
		Reason: fmt.Sprintf("scenario %s failed: %s", o.ID, orElse(o.Reason, "status "+string(o.Status))), Details: []string{o.ID},
	}
	for _, s := range o.Steps {
		c.Line = s.Line
		c.Details = append(c.Details, fmt.Sprintf("step %d (%s): %s; saw %s", s.Index, s.Action, s.Problems, s.Observed))
	}
	return c
}

// loss asks that nothing was lost, doubled, left over or answered in a way
// nobody asked for.
func (j *judge) loss() {
	if !j.asked(StageLoad) || j.cand.Load == nil {
		return
	}
	l := j.cand.Load
	if a := j.cand.Audit; a != nil {
		unanswered := l.Ledger.Lost + l.WarmUpLedger.Lost - j.excused().Unanswered
		j.none("loss.lost", "lost", unanswered+int64(len(a.Lost)), a.Lost)
		j.none("loss.duplicates", "doubled", int64(len(a.Duplicates)), a.Duplicates)
		j.none("loss.orphans", "stored without an acknowledgement", int64(len(a.Orphans)), a.Orphans)
	}
	odd := l.Ledger.Unexpected + l.WarmUpLedger.Unexpected - j.excused().Refused
	var details []string
	for _, k := range slices.Sorted(maps.Keys(l.Unexpected)) {
		details = append(details, fmt.Sprintf("%s: %d", k, l.Unexpected[k]))
	}
	for _, s := range l.Samples {
		details = append(details, fmt.Sprintf("request %d: status %d %s %s", s.Index, s.Status, s.Body, s.Error))
	}
	j.put(odd == 0, Fail, Check{
		Name: "loss.unexpected", Group: Loss, Value: fmt.Sprint(odd), Limit: "0", Details: details,
		Reason: fmt.Sprintf("%d requests got an answer that the workload did not ask for", odd),
	})
}

// maxDetails bounds what one check repeats of the record; the record has all.
const maxDetails = 50

func (j *judge) none(check, what string, n int64, found []record.Finding) {
	var details []string
	for _, f := range found[:min(len(found), maxDetails)] {
		details = append(details, f.ID+": "+f.What)
	}
	if len(found) > maxDetails {
		details = append(details, fmt.Sprintf("and %d more in run.json", len(found)-maxDetails))
	}
	warm := 0
	for _, f := range found {
		if f.WarmUp {
			warm++
		}
	}
	reason := fmt.Sprintf("%d %s", n, what)
	if warm > 0 {
		reason += fmt.Sprintf(", %d of them in the warm-up", warm)
	}
	j.put(n == 0, Fail, Check{Name: check, Group: Loss, Value: fmt.Sprint(n), Limit: "0", Details: details, Reason: reason})
}

// latency holds the quantiles against the absolute limits. A limit that is
// crossed by no more than the generator's own lateness proves nothing.
func (j *judge) latency() {
	if !j.asked(StageLoad) || j.cand.Load == nil {
		return
	}
	held := slices.ContainsFunc(j.policy.Latency, func(l LatencyLimit) bool { return l.holdsFor(j.cand.Plan.Profile, j.cand.Provider.Kind) })
	j.put(held, Invalid, Check{
		Name: "latency.limited", Group: Latency,
		Reason: whether(held, "the policy limits the latency of this profile", "the policy limits no latency of this profile on these backends"),
	})
	for _, l := range j.policy.Latency {
		if !l.holdsFor(j.cand.Plan.Profile, j.cand.Provider.Kind) {
			continue
		}
		limits := l.limits()
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			j.within(l, name, limits[name])
		}
	}
}

func (j *judge) within(l LatencyLimit, name string, limit float64) {
	check := "latency." + name
	if l.Profile != "" {
		check += "." + l.Profile
	}
	v, ok := j.metric(check, Latency, name)
	if !ok {
		return
	}
	c := Check{
		Name: check, Group: Latency, Value: ms(v), Limit: ms(limit),
		Reason: fmt.Sprintf("%s is %s, at most %s (%s)", name, ms(v), ms(limit), l.Why),
	}
	verdict := Fail
	if lag := j.lagAt(name); v > limit && v-lag <= limit {
		verdict = Invalid
		c.Reason += fmt.Sprintf("; the generator was %s late itself, which could explain it", ms(lag))
	}
	j.put(v <= limit, verdict, c)
}

func (j *judge) lagAt(name string) float64 {
	q := j.cand.Load.Generator
	switch name {
	case record.P50:
		return q.P50
	case record.P95:
		return q.P95
	case record.P99:
		return q.P99
	default:
		return q.P999
	}
}

// memory asks that the SUT stayed alive and under its cap.
func (j *judge) memory() {
	var dead []string
	for _, p := range j.cand.SUT.Processes {
		if p.Died != "" {
			dead = append(dead, p.Name+": "+p.Died)
		}
	}
	if len(j.cand.SUT.Processes) > 0 {
		j.put(len(dead) == 0, Fail, Check{
			Name: "memory.alive", Group: Memory, Details: dead,
			Reason: whether(len(dead) == 0, "every process of the SUT lived until it was stopped", fmt.Sprintf("the SUT died: %v", dead)),
		})
	}
	if !j.asked(StageLoad) || j.cand.Load == nil || j.cand.Plan.HeapCap <= 0 {
		return
	}
	const check = "memory.heap"
	peak, ok := j.metric(check, Memory, record.HeapPeak)
	if !ok {
		return
	}
	limit := float64(j.cand.Plan.HeapCap)
	j.put(peak <= limit, Fail, Check{
		Name: check, Group: Memory, Value: mib(peak), Limit: mib(limit),
		Reason: fmt.Sprintf("live heap peaked at %s, the cap is %s", mib(peak), mib(limit)),
	})
}

// strain asks how the process lived with its cap: what it left free, what its
// collections cost, and whether its heap kept growing.
func (j *judge) strain() {
	if !j.asked(StageLoad) || j.cand.Load == nil || j.cand.Plan.HeapCap <= 0 {
		return
	}
	p := j.policy.Memory
	if m, err := j.cand.Metrics.Get(record.HeapHeadroom); err == nil && p.MinHeadroom > 0 {
		j.put(m.Value >= p.MinHeadroom, Fail, Check{
			Name: "memory.headroom", Group: Memory, Value: percent(m.Value), Limit: percent(p.MinHeadroom),
			Reason: fmt.Sprintf("the live heap left %s of the cap free, at least %s must be", percent(m.Value), percent(p.MinHeadroom)),
		})
	}
	if m, err := j.cand.Metrics.Get(record.GCShare); err == nil && p.MaxGCShare > 0 {
		j.put(m.Value <= p.MaxGCShare, Fail, Check{
			Name: "memory.gc", Group: Memory, Value: percent(m.Value), Limit: percent(p.MaxGCShare),
			Reason: fmt.Sprintf("collections took %s of the CPU time of the window, at most %s may", percent(m.Value), percent(p.MaxGCShare)),
		})
	}
	j.leak(p.MaxLeak)
}

// leak asks whether the live heap certainly grew faster than it may.
func (j *judge) leak(most float64) {
	slope, err := j.cand.Metrics.Get(record.HeapSlope)
	if err != nil || most <= 0 {
		return // the record says why there is no slope
	}
	lo, hi := j.cand.Metrics[record.HeapSlopeLo].Value, j.cand.Metrics[record.HeapSlopeHi].Value
	c := Check{
		Name: "memory.leak", Group: Memory, Value: mib(slope.Value) + "/s", Limit: mib(most) + "/s",
		Reason: fmt.Sprintf("over the window the live heap grew by %s/s (%s/s to %s/s at 95 %%, %d collections), at most %s/s is tolerated",
			mib(slope.Value), mib(lo), mib(hi), slope.N, mib(most)),
	}
	if lo <= most && hi > most {
		c.Reason += "; more is not ruled out, a longer window would tell"
	}
	j.put(lo <= most, Fail, c)
}

func mib(b float64) string { return fmt.Sprintf("%.1f MiB", b/(1<<20)) }

// complexity asks that no function is above the limit. Each that is, is a check
// of its own, so that it can be pointed at.
func (j *judge) complexity() {
	c := j.cand.Complexity
	if !j.asked(StageComplexity) || c == nil || len(c.Funcs) == 0 {
		return
	}
	for _, u := range c.Unparsed {
		j.add(Check{
			Name: "complexity.unparsed", Group: Complexity, Verdict: Invalid, File: u.ID, Line: 1,
			Reason: fmt.Sprintf("%s could not be measured: %s", u.ID, u.What),
		})
	}
	limit := j.policy.Complexity.Limit
	var over []record.Func
	top := 0
	for _, f := range c.Funcs {
		top = max(top, f.CC)
		if f.CC > limit {
			over = append(over, f)
		}
	}
	slices.SortFunc(over, func(a, b record.Func) int {
		return cmp.Or(cmp.Compare(b.CC, a.CC), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	for _, f := range over {
		j.add(Check{
			Name: "complexity.limit", Group: Complexity, Verdict: Fail, File: f.File, Line: f.Line,
			Value: fmt.Sprint(f.CC), Limit: fmt.Sprint(limit), Details: []string{f.Name},
			Reason: fmt.Sprintf("%s:%d: %s has complexity %d, at most %d", f.File, f.Line, f.Name, f.CC, limit),
		})
	}
	if len(over) == 0 {
		j.add(Check{
			Name: "complexity.limit", Group: Complexity, Verdict: Pass, Value: fmt.Sprint(top), Limit: fmt.Sprint(limit),
			Reason: fmt.Sprintf("%d functions, the most complex has %d, at most %d", len(c.Funcs), top, limit),
		})
	}
}
