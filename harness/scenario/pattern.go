package scenario

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A pattern says what a value must be like. It writes each difference to r; at
// is the path of the value, for the reader. got is absent{} when there is no
// value.
type pattern interface {
	check(got any, at string, r *report)
}

// absent stands for a value that is not there.
type absent struct{}

// report collects differences.
type report struct{ problems []string }

func (r *report) add(at, format string, args ...any) {
	r.problems = append(r.problems, at+": "+fmt.Sprintf(format, args...))
}

func (r *report) want(at, want string, got any) {
	if _, none := got.(absent); none {
		r.add(at, "want %s, got nothing", want)
		return
	}
	r.add(at, "want %s, got %s", want, short(got))
}

// matches tells whether got fits p.
func matches(p pattern, got any) bool {
	var r report
	p.check(got, "", &r)
	return len(r.problems) == 0
}

// complain is told about each mistake in a pattern: pointer below the pattern.
type complain func(pointer, what, mend string)

// compile reads a pattern: {match: …} is a named matcher, another map matches
// the members it names, a list matches item by item, all else is equality.
func compile(v any, pointer string, c complain) pattern {
	switch v := v.(type) {
	case map[string]any:
		if arg, ok := v["match"]; ok && len(v) == 1 {
			return compileMatcher(arg, pointer+"/match", c)
		}
		p := partial{}
		for k, child := range v {
			p[k] = compile(child, pointer+"/"+escapePointer(k), c)
		}
		return p
	case []any:
		return compileList(v, pointer, c)
	}
	return equal{v}
}

func compileList(v []any, pointer string, c complain) list {
	l := make(list, len(v))
	for i, child := range v {
		l[i] = compile(child, pointer+"/"+strconv.Itoa(i), c)
	}
	return l
}

// compileMatcher reads the value of match: a name, or one name with its argument.
func compileMatcher(arg any, pointer string, c complain) pattern {
	switch arg := arg.(type) {
	case string:
		if p, ok := plainMatchers()[arg]; ok {
			return p
		}
		c(pointer, fmt.Sprintf("unknown matcher %q", arg), hint(arg, matcherNames()))
		return never{}
	case map[string]any:
		if len(arg) != 1 {
			c(pointer, fmt.Sprintf("match names %d matchers", len(arg)), "name exactly one")
			return never{}
		}
		for name, value := range arg {
			return compileNamed(name, value, pointer+"/"+escapePointer(name), c)
		}
	}
	c(pointer, "match is "+short(arg), "write a matcher's name, or {name: argument}")
	return never{}
}

func compileNamed(name string, value any, pointer string, c complain) pattern {
	build, ok := argumentMatchers()[name]
	if !ok {
		c(pointer, fmt.Sprintf("unknown matcher %q", name), hint(name, matcherNames()))
		return never{}
	}
	return build(value, pointer, c)
}

func matcherNames() []string {
	names := slices.Collect(maps.Keys(plainMatchers()))
	return slices.AppendSeq(names, maps.Keys(argumentMatchers()))
}

// plainMatchers need no argument.
func plainMatchers() map[string]pattern {
	return map[string]pattern{
		"any":       anything{},
		"absent":    nothing{},
		"null":      equal{nil},
		"string":    typed{"a string", func(v any) bool { _, ok := v.(string); return ok }},
		"bool":      typed{"true or false", func(v any) bool { _, ok := v.(bool); return ok }},
		"number":    typed{"a number", func(v any) bool { _, ok := v.(json.Number); return ok }},
		"int":       typed{"an integer", isInt},
		"array":     typed{"a list", func(v any) bool { _, ok := v.([]any); return ok }},
		"object":    typed{"an object", func(v any) bool { _, ok := v.(map[string]any); return ok }},
		"non_empty": typed{"something that is not empty", func(v any) bool { n, ok := lengthOf(v); return ok && n > 0 }},
		"uuid4":     textual("a UUIDv4", `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`),
		"node_id":   textual("a node id", `^blake3:[0-9a-f]{64}$`),
		"sha256":    textual("a SHA-256 in hex", `^[0-9a-f]{64}$`),
		"iso_time":  typed{"an ISO-8601 time with offset", isTime},
	}
}

