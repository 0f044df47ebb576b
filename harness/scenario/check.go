package scenario

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checker turns the steps of one document into Steps and looks at what a
// schema cannot say.
type checker struct {
	*loader
	doc   *document
	clean bool            // the schema found nothing wrong
	own   map[string]any  // the scenario's own gateway; nil: none
	known map[string]bool // names that ${…} may use at this point
	needs []string        // capabilities that steps call for by themselves
}

func (c *checker) steps(v any, pointer string) []Step {
	items, _ := v.([]any)
	out := make([]Step, 0, len(items))
	for i, item := range items {
		m, _ := item.(map[string]any)
		out = append(out, c.step(m, i, pointer+"/"+strconv.Itoa(i)))
	}
	return out
}

func (c *checker) step(m map[string]any, index int, pointer string) Step {
	st := Step{Index: index, Line: c.doc.at(pointer).line, Name: text(m["name"])}
	st.Action = c.action(m, pointer)
	if st.Action == "" {
		return st
	}
	st.args = m[st.Action]
	at := pointer + "/" + st.Action
	switch st.Action {
	case "eventually":
		st.lists = c.nested(st.args, at)
	case "for_each":
		st.lists = c.forEach(st.args, at)
	case "parallel":
		st.lists = c.parallel(st.args, at)
	case "fault":
		st.lists = c.fault(st.args, at)
	default:
		c.args(&st, at)
		c.neighbour(&st, pointer)
		c.start(&st)
	}
	if e, ok := m["expect"].(map[string]any); ok {
		c.expectation(&st, e, pointer+"/expect")
	}
	return st
}

// action finds the one action of a step.
func (c *checker) action(m map[string]any, pointer string) string {
	var actions []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if _, ok := c.kinds[k]; ok {
			actions = append(actions, k)
		}
	}
	switch len(actions) {
	case 1:
		return actions[0]
	case 0:
		if len(m) == 0 || unknownKey(m) {
			return "" // the schema has said so
		}
		c.doc.mistake(c.doc.at(pointer), "the step has no action", "add one of "+strings.Join(slices.Sorted(maps.Keys(c.kinds)), ", "))
	default:
		c.doc.mistake(c.doc.at(pointer), "the step has several actions: "+strings.Join(actions, ", "), "write a step for each")
	}
	return ""
}

// unknownKey tells whether a step has a key that no step has.
func unknownKey(m map[string]any) bool {
	for k := range m {
		if k != "name" && k != "expect" {
			return true
		}
	}
	return false
}

// nested reads eventually: names saved within stay known after it.
func (c *checker) nested(args any, pointer string) [][]Step {
	m, _ := args.(map[string]any)
	list := c.steps(m["steps"], pointer+"/steps")
	if c.clean && !expectsAnything(list) {
		c.doc.mistake(c.doc.atKey(pointer+"/steps"), "eventually waits for nothing", "add expect to one of its steps")
	}
	return [][]Step{list}
}

func (c *checker) forEach(args any, pointer string) [][]Step {
	m, _ := args.(map[string]any)
	c.references(m["in"], pointer+"/in")
	name := elementName(m)
	before := c.known[name]
	c.known[name] = true
	list := c.steps(m["steps"], pointer+"/steps")
	c.known[name] = before
	return [][]Step{list}
}

func elementName(m map[string]any) string {
	if as, ok := m["as"].(string); ok {
		return as
	}
	return "row"
}

// parallel lists do not see each other's names, but all are known afterwards.
func (c *checker) parallel(args any, pointer string) [][]Step {
	lists, _ := args.([]any)
	start, end := maps.Clone(c.known), maps.Clone(c.known)
	out := make([][]Step, 0, len(lists))
	for i, l := range lists {
		c.known = maps.Clone(start)
		out = append(out, c.steps(l, pointer+"/"+strconv.Itoa(i)))
		maps.Copy(end, c.known)
	}
	c.known = end
	return out
}

// args reads an action's value the way the run will.
func (c *checker) args(st *Step, pointer string) {
	restore := func() {}
	if m, ok := st.args.(map[string]any); ok && m["times"] != nil {
		before := c.known["n"]
		c.known["n"] = true
		restore = func() { c.known["n"] = before }
	}
	c.references(st.args, pointer)
	restore()
	_, err := c.kinds[st.Action].read(st.args)
	c.mistakes(err, pointer, st.Action+": ")
}

