package verdict

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
)

// sampled names the metrics that are compared second by second.
var sampled = map[string]func(load.Second) float64{
	record.P50: func(s load.Second) float64 { return s.P50 },
	record.P95: func(s load.Second) float64 { return s.P95 },
	record.P99: func(s load.Second) float64 { return s.P99 },
}

// baseline compares with what was accepted before.
func (j *judge) baseline() {
	for _, why := range j.base.Broken {
		j.add(Check{Name: "baseline.broken", Group: Baseline, Verdict: Invalid, Reason: why})
	}
	if len(j.base.Broken) > 0 {
		return
	}
	if j.asked(StageComplexity) && j.cand.Complexity != nil {
		j.growth()
	}
	if j.asked(StageLoad) && j.cand.Load != nil {
		j.regressions()
	}
}

// regressions compares with the accepted record.
func (j *judge) regressions() {
	b := j.base.Run
	if b == nil {
		j.add(Check{
			Name: "baseline.record", Group: Baseline, Verdict: NoBaseline,
			Reason: orElse(j.base.Reason, "no record was accepted yet") + "; accept this one with: plumbline accept --reason '…'",
		})
		return
	}
	if b.Env.Class != j.cand.Env.Class {
		j.add(Check{
			Name: "baseline.environment", Group: Baseline, Verdict: Invalid, Value: j.cand.Env.Class, Base: b.Env.Class,
			Reason: fmt.Sprintf("the base %s was measured in environment %s, this run in %s: their numbers do not compare", b.ID, b.Env.Class, j.cand.Env.Class),
		})
		return
	}
	if !j.trusted(b) {
		return
	}
	if why := unlike(b, j.cand); why != "" {
		j.add(Check{Name: "baseline.record", Group: Baseline, Verdict: NoBaseline, Reason: "the accepted record " + b.ID + " " + why})
		return
	}
	j.scenariosKept(b)
	j.classesKept(b)
	j.heapKept(b)
	if !j.paired() {
		j.timing(b)
	}
}

// unlike says why two loads of one environment class do not compare.
func unlike(base, cand *record.Run) string {
	switch {
	case base.Load == nil || len(base.Load.Seconds) == 0:
		return "holds no load"
	case base.Plan.Profile != cand.Plan.Profile:
		return fmt.Sprintf("is of profile %s, this run of %s", base.Plan.Profile, cand.Plan.Profile)
	case base.Load.Rate != cand.Load.Rate:
		return fmt.Sprintf("is of %g requests/s, this run of %g/s", base.Load.Rate, cand.Load.Rate)
	case base.Plan.HeapCap != cand.Plan.HeapCap:
		return fmt.Sprintf("ran under a heap cap of %s, this run under %s", mib(float64(base.Plan.HeapCap)), mib(float64(cand.Plan.HeapCap)))
	default:
		return ""
	}
}

// trusted asks whether the base may be held against the candidate at all, and
// says so where it may not.
func (j *judge) trusted(b *record.Run) bool {
	if b.ID == j.cand.ID {
		j.add(Check{
			Name: "baseline.record", Group: Baseline, Verdict: NoBaseline,
			Reason: "the accepted record is this very run, which proves nothing about it",
		})
		return false
	}
	if against := doubts(b, j.cand); len(against) > 0 {
		j.add(Check{
			Name: "baseline.trust", Group: Baseline, Verdict: Invalid, Details: against,
			Reason: "the base " + b.ID + " " + strings.Join(against, "; "),
		})
		return false
	}
	age := int(j.cand.Started.Sub(b.Started) / (24 * time.Hour))
	if most := j.policy.Comparison.MaxAgeDays; most > 0 {
		j.put(age <= most, Fail, Check{
			Name: "baseline.age", Group: Baseline, Value: fmt.Sprint(age), Limit: fmt.Sprint(most),
			Reason: fmt.Sprintf("the base %s was %d days old, at most %d are trusted", b.ID, age, most) +
				whether(age <= most, "", "; accept a newer one"),
		})
	}
	return true
}

// doubts lists what is wrong with a base by itself.
func doubts(b, cand *record.Run) (against []string) {
	if b.Partial {
		against = append(against, "is partial: "+b.PartialReason)
	}
	if b.Started.After(cand.Started) {
		against = append(against, fmt.Sprintf("was measured after this run (%v, %v): base and candidate are swapped, or a clock was wrong", b.Started, cand.Started))
	}
	if err := record.Finite(b); err != nil {
		against = append(against, err.Error())
	}
	want, _ := record.Derive(b)
	for _, name := range record.Derived() {
		w, inParts := want[name]
		// What an older plumbline did not derive yet proves nothing.
		if h, inMetrics := b.Metrics[name]; inMetrics && (!inParts || !sameMeasure(w, h)) {
			against = append(against, fmt.Sprintf("says that %s is %s, its part %s", name, shown(h, true), shown(w, inParts)))
		}
	}
	return against
}

