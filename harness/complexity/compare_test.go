package complexity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
)

// py makes a Python function of 10 lines.
func py(file, name string, line, cc int) record.Func {
	class := ""
	if i := strings.IndexByte(name, '.'); i > 0 {
		class = name[:i]
	}
	return record.Func{Lang: "python", File: file, Line: line, EndLine: line + 9, Name: name, Class: class, CC: cc}
}

// brief tells every change that is not Same.
func brief(cs []complexity.Change) []string {
	out := []string{}
	for _, c := range cs {
		if c.Status == complexity.Same && !c.Moved && !c.Renamed {
			continue
		}
		s := fmt.Sprintf("%s %s %+d", c.Func().Name, c.Status, c.Delta)
		if c.Moved {
			s += " moved"
		}
		if c.Renamed {
			s += " renamed"
		}
		out = append(out, s)
	}
	return out
}

func TestComparePython(t *testing.T) {
	base := []record.Func{
		py("g/api.py", "create", 1, 4),
		py("g/api.py", "C.run", 20, 8),
		py("g/api.py", "C.stop", 40, 3),
		py("g/db.py", "load", 1, 6),
	}
	edit := func(i int, change func(*record.Func)) []record.Func {
		out := append([]record.Func{}, base...)
		change(&out[i])
		return out
	}
	rows := []struct {
		name string
		cand []record.Func
		want []string
	}{
		{"itself", base, []string{}},
		{"lines added above", edit(1, func(f *record.Func) { f.Line += 100; f.EndLine += 100 }), []string{}},
		{"worse", edit(1, func(f *record.Func) { f.CC = 12 }), []string{"C.run worse +4"}},
		{"better", edit(1, func(f *record.Func) { f.CC = 5 }), []string{"C.run better -3"}},
		{"new", append([]record.Func{py("g/new.py", "x", 1, 11)}, base...), []string{"x new +0"}},
		{"removed", base[1:], []string{"create removed +0"}},
		{"moved", edit(3, func(f *record.Func) { f.File = "d/store.py" }), []string{"load moved +0 moved"}},
		{"moved and worse", edit(3, func(f *record.Func) { f.File, f.CC = "d/store.py", 9 }), []string{"load worse +3 moved"}},
		{"renamed in place", edit(3, func(f *record.Func) { f.Name = "fetch" }), []string{"fetch renamed +0 renamed"}},
		{"renamed, lines above", edit(3, func(f *record.Func) { f.Name = "fetch"; f.Line += 5; f.EndLine += 5 }), []string{"fetch renamed +0 renamed"}},
		{"renamed and edited in place", edit(3, func(f *record.Func) { f.Name, f.CC, f.EndLine = "fetch", 7, 12 }), []string{"fetch worse +1 renamed"}},
		{"renamed, longer, further down", edit(1, func(f *record.Func) { f.Name, f.Line, f.EndLine = "C.execute", 23, 34 }), []string{"C.execute renamed +0 renamed"}},
		{"a far larger function on the same line", edit(3, func(f *record.Func) { f.Name, f.CC, f.EndLine = "other", 25, 90 }),
			[]string{"load removed +0", "other new +0"}},
		{"class renamed", []record.Func{base[0], py("g/api.py", "D.run", 20, 8), py("g/api.py", "D.stop", 40, 5), base[3]},
			[]string{"D.run renamed +0 renamed", "D.stop worse +2 renamed"}},
		{"two that changed places", []record.Func{py("g/db.py", "create", 1, 4), base[1], base[2], py("g/api.py", "load", 1, 6)},
			[]string{"load moved +0 moved", "create moved +0 moved"}},
		{"another function instead", edit(3, func(f *record.Func) { f.Name, f.CC, f.Line, f.EndLine = "other", 25, 3, 90 }),
			[]string{"load removed +0", "other new +0"}},
		{"nothing left", nil, []string{"create removed +0", "C.run removed +0", "C.stop removed +0", "load removed +0"}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if diff := cmp.Diff(r.want, brief(complexity.Compare(base, r.cand))); diff != "" {
				t.Errorf("Compare, -want +got:\n%s", diff)
			}
		})
	}
}

