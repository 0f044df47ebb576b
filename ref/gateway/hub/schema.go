package hub

import (
	"net/http"
	"strings"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// An eventModel is the data of one type of event: its fields, "name:kind", with "?"
// behind the kind of one that may be absent or null (controlbus.md appendix C).
type eventModel struct {
	event, name string
	fields      []string
}

func models() []eventModel {
	return []eventModel{
		{"tagquery.upsert", "TagQueryUpsertData", []string{"tags:strings", "interval:integer", "queues:queues", "version:integer"}},
		{"queue_update", "QueueUpdateData", []string{
			"tags:strings", "interval:integer", "queues:queues", "match_mode:mode", "world_id:string?", "execution_domain:string?",
			"version:integer", "etag:string", "ts:string"}},
		{"sentinel_weight", "SentinelWeightData", []string{
			"sentinel_id:string", "weight:number", "sentinel_version:string?", "world_id:string?", "version:integer"}},
		{"activation_updated", "ActivationUpdatedData", []string{
			"version:integer", "world_id:string", "strategy_id:string?", "side:side?", "active:boolean?", "weight:number?", "freeze:boolean?",
			"drain:boolean?", "effective_mode:effective?", "execution_domain:domain?", "compute_context:object?", "etag:string?", "run_id:string?",
			"ts:string?", "state_hash:string?", "phase:string?", "requires_ack:boolean?", "sequence:integer?"}},
		{"policy_updated", "PolicyUpdatedData", []string{
			"version:integer", "world_id:string", "policy_version:integer?", "checksum:string?", "status:string?", "ts:string?"}},
	}
}

// Schema is GET /events/schema: a JSON Schema of the envelope of each type of
// event that has one.
func (s *Stream) Schema(w http.ResponseWriter, _ *http.Request) {
	var members []pyjson.Member
	for _, m := range models() {
		members = append(members, pyjson.Member{Key: m.event, Value: m.envelope()})
	}
	writeJSON(w, http.StatusOK, pyjson.Append(nil, pyjson.OfObject(members...), pyjson.Compact))
}

func (m eventModel) envelope() pyjson.Value {
	text := kind("string")
	return object(
		"$defs", object(
			m.name, m.schema(),
			"QueueRef", object("type", pyjson.OfString("object"), "required", words("queue"),
				"properties", object("queue", text, "global", object("type", pyjson.OfString("boolean"), "default", pyjson.OfBool(false))))),
		"title", pyjson.OfString("CloudEvent["+m.name+"]"),
		"type", pyjson.OfString("object"),
		"required", words("id", "source", "type", "time", "data"),
		"properties", object(
			"specversion", object("const", pyjson.OfString("1.0")), "id", text, "source", text, "type", text,
			"time", object("type", pyjson.OfString("string"), "format", pyjson.OfString("date-time")),
			"datacontenttype", object("const", pyjson.OfString("application/json")),
			"data", object("$ref", pyjson.OfString("#/$defs/"+m.name)),
			"correlation_id", nullable(text), "seq_no", nullable(kind("integer"))))
}

func (m eventModel) schema() pyjson.Value {
	var required []string
	var properties []pyjson.Member
	for _, f := range m.fields {
		name, typ, _ := strings.Cut(f, ":")
		typ, optional := strings.CutSuffix(typ, "?")
		schema := kind(typ)
		switch {
		case optional:
			schema = nullable(schema)
		case typ != "mode": // which has a default
			required = append(required, name)
		}
		properties = append(properties, pyjson.Member{Key: name, Value: schema})
	}
	return object("title", pyjson.OfString(m.name), "type", pyjson.OfString("object"),
		"required", words(required...), "properties", pyjson.OfObject(properties...))
}

// kind gives the schema of a kind of field.
func kind(name string) pyjson.Value {
	switch name {
	case "strings":
		return object("type", pyjson.OfString("array"), "items", kind("string"))
	case "queues":
		return object("type", pyjson.OfString("array"), "items", object("$ref", pyjson.OfString("#/$defs/QueueRef")))
	case "mode":
		return object("enum", words("any", "all"), "default", pyjson.OfString("any"))
	case "side":
		return object("enum", words("long", "short"))
	case "effective":
		return object("enum", words("validate", "compute-only", "paper", "live", "shadow"))
	case "domain":
		return object("enum", words("backtest", "dryrun", "live", "shadow"))
	default:
		return object("type", pyjson.OfString(name))
	}
}

func nullable(schema pyjson.Value) pyjson.Value {
	return object("anyOf", pyjson.OfArray(schema, kind("null")), "default", pyjson.Value{})
}

func words(list ...string) pyjson.Value {
	out := make([]pyjson.Value, len(list))
	for i, s := range list {
		out[i] = pyjson.OfString(s)
	}
	return pyjson.OfArray(out...)
}
