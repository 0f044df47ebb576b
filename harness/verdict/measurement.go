package verdict

import (
	"fmt"
	"math"
	"slices"

	"qmtl.internal/plumbline/harness/record"
)

// measurement asks whether any number of the record may be believed.
func (j *judge) measurement() {
	r := j.cand
	j.put(!r.Partial, Invalid, Check{
		Name: "measurement.complete", Group: Measurement,
		Reason: whether(!r.Partial, "the run came to its end", "the run was cut short: "+r.PartialReason),
	})
	err := record.Finite(r)
	j.put(err == nil, Invalid, Check{
		Name: "measurement.finite", Group: Measurement,
		Reason: whether(err == nil, "every figure is a number", fmt.Sprint(err)),
	})
	j.whole()
	j.ofOnePiece()
	j.integrity()
	if j.asked(StageLoad) && r.Load != nil {
		j.schedule()
		j.ledger()
		j.samples()
		j.generator()
		j.audited()
	}
}

func whether(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// whole asks that every stage that was asked for left its part, and that there
// was one.
func (j *judge) whole() {
	missing := j.missingParts()
	j.put(len(missing) == 0, Invalid, Check{
		Name: "measurement.parts", Group: Measurement, Details: missing,
		Reason: whether(len(missing) == 0, fmt.Sprintf("every part asked for is there: %v", j.cand.Plan.Stages), "parts of the record are missing"),
	})
}

func (j *judge) missingParts() (missing []string) {
	r := j.cand
	say := func(when bool, part, otherwise string) {
		if when {
			missing = append(missing, part+": "+orElse(r.Absent[part], otherwise))
		}
	}
	say(len(r.Plan.Stages) == 0, "stages", "the run was asked for nothing")
	for _, s := range r.Plan.Stages {
		say(!slices.Contains(Stages(), s), "stages", "no stage is named "+s)
	}
	say(j.asked(StageContract) && len(r.Contract) == 0, "contract", "no scenario ran")
	say(j.asked(StageFidelity) && r.Fidelity == nil && j.comparable(), "fidelity", "the scenarios ran on one kind of backends only")
	say(j.asked(StageLoad) && r.Load == nil, "load", "no load was offered")
	say(j.asked(StageLoad) && r.Audit == nil, "audit", "nothing was audited")
	say(j.asked(StageComplexity) && (r.Complexity == nil || len(r.Complexity.Funcs) == 0), "complexity", "no function was measured")
	return missing
}

// ofOnePiece asks that the figures follow from the parts they were taken from.
func (j *judge) ofOnePiece() {
	want, _ := record.Derive(j.cand)
	var off []string
	for _, name := range record.Derived() {
		w, inParts := want[name]
		h, inMetrics := j.cand.Metrics[name]
		if inParts != inMetrics || !sameMeasure(w, h) {
			off = append(off, fmt.Sprintf("%s is %s, its part says %s", name, shown(h, inMetrics), shown(w, inParts)))
		}
	}
	off = append(off, j.strainOff(want)...)
	j.put(len(off) == 0, Invalid, Check{
		Name: "measurement.consistent", Group: Measurement, Details: off,
		Reason: whether(len(off) == 0, "the figures follow from their parts", "figures do not follow from the parts they are taken from"),
	})
}

// strainOff is the same for figures that records of an older plumbline lack.
func (j *judge) strainOff(want record.Metrics) (off []string) {
	for _, name := range record.MemoryFigures() {
		w, inParts := want[name]
		if h, there := j.cand.Metrics[name]; there && (!inParts || !sameMeasure(w, h)) {
			off = append(off, fmt.Sprintf("%s is %s, its part says %s", name, shown(h, true), shown(w, inParts)))
		}
	}
	return off
}

// sameMeasure leaves the warnings out: they say how a figure is to be read.
func sameMeasure(a, b record.Measure) bool {
	return a.Value == b.Value && a.Unit == b.Unit && a.N == b.N
}

func shown(m record.Measure, there bool) string {
	if !there {
		return "absent"
	}
	return fmt.Sprintf("%v %s of %d", m.Value, m.Unit, m.N)
}

// schedule asks that exactly the load was offered that was asked for.
func (j *judge) schedule() {
	l := j.cand.Load
	want := int64(math.Ceil(l.Rate*l.Window.Seconds() - 1e-9))
	ok := l.Aborted == "" && want > 0 && l.Ledger.Offered == want
	reason := fmt.Sprintf("%d requests were due in the window of %v at %g/s", l.Ledger.Offered, l.Window, l.Rate)
	switch {
	case l.Aborted != "":
		reason = "the load was broken off: " + l.Aborted
	case !ok:
		reason += fmt.Sprintf("; it should be %d", want)
	}
	j.put(ok, Invalid, Check{
		Name: "measurement.schedule", Group: Measurement, Reason: reason,
		Value: fmt.Sprint(l.Ledger.Offered), Limit: fmt.Sprint(want),
	})
	j.put(l.Rate == j.cand.Plan.Rate, Invalid, Check{
		Name: "measurement.rate", Group: Measurement, Value: fmt.Sprint(l.Rate), Limit: fmt.Sprint(j.cand.Plan.Rate),
		Reason: fmt.Sprintf("offered %g/s, planned %g/s", l.Rate, j.cand.Plan.Rate),
	})
}

// ledger asks that every request is accounted for and none was held back.
func (j *judge) ledger() {
	l := j.cand.Load
	err := l.Ledger.Check()
	if err == nil {
		err = l.WarmUpLedger.Check()
	}
	if err == nil && l.Ledger.InFlight+l.WarmUpLedger.InFlight != 0 {
		err = fmt.Errorf("%d requests are still in flight after the drain", l.Ledger.InFlight+l.WarmUpLedger.InFlight)
	}
	j.put(err == nil, Invalid, Check{
		Name: "measurement.ledger", Group: Measurement,
		Reason: whether(err == nil, "the ledger balances", fmt.Sprint(err)),
	})
	j.dropped()
}

// dropped asks that no request was held back. Where the generator itself was on
// time, what it dropped had waited in vain for one of the requests that the SUT
// left unanswered: then the SUT failed.
func (j *judge) dropped() {
	l := j.cand.Load
	n := l.Ledger.Dropped + l.WarmUpLedger.Dropped
	c := Check{
		Name: "measurement.dropped", Group: Measurement, Value: fmt.Sprint(n), Limit: "0",
		Reason: fmt.Sprintf("%d requests were due but never left the generator", n),
	}
	blame := Invalid
	if l.Waited > 0 && l.Generator.P99 <= j.policy.Measurement.GeneratorLagP99 {
		blame = Fail
		c.Reason += fmt.Sprintf(": the SUT left %d unanswered while %d more waited", l.MaxInFlight, l.Backlog)
	}
	j.put(n == 0, blame, c)
}

// samples asks that every answer of the window was timed.
func (j *judge) samples() {
	l := j.cand.Load
	n := l.Classes["all"].N
	ok := n > 0 && n == l.Ledger.Answered
	j.put(ok, Invalid, Check{
		Name: "measurement.samples", Group: Measurement, Value: fmt.Sprint(n), Limit: fmt.Sprint(l.Ledger.Answered),
		Reason: fmt.Sprintf("%d latencies for %d answers of the window", n, l.Ledger.Answered),
	})
}

// generator asks that the load left the generator when it was due.
func (j *judge) generator() {
	const check = "measurement.generator"
	lag, ok := j.metric(check, Measurement, record.GeneratorLagP99)
	if !ok {
		return
	}
	limit := j.policy.Measurement.GeneratorLagP99
	j.put(lag <= limit, Invalid, Check{
		Name: check, Group: Measurement, Value: ms(lag), Limit: ms(limit),
		Reason: fmt.Sprintf("the generator was %s late at p99, at most %s is trusted", ms(lag), ms(limit)),
	})
}

func ms(v float64) string { return fmt.Sprintf("%.3g ms", v) }

// audited asks that the audit looked at what the ledger counted, and that this
// was something.
func (j *judge) audited() {
	a, l := j.cand.Audit, j.cand.Load
	if a == nil {
		return // measurement.parts has said so
	}
	want := l.Ledger.Accepted + l.WarmUpLedger.Accepted
	ok := a.Accepted > 0 && int64(a.Accepted) >= want
	j.put(ok, Invalid, Check{
		Name: "measurement.audit", Group: Measurement, Value: fmt.Sprint(a.Accepted), Limit: fmt.Sprint(want),
		Reason: fmt.Sprintf("the audit examined %d of %d acknowledged submissions", a.Accepted, want),
	})
	j.sawEnough(a)
}

// sawEnough asks that an audit that found nothing wrong has seen what it would
// have had to see for that.
func (j *judge) sawEnough(a *record.Audit) {
	clean := len(a.Lost)+len(a.Duplicates)+len(a.Orphans) == 0
	ok := !clean || (min(a.Records, a.Registered) >= a.Accepted && a.Nodes > 0 && a.Topics >= a.Nodes)
	j.put(ok, Invalid, Check{
		Name: "measurement.stored", Group: Measurement,
		Reason: fmt.Sprintf("the audit saw %d records and %d registrations of %d submissions, and %d topics of %d nodes",
			a.Records, a.Registered, a.Accepted, a.Topics, a.Nodes) + whether(ok, "", ", yet found nothing missing"),
	})
}
