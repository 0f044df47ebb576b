// Package openapi is the gateway's description of itself: one table of its
// operations, their bodies and every answer they give, and the OpenAPI 3.1
// document made of it. It serves nothing and reads nothing; tests hold real
// answers to it.
package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// An Operation is one method and path, with what it takes and gives.
type Operation struct {
	Method, Path string // in the path {name} stands for any one segment
	ID, Summary  string
	Query        []Param
	Headers      []Param
	Body         string // schema of the request's JSON body; "" for none
	Answers      []Answer
}

// A Param is a parameter of the query or a request header.
type Param struct {
	Name     string
	Schema   string // name of a schema, or a JSON Schema type
	Required bool
	About    string
}

// An Answer is one way in which an operation answers.
type Answer struct {
	Status int    // 0 stands for every status that is not listed
	Body   string // schema of the JSON body; Text for plain text, "" for none
	When   string
}

// Text as an Answer's body is plain text.
const Text = "text"

// Any as a body is any JSON.
const Any = "Any"

// schemas are the models of requests and answers, as JSON Schema.
//
//go:embed schemas.json
var schemas []byte

// object is a JSON object; encoding/json sorts its members, so that the document
// is the same each time.
type object = map[string]any

// Document gives the OpenAPI 3.1 document of all operations.
func Document() ([]byte, error) {
	components, err := Schemas()
	if err != nil {
		return nil, err
	}
	paths := map[string]object{}
	for _, op := range Operations() {
		if paths[op.Path] == nil {
			paths[op.Path] = object{}
		}
		paths[op.Path][strings.ToLower(op.Method)] = op.describe()
	}
	return json.Marshal(object{
		"openapi":           "3.1.0",
		"jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"info": object{
			"title": "plumbline reference Gateway", "version": "1",
			"description": "Errors are {\"detail\": …}: a text, an object with a code, or a list of mistakes. " +
				"Any request may be answered 404 or 405 where there is no such route, 307 for a slash too many or too few, " +
				"and is answered 204 with Retry-After while the gateway is degraded to STATIC. " +
				"WebSocket clients use /ws, or /ws/evt with a token of /events/subscribe.",
		},
		"paths":      paths,
		"components": object{"schemas": components},
	})
}

// Schemas gives the models by name: those of the file, and one for each error
// code.
func Schemas() (map[string]any, error) {
	all := map[string]any{}
	if err := json.Unmarshal(schemas, &all); err != nil {
		return nil, fmt.Errorf("schemas.json: %w", err)
	}
	for _, c := range codes() {
		all[c.name] = c.schema()
	}
	return all, nil
}

func (op *Operation) describe() object {
	d := object{"operationId": op.ID, "summary": op.Summary, "responses": op.responses()}
	var params []object
	for _, name := range pathVariables(op.Path) {
		params = append(params, object{"name": name, "in": "path", "required": true, "schema": ref("string")})
	}
	params = append(params, described("query", op.Query)...)
	params = append(params, described("header", op.Headers)...)
	if params != nil {
		d["parameters"] = params
	}
	if op.Body != "" {
		d["requestBody"] = object{"required": true, "content": content(op.Body)}
	}
	return d
}

// responses unites the answers of one status, which differ in body and reason.
func (op *Operation) responses() object {
	reasons, bodies := map[string][]string{}, map[string][]string{}
	for _, a := range op.everyAnswer() {
		key := "default"
		if a.Status != 0 {
			key = strconv.Itoa(a.Status)
		}
		reasons[key] = append(reasons[key], a.When)
		if a.Body != "" && !slices.Contains(bodies[key], a.Body) {
			bodies[key] = append(bodies[key], a.Body)
		}
	}
	all := object{}
	for key, why := range reasons {
		one := object{"description": strings.Join(why, "; ")}
		if len(bodies[key]) > 0 {
			one["content"] = content(bodies[key]...)
		}
		all[key] = one
	}
	return all
}

