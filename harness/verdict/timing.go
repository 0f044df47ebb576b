package verdict

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/stat"
)

// comparison is one metric compared second by second.
type comparison struct {
	name     string
	care     float64 // least care, ms
	question stat.Question
	answer   stat.Answer
}

// timing compares the quantiles of every second of the window with those of the
// base. One metric regressed when its shift is beyond chance (Holm over the
// metrics) and even the kind end of its interval is beyond the least care.
func (j *judge) timing(b *record.Run) {
	var family []comparison
	for _, name := range slices.Sorted(maps.Keys(j.policy.Comparison.Metrics)) {
		c, err := j.compare(name, b, j.cand)
		if err != nil {
			j.add(Check{Name: "baseline." + name, Group: Baseline, Verdict: Inconclusive, Reason: fmt.Sprintf("%s cannot be compared with %s: %v", name, b.ID, err)})
			continue
		}
		family = append(family, c)
	}
	ps := make([]float64, len(family))
	for i, c := range family {
		ps[i] = c.answer.P
	}
	corrected, err := stat.Holm(ps)
	if err != nil {
		j.add(Check{Name: "baseline.timing", Group: Baseline, Verdict: Inconclusive, Reason: err.Error()})
		return
	}
	for i, c := range family {
		c.answer.P = corrected[i]
		j.add(c.check(b.ID))
	}
}

func (j *judge) compare(name string, base, cand *record.Run) (comparison, error) {
	c := comparison{name: name, question: stat.Question{Alpha: j.policy.Comparison.Alpha, Worse: stat.HigherIsWorse}}
	was, is := perSecond(name, base), perSecond(name, cand)
	var err error
	if c.answer, err = stat.Compare(was, is, c.question); err != nil {
		return c, err
	}
	c.care = j.policy.Comparison.Metrics[name].of(c.answer.Base)
	if c.answer.Base > 0 {
		c.question.LeastCare = c.care / c.answer.Base
	}
	return c, nil
}

// perSecond takes the metric of each second that has answers.
func perSecond(name string, r *record.Run) (out []float64) {
	of := sampled[name]
	for _, s := range r.Load.Seconds {
		if s.Answered > 0 && !touched(r.Outages, s.At) {
			out = append(out, of(s))
		}
	}
	return out
}

func (c comparison) check(base string) Check {
	a := c.answer
	out := Check{
		Name: "baseline." + c.name, Group: Baseline, Value: ms(a.Candidate), Base: ms(a.Base), Limit: "+" + ms(c.care),
		Reason: fmt.Sprintf("%s is %s, in %s it was %s; shift %+.3g ms (%+.3g to %+.3g), care begins at %s",
			c.name, ms(a.Candidate), base, ms(a.Base), a.Shift, a.Lo, a.Hi, ms(c.care)),
	}
	switch {
	case c.question.Regressed(a):
		out.Verdict = Fail
		out.Reason = "regressed: " + out.Reason
	case !a.Bounded:
		out.Verdict = Inconclusive
		out.Reason += "; " + strings.Join(a.Warnings, "; ")
	case a.Shift > c.care:
		// It looks worse, but chance cannot be ruled out.
		out.Verdict = Inconclusive
		out.Reason += "; too noisy to tell, measure again or longer"
	default:
		out.Verdict = Pass
		if !c.question.NoWorse(a) {
			out.Reason += "; a worse shift is not ruled out"
		}
	}
	return out
}
