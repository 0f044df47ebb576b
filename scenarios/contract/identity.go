package contract

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// NodeIDPrefix starts every node id and every compute key.
const NodeIDPrefix = "blake3:"

// TagQueryType is the node_type whose parameters are a tag query.
const TagQueryType = "TagQueryNode"

// SentinelType is the node_type of the version sentinel in a stored DAG.
const SentinelType = "VersionSentinel"

// ErrNode is wrapped by the errors of NodePreimage, NodeID and TagQueryOf: the
// node holds a value that no id can be made of. The original answers 500 then.
var ErrNode = errors.New("node")

// NodePreimage gives the bytes whose hash is the id of node, seven fields
// joined with '|' (gateway.md 2.4). The error names the field that cannot be
// used.
func NodePreimage(node pyjson.Value) ([]byte, error) {
	return AppendNodePreimage(make([]byte, 0, 512), node)
}

// AppendNodePreimage is NodePreimage behind dst. On error dst is lost.
func AppendNodePreimage(dst []byte, node pyjson.Value) ([]byte, error) {
	start := len(dst)
	for i, field := range [...]func([]byte, pyjson.Value) ([]byte, error){
		appendNodeType, appendInterval, appendPeriod, appendParams, appendDeps, appendSchemaID, appendCodeHash,
	} {
		if i > 0 {
			dst = append(dst, '|')
		}
		var err error
		if dst, err = field(dst, node); err != nil {
			return nil, err
		}
	}
	if !utf8.Valid(dst[start:]) {
		return nil, fmt.Errorf("%w: a lone surrogate cannot be hashed", ErrNode)
	}
	return dst, nil
}

// NodeID gives the canonical id of node: "blake3:" and 64 hex digits over its
// pre-image.
func NodeID(node pyjson.Value) (string, error) {
	var room [1024]byte
	preimage, err := AppendNodePreimage(room[:0], node)
	if err != nil {
		return "", err
	}
	return HashID(preimage), nil
}

// HashID gives "blake3:" and the lower-case hex of the BLAKE3-256 of data.
func HashID(data []byte) string {
	sum := blake3.Sum256(data)
	return hexID(sum[:])
}

func hexID(sum []byte) string {
	var room [len(NodeIDPrefix) + 128]byte
	id := append(room[:0], NodeIDPrefix...)
	return string(hex.AppendEncode(id, sum))
}

// IsHashID says whether id is HashID of data.
func IsHashID(id string, data []byte) bool {
	sum := blake3.Sum256(data)
	var room [len(NodeIDPrefix) + 2*len(sum)]byte
	return id == string(hex.AppendEncode(append(room[:0], NodeIDPrefix...), sum[:]))
}

// NodeIDAvoiding gives the id of preimage, or, while taken says that it is in
// use, the next of the 64-byte ids over preimage and a counter (gateway.md 2.4,
// collision rule).
func NodeIDAvoiding(preimage []byte, taken func(id string) bool) string {
	id := HashID(preimage)
	for n := 1; taken(id); n++ {
		h := blake3.New()
		_, _ = h.Write(preimage) // a hash takes every write
		_, _ = h.WriteString("|collision:" + strconv.Itoa(n))
		var sum [64]byte
		_, _ = h.Digest().Read(sum[:])
		id = hexID(sum[:])
	}
	return id
}

func appendNodeType(dst []byte, node pyjson.Value) ([]byte, error) {
	return appendText(dst, node, "node_type"), nil
}

func appendCodeHash(dst []byte, node pyjson.Value) ([]byte, error) {
	return appendText(dst, node, "code_hash"), nil
}

// appendText writes the text of a member: nothing when it is absent, "None"
// when it is null.
func appendText(dst []byte, node pyjson.Value, key string) []byte {
	v, ok := node.Get(key)
	if !ok {
		return dst
	}
	return append(dst, v.Text()...)
}

func appendInterval(dst []byte, node pyjson.Value) ([]byte, error) {
	return appendCount(dst, node, "interval")
}

func appendPeriod(dst []byte, node pyjson.Value) ([]byte, error) {
	return appendCount(dst, node, "period")
}

