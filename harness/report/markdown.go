package report

import (
	"fmt"
	"io"
	"strings"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// markdownRows bounds the tables that could grow without end: a comment on a
// pull request holds 65,536 characters.
const markdownRows = 50

// markdown writes for a pull request or a phase report (GitHub's dialect).
func markdown(w io.Writer, in *Input) error {
	v := newView(in)
	fmt.Fprintf(w, "## %s plumbline: %s\n\n%s\n\n", mark(in.Judged.Verdict), in.Judged.Verdict, md(in.Judged.Summary))
	mdAbout(w, v)
	mdChecks(w, v)
	mdFigures(w, v)
	mdChanges(w, v)
	mdStory(w, in.BeforeAfter)
	mdScenarios(w, v.R.Contract)
	mdFidelity(w, v.R.Fidelity)
	fmt.Fprintln(w, "### Next")
	fmt.Fprintln(w)
	for _, n := range v.Next {
		fmt.Fprintf(w, "- %s\n", md(n))
	}
	if v.Dir != "" {
		fmt.Fprintf(w, "- the evidence is in %s\n", md(v.Dir))
	}
	return nil
}

func mdAbout(w io.Writer, v *view) {
	fmt.Fprintf(w, "Exit code %d, run %s", v.Judged.ExitCode, md(v.Judged.Run))
	if v.Run != nil {
		fmt.Fprintf(w, ", commit %s, profile %s, backends %s (%s), environment %s, base %s",
			md(orNone(v.R.Commit.String())), md(orNone(v.R.Plan.Profile)), md(orNone(v.R.Provider.Kind)),
			md(orNone(v.R.Provider.Reason)), md(orNone(v.R.Env.Class)), md(orNone(v.Judged.Base)))
	}
	fmt.Fprint(w, ".\n\n")
	if v.R.Partial {
		fmt.Fprintf(w, "**This run is partial:** %s\n\n", md(v.R.PartialReason))
	}
	for _, n := range v.R.Notes {
		fmt.Fprintf(w, "> %s\n\n", md(n))
	}
}

// md makes text from outside plain in Markdown and in a table cell: no markup,
// no HTML, no mention of people, no line break.
func md(s string) string {
	s = oneLine(s, 1000)
	var b strings.Builder
	for _, r := range s {
		switch r {
		case '&', '<', '>', '@', '#', '|':
			fmt.Fprintf(&b, "&#%d;", r)
		case '\\', '`', '*', '_', '{', '}', '[', ']', '!', '~', '$':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func mdTable(w io.Writer, head ...string) {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
}

// mdRow escapes every cell.
func mdRow(w io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = md(cells[i])
	}
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

func mdChecks(w io.Writer, v *view) {
	fmt.Fprint(w, "### Checks\n\n")
	mdTable(w, "", "group", "checks")
	for _, g := range v.Groups {
		mdRow(w, mark(g.Verdict), g.Name, g.Tally())
	}
	fmt.Fprintln(w)
	var news []verdict.Check
	for _, c := range worstFirst(v.Judged.Checks) {
		if c.Verdict != verdict.Pass || c.Waived != "" {
			news = append(news, c)
		}
	}
	for _, c := range news[:min(len(news), markdownRows)] {
		mdCheck(w, c)
	}
	if n := len(news) - markdownRows; n > 0 {
		fmt.Fprintf(w, "- … and %d more in judged.json\n", n)
	}
	if len(news) > 0 {
		fmt.Fprintln(w)
	}
}

func mdCheck(w io.Writer, c verdict.Check) {
	fmt.Fprintf(w, "- **%s** %s: %s", md(c.Verdict.String()), md(c.Name), md(c.Reason))
	if at := newPlace(c); at != "" {
		fmt.Fprintf(w, " (%s)", md(at))
	}
	if c.Waived != "" {
		fmt.Fprintf(w, "; waived: %s", md(c.Waived))
	}
	fmt.Fprintln(w)
	details := newDetails(c)
	for i, d := range details {
		if i == 10 {
			fmt.Fprintf(w, "  - … and %d more\n", len(details)-i)
			break
		}
		fmt.Fprintf(w, "  - %s\n", md(d))
	}
}

func mdFigures(w io.Writer, v *view) {
	fmt.Fprint(w, "### Figures\n\n")
	head := []string{"figure", "value", "limit"}
	if v.Base != nil {
		head = append(head, "base", "change")
	}
	mdTable(w, head...)
	for _, g := range v.Figures {
		for _, f := range g.Figures {
			cells := []string{g.Name + ": " + f.Label, figureValue(f), f.Limit}
			if v.Base != nil {
				cells = append(cells, f.Base, f.Delta)
			}
			mdRow(w, cells...)
		}
	}
	fmt.Fprintln(w)
}

// figureValue never shows an absent value as a number.
func figureValue(f figure) string {
	if f.Value == "" {
		return "not measured: " + f.Reason
	}
	if len(f.Warnings) > 0 {
		return f.Value + " (" + strings.Join(f.Warnings, "; ") + ")"
	}
	return f.Value
}

func mdChanges(w io.Writer, v *view) {
	if v.Changes == nil {
		return
	}
	news := notSame(v.Changes)
	fmt.Fprintf(w, "### Complexity against the accepted snapshot\n\n%s.\n\n", countLine(v.Changes))
	if len(news) == 0 {
		return
	}
	mdTable(w, "function", "where", "what", "before", "now")
	for _, c := range news[:min(len(news), markdownRows)] {
		f := c.Func()
		mdRow(w, f.Name, fmt.Sprintf("%s:%d", f.File, f.Line), changeWord(c), rankText(c.Base), rankText(c.Candidate))
	}
	fmt.Fprintln(w)
	if n := len(news) - markdownRows; n > 0 {
		fmt.Fprintf(w, "… and %d more.\n\n", n)
	}
}

// countLine tells how many functions went which way.
func countLine(cs []complexity.Change) string {
	n := complexity.Count(cs)
	var parts []string
	for _, s := range []complexity.Status{
		complexity.Worse, complexity.New, complexity.Better, complexity.Renamed, complexity.Moved, complexity.Removed, complexity.Same,
	} {
		parts = append(parts, fmt.Sprintf("%d %s", n[s], s))
	}
	return strings.Join(parts, ", ")
}

func changeWord(c complexity.Change) string {
	s := string(c.Status)
	if c.Moved || c.Renamed {
		s += fmt.Sprintf(" (was %s in %s)", c.Base.Name, c.Base.File)
	}
	return s
}

// rankText is a CC with its rank; a function that is not there has none.
func rankText(f *record.Func) string {
	if f == nil {
		return "–"
	}
	return fmt.Sprintf("%s %d", complexity.Rank(f.CC), f.CC)
}

func mdStory(w io.Writer, s *complexity.Story) {
	if s == nil {
		return
	}
	fmt.Fprint(w, "### The six functions that started this project\n\n")
	mdTable(w, append([]string{"what", "function"}, mdAll(s.Revisions)...)...)
	for _, r := range s.Rows {
		cells := []string{r.Label, r.Name}
		for _, f := range r.Funcs {
			cells = append(cells, storyText(f))
		}
		mdRow(w, cells...)
	}
	fmt.Fprintln(w)
	mdTable(w, append([]string{"revision", "functions"}, append(ranks(), "average", "largest")...)...)
	for i, t := range s.Totals {
		mdRow(w, append([]string{s.Revisions[i]}, totalCells(t)...)...)
	}
	fmt.Fprintln(w)
}

// storyText tells a function that is gone from one that was never there.
func storyText(f *record.Func) string {
	if f == nil {
		return "gone"
	}
	return rankText(f)
}

func mdAll(ss []string) []string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = md(s)
	}
	return out
}

func ranks() []string { return strings.Split(complexity.Ranks, "") }

// totalCells is functions, each rank, the average and the largest CC.
func totalCells(t complexity.Totals) []string {
	out := []string{fmt.Sprint(t.Functions)}
	for _, r := range ranks() {
		out = append(out, fmt.Sprint(t.Ranks[r]))
	}
	return append(out, fmt.Sprintf("%.2f", t.Average), fmt.Sprint(t.Max))
}

func mdScenarios(w io.Writer, all []record.Outcome) {
	var news []record.Outcome
	for _, o := range all {
		if o.Status != record.Passed {
			news = append(news, o)
		}
	}
	if len(news) == 0 {
		return
	}
	fmt.Fprintf(w, "<details><summary>%d of %d scenarios did not pass</summary>\n\n", len(news), len(all))
	mdTable(w, "scenario", "class", "status", "why")
	for _, o := range news[:min(len(news), markdownRows)] {
		mdRow(w, o.ID+" "+o.Title, o.Class, string(o.Status), strings.Join(append([]string{o.Reason}, stepLines(o)...), "; "))
	}
	if n := len(news) - markdownRows; n > 0 {
		mdRow(w, fmt.Sprintf("… and %d more", n), "", "", "")
	}
	fmt.Fprint(w, "\n</details>\n\n")
}
