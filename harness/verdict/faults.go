package verdict

import (
	"fmt"

	"qmtl.internal/plumbline/harness/record"
)

// excused is what outages explain of the load; nothing without any.
func (j *judge) excused() record.Outages {
	if j.cand.Outages == nil {
		return record.Outages{}
	}
	return *j.cand.Outages
}

// faults asks that the SUT recovered from every outage by itself, in time, and
// that the record excuses no more than the policy does.
func (j *judge) faults() {
	o, asked := j.cand.Outages, j.policy.Faults
	if o == nil || j.cand.Load == nil {
		return
	}
	within := asked.RecoveryS > 0 && o.AllowanceS <= asked.RecoveryS && o.LimitMS <= asked.LatencyMS
	j.put(within, Invalid, Check{
		Name: "faults.allowance", Group: Faults,
		Value: fmt.Sprintf("%g s, %g ms", o.AllowanceS, o.LimitMS), Limit: fmt.Sprintf("%g s, %g ms", asked.RecoveryS, asked.LatencyMS),
		Reason: whether(within, fmt.Sprintf("%g s after each fault are not judged for latency", o.AllowanceS),
			"the run excuses more after a fault than the policy (faults.recovery_s, faults.latency_ms) allows"),
	})
	for i, one := range o.Outages {
		j.recovered(i, one, asked)
	}
	n := o.Unanswered + o.Refused
	j.add(Check{
		Name: "faults.excused", Group: Faults, Verdict: Pass, Value: fmt.Sprint(n),
		Reason: fmt.Sprintf("%d requests got no answer and %d a clear refusal because of faults; none of them counts as lost", o.Unanswered, o.Refused),
	})
}

func (j *judge) recovered(i int, o record.Outage, asked FaultPolicy) {
	c := Check{
		Name: fmt.Sprintf("faults.recovery.%d", i+1), Group: Faults, Limit: fmt.Sprintf("%g s", asked.RecoveryS),
		Reason: fmt.Sprintf("after %s (%.1f s to %.1f s) no second was answered in full within %g ms before the load or the quiet after it ended", o.Fault, o.Start, o.End, asked.LatencyMS),
	}
	otherwise := Fail
	if o.RecoveryS == nil && j.crowded(i, asked) {
		otherwise = Invalid
		c.Reason += "; the next fault came before that could be told, so plan them further apart"
	}
	ok := o.RecoveryS != nil && *o.RecoveryS <= asked.RecoveryS
	if o.RecoveryS != nil {
		c.Value = fmt.Sprintf("%.2f s", *o.RecoveryS)
		c.Reason = fmt.Sprintf("after %s (%.1f s to %.1f s) the SUT was back within %s, at most %g s", o.Fault, o.Start, o.End, c.Value, asked.RecoveryS)
	}
	j.put(ok, otherwise, c)
}

// crowded tells whether the next fault began before outage i could be recovered
// from.
func (j *judge) crowded(i int, asked FaultPolicy) bool {
	all := j.cand.Outages.Outages
	return i+1 < len(all) && all[i+1].Start < all[i].Relief+asked.RecoveryS+1
}

// touched tells whether an outage or what follows it falls into the second at.
func touched(o *record.Outages, at float64) bool {
	if o == nil {
		return false
	}
	for _, one := range o.Outages {
		if at+1 > one.Start && at < one.Relief+o.AllowanceS {
			return true
		}
	}
	return false
}
