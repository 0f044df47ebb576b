package sut

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Problem is one mistake in a descriptor. Line and Column count from 1; 0 says
// that the mistake has no place, as in an empty file.
type Problem struct {
	File         string
	Line, Column int
	Text         string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, max(p.Line, 1), max(p.Column, 1), p.Text)
}

// Problems are all mistakes of one descriptor, in the order of the file.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Is makes every Problems an ErrUsage.
func (ps Problems) Is(target error) bool { return target == ErrUsage }

// document is one parsed file with the places of its values.
type document struct {
	file     string
	body     ast.Node
	problems Problems
}

func (d *document) at(path []string, format string, a ...any) {
	line, column := place(d.body, path)
	d.problems = append(d.problems, Problem{d.file, line, column, fmt.Sprintf(format, a...)})
}

// err sorts the problems by place and drops repeats.
func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column, strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(d.problems)
}

// parse reads one descriptor: syntax, then shape by the schema, then sense.
func parse(file, dir string, b []byte) (Descriptor, error) {
	d := &document{file: file}
	if err := d.read(b); err != nil {
		return Descriptor{}, err
	}
	if err := d.checkShape(); err != nil {
		return Descriptor{}, err
	}
	var out Descriptor
	if err := yaml.NodeToValue(d.body, &out); err != nil {
		return Descriptor{}, Problems{d.syntax(err)}
	}
	out.dir = dir
	d.checkSense(out)
	return out, d.err()
}

func (d *document) read(b []byte) error {
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return Problems{d.syntax(err)}
	}
	switch {
	case len(f.Docs) == 0 || f.Docs[0].Body == nil:
		return Problems{{File: d.file, Text: "the file is empty; want a descriptor"}}
	case len(f.Docs) > 1:
		line := f.Docs[1].GetToken().Position.Line
		return Problems{{d.file, line, 1, "a second document; want one descriptor a file"}}
	}
	d.body = f.Docs[0].Body
	return nil
}

func (d *document) syntax(err error) Problem {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		at := e.GetToken().Position
		return Problem{d.file, at.Line, at.Column, e.GetMessage()}
	}
	return Problem{File: d.file, Text: strings.Join(strings.Fields(err.Error()), " ")}
}

func (d *document) checkShape() error {
	var value any
	if err := yaml.NodeToValue(d.body, &value); err != nil {
		return Problems{d.syntax(err)}
	}
	schema, err := compileSchema()
	if err != nil {
		return err
	}
	err = schema.Validate(value)
	var invalid *jsonschema.ValidationError
	if errors.As(err, &invalid) {
		d.collect(invalid)
	} else if err != nil {
		return fmt.Errorf("%s: %w", d.file, err)
	}
	return d.err()
}

func compileSchema() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		return nil, fmt.Errorf("descriptor schema: %w", err)
	}
	const name = "descriptor.schema.json"
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("descriptor schema: %w", err)
	}
	return c.Compile(name)
}

// collect turns the leaves of a validation error into problems.
func (d *document) collect(e *jsonschema.ValidationError) {
	if _, either := e.ErrorKind.(*kind.OneOf); either {
		d.at(e.InstanceLocation, "%swant exactly one of line and url", where(e.InstanceLocation))
		return
	}
	for _, cause := range e.Causes {
		d.collect(cause)
	}
	if len(e.Causes) > 0 {
		return
	}
	if extra, ok := e.ErrorKind.(*kind.AdditionalProperties); ok {
		for _, key := range extra.Properties {
			d.at(append(slices.Clone(e.InstanceLocation), key), "%sunknown key %q", where(e.InstanceLocation), key)
		}
		return
	}
	text := e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	d.at(e.InstanceLocation, "%s%s", where(e.InstanceLocation), text)
}

