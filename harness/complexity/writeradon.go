package complexity

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// radonFunc is a function or method in radon's shape, its fields in radon's words.
type radonFunc struct {
	Type       string       `json:"type"`
	Rank       string       `json:"rank"`
	Line       int          `json:"lineno"`
	EndLine    int          `json:"endline"`
	Col        int          `json:"col_offset"`
	Complexity int          `json:"complexity"`
	Name       string       `json:"name"`
	Class      string       `json:"classname,omitempty"`
	Closures   []*radonFunc `json:"closures"`
}

type radonClass struct {
	Type       string       `json:"type"`
	Rank       string       `json:"rank"`
	Line       int          `json:"lineno"`
	EndLine    int          `json:"endline"`
	Col        int          `json:"col_offset"`
	Complexity int          `json:"complexity"`
	Name       string       `json:"name"`
	Methods    []*radonFunc `json:"methods"`
}

// WriteRadon writes funcs as `radon cc -j` would: files in order, in each the
// blocks by falling complexity; methods stand both alone and within a class
// block, which reaches from its first to its last method. What radon has no
// field for (language, cognitive complexity, shape) is not written. The same
// funcs give the same bytes, one block a line.
func WriteRadon(w io.Writer, funcs []record.Func) error {
	byFile := map[string][]record.Func{}
	for _, f := range funcs {
		byFile[f.File] = append(byFile[f.File], f)
	}
	files := make([]string, 0, len(byFile))
	for name := range byFile {
		files = append(files, name)
	}
	slices.Sort(files)
	out := bufio.NewWriter(w)
	out.WriteString("{")
	for i, name := range files {
		if err := writeFile(out, i > 0, name, byFile[name]); err != nil {
			return err
		}
	}
	out.WriteString("\n}\n")
	if err := out.Flush(); err != nil { // keeps the first error of all writes
		return fmt.Errorf("radon snapshot: %w", err)
	}
	return nil
}

func writeFile(out *bufio.Writer, comma bool, name string, funcs []record.Func) error {
	if comma {
		out.WriteString(",")
	}
	key, err := json.Marshal(name)
	if err != nil {
		return fmt.Errorf("radon snapshot: file %q: %w", name, err)
	}
	fmt.Fprintf(out, "\n%s: [", key)
	for i, b := range radonBlocks(funcs) {
		line, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("radon snapshot: file %q: %w", name, err)
		}
		if i > 0 {
			out.WriteString(",")
		}
		fmt.Fprintf(out, "\n  %s", line)
	}
	out.WriteString("]")
	return nil
}

// radonBlocks nests closures and groups methods, all of one file.
func radonBlocks(funcs []record.Func) []any {
	funcs = slices.SortedFunc(slices.Values(funcs), byPlace)
	var tops []*radonFunc
	parents := map[string][]*radonFunc{}
	for _, f := range funcs {
		node := radonBlock(f)
		if outer := enclosing(parents, f); outer != nil {
			node.Name = strings.TrimPrefix(f.Name[strings.LastIndex(f.Name, locals):], locals)
			node.Type, node.Class = "function", ""
			outer.Closures = append(outer.Closures, node)
		} else {
			tops = append(tops, node)
		}
		parents[f.Name] = append(parents[f.Name], node)
	}
	return sorted(tops)
}

func radonBlock(f record.Func) *radonFunc {
	b := &radonFunc{
		Type: "function", Rank: Rank(f.CC), Line: f.Line, EndLine: f.EndLine, Col: f.Col,
		Complexity: f.CC, Name: f.Name, Class: f.Class, Closures: []*radonFunc{},
	}
	if f.Class != "" {
		b.Type, b.Name = "method", strings.TrimPrefix(f.Name, f.Class+".")
	}
	return b
}

// enclosing finds the function that f is a closure of: the last of its name that
// starts above (radon's endline may lie short of a closure). nil when f is no
// closure or its outer function is not in the snapshot.
func enclosing(parents map[string][]*radonFunc, f record.Func) *radonFunc {
	i := strings.LastIndex(f.Name, locals)
	if i < 0 {
		return nil
	}
	for _, p := range slices.Backward(parents[f.Name[:i]]) {
		if p.Line <= f.Line {
			return p
		}
	}
	return nil
}

// sorted puts functions, methods and the classes of the methods into radon's order.
func sorted(tops []*radonFunc) []any {
	type entry struct {
		cc, line int
		block    any
	}
	var all []entry
	for _, f := range tops {
		all = append(all, entry{f.Complexity, f.Line, f})
	}
	for _, c := range classes(tops) {
		all = append(all, entry{c.Complexity, c.Line, c})
	}
	slices.SortStableFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.cc, a.cc), cmp.Compare(a.line, b.line))
	})
	out := make([]any, len(all))
	for i, e := range all {
		out[i] = e.block
	}
	return out
}

func classes(tops []*radonFunc) []*radonClass {
	var out []*radonClass
	byName := map[string]*radonClass{}
	for _, f := range tops {
		if f.Class == "" {
			continue
		}
		c := byName[f.Class]
		if c == nil {
			c = &radonClass{Type: "class", Name: f.Class, Line: f.Line}
			byName[f.Class] = c
			out = append(out, c)
		}
		c.Methods = append(c.Methods, f)
		c.EndLine = max(c.EndLine, f.EndLine)
		c.Complexity += f.Complexity
	}
	for _, c := range out {
		c.Complexity = classComplexity(c.Complexity, len(c.Methods))
		c.Rank = Rank(c.Complexity)
	}
	return out
}

// classComplexity is radon's: the mean of the methods, the class body counted
// with one, and one more from two methods on.
func classComplexity(sum, methods int) int {
	cc := (sum + 1) / methods
	if methods > 1 {
		cc++
	}
	return cc
}
