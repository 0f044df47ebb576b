package verdict

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/stat"
)

// PairedPolicy says when a difference between two builds that were measured
// side by side counts.
type PairedPolicy struct {
	// Alpha is the chance accepted of even one false alarm in a comparison,
	// among all metrics, endpoints and looks.
	Alpha   float64           `json:"alpha"`
	Metrics map[string]Margin `json:"metrics"` // by metric: p50_ms, cpu_us_per_request, …
	// UndecidedIsGreen lists the profiles in which it is enough that nothing was
	// seen: what is required and undecided passes there.
	UndecidedIsGreen []string `json:"undecided_is_green"`
}

// Margin is the least care of one metric.
type Margin struct {
	Ratio float64 `json:"ratio"` // 0.02: two per cent
	// Required names the endpoints or processes of which it must be shown that
	// the candidate is not worse by more than the margin. Of others it is
	// enough that nothing was seen, and the answer says what would have been.
	Required []string `json:"required,omitempty"`
}

// defaultPaired holds where a policy says nothing.
func defaultPaired() PairedPolicy {
	all := []string{load.All}
	return PairedPolicy{Alpha: 0.01, Metrics: map[string]Margin{
		"p50_ms": {Ratio: 0.02, Required: all}, "mean_ms": {Ratio: 0.03}, "p90_ms": {Ratio: 0.03},
		"p95_ms": {Ratio: 0.05}, "p99_ms": {Ratio: 0.1},
		"cpu_us_per_request": {Ratio: 0.03, Required: all}, "allocs_per_request": {Ratio: 0.02, Required: all},
		"heap_peak_bytes": {Ratio: 0.15},
	}}
}

func (p Policy) paired() PairedPolicy {
	if p.Comparison.Paired == nil {
		return defaultPaired()
	}
	return *p.Comparison.Paired
}

