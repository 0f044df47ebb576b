package complexity_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
)

// nested is the shape of `radon cc -j --show-closures`: the closure twice, the
// method twice.
const nested = `{"pkg\\mod.py": [
  {"type": "class", "rank": "A", "lineno": 1, "endline": 20, "col_offset": 0, "name": "C", "complexity": 3,
   "methods": [{"type": "method", "rank": "B", "classname": "C", "lineno": 2, "endline": 12, "col_offset": 4, "name": "m", "complexity": 6,
     "closures": [{"type": "function", "rank": "C", "lineno": 3, "endline": 9, "col_offset": 8, "name": "inner", "complexity": 11, "closures": []}]}]},
  {"type": "method", "rank": "B", "classname": "C", "lineno": 2, "endline": 12, "col_offset": 4, "name": "m", "complexity": 6,
   "closures": [{"type": "function", "rank": "C", "lineno": 3, "endline": 9, "col_offset": 8, "name": "inner", "complexity": 11, "closures": []}]},
  {"type": "function", "rank": "C", "lineno": 3, "endline": 9, "col_offset": 8, "name": "m.inner", "complexity": 11, "closures": []},
  {"type": "function", "rank": "A", "lineno": 22, "endline": 23, "col_offset": 0, "name": "f", "complexity": 1, "closures": []}
]}`

func TestRadonTakesEachFunctionOnce(t *testing.T) {
	got, err := complexity.Radon(strings.NewReader(nested))
	if err != nil {
		t.Fatal(err)
	}
	want := []record.Func{
		{Line: 2, EndLine: 12, Col: 4, Name: "C.m", Class: "C", CC: 6},
		{Line: 3, EndLine: 9, Col: 8, Name: "C.m.<locals>.inner", Class: "C", CC: 11},
		{Line: 22, EndLine: 23, Name: "f", CC: 1},
	}
	for i := range want {
		want[i].Lang, want[i].File = "python", "pkg/mod.py"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Radon, -want +got:\n%s", diff)
	}
}

func TestRadonNamesFilesThatRadonCouldNotParse(t *testing.T) {
	funcs, err := complexity.Radon(strings.NewReader(`{
		"bad.py": {"error": "invalid syntax (<unknown>, line 3)"},
		"tests/ok.py": [{"type":"function","name":"f","lineno":1,"complexity":2}]}`))
	var bad complexity.FileErrors
	if !errors.As(err, &bad) || len(bad) != 1 || bad[0].File != "bad.py" || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("Radon error = %v; want bad.py with radon's reason", err)
	}
	want := []record.Func{{Lang: "python", File: "tests/ok.py", Line: 1, EndLine: 1, Name: "f", CC: 2, Test: true}}
	if diff := cmp.Diff(want, funcs); diff != "" {
		t.Errorf("Radon, -want +got:\n%s", diff)
	}
}

func TestRadonSaysWhereTheInputIsBroken(t *testing.T) {
	good := `{"a.py": [{"type":"function","name":"f","lineno":1,"complexity":2}]`
	rows := []struct{ name, in, want string }{
		{"empty", " \n", "no content"},
		{"cut", good, "offset 67"},
		{"garbage", `{"a.py": [}`, "offset 11 (line 1)"},
		{"garbage below", "{\n\"a.py\":\n [x]}", "(line 3)"},
		{"two values", good + "} {}", "offset 70"},
		{"a list", `[]`, "an object with a list of blocks"},
		{"a null", `null`, "an object with a list of blocks"},
		{"a file with text", `{"a.py": "none"}`, "a.py"},
		{"a file with null", `{"a.py": null}`, "a.py"},
		{"an object without error", `{"a.py": {"rank": "A"}}`, "error entry"},
		{"the same file twice", good + `, "./a.py": []}`, "a.py appears twice"},
		{"complexity as text", `{"a.py": [{"type":"function","name":"f","lineno":1,"complexity":"2"}]}`, "offset 67"},
		{"complexity absent", `{"a.py": [{"type":"function","name":"f","lineno":1}]}`, "complexity is absent"},
		{"complexity below zero", `{"a.py": [{"type":"function","name":"f","lineno":1,"complexity":-2}]}`, "negative"},
		{"no line", `{"a.py": [{"type":"function","name":"f","complexity":2}]}`, "lineno is absent"},
		{"no name", `{"a.py": [{"type":"function","lineno":1,"complexity":2}]}`, "no name"},
		{"unknown type", `{"a.py": [{"type":"lambda","name":"f","lineno":1,"complexity":2}]}`, `type "lambda"`},
		{"broken closure", `{"a.py": [{"type":"function","name":"f","lineno":1,"complexity":2,"closures":[{}]}]}`, "type"},
		{"NaN", `{"a.py": [{"type":"function","name":"f","lineno":1,"complexity":NaN}]}`, "offset"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			funcs, err := complexity.Radon(strings.NewReader(r.in))
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("Radon(%s) = %v, %v; want an error with %q", r.in, funcs, err, r.want)
			}
			if funcs != nil {
				t.Errorf("Radon(%s) = %v with its error; want nothing", r.in, funcs)
			}
		})
	}
}

