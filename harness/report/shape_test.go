package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"qmtl.internal/plumbline/harness/report"
	"qmtl.internal/plumbline/harness/verdict"
)

func withHostile() map[string]func() *report.Input {
	all := inputs()
	all["poisoned"] = poisoned
	return all
}

func TestSARIFKeepsItsSchema(t *testing.T) {
	text, err := os.ReadFile("testdata/sarif.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, text)
	for name, input := range withHostile() {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(show(t, "sarif", input())))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func compile(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("sarif.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

type sarifDoc struct {
	Runs []struct {
		Tool struct {
			Driver struct{ Rules []struct{ ID string } }
		}
		Results []struct {
			RuleID    string
			RuleIndex int
			Level     string
			Locations []struct {
				PhysicalLocation struct {
					ArtifactLocation struct{ URI string }
					Region           struct{ StartLine int }
				}
			}
			PartialFingerprints map[string]string
		}
	}
}

func sarifOf(t *testing.T, in *report.Input) sarifDoc {
	t.Helper()
	var doc sarifDoc
	if err := json.Unmarshal(show(t, "sarif", in), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSARIFPointsAtFunctions(t *testing.T) {
	run := sarifOf(t, failing()).Runs[0]
	found := false
	for _, r := range run.Results {
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("result of %s names rule %d, which is %s", r.RuleID, r.RuleIndex, run.Tool.Driver.Rules[r.RuleIndex].ID)
		}
		if len(r.Locations) != 1 {
			t.Fatalf("%s has %d locations; want one", r.RuleID, len(r.Locations))
		}
		at := r.Locations[0].PhysicalLocation
		found = found || r.RuleID == "complexity.limit" && at.ArtifactLocation.URI == "ref/gateway/submit/submit.go" && at.Region.StartLine == 44
	}
	if !found {
		t.Error("no result points at the function above the limit")
	}
}

// A function that only moved down keeps its fingerprint, so that a code host
// does not show it as new.
func TestSARIFFingerprintsOutliveLines(t *testing.T) {
	in := failing()
	prints := func(in *report.Input) []string {
		var out []string
		for _, r := range sarifOf(t, in).Runs[0].Results {
			out = append(out, slices.Sorted(maps.Values(r.PartialFingerprints))...)
		}
		return out
	}
	before := prints(in)
	in.Run.Complexity.Funcs[0].Line += 7
	for i := range in.Judged.Checks {
		if c := &in.Judged.Checks[i]; c.Group == "complexity" {
			c.Line += 7
		}
	}
	in.Dir = ".artifacts/another"
	if after := prints(in); !slices.Equal(before, after) {
		t.Errorf("fingerprints after a move: %v; want %v", after, before)
	}
}

func TestSARIFWarnsOfFunctionsNoCheckNames(t *testing.T) {
	in := failing()
	in.Judged.Checks = nil
	results := sarifOf(t, in).Runs[0].Results
	if len(results) != 1 || results[0].RuleID != "complexity.over" || results[0].Level != "warning" {
		t.Errorf("results = %+v; want one warning about the function above the limit", results)
	}
}

// junitShape is what the readers of JUnit's format agree on: for each element
// its attributes (required ones marked) and its children.
func junitShape() map[string]struct{ attrs, children string } {
	return map[string]struct{ attrs, children string }{
		"testsuites": {"name tests! failures! errors! skipped time", "testsuite"},
		"testsuite":  {"name! tests! failures! errors! skipped time timestamp", "properties testcase"},
		"properties": {"", "property"},
		"property":   {"name! value!", ""},
		"testcase":   {"name! classname! time file line", "skipped error failure system-out"},
		"failure":    {"message! type", ""},
		"error":      {"message! type", ""},
		"skipped":    {"message", ""},
		"system-out": {"", ""},
	}
}

func TestJUnitKeepsItsShape(t *testing.T) {
	for name, input := range withHostile() {
		text := show(t, "junit", input())
		d := xml.NewDecoder(bytes.NewReader(text))
		path := []string{""}
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch e := token.(type) {
			case xml.StartElement:
				checkElement(t, name, path[len(path)-1], e)
				path = append(path, e.Name.Local)
			case xml.EndElement:
				path = path[:len(path)-1]
			}
		}
	}
}

func checkElement(t *testing.T, input, parent string, e xml.StartElement) {
	t.Helper()
	shape, known := junitShape()[e.Name.Local]
	if !known || parent != "" && !slices.Contains(strings.Fields(junitShape()[parent].children), e.Name.Local) {
		t.Errorf("%s: element %s within %q", input, e.Name.Local, parent)
	}
	have := map[string]bool{}
	for _, a := range e.Attr {
		have[a.Name.Local] = true
		if !slices.Contains(strings.Fields(strings.ReplaceAll(shape.attrs, "!", "")), a.Name.Local) {
			t.Errorf("%s: attribute %s of %s", input, a.Name.Local, e.Name.Local)
		}
	}
	for _, a := range strings.Fields(shape.attrs) {
		if must, ok := strings.CutSuffix(a, "!"); ok && !have[must] {
			t.Errorf("%s: %s has no %s", input, e.Name.Local, must)
		}
	}
}

type junitDoc struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
	Suites   []struct {
		Name  string `xml:"name,attr"`
		Tests int    `xml:"tests,attr"`
		Cases []struct {
			Name                    string    `xml:"name,attr"`
			Failure, Error, Skipped *struct{} // by element name in lower case
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func junitOf(t *testing.T, in *report.Input) junitDoc {
	t.Helper()
	text := string(show(t, "junit", in))
	for _, e := range []string{"failure", "error", "skipped"} {
		upper := strings.ToUpper(e[:1]) + e[1:]
		text = strings.NewReplacer("<"+e+" ", "<"+upper+" ", "</"+e+">", "</"+upper+">").Replace(text)
	}
	var doc junitDoc
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestJUnitCountsAddUp(t *testing.T) {
	for name, input := range inputs() {
		doc := junitOf(t, input())
		var n [4]int
		for _, s := range doc.Suites {
			names := map[string]bool{}
			for _, c := range s.Cases {
				names[c.Name] = true
				n[0]++
				n[1] += one(c.Failure != nil)
				n[2] += one(c.Error != nil)
				n[3] += one(c.Skipped != nil)
			}
			if len(names) != s.Tests {
				t.Errorf("%s: suite %s has %d names for %d tests", name, s.Name, len(names), s.Tests)
			}
		}
		if want := [4]int{doc.Tests, doc.Failures, doc.Errors, doc.Skipped}; n != want {
			t.Errorf("%s: counted tests, failures, errors, skipped %v; the root says %v", name, n, want)
		}
	}
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Whoever reads only JUnit must see red when the exit code is not 0.
func TestJUnitIsRedWhenTheGateIs(t *testing.T) {
	for _, v := range []verdict.Verdict{verdict.Fail, verdict.Invalid, verdict.Unjudged, verdict.Inconclusive, verdict.NoBaseline} {
		for _, exit := range []int{verdict.ExitPass, verdict.ExitFail} {
			in := passing()
			in.Judged.Verdict, in.Judged.ExitCode = v, exit
			in.Judged.Checks[0].Verdict = v
			doc := junitOf(t, in)
			lenient := v == verdict.Inconclusive || v == verdict.NoBaseline
			if red := doc.Failures+doc.Errors > 0; red != (exit != 0 || !lenient) {
				t.Errorf("verdict %s, exit %d: red %v", v, exit, red)
			}
		}
	}
}

func TestAnnotationsPointAtLines(t *testing.T) {
	text := string(show(t, "github", failing()))
	want := "::error file=ref/gateway/submit/submit.go,line=" + strconv.Itoa(44) + ",title=plumbline%3A complexity.limit::"
	if !strings.Contains(text, want) {
		t.Errorf("annotations:\n%s\nwant %s…", text, want)
	}
	if pass := string(show(t, "github", passing())); pass != "::notice title=plumbline%3A pass::every check passed\n" {
		t.Errorf("annotations of a green run = %q; want one notice", pass)
	}
}
