package service

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// configFlag names the configuration file; it has no meaning inside of one.
const configFlag = "config"

// usualFiles are looked for in the working directory when no file is named.
var usualFiles = []string{"qmtl.yml", "qmtl.yaml"}

// Key is a further name for a flag in the configuration file.
type Key struct {
	Flag string
	// As turns what the file gives into the flag's value; now is the value so
	// far. nil: as it is given.
	As func(now, given string) (string, error)
}

// Host is the As of a key that is the host in a flag's HOST:PORT.
func Host(now, given string) (string, error) {
	_, port, err := net.SplitHostPort(now)
	return net.JoinHostPort(given, port), err
}

// Port is the As of a key that is the port in a flag's HOST:PORT.
func Port(now, given string) (string, error) {
	host, _, err := net.SplitHostPort(now)
	return net.JoinHostPort(host, given), err
}

// Not is the As of a key that says the opposite of its flag.
func Not(_, given string) (string, error) {
	b, err := strconv.ParseBool(given)
	return strconv.FormatBool(!b), err
}

// document is one configuration file while it is read.
type document struct {
	*settings
	name     string
	problems []problem
	set      map[string]place // flag → where it was set
}

type place struct {
	line, column int
	key, value   string
}

type problem struct {
	line, column int
	text         string
}

// readFile sets every flag that the file's section names. An empty name means
// the usual file of the working directory, which need not exist.
func (s *settings) readFile(w IO, name string) []error {
	name, text, err := w.configText(name)
	if err != nil {
		return []error{err}
	}
	if name == "" {
		return nil
	}
	d := &document{settings: s, name: name, set: map[string]place{}}
	d.read(text)
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Or(a.line-b.line, a.column-b.column) })
	errs := make([]error, len(d.problems))
	for i, p := range d.problems {
		errs[i] = fmt.Errorf("%s:%d:%d: %s", name, p.line, p.column, p.text)
	}
	return errs
}

// configText reads the file, or the first usual one; "" when there is none.
func (w IO) configText(name string) (string, []byte, error) {
	read := w.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	if name != "" {
		text, err := read(name)
		if err != nil {
			return "", nil, fmt.Errorf("configuration file: %w", err)
		}
		return name, text, nil
	}
	for _, usual := range usualFiles {
		text, err := read(usual)
		if err == nil {
			return usual, text, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("configuration file: %w", err)
		}
	}
	return "", nil, nil
}

func (d *document) wrong(line, column int, format string, a ...any) {
	d.problems = append(d.problems, problem{max(line, 1), max(column, 1), fmt.Sprintf(format, a...)})
}

func (d *document) at(n ast.Node, format string, a ...any) {
	line, column := 1, 1
	switch m := n.(type) { // a mapping's own token is its first colon
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	d.wrong(line, column, format, a...)
}

func (d *document) read(text []byte) {
	f, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return
	}
	if len(f.Docs) > 1 {
		d.at(f.Docs[1], "a second document; want one a file")
	}
	if len(f.Docs) == 0 || f.Docs[0].Body == nil {
		d.wrong(1, 1, "the file is empty; want a section %q", d.spec.Name)
		return
	}
	d.sections(f.Docs[0].Body)
}

func (d *document) syntax(err error) {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		at := e.GetToken().Position
		d.wrong(at.Line, at.Column, "%s", e.GetMessage())
		return
	}
	d.wrong(1, 1, "%s", strings.Join(strings.Fields(err.Error()), " "))
}

// sections finds the service's own section, and those that services have in
// common. Its neighbours' are theirs to judge; any other is a mistake.
func (d *document) sections(body ast.Node) {
	found := false
	d.members(body, "the file", func(key string, at, value ast.Node) {
		_, common := d.key("/" + key)
		switch {
		case key == d.spec.Name:
			found = true
			d.walk("", value)
		case common:
			d.assign("/"+key, at, value)
		case d.isGroup("/" + key):
			d.walk("/"+key, value)
		case !slices.Contains(d.spec.Beside, key):
			d.at(at, "no section %q; want %s", key, strings.Join(append([]string{d.spec.Name}, d.spec.Beside...), ", "))
		}
	})
	if !found && len(d.problems) == 0 {
		d.at(body, "no section %q", d.spec.Name)
	}
}

// members calls visit for each key of a mapping; a key that comes twice and a
// node that is no mapping are mistakes.
func (d *document) members(n ast.Node, what string, visit func(key string, at, value ast.Node)) {
	var all []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		all = m.Values
	case *ast.MappingValueNode:
		all = []*ast.MappingValueNode{m}
	case *ast.NullNode:
	default:
		d.at(n, "%s: want keys with values, got %s", what, kindOf(n))
	}
	seen := map[string]int{}
	for _, m := range all {
		key := m.Key.GetToken().Value
		if line := seen[key]; line > 0 {
			d.at(m.Key, "%s: a second time; the first is in line %d", key, line)
			continue
		}
		seen[key] = max(m.Key.GetToken().Position.Line, 1)
		visit(key, m.Key, m.Value)
	}
}

