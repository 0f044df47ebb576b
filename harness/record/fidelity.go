package record

import (
	"errors"
	"fmt"
)

// Fidelity says how far two kinds of backends tell the same story: what each
// scenario came to on the backends of the run, and on those that stand in for
// real servers elsewhere.
type Fidelity struct {
	Kinds      [2]string    `json:"kinds"`     // of the backends of the run, and of those held against them
	Compared   int          `json:"compared"`  // scenarios that ran on both
	Agreed     int          `json:"agreed"`    // of those: came to the same
	Disagreed  []Difference `json:"disagreed"` // the others
	OneSided   []Difference `json:"one_sided"` // ran on one kind only; not compared
	BothSkip   int          `json:"both_skipped"`
	DurationMS float64      `json:"duration_ms"` // of the second pass, start and stop of its servers included
}

// Difference is one scenario with what became of it on each of Fidelity.Kinds.
type Difference struct {
	ID       string  `json:"id"`
	Title    string  `json:"title"`
	File     string  `json:"file"`
	Outcomes [2]Side `json:"outcomes"`
}

// Side is what became of a scenario on one kind of backends. Line and Action
// tell the step that did not hold, where one did not.
type Side struct {
	Status Status `json:"status"`
	Reason string `json:"reason,omitempty"`
	Line   int    `json:"line,omitempty"`
	Action string `json:"action,omitempty"`
}

// reasonMissing is the reason of a scenario of which one side knows nothing.
const reasonMissing = "there is no outcome of it"

// Compare holds the outcomes of the same scenarios on two kinds of backends
// against each other, by id. They agree when they have the same status and, if
// both failed, failed in the same step: two different failures are not the same
// behaviour. A scenario of which one side has no outcome counts as skipped there.
func Compare(kinds [2]string, run, other []Outcome) *Fidelity {
	f := &Fidelity{Kinds: kinds, Disagreed: []Difference{}, OneSided: []Difference{}}
	there := map[string]Outcome{}
	for _, o := range other {
		there[o.ID] = o
	}
	for _, o := range run {
		second, ok := there[o.ID]
		if !ok {
			second = Outcome{Status: Skipped, Reason: reasonMissing}
		}
		delete(there, o.ID)
		f.put(o, o, second)
	}
	for _, o := range other {
		if _, alone := there[o.ID]; alone {
			f.put(o, Outcome{Status: Skipped, Reason: reasonMissing}, o)
		}
	}
	return f
}

// put counts one scenario. who names it.
func (f *Fidelity) put(who, first, second Outcome) {
	d := Difference{ID: who.ID, Title: who.Title, File: who.File, Outcomes: [2]Side{side(first), side(second)}}
	a, b := d.Outcomes[0], d.Outcomes[1]
	switch {
	case a.Status == Skipped && b.Status == Skipped:
		f.BothSkip++
	case a.Status == Skipped || b.Status == Skipped:
		f.OneSided = append(f.OneSided, d)
	case a.same(b):
		f.Compared++
		f.Agreed++
	default:
		f.Compared++
		f.Disagreed = append(f.Disagreed, d)
	}
}

func side(o Outcome) Side {
	s := Side{Status: o.Status, Reason: o.Reason}
	if len(o.Steps) > 0 {
		s.Line, s.Action = o.Steps[0].Line, o.Steps[0].Action
	}
	return s
}

// same leaves the reason out: it speaks of names that each pass made up.
func (s Side) same(o Side) bool {
	return s.Status == o.Status && s.Line == o.Line && s.Action == o.Action
}

func (s Side) String() string {
	if s.Reason == "" {
		return string(s.Status)
	}
	return string(s.Status) + " (" + s.Reason + ")"
}

// check holds the counts against the lists, and both against the contract.
func (f *Fidelity) check(r *Run) error {
	if f == nil {
		return nil
	}
	var errs []error
	if f.Agreed < 0 || f.Compared != f.Agreed+len(f.Disagreed) {
		errs = append(errs, fmt.Errorf("fidelity: %d compared are not %d agreed and %d disagreed", f.Compared, f.Agreed, len(f.Disagreed)))
	}
	seen := map[string]Outcome{}
	for _, o := range r.Contract {
		seen[o.ID] = o
	}
	for _, d := range append(append([]Difference{}, f.Disagreed...), f.OneSided...) {
		o, ok := seen[d.ID]
		if ok && !side(o).same(d.Outcomes[0]) {
			errs = append(errs, fmt.Errorf("fidelity: scenario %s is %s there, but %s in contract", d.ID, d.Outcomes[0].Status, o.Status))
		}
		if !ok && d.Outcomes[0].Reason != reasonMissing {
			errs = append(errs, fmt.Errorf("fidelity: contract has no scenario %s", d.ID))
		}
	}
	return errors.Join(errs...)
}

func (d deriver) fidelity(r *Run) {
	switch f := r.Fidelity; {
	case f == nil:
		d.missing(reasonFor(r, "fidelity", "the scenarios ran on one kind of backends only"), FidelityShare)
	case f.Compared == 0:
		d.missing("no scenario ran on both kinds of backends", FidelityShare)
	default:
		d.put(FidelityShare, float64(f.Agreed)/float64(f.Compared), Ratio, int64(f.Compared))
	}
}
