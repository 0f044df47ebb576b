// Package complexity measures how hard functions are to follow, and compares
// two such measurements function by function.
//
// Go is measured here, with the rules of gocyclo (cyclomatic complexity, CC) and
// gocognit (cognitive complexity), on files that this package parses itself.
// Python arrives as the JSON of `radon cc -j`, and every snapshot can be written
// in that shape, so that a team with either language reads the same file.
//
// A snapshot is a []record.Func sorted by file, line and column. A closure of
// Python is a function of its own, named as Python names it
// (Outer.<locals>.inner); a function literal of Go counts into the function
// that holds it, as gocyclo has it.
package complexity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// locals is how Python's __qualname__ marks what lives inside a function.
const locals = ".<locals>."

// Limit is the largest CC that plumbline accepts of a function: radon's rank B.
const Limit = 10

// Ranks holds radon's letters in order.
const Ranks = "ABCDEF"

// worst CC of the ranks A to E; above is F (radon.complexity.cc_rank).
var bounds = [...]int{5, 10, 20, 30, 40}

// Rank is radon's letter for a CC: A to 5, B to 10, C to 20, D to 30, E to 40, F above.
func Rank(cc int) string {
	i, _ := slices.BinarySearch(bounds[:], cc)
	return Ranks[i : i+1]
}

// IsClosure tells whether f is a function inside another one.
func IsClosure(f record.Func) bool { return strings.Contains(f.Name, locals) }

// Totals sums a snapshot up. Like radon's own count, Functions, Ranks, Average
// and Max leave closures out; those have a count and a maximum of their own.
type Totals struct {
	Functions  int            `json:"functions"`
	Ranks      map[string]int `json:"ranks"`   // A to F, each present
	Average    float64        `json:"average"` // mean CC; 0 without functions
	Max        int            `json:"max"`     // largest CC
	Closures   int            `json:"closures"`
	MaxClosure int            `json:"max_closure"` // largest CC of a closure
}

// Total sums funcs up.
func Total(funcs []record.Func) Totals {
	t := Totals{Ranks: map[string]int{}}
	for _, r := range Ranks {
		t.Ranks[string(r)] = 0
	}
	sum := 0
	for _, f := range funcs {
		if IsClosure(f) {
			t.Closures++
			t.MaxClosure = max(t.MaxClosure, f.CC)
			continue
		}
		t.Max = max(t.Max, f.CC)
		t.Functions++
		t.Ranks[Rank(f.CC)]++
		sum += f.CC
	}
	if t.Functions > 0 {
		t.Average = float64(sum) / float64(t.Functions)
	}
	return t
}

// Over returns the functions with a CC above limit, worst first.
func Over(funcs []record.Func, limit int) []record.Func {
	var out []record.Func
	for _, f := range funcs {
		if f.CC > limit {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b record.Func) int {
		return cmp.Or(cmp.Compare(b.CC, a.CC), byPlace(a, b))
	})
	return out
}

func byPlace(a, b record.Func) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Col, b.Col), cmp.Compare(a.Name, b.Name))
}

// FileError is one file that could not be measured.
type FileError struct {
	File string // slash path
	Err  error
}

func (e FileError) Error() string { return e.File + ": " + e.Err.Error() }
func (e FileError) Unwrap() error { return e.Err }

// FileErrors names every file that could not be measured. Go and Radon return
// it together with the functions of all other files; only with this error is
// what they return of use.
type FileErrors []FileError

func (es FileErrors) Error() string {
	if len(es) == 1 {
		return "complexity not measured: " + es[0].Error()
	}
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return fmt.Sprintf("complexity not measured in %d files: %s", len(es), strings.Join(lines, "; "))
}

// Findings gives the errors in the record's shape.
func (es FileErrors) Findings() []record.Finding {
	out := make([]record.Finding, len(es))
	for i, e := range es {
		out[i] = record.Finding{ID: e.File, What: e.Err.Error()}
	}
	return out
}

// orNil sorts, and keeps an empty list from becoming a non-nil error.
func (es FileErrors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortFunc(es, func(a, b FileError) int { return cmp.Compare(a.File, b.File) })
	return es
}
