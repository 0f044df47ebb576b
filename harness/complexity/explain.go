package complexity

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"slices"
	"strings"

	"github.com/uudashr/gocognit"

	"qmtl.internal/plumbline/harness/record"
)

// Increment is one place that makes a function harder to follow.
type Increment struct {
	Line, Col int    // in the file; columns count from 1
	What      string // if, for, range, case, select case, &&, ||, and for cognitive complexity also else, break to a label, recursion …
	By        int
	Nesting   int // of a cognitive increment: levels it lies within
}

// Explanation says where the complexity of one function comes from. CC is one
// more than the sum of Branches; Cognitive is the sum of Burdens.
type Explanation struct {
	Func     record.Func
	Branches []Increment
	Burdens  []Increment
}

// Explain explains every function of the hand-written Go files under fsys whose
// name, or whose receiver and name (Recv.Name), is name; with a file part, as in
// "harness/cli/cli.go:Main", only that of the file.
func Explain(fsys fs.FS, funcs []record.Func, name string) ([]Explanation, error) {
	file, short, placed := strings.Cut(name, ":")
	if !placed {
		file, short = "", name
	}
	var out []Explanation
	for _, f := range funcs {
		if (file != "" && f.File != file) || (f.Name != short && leaf(f.Name) != short) {
			continue
		}
		e, err := explain(fsys, f)
		if err != nil {
			return nil, fmt.Errorf("complexity: %s: %w", f.File, err)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("complexity: no function is named %q; write Name, Recv.Name or file.go:Name", name)
	}
	return out, nil
}

func explain(fsys fs.FS, f record.Func) (Explanation, error) {
	e := Explanation{Func: f}
	src, err := fs.ReadFile(fsys, f.File)
	if err != nil {
		return e, pathless(err)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", src, parser.SkipObjectResolution)
	if err != nil {
		return e, syntaxError(err)
	}
	at := func(p token.Pos) (line, col int) { q := fset.Position(p); return q.Line, q.Column }
	found := function(fset, file, f)
	if found == nil {
		return e, fmt.Errorf("%s is not at line %d", f.Name, f.Line)
	}
	ast.Inspect(found, func(n ast.Node) bool {
		if p, what := branch(n); what != "" {
			line, col := at(p)
			e.Branches = append(e.Branches, Increment{Line: line, Col: col, What: what, By: 1})
		}
		return true
	})
	slices.SortFunc(e.Branches, func(a, b Increment) int { return (a.Line-b.Line)*1000 + a.Col - b.Col })
	e.Burdens = burdens(fset, found)
	return e, nil
}

// function finds the node that was measured as f.
func function(fset *token.FileSet, file *ast.File, f record.Func) (found ast.Node) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.FuncDecl, *ast.FuncLit:
			if p := fset.Position(n.Pos()); found == nil && p.Line == f.Line && p.Column == f.Col+1 {
				found = n
			}
		}
		return found == nil
	})
	return found
}

// branch names what gocyclo counts a node as, "" for nothing.
func branch(n ast.Node) (token.Pos, string) {
	switch n := n.(type) {
	case *ast.IfStmt:
		return n.Pos(), "if"
	case *ast.ForStmt:
		return n.Pos(), "for"
	case *ast.RangeStmt:
		return n.Pos(), "range"
	case *ast.CaseClause:
		return n.Pos(), unless(n.List == nil, "case")
	case *ast.CommClause:
		return n.Pos(), unless(n.Comm == nil, "select case")
	case *ast.BinaryExpr:
		return n.OpPos, unless(n.Op != token.LAND && n.Op != token.LOR, n.Op.String())
	}
	return token.NoPos, ""
}

func unless(not bool, what string) string {
	if not {
		return ""
	}
	return what
}

// burdens asks gocognit for the places behind its number.
func burdens(fset *token.FileSet, n ast.Node) (out []Increment) {
	d, ok := n.(*ast.FuncDecl)
	if lit, isLit := n.(*ast.FuncLit); isLit {
		d, ok = &ast.FuncDecl{Name: ast.NewIdent("_"), Type: lit.Type, Body: lit.Body}, true
	}
	if !ok {
		return nil
	}
	for _, x := range gocognit.ScanComplexity(d, true).Diagnostics {
		p := fset.Position(x.Pos)
		out = append(out, Increment{Line: p.Line, Col: p.Column, What: x.Text, By: x.Inc, Nesting: x.Nesting})
	}
	return out
}
