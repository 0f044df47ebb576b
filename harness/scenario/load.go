package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
)

// Load reads every .yaml and .yml file of fsys, in the order of their names.
// Its error is Mistakes when files are at fault: all of them, each with its
// place. A file system without any scenario is an error too, since a suite of
// nothing proves nothing.
func Load(fsys fs.FS) ([]Scenario, error) {
	files, err := scenarioFiles(fsys)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("scenarios: no .yaml file found; name a folder that holds scenario files")
	}
	l, err := newLoader()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		src, err := fs.ReadFile(fsys, file)
		if err != nil {
			return nil, fmt.Errorf("scenario %s: %w", file, err)
		}
		l.file(file, src)
	}
	if len(l.found) > 0 {
		return nil, l.found.sorted()
	}
	return l.scenarios, nil
}

func scenarioFiles(fsys fs.FS) ([]string, error) {
	var files []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("scenarios: %w", err)
		}
		if ext := path.Ext(name); !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// Select keeps the scenarios whose id or file matches one of the patterns
// (path.Match; a plain word also matches as a prefix of the id). No pattern
// keeps all. A pattern that matches nothing is an error.
func Select(all []Scenario, patterns ...string) ([]Scenario, error) {
	if len(patterns) == 0 {
		return all, nil
	}
	wanted := make([]bool, len(all))
	for _, p := range patterns {
		hit := false
		for i := range all {
			ok, err := selects(p, &all[i])
			if err != nil {
				return nil, fmt.Errorf("scenario pattern %q: %w", p, err)
			}
			wanted[i] = wanted[i] || ok
			hit = hit || ok
		}
		if !hit {
			return nil, fmt.Errorf("scenario pattern %q matches none of %d scenarios; try an id such as GW-SUB-001, a prefix such as GW-DUP, or a path such as gateway/*", p, len(all))
		}
	}
	var out []Scenario
	for i, w := range wanted {
		if w {
			out = append(out, all[i])
		}
	}
	return out, nil
}

func selects(pattern string, s *Scenario) (bool, error) {
	for _, name := range []string{s.ID, s.File} {
		ok, err := path.Match(pattern, name)
		if ok || err != nil {
			return ok, err
		}
	}
	return pattern != "" && strings.HasPrefix(s.ID, pattern), nil
}

// loader reads files one after the other and gathers what is wrong.
type loader struct {
	shape     *shape
	cel       func() (*cel.Env, error) // made once, when the first expression asks for it
	kinds     map[string]actionKind
	scenarios []Scenario
	ids       map[string]Mistake // id → where it was first seen
	found     Mistakes
}

func newLoader() (*loader, error) {
	s, err := loadShape()
	if err != nil {
		return nil, err
	}
	return &loader{shape: s, cel: sync.OnceValues(celEnv), kinds: actionKinds(), ids: map[string]Mistake{}}, nil
}

// file reads one scenario. Where the schema refused something, the later checks
// still look at the rest, but leave alone what they would only say again.
func (l *loader) file(file string, src []byte) {
	d := readYAML(file, src)
	defer func() { l.found = append(l.found, d.found...) }()
	if d.value == nil {
		if len(d.found) == 0 {
			d.mistake(place{1, 1}, "the file is empty", "write one scenario into it, or remove it")
		}
		return
	}
	l.uniqueID(d)
	if d.holes {
		return
	}
	clean := l.shape.check(d)
	if m, ok := d.value.(map[string]any); ok {
		l.scenario(d, m, clean)
	}
}

func (l *loader) uniqueID(d *document) {
	m, _ := d.value.(map[string]any)
	id, ok := m["id"].(string)
	if !ok {
		return
	}
	at := d.at("/id")
	if first, again := l.ids[id]; again {
		d.mistake(at, fmt.Sprintf("id %s is taken by %s:%d", id, first.File, first.Line), "give this scenario an id of its own")
		return
	}
	l.ids[id] = Mistake{File: d.file, Line: at.line}
}

func (l *loader) scenario(d *document, m map[string]any, clean bool) {
	s := Scenario{
		ID: text(m["id"]), Title: text(m["title"]), Class: Class(text(m["class"])), Clause: text(m["clause"]),
		File: d.file, Needs: textList(m["needs"]), Invariants: textList(m["invariants"]), Timeout: DefaultTimeout,
	}
	s.Serial, _ = m["serial"].(bool)
	if t, ok := m["timeout"].(string); ok {
		s.Timeout = durationOf(t)
	}
	c := &checker{loader: l, doc: d, clean: clean, known: builtins()}
	c.ownServices(&s, m)
	s.Steps = c.steps(m["steps"], "/steps")
	s.Needs = append(s.Needs, c.needs...)
	if len(d.found) == 0 && !expectsAnything(s.Steps) && len(s.Invariants) == 0 {
		d.mistake(d.atKey("/steps"), "the scenario expects nothing", "add expect to a step: a scenario that cannot fail proves nothing")
	}
	l.scenarios = append(l.scenarios, s)
}

// builtins are the names that ${…} may use without a save.
func builtins() map[string]bool {
	return map[string]bool{"uniq": true, "run": true, "seed": true}
}

func text(v any) string { s, _ := v.(string); return s }

func textList(v any) []string {
	many, _ := v.([]any)
	out := make([]string, 0, len(many))
	for _, one := range many {
		out = append(out, text(one))
	}
	return out
}

// durationOf reads what the schema let through.
func durationOf(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}