// walk sets the flags that the members of a section name. A group of keys is a
// common beginning of their names: events: {ttl: 300} is events_ttl: 300.
func (d *document) walk(path string, n ast.Node) {
	what := d.spec.Name
	if path != "" {
		what = path
	}
	d.members(n, what, func(key string, at, value ast.Node) {
		full := strings.TrimPrefix(path+"."+key, ".")
		switch value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			if d.isGroup(full) {
				d.walk(full, value)
				return
			}
		}
		d.assign(full, at, value)
	})
}

func (d *document) isGroup(path string) (is bool) {
	d.fs.VisitAll(func(f *flag.Flag) { is = is || strings.HasPrefix(f.Name, flagOf(path)+"-") })
	for key := range d.spec.Keys {
		is = is || strings.HasPrefix(key, path+".")
	}
	return is
}

// key finds the further name that path is.
func (d *document) key(path string) (Key, bool) {
	if path == "/"+profileFlag {
		return Key{Flag: profileFlag}, true
	}
	key, known := d.spec.Keys[path]
	return key, known
}

// flagOf is the flag of a key.
func flagOf(path string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(path) }

// keyOf is the key of a flag.
func keyOf(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// assign sets the flag that a key means.
func (d *document) assign(path string, at, value ast.Node) {
	key, known := d.key(path)
	if !known {
		key = Key{Flag: flagOf(path)}
	}
	f := d.fs.Lookup(key.Flag)
	if f == nil || key.Flag == configFlag || strings.Contains(path, "-") {
		d.at(at, "%s: no such key%s", path, d.nearest(path))
		return
	}
	given, ok := d.text(path, value)
	if !ok {
		return
	}
	if err := d.give(f, key, path, given, at); err != nil {
		d.at(value, "%s: %s", path, err)
	}
}

func (d *document) give(f *flag.Flag, key Key, path, given string, at ast.Node) error {
	given = seconds(f, given)
	if key.As != nil {
		turned, err := key.As(f.Value.String(), given)
		if err != nil {
			return wrongValue(f, given, err)
		}
		given = turned
	}
	pos := at.GetToken().Position
	here := place{pos.Line, pos.Column, path, given}
	if first, twice := d.set[f.Name]; twice && key.As == nil && first.value != given {
		return fmt.Errorf("says otherwise than %s in line %d; both mean --%s", first.key, first.line, f.Name)
	}
	d.set[f.Name] = here
	d.from[f.Name] = fmt.Sprintf("%s:%d:%d", d.name, pos.Line, pos.Column)
	if err := d.fs.Set(f.Name, given); err != nil {
		return wrongValue(f, given, err)
	}
	return nil
}

// wrongValue says what a flag wanted; a secret's value is not repeated.
func wrongValue(f *flag.Flag, given string, err error) error {
	if _, hidden := f.Value.(*secret); hidden {
		return err
	}
	return fmt.Errorf("unusable value %q: %w", mask(given), err)
}

// seconds lets a bare number be a duration, in seconds.
func seconds(f *flag.Flag, given string) string {
	if _, is := valueOf(f).(time.Duration); !is {
		return given
	}
	if n, err := strconv.ParseFloat(given, 64); err == nil {
		return time.Duration(n * float64(time.Second)).String()
	}
	return given
}

// valueOf is a flag's value in its own type, nil when it does not tell.
func valueOf(f *flag.Flag) any {
	if g, ok := f.Value.(flag.Getter); ok {
		return g.Get()
	}
	return nil
}

// text gives a scalar as it was written, and a list of scalars as a comma list;
// false for null, which leaves the default, and for what is neither.
func (d *document) text(path string, n ast.Node) (string, bool) {
	if list, ok := n.(*ast.SequenceNode); ok {
		var all []string
		for _, item := range list.Values {
			text, ok := scalar(item)
			if !ok || strings.Contains(text, ",") {
				d.at(item, "%s: want a list of plain values without commas, got %s", path, kindOf(item))
			}
			all = append(all, text)
		}
		return strings.Join(all, ","), true
	}
	if _, null := n.(*ast.NullNode); null {
		return "", false
	}
	text, ok := scalar(n)
	if !ok {
		d.at(n, "%s: want a value, got %s", path, kindOf(n))
	}
	return text, ok
}

func scalar(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func kindOf(n ast.Node) string {
	kind := strings.ToLower(n.Type().String())
	if strings.ContainsAny(kind[:1], "aeiou") {
		return "an " + kind
	}
	return "a " + kind
}

// nearest proposes the key that may have been meant.
func (d *document) nearest(path string) string {
	best, least := "", 1+len(path)/3
	try := func(key string) {
		if n := distance(path, key); n <= least {
			best, least = key, n-1
		}
	}
	d.fs.VisitAll(func(f *flag.Flag) { try(keyOf(f.Name)) })
	for key := range d.spec.Keys {
		try(key)
	}
	if best == "" {
		return fmt.Sprintf("; %q lists them", d.spec.Name+" config check")
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance counts the letters to change, add or drop between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := left
			if a[i] != b[j] {
				change++
			}
			left = row[j+1]
			row[j+1] = min(change, left+1, row[j]+1)
		}
	}
	return row[len(b)]
}
