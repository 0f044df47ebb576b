package verdict

import (
	"fmt"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// JudgedVersion is the version of judged.json.
const JudgedVersion = 1

// Groups of checks, in the order in which they are put and shown.
const (
	Measurement = "measurement"
	Contract    = "contract"
	Fidelity    = "fidelity"
	Loss        = "loss"
	Faults      = "faults"
	Latency     = "latency"
	Memory      = "memory"
	Complexity  = "complexity"
	Baseline    = "baseline"
	PolicyGroup = "policy"
)

// Stages that a run may be asked for (record.Plan.Stages).
const (
	StageContract   = "contract"
	StageLoad       = "load"
	StageFidelity   = "fidelity" // needs contract; the scenarios again, on embedded servers
	StageComplexity = "complexity"
)

// Stages lists every stage; a run of all of them is a gate.
func Stages() []string {
	return []string{StageContract, StageLoad, StageFidelity, StageComplexity}
}

// Base is what a record is held against. A part that is missing is nil and has
// a reason.
type Base struct {
	Run              *record.Run
	Reason           string // why Run is nil
	Complexity       []record.Func
	ComplexityReason string // why Complexity is nil
	// Evidence is what the files of the candidate's run say; nil when the record
	// came without them.
	Evidence *Evidence
	// Broken says what is wrong with a base that is there but cannot be read.
	// Then nothing may be concluded by comparing.
	Broken []string
}

// Judge answers whether the candidate may ship. It is pure: the date that
// waivers are held against is the day the candidate was measured.
func Judge(p Policy, base Base, cand *record.Run) Judged {
	j := &judge{policy: p, base: base, cand: cand}
	for _, put := range []func(){
		j.measurement, j.contract, j.fidelity, j.loss, j.faults, j.latency, j.memory, j.strain, j.complexity, j.baseline,
	} {
		put()
	}
	j.excuseDeath()
	j.waive()
	return j.answer()
}

// judge gathers the checks of one judgement.
type judge struct {
	policy Policy
	base   Base
	cand   *record.Run
	checks []Check
}

func (j *judge) add(c Check) { j.checks = append(j.checks, c) }

// put adds a check that passes or has the given verdict.
func (j *judge) put(ok bool, otherwise Verdict, c Check) {
	c.Verdict = otherwise
	if ok {
		c.Verdict = Pass
	}
	j.add(c)
}

func (j *judge) asked(stage string) bool { return slices.Contains(j.cand.Plan.Stages, stage) }

func (j *judge) gate() bool {
	for _, s := range Stages() {
		if !j.asked(s) && (s != StageFidelity || j.comparable()) {
			return false
		}
	}
	return true
}

// metric gives a value that a check needs. Where it is absent the check cannot
// be made, and the whole is invalid.
func (j *judge) metric(check, group, name string) (float64, bool) {
	m, err := j.cand.Metrics.Get(name)
	if err == nil {
		return m.Value, true
	}
	reason := fmt.Sprintf("%v: %s", err, orElse(j.cand.Absent[name], "no reason was given"))
	j.add(Check{Name: check, Group: group, Verdict: Invalid, Reason: reason})
	return 0, false
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// excuseDeath takes the verdict invalid from the measurement when the SUT died
// while it was measured: the run was cut short by what it measured, and that is
// the finding.
func (j *judge) excuseDeath() {
	if !j.died() {
		return
	}
	for i, c := range j.checks {
		if c.Verdict == Invalid {
			j.checks[i].Verdict = Unjudged
			j.checks[i].Reason += " (the SUT died)"
		}
	}
}

func (j *judge) died() bool {
	return slices.ContainsFunc(j.cand.SUT.Processes, func(p record.SUTProcess) bool { return p.Died != "" })
}

func (j *judge) answer() Judged {
	vs := make([]Verdict, len(j.checks))
	for i, c := range j.checks {
		vs[i] = c.Verdict
	}
	out := Judged{Schema: JudgedVersion, Run: j.cand.ID, Verdict: Worst(vs...), Checks: j.checks}
	if j.base.Run != nil {
		out.Base = j.base.Run.ID
	}
	out.ExitCode = ExitCode(j.policy, out.Verdict)
	out.Summary = summary(j.checks, out.Verdict)
	if !j.gate() {
		out.Summary += fmt.Sprintf(" (only %s: not the whole gate)", strings.Join(j.cand.Plan.Stages, ", "))
	}
	return out
}

// ExitCode is the exit code of a verdict under a policy.
func ExitCode(p Policy, v Verdict) int {
	switch {
	case v == Pass || slices.Contains(p.Green, v):
		return ExitPass
	case v == Invalid || v == Unjudged:
		return ExitBroken
	default:
		return ExitFail
	}
}

// summary names the first reasons behind the verdict.
func summary(checks []Check, v Verdict) string {
	var why []string
	waived := 0
	for _, c := range checks {
		if c.Waived != "" {
			waived++
		}
		if c.Verdict == v && v != Pass {
			why = append(why, c.Reason)
		}
	}
	s := fmt.Sprintf("%d checks held", len(checks))
	if v != Pass {
		s = strings.Join(why[:min(len(why), 3)], "; ")
	}
	if len(why) > 3 {
		s += fmt.Sprintf("; and %d more", len(why)-3)
	}
	if waived > 0 {
		s += fmt.Sprintf("; %d waived", waived)
	}
	return s
}

// Broken is the judgement about a record that cannot be read at all.
func Broken(id string, err error) Judged {
	c := Check{Name: "measurement.record", Group: Measurement, Verdict: Invalid, Reason: err.Error()}
	return Judged{Schema: JudgedVersion, Run: id, Verdict: Invalid, ExitCode: ExitBroken, Summary: c.Reason, Checks: []Check{c}}
}

// Check says in what a judgement contradicts itself: an answer that does not
// follow from its checks is no answer.
func (j Judged) Check() error {
	vs := make([]Verdict, len(j.Checks))
	for i, c := range j.Checks {
		vs[i] = c.Verdict
	}
	if want := Worst(vs...); j.Verdict != want {
		return fmt.Errorf("the judgement says %s, its checks make %s", j.Verdict, want)
	}
	if !slices.Contains(exitCodes(j.Verdict), j.ExitCode) {
		return fmt.Errorf("the judgement says %s and exit code %d, which do not go together", j.Verdict, j.ExitCode)
	}
	return nil
}

// exitCodes lists those that some policy gives a verdict.
func exitCodes(v Verdict) []int {
	switch v {
	case Inconclusive, NoBaseline:
		return []int{ExitPass, ExitFail}
	default:
		return []int{ExitCode(Policy{}, v)}
	}
}