func appendCount(dst []byte, node pyjson.Value, key string) ([]byte, error) {
	v := node.Member(key)
	if !v.Truthy() {
		return append(dst, '0'), nil
	}
	whole, err := pyjson.ToInteger(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNode, key, err)
	}
	return pyjson.Append(dst, whole, pyjson.Compact), nil
}

func appendParams(dst []byte, node pyjson.Value) ([]byte, error) {
	if t, ok := node.Get("node_type"); ok && t.Text() == TagQueryType {
		params, err := tagQueryParams(node)
		if err != nil {
			return nil, err
		}
		return pyjson.Append(dst, params, pyjson.Sorted), nil
	}
	params := node.Member("params")
	if params.IsNull() {
		params = node.Member("config")
	}
	return pyjson.AppendWithout(dst, params, pyjson.Sorted, outsideIdentity), nil
}

// outsideIdentity names the parameters that say where and when a node runs, not
// what it computes.
func outsideIdentity(key string) bool {
	if len(key) < len("env") {
		return false
	}
	if !lowerASCII(key) {
		key = pyjson.Lower(key)
	}
	switch key {
	case "world", "world_id", "world_ids", "execution_world", "execution_domain", "domain", "domains",
		"as_of", "partition", "dataset_fingerprint", "timestamp", "seed", "random_state", "env":
		return true
	}
	return len(key) >= 4 && key[:4] == "env_"
}

func lowerASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c-'A' < 26 {
			return false
		}
	}
	return true
}

func appendDeps(dst []byte, node pyjson.Value) ([]byte, error) {
	from := node.Member("inputs").Or(node.Member("dependencies"))
	if !from.Truthy() {
		return dst, nil
	}
	items, err := Iterate(from)
	if err != nil {
		return nil, fmt.Errorf("%w: inputs: %w", ErrNode, err)
	}
	deps := make([]string, 0, len(items))
	for _, item := range items {
		if text := item.Text(); text != "" && !item.IsNull() {
			deps = append(deps, text)
		}
	}
	slices.Sort(deps)
	for i, dep := range deps {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, dep...)
	}
	return dst, nil
}

// Iterate walks v as a Python for loop does: an array by element, a string by
// character, an object by key. Anything else is an error.
func Iterate(v pyjson.Value) ([]pyjson.Value, error) {
	switch v.Kind() {
	case pyjson.Array:
		return v.Elems(), nil
	case pyjson.Object:
		keys := make([]pyjson.Value, 0, len(v.Members()))
		for _, m := range v.Members() {
			keys = append(keys, pyjson.OfString(m.Key))
		}
		return keys, nil
	case pyjson.String:
		return characters(v), nil
	default:
		return nil, fmt.Errorf("%w: %s", errNotIterable, v.Kind())
	}
}

var errNotIterable = errors.New("not iterable")

func characters(v pyjson.Value) []pyjson.Value {
	s, _ := v.Str()
	var out []pyjson.Value
	for len(s) > 0 {
		n := pyjson.RuneLen(s)
		out = append(out, pyjson.OfString(s[:n]))
		s = s[n:]
	}
	return out
}

func appendSchemaID(dst []byte, node pyjson.Value) ([]byte, error) {
	id, err := SchemaCompatID(node)
	return append(dst, id...), err
}

// A SchemaConflict is the error of SchemaCompatID for a node whose
// schema_compat_id and legacy schema_id are both set and differ.
type SchemaConflict struct{ SchemaCompatID, SchemaID string } // not trimmed

func (e *SchemaConflict) Error() string {
	return fmt.Sprintf("schema_compat_id %q and schema_id %q must match when both are provided", e.SchemaCompatID, e.SchemaID)
}

// SchemaCompatID gives the trimmed schema_compat_id of node, else its trimmed
// legacy schema_id, else "". Two different ones are a *SchemaConflict.
func SchemaCompatID(node pyjson.Value) (string, error) {
	compat, legacy := truthyText(node.Member("schema_compat_id")), truthyText(node.Member("schema_id"))
	id, old := pyjson.Strip(compat), pyjson.Strip(legacy)
	switch {
	case id == "":
		return old, nil
	case old != "" && old != id:
		return "", &SchemaConflict{SchemaCompatID: compat, SchemaID: legacy}
	default:
		return id, nil
	}
}

// truthyText is Python's str(v or "").
func truthyText(v pyjson.Value) string {
	if !v.Truthy() {
		return ""
	}
	return v.Text()
}

