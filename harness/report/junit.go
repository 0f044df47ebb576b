package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// The shape that Jenkins, GitLab and GitHub's reporters read.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"` // seconds
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string          `xml:"name,attr"`
	Tests     int             `xml:"tests,attr"`
	Failures  int             `xml:"failures,attr"`
	Errors    int             `xml:"errors,attr"`
	Skipped   int             `xml:"skipped,attr"`
	Time      string          `xml:"time,attr"`
	Timestamp string          `xml:"timestamp,attr,omitempty"`
	Props     *junitProps     `xml:"properties"`
	Cases     []junitTestCase `xml:"testcase"`
}

type junitProps struct {
	Property []junitProp `xml:"property"`
}

type junitProp struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitTestCase struct {
	Name    string     `xml:"name,attr"`
	Class   string     `xml:"classname,attr"`
	Time    string     `xml:"time,attr"`
	File    string     `xml:"file,attr,omitempty"`
	Line    int        `xml:"line,attr,omitempty"`
	Failure *junitText `xml:"failure"`
	Error   *junitText `xml:"error"`
	Skipped *junitText `xml:"skipped"`
	Out     string     `xml:"system-out,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// junit writes a test suite a group of checks, and one of the scenarios. What
// is neither pass nor fail is an error when nothing may be concluded from it,
// and skipped only where the verdict as a whole is green in spite of it.
func junit(w io.Writer, in *Input) error {
	v := newView(in)
	all := junitSuites{Name: "plumbline"}
	for _, g := range v.Groups {
		all.add(checkSuite(g, in.Judged))
	}
	if len(v.R.Contract) > 0 {
		all.add(scenarioSuite(v.R.Contract))
	}
	if v.R.Fidelity != nil {
		all.add(fidelitySuite(v.R.Fidelity, v.Judged.Checks))
	}
	all.Time = seconds(1000 * v.R.Ended.Sub(v.R.Started).Seconds())
	if len(all.Suites) > 0 {
		all.Suites[0].Props = junitProperties(v)
	}
	if !v.R.Started.IsZero() {
		for i := range all.Suites {
			all.Suites[i].Timestamp = v.R.Started.UTC().Format("2006-01-02T15:04:05")
		}
	}
	io.WriteString(w, xml.Header)
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func junitProperties(v *view) *junitProps {
	return &junitProps{[]junitProp{
		{"run", v.Judged.Run}, {"verdict", v.Judged.Verdict.String()}, {"exit_code", strconv.Itoa(v.Judged.ExitCode)},
		{"summary", v.Judged.Summary}, {"base", v.Judged.Base}, {"provider", v.R.Provider.Kind},
		{"environment_class", v.R.Env.Class}, {"commit", v.R.Commit.String()}, {"seed", strconv.FormatUint(v.R.Plan.Seed, 10)},
	}}
}

func (all *junitSuites) add(s junitSuite) {
	for _, c := range s.Cases {
		s.Tests++
		switch {
		case c.Failure != nil:
			s.Failures++
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		}
	}
	all.Tests += s.Tests
	all.Failures += s.Failures
	all.Errors += s.Errors
	all.Skipped += s.Skipped
	all.Suites = append(all.Suites, s)
}

func seconds(ms float64) string { return strconv.FormatFloat(max(0, ms)/1000, 'f', 3, 64) }

func checkSuite(g group, j *verdict.Judged) junitSuite {
	s := junitSuite{Name: g.Name, Time: seconds(0)}
	names := map[string]int{}
	for _, c := range g.Checks {
		name := c.Name
		if len(c.Details) == 1 && c.File != "" { // one check a function or scenario
			name += " " + c.Details[0]
		}
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, names[name])
		}
		tc := junitTestCase{Name: name, Class: "plumbline." + g.Name, Time: seconds(0), File: c.File, Line: c.Line}
		tc.setVerdict(c, j)
		s.Cases = append(s.Cases, tc)
	}
	return s
}

func (tc *junitTestCase) setVerdict(c verdict.Check, j *verdict.Judged) {
	text := &junitText{Message: c.Reason, Type: c.Verdict.String(), Text: strings.Join(c.Details, "\n")}
	green := j.ExitCode == verdict.ExitPass || c.Verdict != j.Verdict
	switch c.Verdict {
	case verdict.Pass:
		tc.Out = c.Reason
		if c.Waived != "" {
			tc.Out += "\nwaived: " + c.Waived
		}
	case verdict.Fail:
		tc.Failure = text
	case verdict.Inconclusive, verdict.NoBaseline:
		if green {
			tc.Skipped = &junitText{Message: c.Verdict.String() + ": " + c.Reason}
		} else {
			tc.Failure = text
		}
	default:
		tc.Error = text
	}
}

func scenarioSuite(all []record.Outcome) junitSuite {
	s := junitSuite{Name: "scenarios"}
	total := 0.0
	for _, o := range all {
		total += o.DurationMS
		tc := junitTestCase{Name: o.ID + " " + o.Title, Class: "plumbline.scenarios." + o.Class, Time: seconds(o.DurationMS), File: o.File}
		switch o.Status {
		case record.Passed:
		case record.Skipped:
			tc.Skipped = &junitText{Message: o.Reason}
		default:
			tc.Failure = &junitText{Message: o.Reason, Type: string(o.Status), Text: strings.Join(stepLines(o), "\n")}
		}
		s.Cases = append(s.Cases, tc)
	}
	s.Time = seconds(total)
	return s
}

// stepLines words the steps of a scenario that did not hold.
func stepLines(o record.Outcome) []string {
	var out []string
	for _, st := range o.Steps {
		line := fmt.Sprintf("%s:%d: step %d (%s): %s", o.File, st.Line, st.Index, st.Action, st.Problems)
		if st.Observed != "" {
			line += "; saw " + st.Observed
		}
		out = append(out, line)
	}
	return out
}
