package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// view is what several formats show, worded once.
type view struct {
	*Input
	R       *record.Run // never nil
	Groups  []group
	Figures []figureGroup
	Changes []complexity.Change // against BaseFuncs; nil: nothing to compare with
	Next    []string            // what to do now
}

// group is the checks of one subject, worst first.
type group struct {
	Name    string
	Verdict verdict.Verdict
	Checks  []verdict.Check
}

// figureGroup is a line of figures on one subject.
type figureGroup struct {
	Name    string
	Figures []figure
}

// figure is one metric in words. Value is "" when it was not measured, and
// Reason then says why.
type figure struct {
	Name     string // in the record
	Label    string
	Value    string
	Reason   string
	Limit    string // of the check about it
	Base     string
	Delta    string // of candidate against base, in per cent
	Warnings []string
	Bad      bool // its check did not pass
}

func newView(in *Input) *view {
	v := &view{Input: in, R: in.Run}
	if v.R == nil {
		v.R = &record.Run{ID: in.Judged.Run}
	}
	v.Groups = groups(in.Judged.Checks)
	v.Figures = figures(v)
	v.Changes = changes(in)
	v.Next = next(v)
	return v
}

// badness orders verdicts for showing, worst first.
func badness(v verdict.Verdict) int {
	order := []verdict.Verdict{
		verdict.Invalid, verdict.Fail, verdict.Unjudged, verdict.Inconclusive, verdict.NoBaseline, verdict.Pass,
	}
	return slices.Index(order, v)
}

func worstFirst(cs []verdict.Check) []verdict.Check {
	return slices.SortedStableFunc(slices.Values(cs), func(a, b verdict.Check) int {
		return cmp.Compare(badness(a.Verdict), badness(b.Verdict))
	})
}

// groups keeps the order in which the judge met each group.
func groups(cs []verdict.Check) []group {
	var names []string
	by := map[string][]verdict.Check{}
	for _, c := range cs {
		if by[c.Group] == nil {
			names = append(names, c.Group)
		}
		by[c.Group] = append(by[c.Group], c)
	}
	out := make([]group, len(names))
	for i, n := range names {
		sorted := worstFirst(by[n])
		var vs []verdict.Verdict
		for _, c := range sorted {
			vs = append(vs, c.Verdict)
		}
		out[i] = group{Name: n, Verdict: verdict.Worst(vs...), Checks: sorted}
	}
	return out
}

// Tally says in words how the checks of a group went: "2 of 5 fail".
func (g group) Tally() string {
	n := 0
	for _, c := range g.Checks {
		if c.Verdict == g.Verdict {
			n++
		}
	}
	if n == len(g.Checks) {
		return fmt.Sprintf("%d %s", n, g.Verdict)
	}
	return fmt.Sprintf("%d of %d %s", n, len(g.Checks), g.Verdict)
}

// place is where a check points to, "" for nowhere.
func place(c verdict.Check) string {
	switch {
	case c.File == "":
		return ""
	case c.Line < 1:
		return c.File
	}
	return fmt.Sprintf("%s:%d", c.File, c.Line)
}

// newPlace is place, unless the reason names it already.
func newPlace(c verdict.Check) string {
	if at := place(c); !strings.Contains(c.Reason, at) {
		return at
	}
	return ""
}

type label struct{ metric, text string }

type figureSpec struct {
	name   string
	labels []label
}

func figureSpecs() []figureSpec {
	return []figureSpec{
		{"contract", []label{{record.ContractPassed, "passed"}, {record.ContractFailed, "failed"}, {record.ContractSkipped, "skipped"}}},
		{"fidelity", []label{{record.FidelityShare, "scenarios that agree with embedded servers"}}},
		{"requests", []label{{record.Offered, "offered"}, {record.Answered, "answered"}, {record.Rejected, "rejected"}, {record.Dropped, "dropped"}}},
		{"stored", []label{{record.Lost, "lost"}, {record.Duplicates, "duplicates"}, {record.Orphans, "orphans"}}},
		{"latency", []label{{record.P50, "p50"}, {record.P95, "p95"}, {record.P99, "p99"}, {record.P999, "p99.9"}}},
		{"rate", []label{{record.Throughput, "throughput"}, {record.GeneratorLagP99, "generator lag p99"}}},
		{"memory", []label{{record.HeapPeak, "heap peak"}, {record.HeapCap, "heap cap"}, {record.RSSPeak, "RSS peak"},
			{record.HeapHeadroom, "headroom"}, {record.GCShare, "GC share of CPU"}, {record.HeapSlope, "heap growth"}, {record.HeapSlopeLo, "of that at least"}, {record.HeapSlopeHi, "at most"}}},
		{"complexity", []label{{record.ComplexityMax, "largest CC"}, {record.ComplexityOver, "functions over the limit"}}},
	}
}