type builder func(value any, pointer string, c complain) pattern

// argumentMatchers are those that need an argument.
func argumentMatchers() map[string]builder {
	return map[string]builder{
		"regex":       buildRegex,
		"range":       buildRange,
		"len":         buildLen,
		"contains":    buildContains,
		"set":         buildSet,
		"one_of":      buildOneOf,
		"nullable":    func(v any, p string, c complain) pattern { return oneOf{equal{nil}, compile(v, p, c)} },
		"optional":    func(v any, p string, c complain) pattern { return oneOf{nothing{}, compile(v, p, c)} },
		"exact":       func(v any, _ string, _ complain) pattern { return exact{v} },
		"not":         func(v any, p string, c complain) pattern { return negated{compile(v, p, c), short(v)} },
		"each":        func(v any, p string, c complain) pattern { return each{compile(v, p, c)} },
		"all":         buildAll,
		"keys":        buildKeys,
		"json":        func(v any, p string, c complain) pattern { return inJSON{compile(v, p, c), false} },
		"base64_json": func(v any, p string, c complain) pattern { return inJSON{compile(v, p, c), true} },
	}
}

func buildRegex(value any, pointer string, c complain) pattern {
	text, ok := value.(string)
	if !ok {
		c(pointer, "regex is "+short(value), "write a regular expression as text")
		return never{}
	}
	re, err := regexp.Compile(text)
	if err != nil {
		c(pointer, err.Error(), "write a regular expression that Go's regexp reads")
		return never{}
	}
	return typed{"text like " + text, func(v any) bool { s, ok := v.(string); return ok && re.MatchString(s) }}
}

// buildRange reads {min: a, max: b}; either may be left out, not both.
func buildRange(value any, pointer string, c complain) pattern {
	m, ok := value.(map[string]any)
	if !ok || len(m) == 0 {
		c(pointer, "range is "+short(value), "write {min: …, max: …}")
		return never{}
	}
	var r within
	for k, v := range m {
		if s, open := v.(string); open && strings.Contains(s, "${") {
			continue // known only when the scenario runs
		}
		n, ok := number(v)
		if !ok || (k != "min" && k != "max") {
			c(pointer, fmt.Sprintf("range has %s: %s", k, short(v)), "write {min: …, max: …} with numbers")
			return never{}
		}
		if k == "min" {
			r.min = n
		} else {
			r.max = n
		}
	}
	return r
}

// buildLen takes a number or a pattern for the length.
func buildLen(value any, pointer string, c complain) pattern {
	if m, ok := value.(map[string]any); ok && m["match"] == nil {
		return length{buildRange(value, pointer, c)}
	}
	return length{compile(value, pointer, c)}
}

// buildContains takes one pattern, or a list of patterns that must all be found.
func buildContains(value any, pointer string, c complain) pattern {
	if many, ok := value.([]any); ok {
		return contains(compileList(many, pointer, c))
	}
	return contains{compile(value, pointer, c)}
}

func buildSet(value any, pointer string, c complain) pattern {
	many, ok := value.([]any)
	if !ok {
		c(pointer, "set is "+short(value), "write a list")
		return never{}
	}
	return set(compileList(many, pointer, c))
}

func buildOneOf(value any, pointer string, c complain) pattern {
	many, ok := value.([]any)
	if !ok || len(many) == 0 {
		c(pointer, "one_of is "+short(value), "write a list of patterns")
		return never{}
	}
	return oneOf(compileList(many, pointer, c))
}

func buildAll(value any, pointer string, c complain) pattern {
	many, ok := value.([]any)
	if !ok || len(many) == 0 {
		c(pointer, "all is "+short(value), "write a list of patterns")
		return never{}
	}
	return all(compileList(many, pointer, c))
}

func buildKeys(value any, pointer string, c complain) pattern {
	many, ok := value.([]any)
	var names []string
	for _, v := range many {
		s, text := v.(string)
		ok = ok && text
		names = append(names, s)
	}
	if !ok {
		c(pointer, "keys is "+short(value), "write a list of names")
		return never{}
	}
	return keys(slices.Sorted(slices.Values(names)))
}

