package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/report"
	"qmtl.internal/plumbline/harness/verdict"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func inputs() map[string]func() *report.Input {
	return map[string]func() *report.Input{"failing": failing, "passing": passing, "cutshort": cutShort, "unreadable": unreadable}
}

func show(t *testing.T, format string, in *report.Input) []byte {
	t.Helper()
	f, err := report.Get(format)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := f(&b, in); err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	for name, input := range inputs() {
		for _, format := range report.Names() {
			t.Run(name+"/"+format, func(t *testing.T) {
				golden(t, filepath.Join("testdata", name+"."+format), show(t, format, input()))
			})
		}
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; rerun with: go test ./harness/report -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed; if that was meant, rerun with: go test ./harness/report -update\n-want +got:\n%s", file, cmp.Diff(string(want), string(got)))
	}
}

func TestFormatsArePure(t *testing.T) {
	for name, input := range inputs() {
		for _, format := range report.Names() {
			in := input()
			first := show(t, format, in)
			before, after := stateOf(t, input()), stateOf(t, in)
			if before != after {
				t.Errorf("%s changed the input %s", format, name)
			}
			if !bytes.Equal(first, show(t, format, in)) || !bytes.Equal(first, show(t, format, input())) {
				t.Errorf("%s of %s: other bytes the second time", format, name)
			}
		}
	}
}

func stateOf(t *testing.T, in *report.Input) string {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGetRefusesWithTheChoices(t *testing.T) {
	if _, err := report.Get("pdf"); err == nil || !strings.Contains(err.Error(), "console, github, html, json, junit, markdown, sarif") {
		t.Errorf("Get(pdf) = %v; want an error that lists the formats", err)
	}
	f, err := report.Get("console")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]*report.Input{"nil": nil, "nothing judged": {Run: failing().Run}} {
		if err := f(&bytes.Buffer{}, in); err == nil {
			t.Errorf("%s: no error; want one", name)
		}
	}
}

type full struct{ room int }

var errFull = errors.New("disk full")

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteErrorsAreTold(t *testing.T) {
	for _, name := range report.Names() {
		f, err := report.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range []int{0, 100} {
			if err := f(&full{room}, failing()); !errors.Is(err, errFull) {
				t.Errorf("%s with room for %d bytes: %v; want %v", name, room, err, errFull)
			}
		}
	}
}

// hostile holds markup, escapes of every output language, and control codes
// wherever text comes from outside.
const hostile = "<script>alert(1)</script>\"'`|]]>--> %0A::error::x\x1b[31m\x00\n@team ${x} \xff"

func poisoned() *report.Input {
	in := failing()
	in.Judged.Summary, in.Judged.Run = hostile, hostile
	for i := range in.Judged.Checks {
		c := &in.Judged.Checks[i]
		c.Name, c.Group, c.Reason, c.Details, c.File = hostile, hostile, hostile, []string{hostile, hostile}, hostile
		c.Value, c.Limit, c.Base, c.Waived, c.Verdict = hostile, hostile, hostile, hostile, verdict.Fail
	}
	r := in.Run
	r.ID, r.Notes, r.PartialReason, r.Partial = hostile, []string{hostile}, hostile, true
	r.Plan.Profile, r.SUT.Name, r.Env.Class, r.Env.CPU, r.Provider.Kind, r.Provider.Reason = hostile, hostile, hostile, hostile, hostile, hostile
	r.Provider.Versions = map[string]string{hostile: hostile}
	r.Contract[0] = record.Outcome{ID: hostile, Title: hostile, Class: hostile, Clause: hostile, File: hostile, Status: hostile, Reason: hostile,
		Steps: []record.StepOutcome{{Action: hostile, Problems: hostile, Observed: hostile}}}
	for i := range r.Series {
		r.Series[i].Process = hostile
	}
	r.Audit.Lost = []record.Finding{{ID: hostile, What: hostile}}
	r.Complexity.Funcs[0].Name, r.Complexity.Funcs[0].File = hostile, hostile
	r.Load.Unexpected = map[string]int64{hostile: 1}
	delete(r.Metrics, record.P99)
	r.Absent[record.P99] = hostile
	in.Dir = hostile
	return in
}

func TestTextFromOutsideStaysText(t *testing.T) {
	page := string(show(t, "html", poisoned()))
	if strings.Contains(page, "<script") || strings.Contains(page, "alert(1)</") {
		t.Error("html: markup from outside is live")
	}
	for _, format := range []string{"console", "markdown"} {
		if strings.ContainsAny(string(show(t, format, poisoned())), "\x1b\x00") {
			t.Errorf("%s: control codes from outside would reach the terminal", format)
		}
	}
	text := string(show(t, "markdown", poisoned()))
	if strings.Contains(text, "<script") || strings.Contains(text, "@team") {
		t.Errorf("markdown: markup or mentions from outside are live")
	}
}