func TestCompareKeepsFunctionsOfOneNameApart(t *testing.T) {
	getter, setter := py("a.py", "C.value", 1, 1), py("a.py", "C.value", 20, 6)
	worse := setter
	worse.CC = 9
	got := brief(complexity.Compare([]record.Func{getter, setter}, []record.Func{getter, worse}))
	if diff := cmp.Diff([]string{"C.value worse +3"}, got); diff != "" {
		t.Errorf("setter made worse, -want +got:\n%s", diff)
	}
	got = brief(complexity.Compare([]record.Func{getter, setter}, []record.Func{setter}))
	if diff := cmp.Diff([]string{"C.value removed +0"}, got); diff != "" {
		t.Errorf("getter removed, -want +got:\n%s", diff)
	}
}

func TestCompareGo(t *testing.T) {
	base := map[string]string{
		"p/a.go": "package p\n\nfunc New() int {\n\tx := 1\n\tif x > 0 {\n\t\treturn 2\n\t}\n\treturn 3\n}\n\nfunc Get() int { return 1 }\n",
		"q/b.go": "package q\n\nfunc New() int { return 4 }\n",
	}
	rows := []struct {
		name string
		cand map[string]string
		want []string
	}{
		{"reformatted", map[string]string{
			"p/a.go": strings.ReplaceAll(base["p/a.go"], "x := 1\n", "x := 1 // one\n\n"), "q/b.go": base["q/b.go"]}, []string{}},
		{"moved and renamed by its body", map[string]string{
			"p/a.go": "package p\n\nfunc Get() int { return 1 }\n",
			"r/c.go": "package r\n\nfunc Open() int {\n\tx := 1\n\tif x > 0 {\n\t\treturn 2\n\t}\n\treturn 3\n}\n",
			"q/b.go": base["q/b.go"]}, []string{"Open renamed +0 moved renamed"}},
		{"a New of another package is another New", map[string]string{
			"p/a.go": base["p/a.go"],
			"s/d.go": "package s\n\nfunc New(x bool) int {\n\tif x {\n\t\treturn 9\n\t}\n\treturn 8\n}\n"},
			[]string{"New removed +0", "New new +0"}},
		{"a split file", map[string]string{
			"p/a.go": strings.Replace(base["p/a.go"], "func Get() int { return 1 }\n", "", 1),
			"p/z.go": "package p\n\nfunc Get() int {\n\tif true {\n\t\treturn 1\n\t}\n\treturn 0\n}\n",
			"q/b.go": base["q/b.go"]}, []string{"Get worse +1 moved"}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := brief(complexity.Compare(measure(t, base), measure(t, r.cand)))
			if diff := cmp.Diff(r.want, got); diff != "" {
				t.Errorf("Compare, -want +got:\n%s", diff)
			}
		})
	}
}

func TestCompareAccountsForEveryFunction(t *testing.T) {
	names := []string{"before-fff37b8c.json", "after-84245efa.json", "head-fc06bd80.json"}
	for _, b := range names {
		for _, c := range names {
			base, cand := radonFile(t, b), radonFile(t, c)
			sides := [2]int{}
			for _, ch := range complexity.Compare(base, cand) {
				if ch.Base != nil {
					sides[0]++
				}
				if ch.Candidate != nil {
					sides[1]++
				}
			}
			if sides != [2]int{len(base), len(cand)} {
				t.Errorf("%s against %s: %v functions; want %d and %d", b, c, sides, len(base), len(cand))
			}
		}
	}
}

func TestCountAndString(t *testing.T) {
	base := []record.Func{py("a.py", "f", 1, 9)}
	cand := []record.Func{py("b.py", "f", 1, 11)}
	cs := complexity.Compare(base, cand)
	if n := complexity.Count(cs); n[complexity.Worse] != 1 || len(n) != 1 {
		t.Errorf("Count = %v; want one worse", n)
	}
	want := "b.py:1 f: worse, CC 9 → 11 (B → C); was f in a.py"
	if got := cs[0].String(); got != want {
		t.Errorf("String() = %q; want %q", got, want)
	}
}