// classesKept asks that no class of requests of the base vanished or was renamed.
func (j *judge) classesKept(b *record.Run) {
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(b.Load.Classes)) {
		if b.Load.Classes[name].N > 0 && j.cand.Load.Classes[name].N == 0 {
			gone = append(gone, name)
		}
	}
	j.put(len(gone) == 0, Fail, Check{
		Name: "baseline.classes", Group: Baseline, Details: gone, Value: fmt.Sprint(len(gone)), Limit: "0",
		Reason: fmt.Sprintf("%d classes of requests of the base had no answer", len(gone)),
	})
}

// scenariosKept asks that what passed in the base did not vanish.
func (j *judge) scenariosKept(b *record.Run) {
	if !j.asked(StageContract) || len(b.Contract) == 0 {
		return
	}
	now := map[string]record.Status{}
	for _, o := range j.cand.Contract {
		now[o.ID] = o.Status
	}
	var gone []string
	for _, o := range b.Contract {
		if o.Status == record.Passed && (now[o.ID] == "" || now[o.ID] == record.Skipped) {
			gone = append(gone, o.ID+": "+orElse(string(now[o.ID]), "gone"))
		}
	}
	j.put(len(gone) == 0, Fail, Check{
		Name: "baseline.contract", Group: Baseline, Details: gone, Value: fmt.Sprint(len(gone)), Limit: "0",
		Reason: fmt.Sprintf("%d scenarios that passed in the base are skipped or gone", len(gone)),
	})
}

// heapKept asks that the peak of the live heap did not grow beyond least care.
func (j *judge) heapKept(b *record.Run) {
	was, err := b.Metrics.Get(record.HeapPeak)
	is, err2 := j.cand.Metrics.Get(record.HeapPeak)
	if err != nil || err2 != nil {
		return // memory.heap says what is missing where a cap asks for it
	}
	most := was.Value + j.policy.Comparison.Heap.of(was.Value)
	j.put(is.Value <= most, Fail, Check{
		Name: "baseline.heap", Group: Baseline, Value: mib(is.Value), Base: mib(was.Value), Limit: mib(most),
		Reason: fmt.Sprintf("live heap peaked at %s, the base at %s; growth to %s is tolerated", mib(is.Value), mib(was.Value), mib(most)),
	})
}

// growth compares every function with the accepted snapshot.
func (j *judge) growth() {
	const check = "baseline.complexity"
	if len(j.base.Complexity) == 0 {
		verdict := NoBaseline
		if j.policy.Complexity.MinKept > 0 {
			verdict = Invalid
		}
		j.add(Check{
			Name: check, Group: Baseline, Verdict: verdict,
			Reason: orElse(j.base.ComplexityReason, "no complexity snapshot was accepted yet"),
		})
		return
	}
	limit := j.policy.Complexity.GrowthLimit
	var grown []string
	failed := false
	changes := complexity.Compare(j.base.Complexity, j.cand.Complexity.Funcs)
	j.kept(changes)
	for _, c := range changes {
		if c.Status != complexity.Worse {
			continue
		}
		grown = append(grown, c.String())
		if c.Candidate.CC > limit {
			failed = true
			j.add(Check{
				Name: check, Group: Baseline, Verdict: Fail, File: c.Candidate.File, Line: c.Candidate.Line,
				Value: fmt.Sprint(c.Candidate.CC), Base: fmt.Sprint(c.Base.CC), Limit: fmt.Sprint(limit),
				Details: []string{c.Candidate.Name}, Reason: c.String(),
			})
		}
	}
	if !failed {
		j.add(Check{
			Name: check, Group: Baseline, Verdict: Pass, Details: grown,
			Reason: fmt.Sprintf("%d functions grew, none above %d", len(grown), limit),
		})
	}
}

// kept asks that enough of the accepted snapshot's functions were found again.
func (j *judge) kept(changes []complexity.Change) {
	least := j.policy.Complexity.MinKept
	if least <= 0 {
		return
	}
	gone := complexity.Count(changes)[complexity.Removed]
	share := 1 - float64(gone)/float64(len(j.base.Complexity))
	j.put(share >= least, Invalid, Check{
		Name: "baseline.functions", Group: Baseline, Value: percent(share), Limit: percent(least),
		Reason: fmt.Sprintf("%d of the %d accepted functions were found again", len(j.base.Complexity)-gone, len(j.base.Complexity)) +
			whether(share >= least, "", "; another tree was measured, or hardly any of it"),
	})
}