func TestAnnotationsCannotBeForged(t *testing.T) {
	for i, line := range strings.Split(strings.TrimSpace(string(show(t, "github", poisoned()))), "\n") {
		if !strings.HasPrefix(line, "::error ") {
			t.Errorf("github line %d = %q; want only our commands", i, line)
		}
		if head, _, _ := strings.Cut(line[2:], "::"); strings.Count(head, "title=") != 1 {
			t.Errorf("github line %d: properties %q; want one title", i, head)
		}
	}
}

func TestPageNeedsNothingFromOutside(t *testing.T) {
	page := string(show(t, "html", failing()))
	for _, call := range []string{"http://", "https://", "src=", "url(", "@import", "<link", "<script"} {
		text := strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, "")
		if i := strings.Index(text, call); i >= 0 {
			t.Errorf("page holds %q: …%s…", call, text[max(0, i-40):min(len(text), i+80)])
		}
	}
	if n := strings.Count(page, "<svg"); n != 5 {
		t.Errorf("page draws %d pictures; want 5", n)
	}
	if strings.Contains(page, "#0102") || strings.Contains(page, "#0103") {
		t.Error("a placeholder colour was not replaced")
	}
}

func TestAbsentIsNeverZero(t *testing.T) {
	for _, format := range []string{"console", "markdown", "html"} {
		text := string(show(t, format, cutShort()))
		for _, want := range []string{"not measured: the SUT was never ready", "not measured: nothing was audited"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s of a run cut short does not say %q", format, want)
			}
		}
		for _, lie := range []string{"lost 0", "| stored: lost | 0 ", "NaN", "<td>lost</td><td class=\"num\">0<"} {
			if strings.Contains(text, lie) {
				t.Errorf("%s of a run cut short says %q", format, lie)
			}
		}
	}
}

func TestConsoleFitsATerminal(t *testing.T) {
	in := failing()
	for i := range 500 {
		c := in.Judged.Checks[4]
		c.Group = []string{"loss", "latency", "memory"}[i%3]
		in.Judged.Checks = append(in.Judged.Checks, c)
	}
	for range 100 {
		in.Run.Notes = append(in.Run.Notes, strings.Repeat("long ", 500))
	}
	for name, in := range map[string]*report.Input{"many": in, "few": passing(), "none": unreadable(), "poisoned": poisoned()} {
		text := strings.TrimRight(string(show(t, "console", in)), "\n")
		lines := strings.Split(text, "\n")
		if len(lines) > 60 {
			t.Errorf("%s: %d lines; want at most 60", name, len(lines))
		}
		if name != "poisoned" && !strings.HasPrefix(lines[0], strings.ToUpper(in.Judged.Verdict.String())) {
			t.Errorf("%s: first line %q; want the verdict", name, lines[0])
		}
	}
}

// Records come from files, so that no NaN can be in them; but a chart of odd
// numbers must not take the report down, wherever they come from.
func TestChartsSurviveOddNumbers(t *testing.T) {
	odd := []float64{0, -1, 1e-300, 1e308, -1e308, math.MaxFloat64, math.NaN(), math.Inf(1), math.Inf(-1)}
	for _, x := range odd {
		for _, y := range odd {
			in := failing()
			in.Run.Series[0].Points = [][2]float64{{x, y}}
			in.Run.Series[1].Points = [][2]float64{{x, y}, {y, x}, {0, y}}
			in.Run.Load.Curve = []load.CurvePoint{{Percentile: x, MS: y}, {Percentile: 200, MS: 1}}
			in.Run.Load.Seconds = []load.Second{{At: x, P50: y, P95: x}, {At: y}}
			page := string(show(t, "html", in))
			if _, pictures, _ := strings.Cut(page, "<h2>Curves"); strings.Contains(pictures, "NaN") || strings.Contains(pictures, "Inf") {
				t.Errorf("x %g, y %g: a picture has no number where one must be", x, y)
			}
			if !strings.HasSuffix(page, "</html>\n") {
				t.Errorf("x %g, y %g: the page is cut", x, y)
			}
		}
	}
}

func TestLongSeriesKeepTheirPeaks(t *testing.T) {
	in := failing()
	s := &in.Run.Series[0]
	s.Points = nil
	for i := range 100_000 {
		s.Points = append(s.Points, [2]float64{float64(i) / 1000, 1 << 20})
	}
	s.Points[54_321][1] = 100 << 20
	in.Run.Plan.HeapCap = 0
	long := show(t, "html", in)
	s.Points[54_321][1] = 1 << 20
	flat := show(t, "html", in)
	if len(long) > 400_000 {
		t.Errorf("page of a long run has %d bytes; want it thinned", len(long))
	}
	if bytes.Equal(long, flat) {
		t.Error("a single peak among 100,000 points does not show")
	}
}
