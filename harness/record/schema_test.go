package record_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/record"
)

var update = flag.Bool("update", false, "rewrite the schemas from the types")

// The published schemas are the shape of the types; they cannot drift from them.
func TestSchemaIsOfTheTypes(t *testing.T) {
	sameSchema(t, reflect.TypeFor[record.Run](), "run.schema.json", record.Schema(), record.SchemaVersion,
		"plumbline run record", "One execution of a plan. Absent is not zero: what was not measured has no entry in metrics but a reason in absent.")
	sameSchema(t, reflect.TypeFor[record.Compared](), "compare.schema.json", record.CompareSchema(), record.CompareVersion,
		"plumbline comparison", "What was measured of two builds, and the answer. Ratios are candidate / base, so 1.03 is three per cent more.")
}

func sameSchema(t *testing.T, of reflect.Type, file string, published []byte, version int, title, description string) {
	t.Helper()
	g := generator{defs: map[string]any{}}
	root := g.object(of)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = title
	root["description"] = description
	root["properties"].(map[string]any)["schema"] = map[string]any{"const": version}
	root["$defs"] = g.defs
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(published, want.Bytes()) {
		t.Errorf("%s is not of the types; run: go test ./harness/record -run Schema -update", file)
	}
}

// generator writes JSON Schema for the types of a record.
type generator struct{ defs map[string]any }

// rules adds what the types cannot say.
var rules = map[string]map[string]any{
	"Status":      {"enum": []any{"passed", "failed", "skipped"}},
	"Run.id":      {"minLength": 1, "pattern": "^[A-Za-z0-9._-]+$"},
	"Outcome.id":  {"minLength": 1},
	"Series.unit": {"enum": []any{"ms", "s", "B", "1", "1/s", "ratio"}},
}

func (g generator) object(t reflect.Type) map[string]any {
	props, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		p := g.of(f.Type)
		for k, v := range rules[t.Name()+"."+name] {
			p[k] = v
		}
		props[name] = p
		if opts == "" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
}

func (g generator) of(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[time.Duration]():
		return map[string]any{"type": "integer", "minimum": 0}
	case rules[t.Name()] != nil:
		return map[string]any{"type": "string", "enum": rules[t.Name()]["enum"]}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.of(t.Elem())
	case reflect.Struct:
		return g.ref(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.of(t.Elem())}
	case reflect.Array:
		return map[string]any{"type": "array", "items": g.of(t.Elem()), "minItems": t.Len(), "maxItems": t.Len()}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.of(t.Elem())}
	default:
		return scalar(t)
	}
}

func scalar(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	default:
		return map[string]any{"type": "integer"}
	}
}

func (g generator) ref(t reflect.Type) map[string]any {
	if _, ok := g.defs[t.Name()]; !ok {
		g.defs[t.Name()] = true // against endless descent
		g.defs[t.Name()] = g.object(t)
	}
	return map[string]any{"$ref": "#/$defs/" + t.Name()}
}
