package verdict

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

// Evidence is what the files of a run say about its record.
type Evidence struct {
	Requests int64    // recounted, warm-up included
	Against  []string // in what they contradict the record, or cannot speak for it
}

// clockSlack is by how much two readings of the wall clock may disagree.
const clockSlack = time.Second

// integrity asks whether the parts of the record fit together: what one part was
// made to say, the others contradict.
func (j *judge) integrity() {
	j.required()
	j.evidence()
	j.environment()
	j.processes()
	if !j.asked(StageLoad) || j.cand.Load == nil {
		return
	}
	j.sound("measurement.plan", "the load is the one that was planned", j.otherThanPlanned())
	j.sound("measurement.clock", "the times of the run and of its load agree", j.clockFaults())
	j.sound("measurement.seconds", "the seconds of the window add up to its ledger", j.secondsOff())
	j.sound("measurement.quantiles", "every quantile is at least as large as the one before", j.disordered())
	j.sound("measurement.probes", "the memory of the SUT was looked at through the whole window", j.blindSpots())
}

// sound adds a check that holds when there is nothing to say against it.
func (j *judge) sound(check, holds string, against []string) {
	j.put(len(against) == 0, Invalid, Check{
		Name: check, Group: Measurement, Details: against,
		Reason: whether(len(against) == 0, holds, strings.Join(against, "; ")),
	})
}

// required asks that the run was asked for every stage that the policy demands.
func (j *judge) required() {
	var missing []string
	for _, s := range j.policy.RequireStages {
		if !j.asked(s) && (s != StageFidelity || j.comparable()) {
			missing = append(missing, s)
		}
	}
	if len(j.policy.RequireStages) > 0 {
		j.put(len(missing) == 0, Invalid, Check{
			Name: "measurement.stages", Group: Measurement, Details: missing,
			Reason: whether(len(missing) == 0, "every required stage was asked for", fmt.Sprintf("the run was not asked for %v", missing)),
		})
	}
}

// evidence repeats what the files of the run say. A record that came without
// its files cannot be held against them.
func (j *judge) evidence() {
	if e := j.base.Evidence; e != nil {
		j.sound("measurement.evidence", fmt.Sprintf("ledger, histograms and seconds follow from the %d requests on file", e.Requests), e.Against)
	}
}

// environment asks that the class follows from the machine that is described.
func (j *judge) environment() {
	e := j.cand.Env
	kind := orElse(j.cand.Provider.Kind, "none")
	want := record.Class(e, kind)
	j.put(e.Class == want, Invalid, Check{
		Name: "measurement.environment", Group: Measurement, Value: e.Class, Limit: want,
		Reason: whether(e.Class == want, "the environment class follows from the machine", fmt.Sprintf("the record says environment %q, its machine makes %q", e.Class, want)),
	})
}

// attached tells whether the SUT was running already, so that its processes are
// not ours to know.
func (j *judge) attached() bool {
	return strings.HasPrefix(j.cand.Plan.SUT, "http://") || strings.HasPrefix(j.cand.Plan.SUT, "https://")
}

// processes asks that there was a SUT, and that the cap that was planned is the
// cap that was kept.
func (j *judge) processes() {
	if j.attached() || !(j.asked(StageLoad) || j.asked(StageContract)) {
		return
	}
	all := j.cand.SUT.Processes
	j.put(len(all) > 0, Invalid, Check{
		Name: "measurement.processes", Group: Measurement, Value: fmt.Sprint(len(all)),
		Reason: whether(len(all) > 0, fmt.Sprintf("the SUT had %d processes", len(all)), "no process of the SUT is on record, so nothing was measured"),
	})
	if j.asked(StageLoad) && j.cand.Load != nil {
		j.capped(all)
	}
}

// capped asks that something kept a process under the planned cap, and that no
// process had another.
func (j *judge) capped(all []record.SUTProcess) {
	want := j.cand.Plan.HeapCap
	var against []string
	kept := want == 0
	for _, p := range all {
		if p.HeapCap != 0 && p.HeapCap != want {
			against = append(against, fmt.Sprintf("%s ran under a cap of %s, planned was %s", p.Name, mib(float64(p.HeapCap)), mib(float64(want))))
		}
		kept = kept || (p.HeapCap == want && p.Limit != "" && p.Limit != "none")
	}
	if !kept {
		against = append(against, fmt.Sprintf("nothing kept a process under the planned cap of %s", mib(float64(want))))
	}
	j.sound("measurement.cap", "the planned cap was the one that was kept", against)
}

