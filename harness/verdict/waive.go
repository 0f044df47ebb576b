package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// waive lets waived findings through and fails waivers that have not earned
// their place. Only what failed can be waived; a broken measurement cannot.
func (j *judge) waive() {
	day := j.cand.Started.UTC().Truncate(24 * time.Hour)
	for _, w := range j.policy.Waivers {
		if day.After(w.Until.Time) {
			j.badWaiver(w, "expired on "+w.Until.Format(time.DateOnly))
			continue
		}
		if w.Until.After(day.AddDate(1, 0, 0)) {
			j.badWaiver(w, "holds for more than a year from "+day.Format(time.DateOnly)+"; change the policy instead")
			continue
		}
		matched, used := j.apply(w)
		switch {
		case used || !j.tellsIdle(w):
		case matched:
			j.badWaiver(w, "the check passes now; delete the waiver")
		default:
			j.badWaiver(w, "no check of this run has that name")
		}
	}
}

// tellsIdle says whether this run could have needed the waiver: one of some
// stages, or on one kind of backends, has not made every check.
func (j *judge) tellsIdle(w Waiver) bool {
	return j.gate() && (j.cand.Fidelity != nil || !strings.HasPrefix(w.Check, Fidelity+"."))
}

// apply waives what w covers. matched: a check of that name was made; used:
// something failed and is let through.
func (j *judge) apply(w Waiver) (matched, used bool) {
	for i := range j.checks {
		c := &j.checks[i]
		if c.Name != w.Check {
			continue
		}
		matched = true
		if c.Verdict == Fail && covers(w, *c) {
			c.Verdict, c.Waived = Pass, fmt.Sprintf("%s (until %s)", w.Reason, w.Until.Format(time.DateOnly))
			used = true
		}
	}
	return matched, used
}

// covers tells whether w lets the whole check through: it is about any finding,
// or every finding of the check is the one it names.
func covers(w Waiver, c Check) bool {
	if c.Name == fidelityDisagreement {
		return slices.Contains(c.Details, w.Only)
	}
	if w.Only == "" || strings.Contains(c.Reason, w.Only) {
		return true
	}
	foreign := func(s string) bool { return !strings.Contains(s, w.Only) }
	return len(c.Details) > 0 && !slices.ContainsFunc(c.Details, foreign)
}

func (j *judge) badWaiver(w Waiver, why string) {
	name := w.Check
	if w.Only != "" {
		name += " for " + w.Only
	}
	j.add(Check{
		Name: "policy.waiver", Group: PolicyGroup, Verdict: Fail,
		Reason: fmt.Sprintf("waiver of %s: %s", name, why),
	})
}