// The patterns.

type (
	anything struct{}
	nothing  struct{}
	never    struct{}
	equal    struct{ want any }
	exact    struct{ want any }
	partial  map[string]pattern
	list     []pattern
	typed    struct {
		want string
		ok   func(any) bool
	}
	within   struct{ min, max *big.Rat }
	length   struct{ of pattern }
	contains []pattern
	set      []pattern
	oneOf    []pattern
	all      []pattern
	each     struct{ of pattern }
	keys     []string
	negated  struct {
		of   pattern
		text string
	}
	inJSON struct {
		of     pattern
		base64 bool
	}
)

func (anything) check(got any, at string, r *report) {
	if _, none := got.(absent); none {
		r.want(at, "anything", got)
	}
}

func (nothing) check(got any, at string, r *report) {
	if _, none := got.(absent); !none {
		r.want(at, "nothing", got)
	}
}

func (never) check(got any, at string, r *report) { r.want(at, "(a broken pattern)", got) }

func (p equal) check(got any, at string, r *report) {
	if !same(p.want, got) {
		r.want(at, short(p.want), got)
	}
}

func (p exact) check(got any, at string, r *report) {
	if !same(p.want, got) {
		r.want(at, "exactly "+short(p.want), got)
	}
}

func (p partial) check(got any, at string, r *report) {
	m, ok := got.(map[string]any)
	if !ok {
		r.want(at, "an object", got)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(p)) {
		p[k].check(member(m, k), join(at, k), r)
	}
}

func member(m map[string]any, k string) any {
	if v, ok := m[k]; ok {
		return v
	}
	return absent{}
}

func (p list) check(got any, at string, r *report) {
	items, ok := got.([]any)
	if !ok {
		r.want(at, "a list", got)
		return
	}
	if len(items) != len(p) {
		r.want(at, fmt.Sprintf("%d items", len(p)), got)
		return
	}
	for i, one := range p {
		one.check(items[i], join(at, strconv.Itoa(i)), r)
	}
}

func (p typed) check(got any, at string, r *report) {
	if !p.ok(got) {
		r.want(at, p.want, got)
	}
}

func (p within) check(got any, at string, r *report) {
	n, ok := number(got)
	low := ok && (p.min == nil || n.Cmp(p.min) >= 0)
	if !low || (p.max != nil && n.Cmp(p.max) > 0) {
		r.want(at, "a number "+p.String(), got)
	}
}

func (p within) String() string {
	switch {
	case p.max == nil && p.min == nil:
		return "in range"
	case p.max == nil:
		return "≥ " + trimRat(p.min)
	case p.min == nil:
		return "≤ " + trimRat(p.max)
	}
	return "from " + trimRat(p.min) + " to " + trimRat(p.max)
}

func trimRat(n *big.Rat) string {
	if n.IsInt() {
		return n.Num().String()
	}
	return n.FloatString(3)
}

func (p length) check(got any, at string, r *report) {
	n, ok := lengthOf(got)
	if !ok {
		r.want(at, "something with a length", got)
		return
	}
	p.of.check(json.Number(strconv.Itoa(n)), at+" length", r)
}

func (p contains) check(got any, at string, r *report) {
	for _, one := range p {
		if !holds(one, got) {
			r.want(at, "to contain "+wanted(one), got)
		}
	}
}

func holds(one pattern, got any) bool {
	switch got := got.(type) {
	case []any:
		return slices.ContainsFunc(got, func(v any) bool { return matches(one, v) })
	case string:
		eq, ok := one.(equal)
		s, text := eq.want.(string)
		return ok && text && strings.Contains(got, s)
	}
	return false
}

func wanted(p pattern) string {
	if eq, ok := p.(equal); ok {
		return short(eq.want)
	}
	var r report
	p.check(absent{}, "it", &r)
	return shorten(strings.Join(r.problems, ", "), 200)
}

