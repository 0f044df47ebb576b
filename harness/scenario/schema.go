package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"qmtl.internal/plumbline/scenarios"
)

const schemaURL = "scenario.schema.json"

// shape is the published schema, ready to check documents.
type shape struct {
	compiled *jsonschema.Schema
	raw      any // the schema itself, to look up which keys are known
}

func loadShape() (*shape, error) {
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(scenarios.Schema))
	if err != nil {
		return nil, fmt.Errorf("scenario schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schemaURL, raw); err != nil {
		return nil, fmt.Errorf("scenario schema: %w", err)
	}
	compiled, err := c.Compile(schemaURL)
	if err != nil {
		return nil, fmt.Errorf("scenario schema: %w", err)
	}
	return &shape{compiled: compiled, raw: raw}, nil
}

// check adds to d what the schema refuses, and reports whether it is clean.
func (s *shape) check(d *document) bool {
	before := len(d.found)
	err := s.compiled.Validate(d.value)
	var ve *jsonschema.ValidationError
	if errors.As(err, &ve) {
		s.explain(d, ve)
	} else if err != nil {
		d.mistake(place{1, 1}, err.Error(), "")
	}
	return len(d.found) == before
}

// explain walks to the leaves: they name what is wrong, the rest only says where.
func (s *shape) explain(d *document, ve *jsonschema.ValidationError) {
	for _, cause := range ve.Causes {
		s.explain(d, cause)
	}
	if len(ve.Causes) > 0 {
		return
	}
	pointer := pointerOf(ve.InstanceLocation)
	switch k := ve.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		known := s.knownKeys(ve.SchemaURL)
		for _, key := range k.Properties {
			d.mistake(d.atKey(pointer+"/"+escapePointer(key)), fmt.Sprintf("unknown key %q%s", key, inside(ve.InstanceLocation)), hint(key, known))
		}
	case *kind.Required:
		for _, key := range k.Missing {
			d.mistake(d.at(pointer), fmt.Sprintf("key %q is missing%s", key, inside(ve.InstanceLocation)), "add it")
		}
	default:
		what, mend := wrongValue(ve)
		d.mistake(d.at(pointer), what, mend)
	}
}

// wrongValue words the kinds of mistakes that one value can have.
func wrongValue(ve *jsonschema.ValidationError) (what, mend string) {
	where := strings.Join(ve.InstanceLocation, ".")
	if where == "" {
		where = "the document"
	}
	switch k := ve.ErrorKind.(type) {
	case *kind.Type:
		return fmt.Sprintf("%s is %s", where, article(k.Got)), "write " + article(strings.Join(k.Want, " or "))
	case *kind.Enum:
		return fmt.Sprintf("%s is %s", where, short(k.Got)), hint(fmt.Sprint(k.Got), choices(fmt.Sprint(k.Got), texts(k.Want)))
	case *kind.Pattern:
		return fmt.Sprintf("%s is %q", where, k.Got), patternMend(ve.InstanceLocation, k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("%s has %d items", where, k.Got), fmt.Sprintf("write at least %d", k.Want)
	case *kind.MinLength:
		return where + " is empty", "fill it in"
	case *kind.MinProperties:
		return where + " is empty", "fill it in or remove it"
	case *kind.UniqueItems:
		return fmt.Sprintf("%s has the same item at %d and %d", where, k.Duplicates[0], k.Duplicates[1]), "keep one"
	}
	return where + ": " + plainKind(ve), "see scenario.schema.json"
}

// choices leaves out the many faults where none was meant.
func choices(got string, known []string) []string {
	if strings.HasPrefix(got, "fault") {
		return known
	}
	return slices.DeleteFunc(known, func(k string) bool { return strings.HasPrefix(k, faultPrefix) })
}

func article(word string) string {
	switch {
	case word == "null":
		return word
	case strings.HasPrefix(word, "a"), strings.HasPrefix(word, "o"), strings.HasPrefix(word, "i"):
		return "an " + word
	}
	return "a " + word
}

// patternMend says in words what the patterns of the schema ask for.
func patternMend(location []string, want string) string {
	last := ""
	if len(location) > 0 {
		last = location[len(location)-1]
	}
	words := map[string]string{
		"id":     "write it like GW-SUB-001",
		"clause": "name file and anchor, like contract/gateway.md#13-post-strategies",
		"path":   "begin it with a slash",
		"method": "write an HTTP method in capitals, or a gRPC method like TagQuery/GetQueues",
		"as":     "write it in small letters, like row",
	}
	if w, ok := words[last]; ok {
		return w
	}
	if strings.Contains(want, "ms|s|m") {
		return "write a duration like 250ms, 2.1s or 1m"
	}
	return "it must match " + want
}

func plainKind(ve *jsonschema.ValidationError) string {
	text := ve.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// knownKeys reads the properties of the object schema at url's fragment.
func (s *shape) knownKeys(url string) []string {
	_, fragment, _ := strings.Cut(url, "#")
	node := s.raw
	for _, part := range strings.Split(strings.Trim(fragment, "/"), "/") {
		m, ok := node.(map[string]any)
		if !ok {
			return nil
		}
		if part != "" {
			node = m[part]
		}
	}
	m, _ := node.(map[string]any)
	properties, _ := m["properties"].(map[string]any)
	keys := make([]string, 0, len(properties))
	for k := range properties {
		keys = append(keys, k)
	}
	return keys
}

func inside(location []string) string {
	for i := len(location) - 1; i >= 0; i-- {
		if _, err := strconv.Atoi(location[i]); err != nil {
			return " in " + location[i]
		}
	}
	return ""
}

func pointerOf(location []string) string {
	var b strings.Builder
	for _, part := range location {
		b.WriteByte('/')
		b.WriteString(escapePointer(part))
	}
	return b.String()
}

func texts(values []any) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = fmt.Sprint(v)
	}
	return out
}

// short renders a value as JSON, cut to what fits a line.
func short(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%.200v", v)
	}
	return shorten(string(b), 240)
}

func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + fmt.Sprintf("… (%d bytes)", len(s))
}
