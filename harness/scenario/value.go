package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// parseJSON reads one JSON value in the types that patterns compare: numbers
// as json.Number, objects as map[string]any, lists as []any.
func parseJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON value")
	}
	return v, nil
}

// plain turns any value that JSON can write into those types.
func plain(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return parseJSON(b)
}

// decode reads an action's value into its struct. The schema has checked keys
// and types already; a key that the struct lacks is a bug and an error.
func decode[T any](v any) (T, error) {
	var out T
	b, err := json.Marshal(v)
	if err != nil {
		return out, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	d.DisallowUnknownFields()
	return out, d.Decode(&out)
}

// An observation is what a step saw: named parts that expect, save and CEL
// look at.
type observation map[string]any

// path finds a value by a dotted path such as body.detail.code or
// records.0.value; a negative index counts from the end.
func (o observation) path(path string) (any, bool) {
	return lookup(map[string]any(o), path)
}

func lookup(v any, path string) (any, bool) {
	for _, part := range strings.Split(path, ".") {
		var ok bool
		if v, ok = child(v, part); !ok {
			return nil, false
		}
	}
	return v, true
}

func child(v any, part string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		c, ok := v[part]
		return c, ok
	case []any:
		i, err := strconv.Atoi(part)
		if i < 0 {
			i += len(v)
		}
		if err != nil || i < 0 || i >= len(v) {
			return nil, false
		}
		return v[i], true
	}
	return nil, false
}

// scope holds the values that ${…} may name. Parallel lists of steps share it.
type scope struct {
	mu     sync.Mutex
	values map[string]any // guarded by mu
	outer  *scope         // of a for_each: where saved values go
}

func newScope(values map[string]any) *scope { return &scope{values: maps.Clone(values)} }

// with gives a scope that sees s and one more name, hidden from outside.
func (s *scope) with(name string, v any) *scope {
	return &scope{values: map[string]any{name: v}, outer: s}
}

func (s *scope) save(name string, v any) {
	for s.outer != nil {
		s = s.outer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[name] = v
}

func (s *scope) get(name string) (any, bool) {
	for at := s; at != nil; at = at.outer {
		at.mu.Lock()
		v, ok := at.values[name]
		at.mu.Unlock()
		if ok {
			return v, true
		}
	}
	return nil, false
}

// all gives a copy of every visible value, the inner ones winning.
func (s *scope) all() map[string]any {
	out := map[string]any{}
	if s.outer != nil {
		out = s.outer.all()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(out, s.values)
	return out
}

// reference finds ${name}, ${name.path} and the escape $${.
func reference() *regexp.Regexp {
	return regexp.MustCompile(`\$?\$\{([^{}]*)\}`)
}

// expand replaces every ${…} in v. Text that is one reference and nothing else
// takes the value with its type; inside other text the value is written out.
func (s *scope) expand(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return s.expandText(v)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = s.expand(item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		return s.expandMap(v)
	}
	return v, nil
}

func (s *scope) expandMap(v map[string]any) (any, error) {
	out := make(map[string]any, len(v))
	for k, item := range v {
		key, err := s.expandText(k)
		if err != nil {
			return nil, err
		}
		if out[written(key)], err = s.expand(item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *scope) expandText(text string) (any, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	re := reference()
	if m := re.FindStringSubmatch(text); m != nil && m[0] == text && !strings.HasPrefix(text, "$$") {
		return s.resolve(m[1])
	}
	var failed error
	out := re.ReplaceAllStringFunc(text, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		v, err := s.resolve(m[2 : len(m)-1])
		failed = errors.Join(failed, err)
		return written(v)
	})
	return out, failed
}

func (s *scope) resolve(ref string) (any, error) {
	name, rest, deeper := strings.Cut(ref, ".")
	v, ok := s.get(name)
	if ok && deeper {
		v, ok = lookup(v, rest)
	}
	if !ok {
		return nil, fmt.Errorf("${%s} has no value", ref)
	}
	return v, nil
}

func written(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// references calls found for each ${name} in v, with the pointer of the text.
func references(v any, pointer string, found func(pointer, name string)) {
	switch v := v.(type) {
	case string:
		for _, m := range reference().FindAllStringSubmatch(v, -1) {
			if !strings.HasPrefix(m[0], "$$") {
				name, _, _ := strings.Cut(m[1], ".")
				found(pointer, name)
			}
		}
	case []any:
		for i, item := range v {
			references(item, pointer+"/"+strconv.Itoa(i), found)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			references(k, pointer+"/"+escapePointer(k), found)
			references(v[k], pointer+"/"+escapePointer(k), found)
		}
	}
}
