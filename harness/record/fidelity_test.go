package record_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/harness/record"
)

func outcome(id string, status record.Status, line int) record.Outcome {
	o := record.Outcome{ID: id, Title: "title of " + id, File: id + ".yaml", Status: status}
	if status != record.Passed {
		o.Reason = "because of " + id
	}
	if status == record.Failed {
		o.Steps = []record.StepOutcome{{Line: line, Action: "http"}}
	}
	return o
}

func TestCompareTellsWhatAgreesWhatNotAndWhatOneSideLeftOut(t *testing.T) {
	truth := []record.Outcome{
		outcome("A", record.Passed, 0), outcome("B", record.Failed, 4), outcome("C", record.Failed, 4), outcome("D", record.Passed, 0),
		outcome("E", record.Skipped, 0), outcome("F", record.Passed, 0), outcome("G", record.Skipped, 0), outcome("H", record.Passed, 0),
	}
	embedded := []record.Outcome{
		outcome("H", record.Passed, 0), outcome("A", record.Passed, 0), outcome("B", record.Failed, 4), outcome("C", record.Failed, 9),
		outcome("D", record.Failed, 7), outcome("E", record.Passed, 0), outcome("G", record.Skipped, 0), outcome("I", record.Passed, 0),
	}
	f := record.Compare([2]string{"containers", "embedded"}, truth, embedded)
	if f.Compared != 5 || f.Agreed != 3 || f.BothSkip != 1 {
		t.Errorf("compared %d, agreed %d, both skipped %d; want 5, 3, 1", f.Compared, f.Agreed, f.BothSkip)
	}
	if got := ids(f.Disagreed); got != "C D" {
		t.Errorf("disagreed: %s; want C D", got)
	}
	if got := ids(f.OneSided); got != "E F I" {
		t.Errorf("one-sided: %s; want E F I", got)
	}
	want := record.Difference{ID: "D", Title: "title of D", File: "D.yaml", Outcomes: [2]record.Side{
		{Status: record.Passed}, {Status: record.Failed, Reason: "because of D", Line: 7, Action: "http"},
	}}
	if diff := cmp.Diff(want, f.Disagreed[1]); diff != "" {
		t.Error(diff)
	}
}

func ids(ds []record.Difference) string {
	var out []string
	for _, d := range ds {
		out = append(out, d.ID)
	}
	return strings.Join(out, " ")
}

func compared() *record.Run {
	r := &record.Run{
		Schema: record.SchemaVersion, ID: "x", Started: time.Unix(0, 0).UTC(), Ended: time.Unix(1, 0).UTC(),
		Contract: []record.Outcome{outcome("A", record.Passed, 0), outcome("B", record.Passed, 0), outcome("C", record.Passed, 0)},
	}
	r.Fidelity = record.Compare([2]string{"containers", "embedded"}, r.Contract,
		[]record.Outcome{outcome("A", record.Passed, 0), outcome("B", record.Failed, 2), outcome("C", record.Skipped, 0)})
	return r
}

func TestFidelityIsAMetricOrAReason(t *testing.T) {
	r := compared()
	m, why := record.Derive(r)
	if got := m[record.FidelityShare]; got.Value != 0.5 || got.N != 2 || got.Unit != record.Ratio {
		t.Errorf("fidelity = %+v (%q); want 0.5 of 2", got, why[record.FidelityShare])
	}
	r.Fidelity = record.Compare([2]string{"containers", "embedded"}, r.Contract, nil)
	if m, why := record.Derive(r); why[record.FidelityShare] == "" {
		t.Errorf("nothing compared gave %+v and no reason", m[record.FidelityShare])
	}
	r.Fidelity, r.Absent = nil, map[string]string{"fidelity": "the SUT runs already"}
	if _, why := record.Derive(r); why[record.FidelityShare] != "the SUT runs already" {
		t.Errorf("reason = %q", why[record.FidelityShare])
	}
}

func TestReadRefusesAFidelityThatIsNotOfThisRecord(t *testing.T) {
	for want, spoil := range map[string]func(*record.Run){
		"":                              func(*record.Run) {},
		"are not":                       func(r *record.Run) { r.Fidelity.Agreed++ },
		"B is failed there, but":        func(r *record.Run) { r.Fidelity.Disagreed[0].Outcomes[0].Status = record.Failed },
		"contract has no scenario gone": func(r *record.Run) { r.Fidelity.OneSided[0].ID = "gone" },
	} {
		r := compared()
		spoil(r)
		d, err := record.Create(t.TempDir(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteRun(r); err != nil {
			t.Fatal(err)
		}
		if _, err := record.Read(d.Path()); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Read = %v; want %q", err, want)
		}
	}
}