// figures words every derived metric, and after them what else was measured.
func figures(v *view) []figureGroup {
	var out []figureGroup
	known := map[string]bool{}
	for _, s := range figureSpecs() {
		g := figureGroup{Name: s.name}
		for _, l := range s.labels {
			known[l.metric] = true
			g.Figures = append(g.Figures, v.figure(l.metric, l.text))
		}
		out = append(out, g)
	}
	more := figureGroup{Name: "more"}
	for _, name := range slices.Sorted(maps.Keys(v.R.Metrics)) {
		if !known[name] {
			more.Figures = append(more.Figures, v.figure(name, strings.ReplaceAll(name, "_", " ")))
		}
	}
	if len(more.Figures) > 0 {
		out = append(out, more)
	}
	return out
}

func (v *view) figure(name, label string) figure {
	f := figure{Name: name, Label: label}
	m, err := v.R.Metrics.Get(name)
	if err != nil {
		f.Reason = cmp.Or(v.R.Absent[name], v.R.PartialReason, "the record gives no reason")
		return f
	}
	f.Value, f.Warnings = amount(m.Value, m.Unit), m.Warnings
	if v.Base != nil {
		if b, err := v.Base.Metrics.Get(name); err == nil {
			f.Base, f.Delta = amount(b.Value, b.Unit), percent(b.Value, m.Value)
		}
	}
	if c := v.checkOf(name); c != nil {
		f.Limit, f.Bad = c.Limit, c.Verdict != verdict.Pass
	}
	return f
}

// checkOf finds the check about a metric: its limit is shown beside the value.
func (v *view) checkOf(metric string) *verdict.Check {
	names := map[string]string{
		record.ContractPassed: "contract.passed", record.Dropped: "measurement.dropped", record.Lost: "loss.lost",
		record.Duplicates: "loss.duplicates", record.Orphans: "loss.orphans", record.HeapPeak: "memory.heap",
		record.HeapHeadroom: "memory.headroom", record.GCShare: "memory.gc", record.HeapSlope: "memory.leak",
		record.GeneratorLagP99: "measurement.generator", record.ComplexityMax: "complexity.limit", record.FidelityShare: "fidelity.share",
	}
	want := cmp.Or(names[metric], "latency."+metric)
	var found *verdict.Check
	for i := range v.Judged.Checks {
		c := &v.Judged.Checks[i]
		about := c.Name == want || strings.HasPrefix(c.Name, want+".")
		if about && (found == nil || badness(c.Verdict) < badness(found.Verdict)) {
			found = c
		}
	}
	return found
}

// changes compares every function with the accepted snapshot.
func changes(in *Input) []complexity.Change {
	base := in.BaseFuncs
	if base == nil && in.Base != nil && in.Base.Complexity != nil {
		base = in.Base.Complexity.Funcs
	}
	if base == nil || in.Run == nil || in.Run.Complexity == nil {
		return nil
	}
	return complexity.Compare(base, in.Run.Complexity.Funcs)
}

// notSame keeps what changed, the worst news first.
func notSame(cs []complexity.Change) []complexity.Change {
	order := []complexity.Status{complexity.Worse, complexity.New, complexity.Better, complexity.Renamed, complexity.Moved, complexity.Removed}
	out := slices.DeleteFunc(slices.Clone(cs), func(c complexity.Change) bool { return c.Status == complexity.Same })
	slices.SortStableFunc(out, func(a, b complexity.Change) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Status), slices.Index(order, b.Status)), cmp.Compare(b.Func().CC, a.Func().CC))
	})
	return out
}

// next says what a reader does now, by the verdict.
func next(v *view) []string {
	var out []string
	switch v.Judged.Verdict {
	case verdict.Pass:
		out = append(out, "nothing: it may ship")
	case verdict.Fail:
		out = append(out, "mend what failed, then run again; a known failure needs a waiver with a reason and an end date in the policy")
	case verdict.Invalid:
		out = append(out, "mend the measurement, not the SUT, and run again: no number of this run may be read")
	case verdict.Inconclusive:
		out = append(out, "measure longer, or on a quieter machine: this run can neither blame nor clear the build")
	case verdict.NoBaseline:
		out = append(out, "accept this run as the baseline of this machine class: make accept REASON='…'")
	default:
		out = append(out, "judge the record first: plumbline judge")
	}
	if v.Judged.Verdict != verdict.NoBaseline && missesBaseline(v.Judged.Checks) {
		out = append(out, "accept a baseline to compare the next run with: make accept REASON='…'")
	}
	return out
}

func missesBaseline(cs []verdict.Check) bool {
	return slices.ContainsFunc(cs, func(c verdict.Check) bool { return c.Verdict == verdict.NoBaseline })
}
