package report_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/report"
)

func comparisonOf() *record.Compared {
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	f := func(x float64) *float64 { return &x }
	slower := record.Effect{
		Metric: "p50_ms", Of: "all", Base: 1.41, Candidate: 1.4594, Rounds: 20, Ratio: 1.035, Lo: f(1.03), Hi: f(1.04), Upper: f(1.039),
		P: 1e-9, Holm: 2e-8, Detectable: f(0.022), Margin: 0.02, Required: true, Outcome: "slower", Verdict: "fail",
	}
	slower.Reason = slower.Words()
	few := record.Effect{Metric: "heap_peak_bytes", Of: "gateway", Base: 9 << 20, Candidate: 10 << 20, Rounds: 1, Ratio: 1.11, P: 1, Holm: 1, Margin: 0.15, Outcome: "undecided", Verdict: "pass"}
	few.Reason = few.Words()
	return &record.Compared{
		Measured: record.Comparison{
			ID: "c1", Method: record.Paired, Started: at, Ended: at.Add(5 * time.Minute),
			Base:      record.Arm{Given: "main", Revision: "0123456789abcdef0123", Tree: "77", Ledger: load.Ledger{Offered: 48000}},
			Candidate: record.Arm{Given: "tree", Revision: "0123456789abcdef0123", Tree: "78", Dirty: true, Ledger: load.Ledger{Offered: 48000}},
			Plan:      record.ComparisonPlan{Budget: 5 * time.Minute, Slot: 50 * time.Millisecond, Profile: "turns", Rate: 400, Seed: 1, SUT: "reference"},
			Env:       record.Env{Class: "here"}, Provider: record.Provider{Kind: "embedded"}, Looks: []float64{1. / 3, 1},
			Notes: []string{"a <b>note</b> | of @somebody"},
		},
		Judged: record.Effects{
			Verdict: "fail", ExitCode: 1, Summary: slower.Reason, Alpha: 0.01, Effects: []record.Effect{slower, few},
			Checks: []string{"of 48000 requests to the candidate 1 were lost"},
		},
	}
}

func TestComparisonGolden(t *testing.T) {
	shows, err := report.ComparisonFormats("console, json,markdown,html")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range shows {
		first, second := showComparison(t, f), showComparison(t, f)
		if first != second {
			t.Errorf("%s: other bytes the second time", f.Name)
		}
		if markup := f.Name == "markdown" || f.Name == "html"; markup && strings.Contains(first, "<b>note") {
			t.Errorf("%s takes markup from outside", f.Name)
		}
		golden(t, filepath.Join("testdata", "comparison."+f.Name), []byte(first))
	}
	if _, err := report.ComparisonFormats("console,junit"); err == nil || !strings.Contains(err.Error(), "markdown") {
		t.Errorf("ComparisonFormats(junit) = %v; want the names that there are", err)
	}
}

func showComparison(t *testing.T, f report.ComparisonFormat) string {
	t.Helper()
	var b bytes.Buffer
	if err := f.Write(&b, report.ComparisonInput{Compared: comparisonOf(), Dir: ".artifacts/compare/c1"}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