// set wants the same items in any order: each pattern takes one item.
func (p set) check(got any, at string, r *report) {
	items, ok := got.([]any)
	if !ok || len(items) != len(p) {
		r.want(at, fmt.Sprintf("a list of %d items in any order", len(p)), got)
		return
	}
	if !assign(p, items, make([]bool, len(items))) {
		r.want(at, "these items in any order: "+wantedList(p), got)
	}
}

// assign finds a pairing of patterns and items by backtracking.
func assign(p []pattern, items []any, taken []bool) bool {
	if len(p) == 0 {
		return true
	}
	for i, item := range items {
		if taken[i] || !matches(p[0], item) {
			continue
		}
		taken[i] = true
		if assign(p[1:], items, taken) {
			return true
		}
		taken[i] = false
	}
	return false
}

func wantedList(p []pattern) string {
	parts := make([]string, len(p))
	for i, one := range p {
		parts[i] = wanted(one)
	}
	return strings.Join(parts, " | ")
}

func (p oneOf) check(got any, at string, r *report) {
	if !slices.ContainsFunc(p, func(one pattern) bool { return matches(one, got) }) {
		r.want(at, "one of "+wantedList(p), got)
	}
}

func (p all) check(got any, at string, r *report) {
	for _, one := range p {
		one.check(got, at, r)
	}
}

// each holds for every item or member; an empty list proves nothing and fails.
func (p each) check(got any, at string, r *report) {
	switch got := got.(type) {
	case []any:
		for i, v := range got {
			p.of.check(v, join(at, strconv.Itoa(i)), r)
		}
		if len(got) > 0 {
			return
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(got)) {
			p.of.check(got[k], join(at, k), r)
		}
		if len(got) > 0 {
			return
		}
	}
	r.want(at, "a list or object with items", got)
}

func (p keys) check(got any, at string, r *report) {
	m, ok := got.(map[string]any)
	if !ok || !slices.Equal(slices.Sorted(maps.Keys(m)), p) {
		r.want(at, "an object with exactly the keys "+strings.Join(p, ", "), got)
	}
}

func (p negated) check(got any, at string, r *report) {
	if matches(p.of, got) {
		r.want(at, "anything but "+p.text, got)
	}
}

func (p inJSON) check(got any, at string, r *report) {
	s, ok := got.(string)
	if !ok {
		r.want(at, "text that holds JSON", got)
		return
	}
	b := []byte(s)
	if p.base64 {
		var err error
		if b, err = base64.StdEncoding.DecodeString(s); err != nil {
			r.want(at, "base64", got)
			return
		}
	}
	v, err := parseJSON(b)
	if err != nil {
		r.want(at, "JSON", got)
		return
	}
	p.of.check(v, at+"(json)", r)
}

func textual(want, expression string) pattern {
	re := regexp.MustCompile(expression)
	return typed{want, func(v any) bool { s, ok := v.(string); return ok && re.MatchString(s) }}
}

func isInt(v any) bool {
	n, ok := v.(json.Number)
	return ok && !strings.ContainsAny(n.String(), ".eE")
}

func isTime(v any) bool {
	s, ok := v.(string)
	if !ok {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil
}

func lengthOf(v any) (int, bool) {
	switch v := v.(type) {
	case string:
		return len([]rune(v)), true
	case []any:
		return len(v), true
	case map[string]any:
		return len(v), true
	}
	return 0, false
}

// same compares by value: numbers as numbers, so 1 and 1.0 are the same.
func same(want, got any) bool {
	switch want := want.(type) {
	case map[string]any:
		m, ok := got.(map[string]any)
		return ok && maps.EqualFunc(want, m, same)
	case []any:
		l, ok := got.([]any)
		return ok && slices.EqualFunc(want, l, same)
	case json.Number:
		a, okA := number(want)
		b, okB := number(got)
		return okA && okB && a.Cmp(b) == 0
	case nil:
		return got == nil
	}
	return want == got
}

func number(v any) (*big.Rat, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, false
	}
	// Beyond a double's exponents an exact rational would only eat memory.
	if f, err := n.Float64(); err != nil || (f == 0 && len(n) > 40) {
		return nil, false
	}
	return new(big.Rat).SetString(n.String())
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}
