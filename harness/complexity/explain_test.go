package complexity_test

import (
	"os"
	"slices"
	"testing"
	"testing/fstest"

	"qmtl.internal/plumbline/harness/complexity"
)

// What is explained adds up to what was measured, for every function of the
// project itself.
func TestExplanationsAddUp(t *testing.T) {
	fsys := os.DirFS("../..")
	funcs, err := complexity.Go(t.Context(), os.DirFS("../../harness/complexity"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range funcs {
		funcs[i].File = "harness/complexity/" + funcs[i].File
	}
	for _, f := range funcs {
		all, err := complexity.Explain(fsys, funcs, f.File+":"+f.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			cognitive := 0
			for _, b := range e.Burdens {
				cognitive += b.By
			}
			if e.Func.CC != 1+len(e.Branches) || e.Func.Cognitive != cognitive {
				t.Errorf("%s: CC %d of %d branches, cognitive %d of %d", e.Func.Name, e.Func.CC, len(e.Branches), e.Func.Cognitive, cognitive)
			}
		}
	}
}

func TestExplainSaysWhere(t *testing.T) {
	fsys := fstest.MapFS{"a.go": {Data: []byte(`package a

type T struct{}

func (T) Busy(xs []int) int {
	for _, x := range xs {
		if x > 1 && x < 9 {
			return x
		}
	}
	return 0
}

func Busy() {}
`)}}
	funcs, err := complexity.Go(t.Context(), fsys)
	if err != nil {
		t.Fatal(err)
	}
	both, err := complexity.Explain(fsys, funcs, "Busy")
	if err != nil || len(both) != 2 {
		t.Fatalf("Explain(Busy) = %+v, %v; want the method and the function", both, err)
	}
	one, err := complexity.Explain(fsys, funcs, "T.Busy")
	if err != nil || len(one) != 1 {
		t.Fatalf("Explain(T.Busy) = %+v, %v", one, err)
	}
	checkBusy(t, one[0])
	if _, err := complexity.Explain(fsys, funcs, "Gone"); err == nil {
		t.Error("a function that does not exist was explained")
	}
}

func checkBusy(t *testing.T, e complexity.Explanation) {
	t.Helper()
	want := []complexity.Increment{{Line: 6, Col: 2, What: "range", By: 1}, {Line: 7, Col: 3, What: "if", By: 1}, {Line: 7, Col: 12, What: "&&", By: 1}}
	if !slices.Equal(e.Branches, want) {
		t.Errorf("branches %+v; want %+v", e.Branches, want)
	}
	if b := e.Burdens; len(b) != 3 || b[1].By != 2 || b[1].Nesting != 1 || b[1].Line != 7 {
		t.Errorf("burdens %+v; want the nested if to count twice", b)
	}
}
