package report

import (
	"fmt"
	"io"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// differenceRow is one scenario that came to different things on two kinds of
// backends, or ran on one of them only.
type differenceRow struct {
	record.Difference
	Disagrees bool // else it ran on one kind only
}

// What is the difference in words.
func (d differenceRow) What() string {
	if d.Disagrees {
		return "disagrees"
	}
	return "one kind only"
}

// differences lists what disagrees first.
func differences(f *record.Fidelity) (out []differenceRow) {
	if f == nil {
		return nil
	}
	for _, d := range f.Disagreed {
		out = append(out, differenceRow{d, true})
	}
	for _, d := range f.OneSided {
		out = append(out, differenceRow{d, false})
	}
	return out
}

// fidelityLine counts in one sentence.
func fidelityLine(f *record.Fidelity) string {
	return fmt.Sprintf("%d of %d scenarios came to the same on %s and %s; %d ran on one kind only, %d on neither",
		f.Agreed, f.Compared, f.Kinds[0], f.Kinds[1], len(f.OneSided), f.BothSkip)
}

func mdFidelity(w io.Writer, f *record.Fidelity) {
	if f == nil {
		return
	}
	fmt.Fprintf(w, "### Fidelity\n\n%s.\n\n", md(fidelityLine(f)))
	rows := differences(f)
	if len(rows) == 0 {
		return
	}
	mdTable(w, "scenario", "what", md(f.Kinds[0]), md(f.Kinds[1]))
	for _, d := range rows[:min(len(rows), markdownRows)] {
		mdRow(w, d.ID+" "+d.Title, d.What(), d.Outcomes[0].String(), d.Outcomes[1].String())
	}
	if n := len(rows) - markdownRows; n > 0 {
		mdRow(w, fmt.Sprintf("… and %d more in run.json", n), "", "", "")
	}
	fmt.Fprintln(w)
}

// fidelitySuite is one test case for all scenarios that agree, and one for each
// other; a disagreement that the policy waives is skipped, not failed.
func fidelitySuite(f *record.Fidelity, checks []verdict.Check) junitSuite {
	s := junitSuite{Name: "fidelity of scenarios", Time: seconds(f.DurationMS)}
	class := "plumbline.fidelity." + f.Kinds[0] + "." + f.Kinds[1]
	s.Cases = append(s.Cases, junitTestCase{Name: "scenarios that agree", Class: class, Time: seconds(0), Out: fidelityLine(f)})
	waived := map[string]string{}
	for _, c := range checks {
		if c.Group == verdict.Fidelity && len(c.Details) > 0 {
			waived[c.Details[0]] = c.Waived
		}
	}
	for _, d := range differences(f) {
		tc := junitTestCase{Name: d.ID + " " + d.Title, Class: class, Time: seconds(0), File: d.File}
		text := &junitText{Message: fmt.Sprintf("%s on %s; %s on %s", d.Outcomes[0], f.Kinds[0], d.Outcomes[1], f.Kinds[1])}
		switch {
		case !d.Disagrees:
			tc.Skipped = text
		case waived[d.ID] != "":
			text.Message = "waived: " + waived[d.ID] + ": " + text.Message
			tc.Skipped = text
		default:
			text.Type = "disagreement"
			tc.Failure = text
		}
		s.Cases = append(s.Cases, tc)
	}
	return s
}
