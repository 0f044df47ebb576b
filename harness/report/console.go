package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/verdict"
)

// consoleLines and consoleWidth are what fits a terminal without scrolling.
const (
	consoleLines = 60
	consoleWidth = 160
)

// console writes at most consoleLines lines: verdict, checks, figures, where
// the evidence is, what to do next.
func console(w io.Writer, in *Input) error {
	v := newView(in)
	head, foot := consoleHead(v), consoleFoot(v)
	checks := consoleChecks(v.Groups, consoleLines-len(head)-len(foot))
	for _, part := range [][]string{head, checks, foot} {
		for _, line := range part {
			fmt.Fprintln(w, strings.TrimRight(oneLineKeep(line), " "))
		}
	}
	return nil
}

// oneLineKeep is oneLine that leaves indentation and columns alone.
func oneLineKeep(s string) string {
	body := strings.TrimLeft(s, " ")
	lead := s[:len(s)-len(body)] // also the empty name of a line that goes on
	name, rest, columns := strings.Cut(body, "  ")
	if !columns {
		return lead + oneLine(body, consoleWidth)
	}
	gap := len(rest) - len(strings.TrimLeft(rest, " ")) + 2
	return lead + oneLine(name, consoleWidth) + strings.Repeat(" ", gap) + oneLine(rest, consoleWidth)
}

func consoleHead(v *view) []string {
	out := []string{fmt.Sprintf("%s (exit %d): %s", strings.ToUpper(v.Judged.Verdict.String()), v.Judged.ExitCode, v.Judged.Summary)}
	if v.Run == nil {
		return append(out, "run "+v.Judged.Run+": its record could not be read", "")
	}
	backends := orNone(v.R.Provider.Kind)
	if v.R.Provider.Reason != "" {
		backends += " (" + v.R.Provider.Reason + ")"
	}
	out = append(out, fmt.Sprintf("run %s: profile %s, SUT %s, backends %s, seed %d",
		v.R.ID, orNone(v.R.Plan.Profile), orNone(v.R.SUT.Name), backends, v.R.Plan.Seed))
	out = append(out, fmt.Sprintf("commit %s, environment %s, base %s",
		orNone(v.R.Commit.String()), orNone(v.R.Env.Class), orNone(v.Judged.Base)))
	if v.R.Partial {
		out = append(out, "PARTIAL: "+v.R.PartialReason)
	}
	return append(out, "")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// consoleChecks gives each group a line, then what did not pass, as far as
// room lines allow, and says how much was left out.
func consoleChecks(gs []group, room int) []string {
	out := []string{"checks"}
	for _, g := range gs {
		out = append(out, fmt.Sprintf("  %s %-12s  %s", mark(g.Verdict), g.Name, g.Tally()))
	}
	if len(gs) == 0 {
		out = append(out, "  none were made")
	}
	var news [][]string
	for _, g := range gs {
		for _, c := range g.Checks {
			if c.Verdict != verdict.Pass || c.Waived != "" {
				news = append(news, consoleCheck(c))
			}
		}
	}
	if len(news) > 0 {
		out = append(out, "findings")
	}
	return append(fit(out, news, room-1), "")
}

// fit adds whole checks while they fit, then shortened to their first line.
// Where even that is too much, it adds first lines and says how many there are.
func fit(out []string, news [][]string, room int) []string {
	left := len(news)
	if left > room-len(out) {
		for _, lines := range news[:max(0, room-len(out)-1)] {
			out = append(out, lines[0])
		}
		return append(out[:min(len(out), room-1)], fmt.Sprintf("  … and more: %d findings in all, see report.md", left))
	}
	for _, lines := range news {
		free := room - len(out) - left // each check still to come keeps a line
		switch {
		case free >= len(lines)-1:
			out = append(out, lines...)
		default:
			out = append(out, lines[0])
		}
		left--
	}
	return out
}

// consoleDetails is how many details of one check a terminal shows.
const consoleDetails = 3

func consoleCheck(c verdict.Check) []string {
	line := fmt.Sprintf("  %s %s: %s", mark(c.Verdict), c.Name, c.Reason)
	if at := newPlace(c); at != "" {
		line += " (" + at + ")"
	}
	if c.Waived != "" {
		line += "; waived: " + c.Waived
	}
	out := []string{line}
	details := newDetails(c)
	for i, d := range details {
		if i == consoleDetails {
			return append(out, fmt.Sprintf("      … and %d more", len(details)-i))
		}
		out = append(out, "      "+d)
	}
	return out
}

// newDetails leaves out what the reason has said already.
func newDetails(c verdict.Check) []string {
	return slices.DeleteFunc(slices.Clone(c.Details), func(d string) bool { return strings.Contains(c.Reason, d) })
}

// mark is a sign that needs no colour.
func mark(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return "✓"
	case verdict.Fail:
		return "✗"
	case verdict.Invalid:
		return "!"
	}
	return "?"
}

func consoleFoot(v *view) []string {
	out := consoleFigures(v)
	if v.Dir != "" {
		out = append(out, "evidence  "+v.Dir+" (report.html, run.json, logs, profiles)")
	}
	for _, n := range v.R.Notes[:min(len(v.R.Notes), 5)] {
		out = append(out, "note      "+n)
	}
	for _, n := range v.Next {
		out = append(out, "next      "+n)
	}
	return out
}

// consoleFigures gives each group of figures a line, or more where they are long.
func consoleFigures(v *view) []string {
	if v.Run == nil {
		return nil
	}
	out := []string{"figures"}
	for _, g := range v.Figures {
		if g.Name == "more" {
			continue
		}
		name := g.Name
		for _, line := range figureLines(g) {
			out = append(out, fmt.Sprintf("  %-12s  %s", name, line))
			name = ""
		}
	}
	return append(out, "")
}

// figureWidth is where a line of figures is broken.
const figureWidth = 110

// figureLines words a group; a reason that all share is given once.
func figureLines(g figureGroup) []string {
	if why := sharedReason(g); why != "" {
		return []string{"not measured: " + why}
	}
	var lines []string
	for _, f := range g.Figures {
		text, last := figureText(f), len(lines)-1
		if last >= 0 && len(lines[last])+len(text) < figureWidth {
			lines[last] += ", " + text
		} else {
			lines = append(lines, text)
		}
	}
	return lines
}

func sharedReason(g figureGroup) string {
	for _, f := range g.Figures {
		if f.Value != "" || f.Reason != g.Figures[0].Reason {
			return ""
		}
	}
	return g.Figures[0].Reason
}

func figureText(f figure) string {
	if f.Value == "" {
		return fmt.Sprintf("%s not measured: %s", f.Label, f.Reason)
	}
	s := f.Label + " " + f.Value
	var extra []string
	if f.Limit != "" {
		extra = append(extra, "limit "+f.Limit)
	}
	if f.Base != "" && f.Base != f.Value {
		extra = append(extra, strings.TrimSpace("base "+f.Base+" "+f.Delta))
	}
	if extra = append(extra, f.Warnings...); len(extra) > 0 {
		s += " (" + strings.Join(extra, "; ") + ")"
	}
	return s
}
