package complexity_test

import (
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
)

// original is where radon's word on the original is kept.
const original = "../../baselines/complexity"

func radonFile(t *testing.T, name string) []record.Func {
	t.Helper()
	f, err := os.Open(original + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	funcs, err := complexity.Radon(f)
	if err != nil {
		t.Fatal(err)
	}
	return funcs
}

func TestRankHasRadonsBounds(t *testing.T) {
	want := map[int]string{
		0: "A", 1: "A", 5: "A", 6: "B", 10: "B", 11: "C", 20: "C",
		21: "D", 30: "D", 31: "E", 40: "E", 41: "F", 1000: "F",
	}
	for cc, rank := range want {
		if got := complexity.Rank(cc); got != rank {
			t.Errorf("Rank(%d) = %s; want %s", cc, got, rank)
		}
	}
}

func TestTotalsOfTheOriginal(t *testing.T) {
	rows := []struct {
		file       string
		functions  int
		a, b, c, d int
		average    float64
		max        int
		closures   int
		maxClosure int
	}{
		{"before-fff37b8c.json", 668, 564, 70, 27, 7, 3.33, 25, 65, 48},
		{"after-84245efa.json", 759, 649, 81, 28, 1, 3.13, 21, 66, 48},
		{"head-fc06bd80.json", 1052, 901, 141, 10, 0, 3.02, 18, 67, 49},
	}
	for _, r := range rows {
		t.Run(r.file, func(t *testing.T) {
			got := complexity.Total(radonFile(t, r.file))
			got.Average = math.Round(got.Average*100) / 100
			want := complexity.Totals{
				Functions: r.functions, Average: r.average, Max: r.max, Closures: r.closures, MaxClosure: r.maxClosure,
				Ranks: map[string]int{"A": r.a, "B": r.b, "C": r.c, "D": r.d, "E": 0, "F": 0},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Total, -want +got:\n%s", diff)
			}
		})
	}
}

func TestTotalOfNothingIsNoNaN(t *testing.T) {
	if got := complexity.Total(nil); got.Average != 0 || got.Functions != 0 {
		t.Errorf("Total(nil) = %+v; want zeros", got)
	}
}

func TestOverNamesTheWorstFirst(t *testing.T) {
	over := complexity.Over(radonFile(t, "before-fff37b8c.json"), 20)
	functions := 0
	for i, f := range over {
		if !complexity.IsClosure(f) {
			functions++
		}
		if i > 0 && f.CC > over[i-1].CC {
			t.Errorf("%s with CC %d follows CC %d; want the worst first", f.Name, f.CC, over[i-1].CC)
		}
	}
	if functions != 7 || len(over) == 7 {
		t.Errorf("Over(20) = %d, of them %d no closures; want the 7 of rank D, and the closures above 20", len(over), functions)
	}
}

func TestStoryFollowsTheSix(t *testing.T) {
	s, err := complexity.LoadStory(os.DirFS(original))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][3]int{ // CC before, after, at head; 0: gone
		"health":           {25, 10, 10},
		"submission":       {22, 4, 5},
		"control bus":      {25, 3, 3},
		"diff":             {21, 3, 7},
		"Kafka admin":      {21, 21, 2},
		"graph repository": {12, 12, 3},
	}
	if len(s.Rows) != len(want) {
		t.Fatalf("story has %d rows; want %d", len(s.Rows), len(want))
	}
	for _, r := range s.Rows {
		var got [3]int
		for i, f := range r.Funcs {
			if f != nil {
				got[i] = f.CC
			}
		}
		if got != want[r.Label] {
			t.Errorf("%s: CC %v; want %v", r.Label, got, want[r.Label])
		}
	}
}

func TestStoryNamesWhatIsMissing(t *testing.T) {
	funcs := radonFile(t, "head-fc06bd80.json")[:10]
	if s, err := complexity.BeforeAfter(complexity.Revision{Name: "cut", Funcs: funcs}); err == nil {
		t.Errorf("BeforeAfter of a cut revision = %+v; want an error that names the missing functions", s)
	}
	if _, err := complexity.BeforeAfter(); err == nil {
		t.Error("BeforeAfter() = nil error; want one")
	}
	if _, err := complexity.LoadStory(os.DirFS(t.TempDir())); err == nil {
		t.Error("LoadStory of an empty folder = nil error; want one")
	}
}