// where writes a path for people: processes[0].ready, with a colon.
func where(path []string) string {
	var b strings.Builder
	for _, p := range path {
		switch _, err := strconv.Atoi(p); {
		case err == nil:
			b.WriteString("[" + p + "]")
		case b.Len() > 0:
			b.WriteString("." + p)
		default:
			b.WriteString(p)
		}
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	return b.String()
}

// place finds where the value at path stands; of a mapping member, its key.
// A path that leads nowhere is placed where it leaves the document.
func place(n ast.Node, path []string) (line, column int) {
	at := start(n)
	for _, step := range path {
		key, value := child(n, step)
		if value == nil {
			break
		}
		at, n = start(value), value
		if key != nil {
			at = start(key)
		}
	}
	if at == nil {
		return 1, 1
	}
	return at.line, at.column
}

type position struct{ line, column int }

// start is where a node begins; of a mapping, its first key.
func start(n ast.Node) *position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			return start(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return start(m.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return nil
	}
	return &position{t.Position.Line, t.Position.Column}
}

func child(n ast.Node, step string) (key, value ast.Node) {
	switch m := n.(type) {
	case *ast.MappingNode:
		for _, v := range m.Values {
			if v.Key.String() == step || v.Key.GetToken().Value == step {
				return v.Key, v.Value
			}
		}
	case *ast.MappingValueNode:
		if m.Key.GetToken().Value == step {
			return m.Key, m.Value
		}
	case *ast.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i < len(m.Values) {
			return nil, m.Values[i]
		}
	}
	return nil, nil
}

// checkSense finds what the schema cannot: references that lead nowhere.
func (d *document) checkSense(out Descriptor) {
	capped, seen := "", map[string]bool{}
	for i, f := range out.Files {
		d.checkTemplate([]string{"files", strconv.Itoa(i), "content"}, f.Content, seen, "")
	}
	for i, p := range out.Processes {
		at := func(keys ...string) []string { return append([]string{"processes", strconv.Itoa(i)}, keys...) }
		if seen[p.Name] {
			d.at(at("name"), "%sa second process %q", where(at("name")), p.Name)
		}
		if p.HeapCap && capped != "" {
			d.at(at("heap_cap"), "%sprocess %s bears the heap cap already", where(at("heap_cap")), capped)
		}
		if p.HeapCap {
			capped = p.Name
		}
		d.checkProcess(at, p, seen)
		seen[p.Name] = true
	}
	for key, text := range map[string]string{
		"gateway": out.Endpoints.Gateway, "dagmanager": out.Endpoints.DagManager, "dagmanager_http": out.Endpoints.DagManagerHTTP,
	} {
		d.checkTemplate([]string{"endpoints", key}, text, seen, "")
	}
}

func (d *document) checkProcess(at func(...string) []string, p Spec, seen map[string]bool) {
	for i, arg := range p.Argv {
		d.checkTemplate(at("argv", strconv.Itoa(i)), arg, seen, p.Name)
	}
	for i, arg := range p.Beside {
		d.checkTemplate(at("beside", strconv.Itoa(i)), arg, seen, p.Name)
	}
	for i, arg := range p.Configured {
		d.checkTemplate(at("configured", strconv.Itoa(i)), arg, seen, p.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(p.Env)) {
		d.checkTemplate(at("env", key), p.Env[key], seen, p.Name)
	}
	for _, role := range slices.Sorted(maps.Keys(p.Addresses)) {
		d.checkTemplate(at("addresses", role), p.Addresses[role], seen, p.Name)
	}
	d.checkTemplate(at("dir"), p.Dir, seen, p.Name)
	d.checkTemplate(at("ready", "url"), p.Ready.URL, seen, p.Name)
	if p.Ready.Line && len(p.Addresses) > 0 {
		d.at(at("addresses"), "%sa ready line tells the addresses; delete this", where(at("addresses")))
	}
}

// checkTemplate refuses names that Start could never fill in. self is the
// process that the text belongs to, "" outside of processes.
func (d *document) checkTemplate(path []string, text string, seen map[string]bool, self string) {
	_, err := expand(text, func(name string) (string, bool) {
		if why := badName(name, seen, self); why != "" {
			d.at(path, "%s${%s}: %s", where(path), name, why)
		}
		return "", true
	})
	if err != nil {
		d.at(path, "%s%s", where(path), err)
	}
}
