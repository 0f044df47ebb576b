package sut

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// expand fills ${name} and ${name:-text} by lookup, where "" counts as no
// value for the second form; $${ is a literal ${. A name that lookup does not
// know, and that has no text to fall back on, is an error.
func expand(text string, lookup func(name string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			out.WriteString(text)
			return out.String(), nil
		}
		if i > 0 && text[i-1] == '$' {
			out.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		out.WriteString(text[:i])
		expr, rest, closed := strings.Cut(text[i+2:], "}")
		if !closed {
			return "", fmt.Errorf("${%s: the closing } is missing", expr)
		}
		value, err := resolve(expr, lookup)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		text = rest
	}
}

func resolve(expr string, lookup func(string) (string, bool)) (string, error) {
	name, other, optional := strings.Cut(expr, ":-")
	value, ok := lookup(name)
	if optional && value == "" {
		return other, nil
	}
	if !ok {
		return "", fmt.Errorf("${%s}: has no value here", name)
	}
	return value, nil
}

// badName says what is wrong with a name of a template, "" if nothing is.
func badName(name string, seen map[string]bool, self string) string {
	first, rest, dotted := strings.Cut(name, ".")
	switch {
	case !dotted:
		if name == "bin" {
			return ""
		}
	case first == "self":
		if self == "" {
			return "only a process has addresses of its own"
		}
		return ""
	case (first == "env" || first == "setting") && rest != "":
		return ""
	case first == "process":
		return badProcess(rest, seen)
	case slices.Contains([]string{"run.id", "run.dir", "run.event_trust", "descriptor.dir", "backend.kafka", "backend.redis", "backend.neo4j", "backend.prefix",
		worldServiceName, kafkaName, besideName, besidePort, configFile}, name):
		return ""
	}
	return "no such name; there are bin, run.id, run.dir, run.event_trust, descriptor.dir, backend.{kafka,redis,neo4j,prefix}, env.NAME, process.NAME.ROLE, self.ROLE, neighbour.{worldservice,kafka}, beside.{name,port}, config.file, setting.NAME"
}

func badProcess(rest string, seen map[string]bool) string {
	name, role, ok := strings.Cut(rest, ".")
	switch {
	case !ok || role == "":
		return "want process.NAME.ROLE"
	case !seen[name]:
		return fmt.Sprintf("no process %q further up", name)
	}
	return ""
}

// values is what templates can name during one start.
type values struct {
	fixed  map[string]string // bin, run.id, …
	getenv func(string) (string, bool)

	mu        sync.Mutex
	listening map[string]map[string]string // guarded by mu; process, role: host:port
}

// listens notes the addresses of a process by role.
func (v *values) listens(process string, addresses map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listening[process] = addresses
}

// address is where a process listens in a role; "" when it does not.
func (v *values) address(process, role string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.listening[process][role]
}

// of gives the lookup for a process, self, or for none.
func (v *values) of(self string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if value, ok := v.fixed[name]; ok {
			return value, value != "" || name == "backend.prefix"
		}
		first, rest, _ := strings.Cut(name, ".")
		switch first {
		case "env":
			return v.getenv(rest)
		case "self":
			value := v.address(self, rest)
			return value, value != ""
		case "process":
			process, role, _ := strings.Cut(rest, ".")
			value := v.address(process, role)
			return value, value != ""
		}
		return "", false
	}
}

// fill expands one text for a process; the error names what the text is.
func (v *values) fill(what, text, self string) (string, error) {
	out, err := expand(text, v.of(self))
	if err != nil {
		return "", fmt.Errorf("%s %q: %w%s", what, text, err, v.hint(err))
	}
	return out, nil
}

// hint tells how the commonest absent values are given.
func (v *values) hint(err error) string {
	for name, how := range map[string]string{
		"${bin}":     "; say where the binaries are (make build puts them into bin)",
		"${backend.": "; start the backends with it, or give a default as in ${name:-text}",
		"${env.":     "; set it in the environment",
		"${process.": "; that process's ready line names no such address",
	} {
		if strings.Contains(err.Error(), name) {
			return how
		}
	}
	return ""
}