// everyAnswer adds what any operation may answer.
func (op *Operation) everyAnswer() []Answer {
	return slices.Concat(op.Answers, []Answer{
		{http.StatusNoContent, "", "the gateway is degraded to STATIC"},
		{http.StatusInternalServerError, Text, "a fault of the gateway"},
	})
}

func described(where string, params []Param) (all []object) {
	for _, p := range params {
		all = append(all, object{"name": p.Name, "in": where, "required": p.Required, "description": p.About, "schema": ref(p.Schema)})
	}
	return all
}

// content says that a body has one of the schemas.
func content(names ...string) object {
	if slices.Contains(names, Text) {
		return object{"text/plain": object{"schema": object{"type": "string"}}}
	}
	if len(names) == 1 {
		return object{"application/json": object{"schema": ref(names[0])}}
	}
	var any []object
	for _, name := range names {
		any = append(any, ref(name))
	}
	return object{"application/json": object{"schema": object{"anyOf": any}}}
}

// ref is a schema by its name; the names of JSON Schema's types are in lower
// case.
func ref(name string) object {
	switch {
	case name == Any:
		return object{}
	case strings.ToLower(name) == name:
		return object{"type": name}
	default:
		return object{"$ref": "#/components/schemas/" + name}
	}
}

func pathVariables(path string) (names []string) {
	for segment := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

// code is an error that is told apart by its code.
type code struct {
	name    string            // the code, and the name of its schema
	members map[string]string // of detail besides code, by name; "?" behind the schema of one that may be absent
}

// codes lists the errors with a code (gateway.md 1.14), and those of this
// gateway's own.
func codes() []code {
	said := map[string]string{"message": "string"}
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(said)
		maps.Copy(all, more)
		return all
	}
	return []code{
		{"E_WORLD_ID_DEPRECATED", said},
		{"E_WORLD_IDS_REQUIRED", said},
		{"E_SCHEMA_INVALID", map[string]string{"errors": "SchemaErrors"}},
		{"E_NODE_ID_FIELDS", with(map[string]string{"missing_fields": "MissingFields", "hint": "string"})},
		{"E_SCHEMA_COMPAT_MISMATCH", with(map[string]string{"schema_conflicts": "SchemaConflicts", "hint": "string"})},
		{"E_CHECKSUM_MISMATCH", said},
		{"E_NODE_ID_MISMATCH", with(map[string]string{"node_id_mismatch": "NodeIdMismatches", "hint": "string"})},
		{"E_DUPLICATE", map[string]string{"strategy_id": "string"}},
		{"E_TOO_LARGE", said},
		{"E_BUSY", said},
		{"E_PENDING", said},
		{"E_REGISTRY", said},
		{"E_COMMITLOG", said},
		{"E_COMMITLOG_DISABLED", said},
		{"E_PERMISSION_DENIED", said},
		{"E_INVALID_JSON", nil},
		{"E_AUTH", nil},
		{"E_MISSING_IDS", nil},
		{"E_CE_REQUIRED", said},
		{"E_FILLS", said},
		{"E_REBALANCE_MODE_UNSUPPORTED", said},
		{"E_OVERLAY_EXECUTION_AMBIGUOUS", with(map[string]string{"symbol": "string", "world_ids": "Texts"})},
		{"E_OVERLAY_EXECUTION_UNMAPPED", with(map[string]string{"symbol": "Any?"})},
		{"E_SHARED_ACCOUNT_DISABLED", said},
		{"E_SHARED_ACCOUNT_POLICY", with(map[string]string{"context": "Exposure"})},
		{"E_SHADOW_ORDERS_BLOCKED", said},
	}
}

func (c code) schema() object {
	required, properties := []string{"code"}, object{"code": object{"const": c.name}}
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		schema, optional := strings.CutSuffix(c.members[name], "?")
		properties[name] = ref(schema)
		if !optional {
			required = append(required, name)
		}
	}
	return object{
		"type": "object", "required": []string{"detail"}, "additionalProperties": false,
		"properties": object{"detail": object{
			"type": "object", "required": required, "properties": properties, "additionalProperties": false,
		}},
	}
}
