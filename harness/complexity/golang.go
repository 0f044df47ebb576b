package complexity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/fzipp/gocyclo"
	"github.com/uudashr/gocognit"

	"qmtl.internal/plumbline/harness/record"
)

// ErrNoGo is in the chain of Go's error when the tree holds no Go file: nothing
// was measured, which is not the same as nothing is wrong.
var ErrNoGo = errors.New("no hand-written Go file")

// Go measures every function of the hand-written Go files under fsys, test
// files included. Left out by rule: folders named testdata or vendor, folders
// and files that the go command ignores (leading "." or "_"), and files with
// the standard "Code generated … DO NOT EDIT." header. Ignore directives of
// gocyclo and gocognit have no effect.
//
// Files that do not parse are named in a FileErrors, next to the functions of
// all the others. Any other error means that nothing was measured.
func Go(ctx context.Context, fsys fs.FS) ([]record.Func, error) {
	files, err := goFiles(ctx, fsys)
	if err != nil {
		return nil, err
	}
	var funcs []record.Func
	var bad FileErrors
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		src, err := fs.ReadFile(fsys, file)
		if err != nil {
			bad = append(bad, FileError{file, pathless(err)})
			continue
		}
		fs, err := goFile(file, src)
		if err != nil {
			bad = append(bad, FileError{file, err})
			continue
		}
		funcs = append(funcs, fs...)
	}
	slices.SortFunc(funcs, byPlace)
	return funcs, bad.orNil()
}

// pathless drops the file name from an fs error; FileError names it already.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	return err
}

func goFiles(ctx context.Context, fsys fs.FS) ([]string, error) {
	var files []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("complexity: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.IsDir() && skipDir(name):
			return fs.SkipDir
		case !d.IsDir() && isGo(name):
			files = append(files, name)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("complexity: %w in the given folder; name the root of a Go module", ErrNoGo)
	}
	return files, err
}

func skipDir(name string) bool {
	base := path.Base(name)
	return name != "." && (base == "testdata" || base == "vendor" || ignored(base))
}

func isGo(name string) bool {
	return path.Ext(name) == ".go" && !ignored(path.Base(name))
}

func ignored(base string) bool { return base[0] == '.' || base[0] == '_' }

// goFile measures one file; a generated file has no functions of interest.
func goFile(name string, src []byte) ([]record.Func, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, syntaxError(err)
	}
	if ast.IsGenerated(file) {
		return nil, nil
	}
	m := measurer{fset: fset, src: src, file: name, test: strings.HasSuffix(name, "_test.go")}
	for _, d := range file.Decls {
		m.decl(d)
	}
	return m.funcs, nil
}

// syntaxError keeps the first of a parser's complaints; the rest are echoes.
func syntaxError(err error) error {
	var list scanner.ErrorList
	if errors.As(err, &list) && len(list) > 0 {
		return fmt.Errorf("line %d:%d: %s", list[0].Pos.Line, list[0].Pos.Column, list[0].Msg)
	}
	return err
}

type measurer struct {
	fset  *token.FileSet
	src   []byte
	file  string
	test  bool
	funcs []record.Func
}

func (m *measurer) decl(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		m.fn(d, d, receiver(d))
	case *ast.GenDecl:
		for _, s := range d.Specs {
			if v, ok := s.(*ast.ValueSpec); ok {
				m.values(v)
			}
		}
	}
}

// values measures the outermost function literals of a package-level variable,
// also those in tables; nothing else would count them. They carry the name of
// the variable, from the second on with a number.
func (m *measurer) values(v *ast.ValueSpec) {
	for i, expr := range v.Values {
		name := v.Names[min(i, len(v.Names)-1)].Name
		seen := 0
		ast.Inspect(expr, func(n ast.Node) bool {
			lit, ok := n.(*ast.FuncLit)
			if !ok {
				return true
			}
			as := name
			if seen++; seen > 1 {
				as = fmt.Sprintf("%s#%d", name, seen)
			}
			m.fn(lit, &ast.FuncDecl{Name: ast.NewIdent(as), Type: lit.Type, Body: lit.Body}, "")
			return false
		})
	}
}

func (m *measurer) fn(node ast.Node, d *ast.FuncDecl, class string) {
	pos, end := m.fset.Position(node.Pos()), m.fset.Position(node.End())
	name := d.Name.Name
	if class != "" {
		name = class + "." + name
	}
	m.funcs = append(m.funcs, record.Func{
		Lang: "go", File: m.file, Line: pos.Line, EndLine: end.Line, Col: pos.Column - 1,
		Name: name, Class: class, Test: m.test,
		CC: gocyclo.Complexity(node), Cognitive: gocognit.Complexity(d),
		Shape: m.shape(d, node.End()),
	})
}

// shape hashes parameters, results and body token by token: comments, layout,
// the receiver and the function's own name make no difference.
func (m *measurer) shape(d *ast.FuncDecl, end token.Pos) string {
	from := m.fset.Position(d.Type.Params.Pos()).Offset
	src := m.src[from:m.fset.Position(end).Offset]
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(src)), src, nil, 0)
	h := sha256.New()
	for {
		_, tok, lit := s.Scan()
		switch {
		case tok == token.EOF:
			return hex.EncodeToString(h.Sum(nil)[:8])
		case tok == token.SEMICOLON:
			lit = "" // ";" or the end of a line
		case tok == token.IDENT && lit == d.Name.Name:
			lit = "" // calls itself
		}
		fmt.Fprintf(h, "%d %q\n", tok, lit)
	}
}

// receiver is the name of the type that d is a method of, "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	expr := d.Recv.List[0].Type
	for {
		switch t := expr.(type) {
		case *ast.StarExpr:
			expr = t.X
		case *ast.ParenExpr:
			expr = t.X
		case *ast.IndexExpr:
			expr = t.X
		case *ast.IndexListExpr:
			expr = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}
