package contract

import (
	"encoding/json"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// GatewaySource is the source of a Gateway's events.
const GatewaySource = "qmtl.services.gateway"

// The codes of handled errors (gateway.md 1.14).
const (
	CodeWorldIDDeprecated    = "E_WORLD_ID_DEPRECATED"
	CodeWorldIDsRequired     = "E_WORLD_IDS_REQUIRED"
	CodeSchemaInvalid        = "E_SCHEMA_INVALID"
	CodeNodeIDFields         = "E_NODE_ID_FIELDS"
	CodeSchemaCompatMismatch = "E_SCHEMA_COMPAT_MISMATCH"
	CodeChecksumMismatch     = "E_CHECKSUM_MISMATCH"
	CodeNodeIDMismatch       = "E_NODE_ID_MISMATCH"
	CodeDuplicate            = "E_DUPLICATE"
	CodeCommitLog            = "E_COMMITLOG"
	CodeCommitLogDisabled    = "E_COMMITLOG_DISABLED"
	CodePermissionDenied     = "E_PERMISSION_DENIED"
	CodeInvalidJSON          = "E_INVALID_JSON"
	CodeAuth                 = "E_AUTH"
	CodeMissingIDs           = "E_MISSING_IDS"
	CodeCERequired           = "E_CE_REQUIRED"
)

const (
	statusBadRequest          = 400
	statusNotFound            = 404
	statusConflict            = 409
	statusUnprocessableEntity = 422
	statusServiceUnavailable  = 503
)

// StrategySubmit is the body of POST /strategies and /strategies/dry-run
// (gateway.md 1.3), as a client writes it.
type StrategySubmit struct {
	DAGJSON      string          `json:"dag_json"` // base64 of UTF-8 JSON, or the JSON text
	Meta         json.RawMessage `json:"meta,omitempty"`
	WorldIDs     []string        `json:"world_ids"`
	NodeIDsCRC32 uint32          `json:"node_ids_crc32"`
}

// StrategyAck is the answer to a submission: 202, for a dry run 200.
type StrategyAck struct {
	StrategyID      string                `json:"strategy_id"`
	QueueMap        map[string][]QueueRef `json:"queue_map"` // by node id; never null
	SentinelID      string                `json:"sentinel_id"`
	NodeIDsCRC32    uint32                `json:"node_ids_crc32"`
	Downgraded      bool                  `json:"downgraded"`
	DowngradeReason *string               `json:"downgrade_reason"`
	SafeMode        bool                  `json:"safe_mode"`
}

// StrategyStatus is the answer of GET /strategies/{id}/status.
type StrategyStatus struct {
	Status string `json:"status"` // queued, processing, completed or failed
}

// QueuesByTag is the answer of GET /queues/by_tag.
type QueuesByTag struct {
	Queues []QueueRef `json:"queues"` // never null
}

// A Problem is a handled error as the Gateway answers it: a status and the
// detail of its body.
type Problem struct {
	Status int
	Detail pyjson.Value // a string, an object with code, or an array
}

// Error gives the body.
func (p *Problem) Error() string { return string(p.Body()) }

// Code gives the code of an object detail, "" otherwise.
func (p *Problem) Code() string {
	code, _ := p.Detail.Member("code").Str()
	return code
}

// Body is the JSON body: {"detail": …}, compact, members in contract order.
func (p *Problem) Body() []byte {
	body := pyjson.OfObject(pyjson.Member{Key: "detail", Value: p.Detail})
	b := pyjson.Append(nil, body, pyjson.Compact)
	if utf8.Valid(b) {
		return b
	}
	return pyjson.Append(nil, body, pyjson.ASCII)
}

// WorldIDDeprecated refuses a submission with world_id.
func WorldIDDeprecated() *Problem {
	return coded(statusUnprocessableEntity, CodeWorldIDDeprecated,
		"Use world_ids instead of world_id for strategy submissions.")
}

// WorldIDsRequired refuses a submission without a usable world_ids entry.
func WorldIDsRequired() *Problem {
	return coded(statusUnprocessableEntity, CodeWorldIDsRequired,
		"Strategy submissions must include at least one world_ids entry.")
}

// SchemaRequired refuses a DAG without schema_version.
func SchemaRequired() *Problem { return schemaInvalid("schema_version is required") }

// SchemaUnsupported refuses a DAG of another schema version.
func SchemaUnsupported(version string) *Problem {
	return schemaInvalid("unsupported schema version: " + version)
}

// SchemaVersions lists the schema versions that a DAG may have, sorted.
func SchemaVersions() []string { return []string{"1", "1.0", "v1"} }

func schemaInvalid(message string) *Problem {
	return problem(statusBadRequest, textField("code", CodeSchemaInvalid), listField("errors", pyjson.OfObject(
		textsField("path", []string{"schema_version"}),
		textField("message", message),
		textsField("supported", SchemaVersions()),
	)))
}

// MissingFields is one finding of NodeIDFields.
type MissingFields struct {
	Index   int // place in the DAG's nodes
	Missing []string
	NodeID  string // "" when the id itself is unusable
}

// NodeIDFields refuses nodes that lack what their id is computed from.
func NodeIDFields(findings []MissingFields) *Problem {
	var items []pyjson.Value
	for _, f := range findings {
		items = append(items, pyjson.OfObject(withNodeID(f.NodeID,
			countField("index", f.Index), textsField("missing", f.Missing))...))
	}
	return problem(statusBadRequest, textField("code", CodeNodeIDFields),
		textField("message", "node_id validation requires node_type, code_hash, config_hash, schema_hash and schema_compat_id"),
		listField("missing_fields", items...),
		textField("hint", "Regenerate the DAG with an updated SDK so each node includes the hashes required by compute_node_id()."))
}

// SchemaConflictAt is one finding of SchemaCompatMismatch; the ids are as
// submitted, not trimmed.
type SchemaConflictAt struct {
	Index  int
	NodeID string
	SchemaConflict
}

// SchemaCompatMismatch refuses nodes whose schema_compat_id and legacy
// schema_id differ.
func SchemaCompatMismatch(findings []SchemaConflictAt) *Problem {
	var items []pyjson.Value
	for _, f := range findings {
		items = append(items, pyjson.OfObject(withNodeID(f.NodeID, countField("index", f.Index),
			textField("schema_compat_id", f.SchemaCompatID), textField("schema_id", f.SchemaID))...))
	}
	return problem(statusBadRequest, textField("code", CodeSchemaCompatMismatch),
		textField("message", "schema_compat_id and schema_id must match when both are provided"),
		listField("schema_conflicts", items...),
		textField("hint", "Send only schema_compat_id or ensure legacy schema_id matches it."))
}

// ChecksumMismatch refuses a submission whose node_ids_crc32 is not that of its
// nodes.
func ChecksumMismatch() *Problem {
	return problem(statusBadRequest, textField("code", CodeChecksumMismatch), textField("message", "node id checksum mismatch"))
}

// IDMismatch is one finding of NodeIDMismatch.
type IDMismatch struct {
	Index            int
	NodeID, Expected string
}

// NodeIDMismatch refuses nodes whose id is not the canonical one.
func NodeIDMismatch(findings []IDMismatch) *Problem {
	var items []pyjson.Value
	for _, f := range findings {
		items = append(items, pyjson.OfObject(
			countField("index", f.Index), textField("node_id", f.NodeID), textField("expected", f.Expected)))
	}
	return problem(statusBadRequest, textField("code", CodeNodeIDMismatch),
		textField("message", "node_id does not match canonical compute_node_id output"),
		listField("node_id_mismatch", items...),
		textField("hint", "Regenerate node_ids using compute_node_id() with all canonical fields populated."))
}

// Duplicate refuses a DAG that strategyID registered before.
func Duplicate(strategyID string) *Problem {
	return problem(statusConflict, textField("code", CodeDuplicate), textField("strategy_id", strategyID))
}

// CommitLogUnavailable says that the commit log took no record; nothing is
// registered.
func CommitLogUnavailable() *Problem {
	return coded(statusServiceUnavailable, CodeCommitLog, "commit log unavailable")
}

// StrategyNotFound answers for an unknown strategy id.
func StrategyNotFound() *Problem {
	return &Problem{Status: statusNotFound, Detail: pyjson.OfString("strategy not found")}
}

func coded(status int, code, message string) *Problem {
	return problem(status, textField("code", code), textField("message", message))
}

func problem(status int, detail ...pyjson.Member) *Problem {
	return &Problem{Status: status, Detail: pyjson.OfObject(detail...)}
}

// withNodeID puts node_id last, where it is known.
func withNodeID(id string, members ...pyjson.Member) []pyjson.Member {
	if id == "" {
		return members
	}
	return append(members, textField("node_id", id))
}

func textField(key, s string) pyjson.Member {
	return pyjson.Member{Key: key, Value: pyjson.OfString(s)}
}

func countField(key string, n int) pyjson.Member {
	return pyjson.Member{Key: key, Value: pyjson.OfInt(int64(n))}
}

func listField(key string, items ...pyjson.Value) pyjson.Member {
	return pyjson.Member{Key: key, Value: pyjson.OfArray(items...)}
}

func textsField(key string, items []string) pyjson.Member {
	var elems []pyjson.Value
	for _, s := range items {
		elems = append(elems, pyjson.OfString(s))
	}
	return listField(key, elems...)
}
