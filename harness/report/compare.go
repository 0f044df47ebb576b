package report

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

//go:embed compare.gohtml
var comparePage string

// ComparisonInput is a judged comparison and where its evidence lies.
type ComparisonInput struct {
	*record.Compared
	Dir string // as to be shown; "": not said
}

// ComparisonFormat is one way to show a comparison.
type ComparisonFormat struct {
	Name string
	File string // its name in the folder of the comparison; "": none
	show func(io.Writer, *comparisonView) error
}

func comparisonFormats() map[string]ComparisonFormat {
	out := map[string]ComparisonFormat{}
	for _, f := range []ComparisonFormat{
		{"console", "", compareConsole}, {"json", record.CompareFile, compareJSON},
		{"markdown", "report.md", compareMarkdown}, {"html", "report.html", compareHTML},
	} {
		out[f.Name] = f
	}
	return out
}

// ComparisonFormats reads a list of names, comma separated.
func ComparisonFormats(list string) ([]ComparisonFormat, error) {
	all := comparisonFormats()
	var out []ComparisonFormat
	for _, name := range strings.Split(list, ",") {
		f, ok := all[strings.TrimSpace(name)]
		if !ok {
			return nil, fmt.Errorf("report: no format of a comparison is named %q; have %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		out = append(out, f)
	}
	return out, nil
}

// ComparisonFiles are the formats that every folder of a comparison holds,
// compare.json last: where it is, all else is.
func ComparisonFiles() []ComparisonFormat {
	all := comparisonFormats()
	return []ComparisonFormat{all["markdown"], all["html"], all["json"]}
}

// Write shows the comparison. The same input gives the same bytes.
func (f ComparisonFormat) Write(w io.Writer, in ComparisonInput) error {
	out := &sticky{w: w}
	if err := errors.Join(f.show(out, &comparisonView{in}), out.err); err != nil {
		return fmt.Errorf("report %s: %w", f.Name, err)
	}
	return nil
}

// comparisonView words a comparison.
type comparisonView struct{ ComparisonInput }

// Mark is ✓ or what stands for the verdict.
func (v *comparisonView) Mark() string { return mark(v.verdict()) }

func (v *comparisonView) verdict() (x verdict.Verdict) {
	if x.UnmarshalText([]byte(v.Judged.Verdict)) != nil {
		return verdict.Unjudged
	}
	return x
}

// About are the lines that say what was compared, and how.
func (v *comparisonView) About() [][2]string {
	m := &v.Measured
	how := fmt.Sprintf("paired: turns of %v in seeded order (seed %d), both started anew in the other order between rounds", m.Plan.Slot, m.Plan.Seed)
	if m.Method == record.Unpaired {
		how = "unpaired: the base is a record; the spread of the candidate's own runs is the tolerance"
	}
	out := [][2]string{
		{"base", m.Base.Name()}, {"candidate", m.Candidate.Name()}, {"method", how},
		{"load", fmt.Sprintf("profile %s, %g requests/s, backends %s", m.Plan.Profile, m.Plan.Rate, orNone(m.Provider.Kind))},
		{"measured", fmt.Sprintf("%d rounds in %v of a budget of %v, %d requests to the base and %d to the candidate",
			len(m.Rounds), m.Ended.Sub(m.Started).Round(1e9), m.Plan.Budget, m.Base.Ledger.Offered, m.Candidate.Ledger.Offered)},
		{"certainty", fmt.Sprintf("at most %g %% chance of even one false alarm among all %d figures and %d looks (Holm); intervals hold with 95 %%",
			v.Judged.Alpha*100, len(v.Judged.Effects), max(1, len(m.Looks)))},
	}
	if len(m.Candidate.Faults) > 0 {
		out = append(out, [2]string{"harm", "before the candidate: " + strings.Join(m.Candidate.Faults, ", ")})
	}
	return append(out, [2]string{"environment", m.Env.Class})
}

// Row is one effect as words.
type Row struct {
	Figure, Base, Candidate, Change, Interval, Detectable, Margin, Outcome, Verdict string
}

// Rows are the effects: those of everything together first.
func (v *comparisonView) Rows() (out []Row) {
	for _, e := range v.Judged.Effects {
		out = append(out, rowOf(e))
	}
	return out
}

func rowOf(e record.Effect) Row {
	r := Row{
		Figure: e.Metric + " " + e.Of, Base: valued(e.Metric, e.Base), Candidate: valued(e.Metric, e.Candidate),
		Change: record.Change(e.Ratio), Interval: "none", Detectable: "nothing",
		Margin: fmt.Sprintf("%g %%", e.Margin*100), Outcome: e.Outcome, Verdict: e.Verdict,
	}
	if e.Required {
		r.Margin += " *"
	}
	if e.Lo != nil && e.Hi != nil {
		r.Interval = record.Change(*e.Lo) + " … " + record.Change(*e.Hi)
	}
	if e.Detectable != nil {
		r.Detectable = record.Change(1 + *e.Detectable)
	}
	return r
}

// valued words a value by the unit in the name of its metric.
func valued(metric string, v float64) string {
	switch {
	case strings.HasSuffix(metric, "_ms"):
		return fmt.Sprintf("%.4g ms", v)
	case strings.HasSuffix(metric, "_bytes"):
		return bytesText(v)
	case strings.HasPrefix(metric, "cpu_us"):
		return fmt.Sprintf("%.4g µs", v)
	}
	return fmt.Sprintf("%.4g", v)
}

// Bars place each effect on a scale of twice the margin to both sides, in per cent
// of its width.
func (v *comparisonView) Bars() (out []bar) {
	for _, e := range v.Judged.Effects {
		b := bar{Row: rowOf(e), Reason: e.Reason}
		if e.Lo != nil && e.Hi != nil {
			at := func(ratio float64) float64 {
				return min(100, max(0, 50+(ratio-1)/e.Margin*25))
			}
			b.Left, b.Mid = at(*e.Lo), at(e.Ratio)
			b.Width = max(0.5, at(*e.Hi)-b.Left)
			b.Has = true
		}
		out = append(out, b)
	}
	return out
}

type bar struct {
	Row
	Reason           string
	Has              bool
	Left, Width, Mid float64
}

func compareConsole(w io.Writer, v *comparisonView) error {
	fmt.Fprintf(w, "%s (exit %d): %s\n", strings.ToUpper(v.Judged.Verdict), v.Judged.ExitCode, v.Judged.Summary)
	for _, l := range v.About() {
		fmt.Fprintf(w, "%-12s  %s\n", l[0], l[1])
	}
	for _, why := range v.Judged.Checks {
		fmt.Fprintf(w, "%-12s  %s\n", "finding", oneLine(why, 400))
	}
	for _, n := range v.Measured.Notes {
		fmt.Fprintf(w, "%-12s  %s\n", "note", n)
	}
	fmt.Fprintf(w, "\n%-32s %12s %12s %9s  %-23s %11s %8s  %s\n", "figure", "base", "candidate", "change", "95 % interval", "would see", "margin", "outcome")
	hidden := 0
	for i, r := range v.Rows() {
		if e := v.Judged.Effects[i]; e.Of != load.All && e.Verdict == verdict.Pass.String() {
			hidden++
			continue
		}
		fmt.Fprintf(w, "%-32s %12s %12s %9s  %-23s %11s %8s  %s\n", r.Figure, r.Base, r.Candidate, r.Change, r.Interval, r.Detectable, r.Margin, r.Outcome)
	}
	fmt.Fprintf(w, "%d more, of single classes and processes, held; * must be shown not to be slower\n", hidden)
	if v.Dir != "" {
		fmt.Fprintf(w, "%-12s  %s (compare.json, report.html, slots.jsonl, logs)\n", "evidence", v.Dir)
	}
	return nil
}

func compareJSON(w io.Writer, v *comparisonView) error {
	b, err := record.EncodeCompared(v.Compared)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func compareMarkdown(w io.Writer, v *comparisonView) error {
	fmt.Fprintf(w, "## %s plumbline compare: %s\n\n%s\n\n", v.Mark(), md(v.Judged.Verdict), md(v.Judged.Summary))
	for _, l := range v.About() {
		fmt.Fprintf(w, "- %s: %s\n", l[0], md(l[1]))
	}
	for _, why := range slices.Concat(v.Judged.Checks, v.Measured.Notes) {
		fmt.Fprintf(w, "\n> %s\n", md(why))
	}
	fmt.Fprint(w, "\n| figure | base | candidate | change | 95 % interval | would have seen | margin | outcome | verdict |\n| --- | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |\n")
	for _, r := range v.Rows() {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", md(r.Figure), md(r.Base), md(r.Candidate), md(r.Change), md(r.Interval), md(r.Detectable), md(r.Margin), md(r.Outcome), md(r.Verdict))
	}
	fmt.Fprint(w, "\nRatios are candidate / base. \\* must be shown not to be slower than the margin.\n")
	return nil
}

func compareHTML(w io.Writer, v *comparisonView) error {
	t, err := template.New("compare").Parse(comparePage)
	if err != nil {
		return err
	}
	return t.Execute(w, v)
}