type failing struct{ r *strings.Reader }

func (f failing) Read(p []byte) (int, error) {
	if f.r.Len() == 0 {
		return 0, errors.New("disk gone")
	}
	return f.r.Read(p)
}

func TestRadonPassesReadErrorsOn(t *testing.T) {
	_, err := complexity.Radon(failing{strings.NewReader(`{"a.py"`)})
	if err == nil || !strings.Contains(err.Error(), "after 7 bytes: disk gone") {
		t.Errorf("Radon error = %v; want how far it came and why it stopped", err)
	}
}

func TestRadonSurvivesItsOwnWriting(t *testing.T) {
	files, err := filepath.Glob(original + "/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("radon files: %v, %v; want three", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			funcs := radonFile(t, filepath.Base(file))
			roundTrip(t, funcs)
		})
	}
	t.Run("Go", func(t *testing.T) {
		roundTrip(t, measure(t, map[string]string{"p/a.go": sample, "p/<b>&_test.go": sample}))
	})
	t.Run("nothing", func(t *testing.T) { roundTrip(t, nil) })
}

func roundTrip(t *testing.T, funcs []record.Func) {
	t.Helper()
	var first, second bytes.Buffer
	if err := complexity.WriteRadon(&first, funcs); err != nil {
		t.Fatal(err)
	}
	got, err := complexity.Radon(bytes.NewReader(first.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	lost := cmpopts.IgnoreFields(record.Func{}, "Shape", "Cognitive") // radon has no place for them
	if diff := cmp.Diff(funcs, got, lost, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("after writing and reading, -want +got:\n%s", diff)
	}
	if err := complexity.WriteRadon(&second, got); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("written again: other bytes (error %v)", err)
	}
}

// What is written must not differ from radon's own file but in white space,
// order, and what a snapshot does not keep of classes.
func TestWriteRadonHasRadonsShape(t *testing.T) {
	const name = "head-fc06bd80.json"
	own, err := os.ReadFile(original + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	if err := complexity.WriteRadon(&written, radonFile(t, name)); err != nil {
		t.Fatal(err)
	}
	want, got := shapes(t, own), shapes(t, written.Bytes())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("blocks, -radon +written:\n%s", diff)
	}
}

// shapes lists every block with methods or of a function, without the lines of classes.
func shapes(t *testing.T, b []byte) map[string]map[string]any {
	t.Helper()
	var files map[string][]map[string]any
	if err := json.Unmarshal(b, &files); err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for file, blocks := range files {
		for _, block := range blocks {
			if block["type"] == "class" {
				if len(block["methods"].([]any)) == 0 {
					continue
				}
				for _, unkept := range []string{"lineno", "endline", "col_offset", "complexity", "rank", "methods"} {
					if _, has := block[unkept]; !has {
						t.Errorf("class %v of %s has no %s", block["name"], file, unkept)
					}
					delete(block, unkept)
				}
			}
			class, _ := block["classname"].(string)
			out[file+" "+class+" "+block["name"].(string)] = block
		}
	}
	return out
}

func TestClassComplexityIsRadons(t *testing.T) {
	var written bytes.Buffer
	if err := complexity.WriteRadon(&written, radonFile(t, "head-fc06bd80.json")); err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(original + "/head-fc06bd80.json")
	if err != nil {
		t.Fatal(err)
	}
	want, got := classCCs(t, own), classCCs(t, written.Bytes())
	off := 0
	for name, cc := range got {
		if want[name] != cc {
			off++
		}
	}
	// Radon also counts branches in the class body, which no function shows.
	if len(got) == 0 || off > len(got)/50 {
		t.Errorf("%d of %d classes have another complexity than radon's; want at most 2 %%", off, len(got))
	}
}

func classCCs(t *testing.T, b []byte) map[string]int {
	t.Helper()
	var files map[string][]struct {
		Type, Name string
		Complexity int
	}
	if err := json.Unmarshal(b, &files); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for file, blocks := range files {
		for _, block := range blocks {
			if block.Type == "class" {
				out[file+" "+block.Name] = block.Complexity
			}
		}
	}
	return out
}

func FuzzRadon(f *testing.F) {
	f.Add([]byte(nested))
	f.Add([]byte(`{"a.py": {"error": "x"}}`))
	f.Add([]byte(`{"": [{"type":"method","name":"a.<locals>.b","lineno":1,"complexity":0}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		funcs, err := complexity.Radon(bytes.NewReader(b))
		var bad complexity.FileErrors
		if err != nil && !errors.As(err, &bad) {
			if funcs != nil {
				t.Errorf("Radon = %v with %v; want nothing", funcs, err)
			}
			return
		}
		for _, c := range complexity.Compare(funcs, funcs) {
			if c.Status != complexity.Same {
				t.Errorf("against itself: %s", c)
			}
		}
		if err := complexity.WriteRadon(&bytes.Buffer{}, funcs); err != nil {
			t.Error(err)
		}
	})
}