// mistakes notes what is wrong with the value at pointer; what names it.
func (c *checker) mistakes(err error, pointer, what string) {
	all := wrongs(err)
	for _, w := range all {
		c.doc.mistake(c.doc.at(pointer+w.key), what+w.what, w.mend)
	}
	if err != nil && len(all) == 0 && c.clean {
		c.doc.mistake(c.doc.at(pointer), what+err.Error(), "see scenario.schema.json")
	}
}

// wrongs are all the mistakes in a tree of errors.
func wrongs(err error) []*wrong {
	if w, ok := err.(*wrong); ok {
		return []*wrong{w}
	}
	var all []*wrong
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		all = wrongs(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, wrongs(one)...)
		}
	}
	return all
}

// wrong is a mistake within an action's value; key is a pointer below it.
type wrong struct{ key, what, mend string }

func (w *wrong) Error() string { return w.what }

func (c *checker) references(v any, pointer string) {
	references(v, pointer, func(at, name string) {
		if c.known[name] {
			return
		}
		known := slices.Collect(maps.Keys(c.known))
		known = slices.DeleteFunc(known, func(k string) bool { return !c.known[k] })
		c.doc.mistake(c.doc.at(at), fmt.Sprintf("${%s} is not known here", name), "save it in an earlier step; "+hint(name, known))
	})
}

func (c *checker) expectation(st *Step, e map[string]any, pointer string) {
	parts := c.kinds[st.Action].parts
	if len(parts) == 0 {
		c.doc.mistake(c.doc.atKey(pointer), st.Action+" takes no expect", "put expect into its steps")
		return
	}
	st.expect = map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(e)) {
		at := pointer + "/" + k
		switch {
		case k == "save": // last: see below
		case k == "cel":
			c.cels(st, e[k], at)
		case slices.Contains(parts, k):
			c.references(e[k], at)
			compile(e[k], at, func(p, what, mend string) { c.doc.mistake(c.doc.at(p), what, mend) })
			st.expect[k] = e[k]
		case slices.Contains(observedParts(), k):
			c.doc.mistake(c.doc.atKey(at), fmt.Sprintf("%s shows no %q", st.Action, k), hint(k, append(slices.Clone(parts), "cel", "save")))
		}
	}
	if saves, ok := e["save"].(map[string]any); ok {
		c.saves(st, saves, pointer+"/save")
	}
}

func (c *checker) cels(st *Step, v any, pointer string) {
	for i, text := range textList(v) {
		env, err := c.cel()
		var check celCheck
		if err == nil {
			check, err = compileCEL(env, text)
		}
		if err != nil {
			first, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "ERROR: "), "\n")
			c.doc.mistake(c.doc.at(pointer+"/"+strconv.Itoa(i)), "CEL: "+first, "see the CEL language; known names: sent, saved and what the step shows")
			continue
		}
		st.cel = append(st.cel, check)
	}
}

func (c *checker) saves(st *Step, saves map[string]any, pointer string) {
	st.save = map[string]string{}
	parts := append(slices.Clone(c.kinds[st.Action].parts), "sent")
	for _, name := range slices.Sorted(maps.Keys(saves)) {
		at := pointer + "/" + escapePointer(name)
		path := text(saves[name])
		root, _, _ := strings.Cut(path, ".")
		switch {
		case !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(name):
			c.doc.mistake(c.doc.atKey(at), fmt.Sprintf("the name %q", name), "use small letters, digits and _")
		case builtins()[name]:
			c.doc.mistake(c.doc.atKey(at), fmt.Sprintf("the name %q is built in", name), "choose another")
		case !slices.Contains(parts, root):
			c.doc.mistake(c.doc.at(at), fmt.Sprintf("%s shows no %q", st.Action, root), hint(root, parts))
		}
		st.save[name] = path
		c.known[name] = true
	}
}

// expectsAnything tells whether any of the steps can fail on what it sees.
func expectsAnything(steps []Step) bool {
	return slices.ContainsFunc(steps, func(st Step) bool {
		return len(st.expect) > 0 || len(st.cel) > 0 || expectsByItself(st) || slices.ContainsFunc(st.lists, expectsAnything)
	})
}

// expectsByItself: actions whose arguments are expectations.
func expectsByItself(st Step) bool {
	m, _ := st.args.(map[string]any)
	switch st.Action {
	case "ws":
		return m["frames"] != nil || m["count"] != nil
	case "consume":
		return true
	case "metrics":
		return m["series"] != nil
	}
	return false
}

// observedParts are all the parts that any action shows.
func observedParts() []string {
	seen := map[string]bool{}
	for _, k := range actionKinds() {
		for _, p := range k.parts {
			seen[p] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