// CRC32 is the IEEE CRC-32 over ids one after the other without separator: the
// node_ids_crc32 of a submission and of a diff chunk.
func CRC32(ids []string) uint32 {
	var room [128]byte
	crc := uint32(0)
	for _, id := range ids {
		crc = crc32.Update(crc, crc32.IEEETable, append(room[:0], id...))
	}
	return crc
}

// usualDAG is room in bytes for the text of a DAG of a dozen nodes.
const usualDAG = 12 << 10

// DAGHash gives the hash that tells whether a DAG was submitted before: hex
// SHA-256 of the DAG with sorted keys, spaced separators and ASCII escapes
// (gateway.md 2.6).
func DAGHash(dag pyjson.Value) string {
	hash, _ := DAGHashIn(make([]byte, 0, usualDAG), dag)
	return hash
}

// DAGHashIn is DAGHash that uses room, which it overwrites and gives back, for
// what it needs in between.
func DAGHashIn(room []byte, dag pyjson.Value) (hash string, _ []byte) {
	room = pyjson.Append(room[:0], dag, pyjson.Spaced|pyjson.Sorted|pyjson.ASCII)
	sum := sha256.Sum256(room)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:]), room
}

// StoredDAG gives the copy of dag that is stored: a sentinel node for
// strategyID is appended to its nodes, with version when that is not empty
// (gateway.md 2.6). A dag whose nodes are not an array is an error.
func StoredDAG(dag pyjson.Value, strategyID, version string) (pyjson.Value, error) {
	nodes, ok := dag.Get("nodes")
	if dag.Kind() != pyjson.Object || ok && nodes.Kind() != pyjson.Array {
		return pyjson.Value{}, fmt.Errorf("%w: nodes is no array", ErrDAG)
	}
	sentinel := []pyjson.Member{
		{Key: "node_type", Value: pyjson.OfString(SentinelType)},
		{Key: "node_id", Value: pyjson.OfString(SentinelID(strategyID))},
	}
	if version != "" {
		sentinel = append(sentinel, pyjson.Member{Key: "version", Value: pyjson.OfString(version)})
	}
	stored := make([]pyjson.Value, 0, len(nodes.Elems())+1)
	stored = append(append(stored, nodes.Elems()...), pyjson.OfObject(sentinel...))
	return dag.With("nodes", pyjson.OfArray(stored...)), nil
}

// StoredJSON is the text in which a DAG is stored and sent on: document order,
// spaced separators, ASCII escapes.
func StoredJSON(dag pyjson.Value) []byte {
	return pyjson.Append(make([]byte, 0, usualDAG), dag, pyjson.Spaced|pyjson.ASCII)
}

// StoredBase64 is the standard base64 of StoredJSON, as Redis and the commit
// log carry it.
func StoredBase64(dag pyjson.Value) string {
	return base64.StdEncoding.EncodeToString(StoredJSON(dag))
}

// SentinelID names the version sentinel of a strategy.
func SentinelID(strategyID string) string { return strategyID + "-sentinel" }

// SentinelVersion gives the version that meta asks for: the first string among
// version, strategy_version and build_version that is not blank, trimmed.
func SentinelVersion(meta pyjson.Value) string {
	for _, key := range [...]string{"version", "strategy_version", "build_version"} {
		s, _ := meta.Member(key).Str()
		if s = pyjson.Strip(s); s != "" {
			return s
		}
	}
	return ""
}

// DryRunSentinel is the sentinel id of a dry run without a usable diff.
func DryRunSentinel(crc uint32) string { return fmt.Sprintf("dryrun:%08x", crc) }

// NodeIDsOf gives the node_id of every node of dag in order, "" where it is
// absent. The error, which wraps ErrDAG, names the first node that is no object
// or whose id is no string.
func NodeIDsOf(dag pyjson.Value) ([]string, error) {
	nodes := dag.Member("nodes").Elems()
	ids := make([]string, 0, len(nodes))
	for i, node := range nodes {
		id, present := node.Get("node_id")
		text, ok := id.Str()
		if node.Kind() != pyjson.Object || present && !ok {
			return nil, fmt.Errorf("%w: node %d has no usable node_id", ErrDAG, i)
		}
		ids = append(ids, text)
	}
	return ids, nil
}
