package report

import (
	"testing"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// A waived disagreement must not make a CI red that reads JUnit instead of the
// exit code; one that is not waived must.
func TestJUnitOfWaivedDisagreements(t *testing.T) {
	passed := []record.Outcome{{ID: "A", Status: record.Passed}, {ID: "B", Status: record.Passed}}
	failed := []record.Outcome{{ID: "A", Status: record.Failed}, {ID: "B", Status: record.Failed}}
	f := record.Compare([2]string{"containers", "embedded"}, passed, failed)
	s := fidelitySuite(f, []verdict.Check{
		{Name: "fidelity.disagreement", Group: verdict.Fidelity, Verdict: verdict.Fail, Details: []string{"A"}},
		{Name: "fidelity.disagreement", Group: verdict.Fidelity, Verdict: verdict.Pass, Details: []string{"B"}, Waived: "known"},
	})
	if len(s.Cases) != 3 || s.Cases[1].Failure == nil || s.Cases[2].Failure != nil || s.Cases[2].Skipped == nil {
		t.Errorf("cases = %+v", s.Cases)
	}
}