func (p *PairedPolicy) check() (errs []error) {
	if p == nil {
		return nil
	}
	if !(p.Alpha > 0 && p.Alpha < 0.5) {
		errs = append(errs, fmt.Errorf("comparison.paired.alpha must lie between 0 and 0.5"))
	}
	if len(p.Metrics) == 0 {
		errs = append(errs, fmt.Errorf("comparison.paired.metrics names no metric"))
	}
	known := defaultPaired().Metrics
	for _, name := range slices.Sorted(maps.Keys(p.Metrics)) {
		if _, ok := known[name]; !ok {
			errs = append(errs, fmt.Errorf("comparison.paired.metrics: %s is not compared; have %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
		}
		if m := p.Metrics[name]; !(m.Ratio > 0 && m.Ratio < 10) {
			errs = append(errs, fmt.Errorf("comparison.paired.metrics.%s.ratio: %g is no margin; 0.02 is two per cent", name, m.Ratio))
		}
	}
	return errs
}

// Compare answers whether the candidate of a comparison is worse than its base.
// It is pure.
func Compare(p Policy, c *record.Comparison) record.Effects {
	return compareFor(p, c, c.Plan.Profile)
}

// compareFor is Compare in the gate of a profile, which may ask for less.
func compareFor(p Policy, c *record.Comparison, profile string) record.Effects {
	paired := p.paired()
	if !slices.Contains(paired.UndecidedIsGreen, profile) {
		paired.UndecidedIsGreen = nil
	}
	out := record.Effects{Alpha: paired.Alpha}
	checks := soundness(p, c)
	v := Pass
	for _, k := range checks {
		v = Worst(v, k.Verdict)
		out.Checks = append(out.Checks, k.Reason)
	}
	effects, err := effectsOf(paired, c)
	if err != nil {
		v = Worst(v, Invalid)
		out.Checks = append(out.Checks, err.Error())
	}
	out.Effects = effects
	if len(effects) == 0 {
		v = Worst(v, Invalid)
	}
	for _, e := range effects {
		v = Worst(v, verdictOf(e.Verdict))
	}
	out.Verdict, out.ExitCode = v.String(), ExitCode(p, v)
	out.Summary = compareSummary(c, out, v)
	return out
}

func verdictOf(text string) (v Verdict) {
	if v.UnmarshalText([]byte(text)) != nil {
		return Unjudged
	}
	return v
}

// soundness holds the measurement itself to account: only what is wrong.
func soundness(p Policy, c *record.Comparison) (out []Check) {
	bad := func(when bool, v Verdict, format string, args ...any) {
		if when {
			out = append(out, Check{Verdict: v, Reason: fmt.Sprintf(format, args...)})
		}
	}
	bad(c.Base.Died != "", Invalid, "the base died: %s", c.Base.Died)
	bad(c.Candidate.Died != "", Fail, "the candidate died, the base did not: %s", c.Candidate.Died)
	bad(c.Partial && c.Candidate.Died == "", Invalid, "cut short: %s", c.PartialReason)
	lag := 0.0
	for _, r := range c.Rounds {
		lag = max(lag, r.Generator.P99)
	}
	bad(lag > p.Measurement.GeneratorLagP99, Invalid, "the generator was %s late at p99 in a round, %s is allowed: nothing may be concluded about the builds", ms(lag), ms(p.Measurement.GeneratorLagP99))
	for _, side := range []struct {
		name string
		arm  record.Arm
		v    Verdict
	}{{"base", c.Base, Invalid}, {"candidate", c.Candidate, Fail}} {
		l := side.arm.Ledger
		bad(l.Lost+l.Unexpected+l.Dropped > 0, side.v, "of %d requests to the %s %d were lost, %d answered unexpectedly, %d found no sender: %s",
			l.Offered, side.name, l.Lost, l.Unexpected, l.Dropped, reasons(side.arm.Reasons))
	}
	return out
}

func reasons(by map[string]int64) string {
	var out []string
	for _, why := range slices.Sorted(maps.Keys(by)) {
		out = append(out, fmt.Sprintf("%d × %s", by[why], why))
	}
	return orElse(strings.Join(out, ", "), "no reason is known")
}

// effectsOf compares every metric of every endpoint that has a margin.
func effectsOf(p PairedPolicy, c *record.Comparison) ([]record.Effect, error) {
	var family []stat.Pairing
	for _, name := range figuresOf(c) {
		metric, _, _ := strings.Cut(name, "/")
		m, ok := p.Metrics[metric]
		if q := pairing(c, name, m.Ratio); ok && len(q.Base) > 0 {
			family = append(family, q)
		}
	}
	if len(family) == 0 {
		return nil, nil
	}
	looks := c.Looks
	if len(looks) == 0 {
		looks = []float64{1}
	}
	duels, err := stat.Duels(family, stat.Looking{Alpha: p.Alpha, At: looks})
	if err != nil {
		return nil, err
	}
	out := make([]record.Effect, len(duels))
	for i, d := range duels {
		out[i] = p.effect(family[i], d)
	}
	return out, nil
}

// pairing takes the rounds in which both sides have the figure.
func pairing(c *record.Comparison, name string, margin float64) stat.Pairing {
	q := stat.Pairing{Name: name, Margin: margin, Once: c.Method == record.Unpaired}
	for _, r := range c.Rounds {
		if b, x := r.Base[name], r.Candidate[name]; b > 0 && x > 0 {
			q.Base, q.Candidate = append(q.Base, b), append(q.Candidate, x)
		}
	}
	return q
}

// figuresOf lists metric/of of all rounds: the metrics in their usual order, all
// before its parts.
func figuresOf(c *record.Comparison) []string {
	seen := map[string]bool{}
	for _, r := range c.Rounds {
		for name := range r.Candidate {
			seen[name] = true
		}
	}
	order := []string{"p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "cpu_us_per_request", "allocs_per_request", "heap_peak_bytes"}
	return slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		am, aOf, _ := strings.Cut(a, "/")
		bm, bOf, _ := strings.Cut(b, "/")
		first := func(of string) int {
			if of == load.All {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(first(aOf), first(bOf)), cmp.Compare(aOf, bOf), cmp.Compare(slices.Index(order, am), slices.Index(order, bm)), cmp.Compare(am, bm))
	})
}

func (p PairedPolicy) effect(q stat.Pairing, d stat.Duel) record.Effect {
	metric, of, _ := strings.Cut(q.Name, "/")
	e := record.Effect{
		Metric: metric, Of: of, Base: d.Base, Candidate: d.Candidate, Rounds: d.Rounds,
		Ratio: d.Ratio, P: d.P, Holm: d.Holm, Margin: q.Margin, Missing: d.Missing, Outcome: d.Outcome.String(),
		Required: slices.Contains(p.Metrics[metric].Required, of),
	}
	if d.Bounded {
		e.Lo, e.Hi, e.Upper, e.Detectable = &d.Lo, finiteOr(d.Hi), finiteOr(d.Upper), finiteOr(d.Detectable)
	}
	v := Pass
	switch {
	case d.Outcome == stat.Slower:
		v = Fail
	case d.Outcome == stat.Undecided && e.Required && p.UndecidedIsGreen == nil:
		v = Inconclusive
	}
	e.Verdict, e.Reason = v.String(), e.Words()
	return e
}

// finiteOr leaves out what two rounds of great noise cannot bound.
func finiteOr(x float64) *float64 {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return nil
	}
	return &x
}

// compareSummary is the answer in one line.
func compareSummary(c *record.Comparison, out record.Effects, v Verdict) string {
	var why []string
	if v != Pass {
		why = append(why, out.Checks...)
	}
	var open []string
	for _, e := range out.Effects {
		switch e.Verdict {
		case Fail.String():
			why = append(why, e.Reason)
		case Inconclusive.String():
			open = append(open, e.Reason)
		}
	}
	if v == Inconclusive {
		why = append(why, open...)
	}
	if len(why) == 0 {
		return fmt.Sprintf("%s is not slower than %s: %d figures compared over %d rounds", c.Candidate.Name(), c.Base.Name(), len(out.Effects), len(c.Rounds))
	}
	s := strings.Join(why[:min(3, len(why))], "; ")
	if len(why) > 3 {
		s += fmt.Sprintf("; and %d more", len(why)-3)
	}
	return s
}

// Clear tells, while a comparison goes on, whether it may end: something is
// slower, or every figure of everything together is decided.
func Clear(p Policy, c *record.Comparison) bool {
	out := Compare(p, c)
	open := len(out.Effects) == 0
	for _, e := range out.Effects {
		if e.Verdict == Fail.String() {
			return true
		}
		open = open || (e.Of == load.All && e.Outcome == stat.Undecided.String())
	}
	return !open
}

// Slowed tells whether a figure of time, latency or CPU, is worse.
func Slowed(p Policy, c *record.Comparison) bool {
	return slices.ContainsFunc(Compare(p, c).Effects, func(e record.Effect) bool {
		time := strings.HasSuffix(e.Metric, "_ms") || strings.HasPrefix(e.Metric, "cpu_")
		return time && e.Verdict == Fail.String()
	})
}

// paired puts the effects of the builds that were measured side by side. It
// tells whether they were; where they were not, the stored record serves.
func (j *judge) paired() bool {
	c := j.cand.Paired
	if c == nil {
		return false
	}
	out := compareFor(j.policy, c, j.cand.Plan.Profile)
	if v := verdictOf(out.Verdict); v == Invalid || v == Unjudged {
		j.add(Check{
			Name: "baseline.paired", Group: Baseline, Verdict: NoBaseline, Base: c.Base.Name(),
			Reason: "the builds could not be measured side by side, so the stored record serves: " + out.Summary,
		})
		return false
	}
	for _, why := range out.Checks {
		j.add(Check{Name: "baseline.paired", Group: Baseline, Verdict: Fail, Base: c.Base.Name(), Reason: why})
	}
	for _, e := range out.Effects {
		j.add(pairedCheck(e))
	}
	return true
}

func pairedCheck(e record.Effect) Check {
	name := "baseline.paired." + e.Metric
	if e.Of != load.All {
		name += "/" + e.Of
	}
	return Check{
		Name: name, Group: Baseline, Verdict: verdictOf(e.Verdict), Value: fmt.Sprintf("%.4g", e.Candidate), Base: fmt.Sprintf("%.4g", e.Base),
		Limit: fmt.Sprintf("+%g %%", e.Margin*100), Reason: "side by side, " + e.Reason,
	}
}
