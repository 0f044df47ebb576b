package verdict

import (
	"fmt"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// FidelityPolicy says how far embedded servers must tell the same story as
// those of the run. Every scenario on which they differ fails besides, unless a
// waiver names it.
type FidelityPolicy struct {
	MinShare float64 `json:"min_share"` // of the scenarios compared; 0: leastFidelity
}

// leastFidelity is the share asked for where the policy names none.
const leastFidelity = 0.95

func (p FidelityPolicy) least() float64 {
	if p.MinShare > 0 {
		return p.MinShare
	}
	return leastFidelity
}

// fidelityDisagreement is the check about one scenario. A waiver of it must name
// the scenario, and lets no other through.
const fidelityDisagreement = "fidelity.disagreement"

// kindEmbedded is the kind of backends that has nothing to be compared with.
const kindEmbedded = "embedded"

// comparable tells whether the run was of a SUT that could be started on two
// kinds of backends.
func (j *judge) comparable() bool {
	r := j.cand
	attached := strings.HasPrefix(r.Plan.SUT, "http://") || strings.HasPrefix(r.Plan.SUT, "https://")
	return r.Provider.Kind != "" && r.Provider.Kind != kindEmbedded && !attached
}

// fidelity asks that the scenarios came to the same on both kinds of backends.
// That nobody compared them is asked about by measurement.parts.
func (j *judge) fidelity() {
	f := j.cand.Fidelity
	if !j.asked(StageFidelity) || f == nil {
		return
	}
	j.put(f.Compared > 0, Invalid, Check{
		Name: "fidelity.compared", Group: Fidelity, Value: fmt.Sprint(f.Compared), Details: leftOut(f),
		Reason: fmt.Sprintf("%d scenarios ran on both %s and %s, %d on one of them only, %d on neither",
			f.Compared, f.Kinds[0], f.Kinds[1], len(f.OneSided), f.BothSkip),
	})
	if f.Compared == 0 {
		return
	}
	share, least := float64(f.Agreed)/float64(f.Compared), j.policy.Fidelity.least()
	j.put(share >= least, Fail, Check{
		Name: "fidelity.share", Group: Fidelity, Value: percent(share), Limit: percent(least),
		Reason: fmt.Sprintf("%d of %d scenarios came to the same on %s and %s (%s), at least %s must",
			f.Agreed, f.Compared, f.Kinds[0], f.Kinds[1], percent(share), percent(least)),
	})
	for _, d := range f.Disagreed {
		j.add(Check{
			Name: fidelityDisagreement, Group: Fidelity, Verdict: Fail, File: d.File, Line: max(d.Outcomes[0].Line, d.Outcomes[1].Line),
			Details: []string{d.ID},
			Reason:  fmt.Sprintf("scenario %s is %s on %s, but %s on %s", d.ID, d.Outcomes[0], f.Kinds[0], d.Outcomes[1], f.Kinds[1]),
		})
	}
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// leftOut names the scenarios that one kind of backends cannot run.
func leftOut(f *record.Fidelity) (out []string) {
	for _, d := range f.OneSided {
		at := slices.IndexFunc(d.Outcomes[:], func(s record.Side) bool { return s.Status == record.Skipped })
		out = append(out, fmt.Sprintf("%s ran on one kind only, skipped on %s: %s", d.ID, f.Kinds[max(at, 0)], d.Outcomes[max(at, 0)].Reason))
	}
	return out
}

func (p FidelityPolicy) check(waivers []Waiver) (errs []error) {
	if p.MinShare < 0 || p.MinShare > 1 {
		errs = append(errs, fmt.Errorf("fidelity.min_share must lie between 0 and 1"))
	}
	for i, w := range waivers {
		if w.Check == fidelityDisagreement && w.Only == "" {
			errs = append(errs, fmt.Errorf("waivers[%d]: a waiver of %s must name the scenario in only", i, fidelityDisagreement))
		}
	}
	return errs
}