// otherThanPlanned lists in what the load differs from the plan.
func (j *judge) otherThanPlanned() (off []string) {
	p, l := j.cand.Plan, j.cand.Load
	say := func(when bool, format string, args ...any) {
		if when {
			off = append(off, fmt.Sprintf(format, args...))
		}
	}
	say(l.Window != p.Window, "the window is %v, planned %v", l.Window, p.Window)
	say(l.WarmUp != p.WarmUp, "the warm-up is %v, planned %v", l.WarmUp, p.WarmUp)
	say(l.Profile != p.Profile, "the load is of profile %q, planned %q", l.Profile, p.Profile)
	say(l.Seed != p.Seed, "the load is of seed %d, planned %d", l.Seed, p.Seed)
	say(j.cand.Outages != nil && len(p.Faults) == 0, "outages excuse requests, but no fault was planned")
	return off
}

// clockFaults lists times that cannot all be true: a clock that was set in the
// middle, or parts of two runs.
func (j *judge) clockFaults() (off []string) {
	r, l := j.cand, j.cand.Load
	say := func(when bool, format string, args ...any) {
		if when {
			off = append(off, fmt.Sprintf(format, args...))
		}
	}
	took := r.Ended.Sub(r.Started)
	say(r.Started.IsZero() || l.Started.IsZero(), "a start is missing")
	say(l.Started.Before(r.Started.Add(-clockSlack)), "the load started at %v, before the run (%v)", l.Started, r.Started)
	say(l.Started.Add(l.Wall).After(r.Ended.Add(clockSlack)), "the last answer came at %v, after the run had ended (%v)", l.Started.Add(l.Wall), r.Ended)
	say(took < l.WarmUp+l.Window-clockSlack, "the run took %v, its load alone should take %v", took, l.WarmUp+l.Window)
	say(l.Wall > 0 && l.Ledger.Answered > 0 && l.Wall < l.WarmUp, "the last answer came %v after the start, before the window began", l.Wall)
	return off
}

// secondsOff lists in what the seconds of the window contradict its ledger.
func (j *judge) secondsOff() (off []string) {
	l := j.cand.Load
	var offered, answered int64
	for i, s := range l.Seconds {
		offered, answered = offered+s.Offered, answered+s.Answered
		if i > 0 && s.At <= l.Seconds[i-1].At {
			off = append(off, fmt.Sprintf("second %d begins at %g s, not after the one before", i, s.At))
		}
	}
	if most := int(math.Ceil(l.Window.Seconds())); len(l.Seconds) > most {
		off = append(off, fmt.Sprintf("%d seconds in a window of %v", len(l.Seconds), l.Window))
	}
	if offered != l.Ledger.Offered || answered != l.Ledger.Answered {
		off = append(off, fmt.Sprintf("the seconds hold %d offered and %d answered, the ledger %d and %d", offered, answered, l.Ledger.Offered, l.Ledger.Answered))
	}
	return off
}

// disordered lists the classes whose quantiles are out of order, as those of no
// distribution can be.
func (j *judge) disordered() (off []string) {
	all := map[string]load.Quantiles{"generator lag": j.cand.Load.Generator}
	for name, c := range j.cand.Load.Classes {
		all["class "+name] = c.Latency
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		q := all[name]
		if rising := []float64{0, q.P50, q.P90, q.P95, q.P99, q.P999, q.Max}; !slices.IsSorted(rising) || q.Mean > q.Max {
			off = append(off, fmt.Sprintf("%s: p50 %g, p90 %g, p95 %g, p99 %g, p99.9 %g, largest %g, mean %g ms", name, q.P50, q.P90, q.P95, q.P99, q.P999, q.Max, q.Mean))
		}
	}
	return off
}

// blindSpots lists the stretches of the window in which nobody looked at the
// heap of a capped process. During outages a process may be away.
func (j *judge) blindSpots() (off []string) {
	r := j.cand
	if r.Plan.HeapCap <= 0 || r.Outages != nil {
		return nil
	}
	from := r.Load.Started.Sub(r.Started).Seconds() + r.Load.WarmUp.Seconds()
	until := from + r.Load.Window.Seconds()
	most := max(maxBlind, r.Load.Window.Seconds()/3)
	for _, s := range r.Series {
		if s.Name != "heap_live_bytes" || !slices.ContainsFunc(r.SUT.Processes, func(p record.SUTProcess) bool { return p.Name == s.Process && p.HeapCap > 0 }) {
			continue
		}
		if gap, at := widestGap(s.Points, from, until); gap > most {
			off = append(off, fmt.Sprintf("the heap of %s was not looked at for %.1f s from %.1f s on, at most %.1f s are trusted", s.Process, gap, at, most))
		}
	}
	return off
}

// maxBlind is how long (s) the probes may look away: a collector under full load
// answers late.
const maxBlind = 5.0

// widestGap is the longest stretch between from and until without a point.
func widestGap(points [][2]float64, from, until float64) (gap, at float64) {
	last := from
	for _, p := range points {
		if p[0] < last {
			continue
		}
		t := min(p[0], until)
		if t-last > gap {
			gap, at = t-last, last
		}
		last = t
	}
	if until-last > gap {
		gap, at = until-last, last
	}
	return gap, at
}
