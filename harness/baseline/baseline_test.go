package baseline_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/baseline"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func run() *record.Run {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &record.Run{
		ID: "r1", Started: at, Ended: at, Env: record.Env{Class: "linux-2c"}, Plan: record.Plan{Profile: "smoke"},
		Load:       &load.Result{Version: 1, Started: at},
		Complexity: &record.Complexity{Limit: 10, Funcs: []record.Func{{Lang: "go", File: "a.go", Line: 3, EndLine: 9, Name: "F", CC: 4}}},
	}
	record.SetDerived(r)
	return r
}

func green() verdict.Judged {
	return verdict.Judged{Run: "r1", Verdict: verdict.NoBaseline, Checks: []verdict.Check{
		{Name: "loss.lost", Group: verdict.Loss, Verdict: verdict.Pass},
		{Name: "baseline.record", Group: verdict.Baseline, Verdict: verdict.NoBaseline},
	}}
}

func store(t *testing.T) baseline.Store {
	d := t.TempDir()
	return baseline.Store{Artifacts: d, Complexity: filepath.Join(d, "complexity", "reference.json")}
}

func TestAcceptedIsFound(t *testing.T) {
	s := store(t)
	path, err := s.Accept(run(), green(), "first on this machine")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(s.Artifacts, "baselines", "linux-2c", "smoke.json"); path != want {
		t.Errorf("accepted as %s; want %s", path, want)
	}
	got, why, err := s.Find("linux-2c", "smoke")
	if err != nil || why != "" || got.ID != "r1" {
		t.Fatalf("Find = %v, %q, %v", got, why, err)
	}
	if !strings.Contains(strings.Join(got.Notes, ""), "first on this machine") {
		t.Errorf("notes %v do not hold the reason", got.Notes)
	}
}

func TestFindSaysWhyThereIsNone(t *testing.T) {
	s := store(t)
	if _, err := s.Accept(run(), green(), "x"); err != nil {
		t.Fatal(err)
	}
	got, why, err := s.Find("darwin-8c", "smoke")
	if got != nil || err != nil || !strings.Contains(why, "darwin-8c") || !strings.Contains(why, "linux-2c") {
		t.Errorf("Find elsewhere = %v, %q, %v; want the reason with both environments", got, why, err)
	}
	if got, why, err := s.Find("linux-2c", "burst"); got != nil || err != nil || !strings.Contains(why, "burst") {
		t.Errorf("Find of another profile = %v, %q, %v", got, why, err)
	}
}

// A record put into the folder of another environment is not used.
func TestFindRefusesASmuggledRecord(t *testing.T) {
	s := store(t)
	path, err := s.Accept(run(), green(), "x")
	if err != nil {
		t.Fatal(err)
	}
	to := s.Path("darwin-8c", "smoke")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, to); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Find("darwin-8c", "smoke"); !errors.Is(err, baseline.ErrRefused) {
		t.Errorf("Find = %v; want ErrRefused", err)
	}
	if err := os.WriteFile(to, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Find("darwin-8c", "smoke"); !errors.Is(err, record.ErrBroken) {
		t.Errorf("Find of a broken baseline = %v; want ErrBroken", err)
	}
}

func TestAcceptRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(r *record.Run, j *verdict.Judged)
		why   string
		want  string
	}{
		"no reason":        {func(*record.Run, *verdict.Judged) {}, "  ", "reason"},
		"a partial run":    {func(r *record.Run, _ *verdict.Judged) { r.Partial, r.PartialReason = true, "Ctrl-C" }, "x", "partial"},
		"a failing run":    {func(_ *record.Run, j *verdict.Judged) { j.Checks[0].Verdict = verdict.Fail }, "x", "verdict"},
		"an invalid run":   {func(_ *record.Run, j *verdict.Judged) { j.Checks[0].Verdict = verdict.Invalid }, "x", "verdict"},
		"an unjudged run":  {func(_ *record.Run, j *verdict.Judged) { j.Checks = nil }, "x", "verdict"},
		"another's":        {func(_ *record.Run, j *verdict.Judged) { j.Run = "r2" }, "x", "judgement is of r2"},
		"a run of no load": {func(r *record.Run, _ *verdict.Judged) { r.Load = nil }, "x", "no load"},
	} {
		t.Run(name, func(t *testing.T) {
			s, r, j := store(t), run(), green()
			c.spoil(r, &j)
			_, err := s.Accept(r, j, c.why)
			if !errors.Is(err, baseline.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Accept = %v; want ErrRefused naming %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(s.Artifacts, "baselines")); err == nil {
				t.Error("something was written")
			}
		})
	}
}

func TestComplexitySnapshot(t *testing.T) {
	s := store(t)
	if got, why, err := s.FindComplexity(); got != nil || why == "" || err != nil {
		t.Errorf("FindComplexity of nothing = %v, %q, %v", got, why, err)
	}
	if err := s.AcceptComplexity(run(), green(), "x"); err != nil {
		t.Fatal(err)
	}
	got, why, err := s.FindComplexity()
	if err != nil || why != "" || len(got) != 1 || got[0].Name != "F" || got[0].CC != 4 {
		t.Errorf("FindComplexity = %+v, %q, %v", got, why, err)
	}
}

func TestNoSnapshotToAccept(t *testing.T) {
	empty := run()
	empty.Complexity = nil
	if err := store(t).AcceptComplexity(empty, green(), "x"); !errors.Is(err, baseline.ErrRefused) {
		t.Errorf("AcceptComplexity of nothing = %v", err)
	}
}
