package scenario

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// dagSpec is the part of submit and diff that describes a DAG.
type dagSpec struct {
	DAG        any    `json:"dag"` // name of a fixture, or the DAG itself
	Variant    string `json:"variant"`
	Fresh      string `json:"fresh"`
	Edit       []edit `json:"edit"`
	Reidentify bool   `json:"reidentify"`
	Order      string `json:"order"`
}

// edit sets and removes members of a node, or of the root without one.
type edit struct {
	Node   *int           `json:"node"`
	Set    map[string]any `json:"set"`
	Remove []string       `json:"remove"`
}

// dressing is how JSON text is laid out; it never changes what the text means.
type dressing struct {
	KeyOrder   string `json:"key_order"`
	Whitespace string `json:"whitespace"`
	Escape     string `json:"escape"`
}

// builtDAG is a DAG with what follows from it by the rules of the contract.
type builtDAG struct {
	root map[string]any
	text string   // as laid out
	ids  []string // of the nodes, in order, as the CRC reads them
	crc  uint32
	hash string // dag_hash
}

func (b builtDAG) sent() map[string]any {
	ids := make([]any, len(b.ids))
	for i, id := range b.ids {
		ids[i] = id
	}
	return map[string]any{
		"dag": b.root, "dag_text": b.text, "node_ids": ids,
		"node_ids_crc32": json.Number(strconv.FormatUint(uint64(b.crc), 10)), "dag_hash": b.hash,
	}
}

// build makes the DAG of a spec. uniq makes it unique to the run.
func (s dagSpec) build(uniq string, dress dressing) (builtDAG, error) {
	root, err := s.root()
	if err != nil {
		return builtDAG{}, err
	}
	s.freshen(root, uniq)
	if err := identify(root); err != nil {
		return builtDAG{}, err
	}
	if err := applyEdits(root, s.Edit); err != nil {
		return builtDAG{}, err
	}
	if s.Reidentify {
		if err := reidentify(root); err != nil {
			return builtDAG{}, err
		}
	}
	if nodes, ok := root["nodes"].([]any); ok && s.Order == "reversed" {
		slices.Reverse(nodes)
	}
	return finish(root, dress)
}

// finish lays the DAG out and derives hash and CRC from the laid-out text.
func finish(root map[string]any, dress dressing) (builtDAG, error) {
	b := builtDAG{root: root, text: string(appendJSON(nil, root, dress, 0))}
	v, err := pyjson.ParseString(b.text)
	if err != nil {
		return b, fmt.Errorf("dag: %w", err)
	}
	b.hash = contract.DAGHash(v)
	for _, node := range v.Member("nodes").Elems() {
		if node.Kind() == pyjson.Object { // others do not count (gateway.md 2.3)
			b.ids = append(b.ids, crcText(node.Member("node_id")))
		}
	}
	b.crc = contract.CRC32(b.ids)
	return b, nil
}

// crcText is what a node id adds to the CRC: its text, nothing when falsy.
func crcText(id pyjson.Value) string {
	if !id.Truthy() {
		return ""
	}
	return id.Text()
}

func (s dagSpec) root() (map[string]any, error) {
	switch d := s.DAG.(type) {
	case nil:
		return fixture("one-node")
	case string:
		return fixture(d)
	case map[string]any:
		return cloneJSON(d).(map[string]any), nil
	}
	return nil, fmt.Errorf("dag is %s; name a fixture or write the DAG", short(s.DAG))
}

// freshen makes the DAG unlike any other run's: new node identities through
// their code hashes, or only a member at the root.
func (s dagSpec) freshen(root map[string]any, uniq string) {
	token := uniq + s.Variant
	nodes, _ := root["nodes"].([]any)
	switch {
	case s.Fresh == "none":
	case s.Fresh == "root" || len(nodes) == 0:
		root["plumbline_run"] = token
	default:
		for _, n := range nodes {
			if m, ok := n.(map[string]any); ok && m["node_id"] == nil {
				m["code_hash"] = text(m["code_hash"]) + "-" + token
			}
		}
	}
}

// identify computes the node ids that are absent. An input written @N is the
// id of node N, which must come earlier.
func identify(root map[string]any) error {
	nodes, _ := root["nodes"].([]any)
	for i, n := range nodes {
		m, ok := n.(map[string]any)
		if !ok {
			continue
		}
		for _, key := range []string{"inputs", "dependencies"} {
			pointBack(m, key, nodes[:i])
		}
		if _, has := m["node_id"]; has {
			continue
		}
		id, err := nodeID(m)
		if err != nil {
			return fmt.Errorf("dag: node %d: %w", i, err)
		}
		m["node_id"] = id
	}
	return nil
}

func pointBack(m map[string]any, key string, earlier []any) {
	inputs, _ := m[key].([]any)
	for i, in := range inputs {
		at, isRef := strings.CutPrefix(text(in), "@")
		n, err := strconv.Atoi(at)
		if !isRef || err != nil || n < 0 || n >= len(earlier) {
			continue
		}
		if target, ok := earlier[n].(map[string]any); ok {
			inputs[i] = target["node_id"]
		}
	}
}

func nodeID(m map[string]any) (string, error) {
	v, err := pyjson.Parse(appendJSON(nil, m, dressing{}, 0))
	if err != nil {
		return "", err
	}
	return contract.NodeID(v)
}

// reidentify computes every id again, following renamed inputs.
func reidentify(root map[string]any) error {
	nodes, _ := root["nodes"].([]any)
	renamed := map[string]any{}
	for i, n := range nodes {
		m, ok := n.(map[string]any)
		if !ok {
			continue
		}
		for _, key := range []string{"inputs", "dependencies"} {
			rename(m, key, renamed)
		}
		id, err := nodeID(m)
		if err != nil {
			return fmt.Errorf("dag: node %d: %w", i, err)
		}
		renamed[text(m["node_id"])] = id
		m["node_id"] = id
	}
	return nil
}

func rename(m map[string]any, key string, renamed map[string]any) {
	inputs, _ := m[key].([]any)
	for i, in := range inputs {
		if now, ok := renamed[text(in)]; ok {
			inputs[i] = now
		}
	}
}

func applyEdits(root map[string]any, edits []edit) error {
	for _, e := range edits {
		target, err := e.target(root)
		if err != nil {
			return err
		}
		e.apply(target)
	}
	return nil
}

func (e edit) target(root map[string]any) (map[string]any, error) {
	if e.Node == nil {
		return root, nil
	}
	nodes, _ := root["nodes"].([]any)
	if *e.Node >= len(nodes) {
		return nil, fmt.Errorf("edit: node %d of %d does not exist", *e.Node, len(nodes))
	}
	m, ok := nodes[*e.Node].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("edit: node %d is no object", *e.Node)
	}
	return m, nil
}

func (e edit) apply(m map[string]any) {
	maps.Copy(m, e.Set)
	for _, k := range e.Remove {
		delete(m, k)
	}
}

func cloneJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = cloneJSON(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = cloneJSON(item)
		}
		return out
	}
	return v
}

// appendJSON lays a value out: members in the contract's order, numbers with
// the text they came with.
func appendJSON(dst []byte, v any, d dressing, depth int) []byte {
	switch v := v.(type) {
	case map[string]any:
		return appendObject(dst, v, d, depth)
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			dst = d.separate(dst, i, depth+1)
			dst = appendJSON(dst, item, d, depth+1)
		}
		return append(d.close(dst, len(v), depth), ']')
	case string:
		return appendString(dst, v, d.Escape == "ascii")
	case json.Number:
		return append(dst, v...)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return append(dst, "null"...)
	}
	return append(dst, b...)
}

func appendObject(dst []byte, m map[string]any, d dressing, depth int) []byte {
	dst = append(dst, '{')
	for i, k := range orderedKeys(m, d.KeyOrder) {
		dst = d.separate(dst, i, depth+1)
		dst = appendString(dst, k, d.Escape == "ascii")
		dst = append(dst, ':')
		if d.Whitespace == "spaced" || d.Whitespace == "indented" {
			dst = append(dst, ' ')
		}
		dst = appendJSON(dst, m[k], d, depth+1)
	}
	return append(d.close(dst, len(m), depth), '}')
}

func (d dressing) separate(dst []byte, i, depth int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	switch d.Whitespace {
	case "indented":
		dst = append(append(dst, '\n'), strings.Repeat("  ", depth)...)
	case "spaced":
		if i > 0 {
			dst = append(dst, ' ')
		}
	}
	return dst
}

func (d dressing) close(dst []byte, n, depth int) []byte {
	if d.Whitespace == "indented" && n > 0 {
		dst = append(append(dst, '\n'), strings.Repeat("  ", depth)...)
	}
	return dst
}

// orderedKeys gives the members in the order in which SDKs write them, the
// reverse of it, or sorted. Members that the list does not name come last.
func orderedKeys(m map[string]any, order string) []string {
	keys := slices.Sorted(maps.Keys(m))
	if order == "sorted" {
		return keys
	}
	usual := []string{"schema_version", "meta", "node_id", "node_type", "interval", "period", "params", "dependencies", "inputs", "tags", "match_mode",
		"schema_compat_id", "schema_id", "code_hash", "config_hash", "schema_hash", "nodes"}
	rank := func(k string) int {
		if i := slices.Index(usual, k); i >= 0 {
			return i
		}
		return len(usual)
	}
	slices.SortStableFunc(keys, func(a, b string) int { return rank(a) - rank(b) })
	if order == "reversed" {
		slices.Reverse(keys)
	}
	return keys
}

// appendString writes a JSON string, raw or with ASCII escapes only.
func appendString(dst []byte, s string, ascii bool) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20 || (ascii && r >= 0x7f && r <= 0xffff):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		case ascii && r > 0xffff:
			r -= 0x10000
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// fixture gives a new copy of a named DAG, node ids not yet computed.
func fixture(name string) (map[string]any, error) {
	switch name {
	case "empty":
		return dagOf(), nil
	case "one-node":
		return dagOf(indicator("code-ind", "cfg-ind", "sch-ind")), nil
	case "two-node":
		return dagOf(priceFeed(), indicator("ind-c", "ind-cfg", "ind-s", "@0")), nil
	case "two-worlds-tagquery":
		return dagOf(tagQuery(), indicator("ind-c", "ind-cfg", "ind-s", "@0")), nil
	}
	kind, count, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > 20_000 || (kind != "chain" && kind != "wide") {
		return nil, fmt.Errorf("unknown DAG %q; known: empty, one-node, two-node, two-worlds-tagquery, chain-N, wide-N", name)
	}
	return series(n, kind == "chain"), nil
}

// series has n indicators, each fed by the one before, or none by another.
func series(n int, chain bool) map[string]any {
	nodes := make([]any, n)
	for i := range n {
		var inputs []string
		if chain && i > 0 {
			inputs = []string{"@" + strconv.Itoa(i-1)}
		}
		node := indicator("code-"+strconv.Itoa(i), "cfg", "sch", inputs...)
		node["params"] = map[string]any{"window": json.Number(strconv.Itoa(i + 1))}
		nodes[i] = node
	}
	return dagOf(nodes...)
}

func dagOf(nodes ...any) map[string]any {
	if nodes == nil {
		nodes = []any{}
	}
	return map[string]any{"schema_version": "v1", "nodes": nodes}
}

func indicator(code, config, schema string, inputs ...string) map[string]any {
	return map[string]any{
		"node_type": "IndicatorNode", "interval": json.Number("60"), "period": json.Number("5"),
		"params": map[string]any{"window": json.Number("5")}, "dependencies": anys(inputs), "inputs": anys(inputs),
		"schema_compat_id": "ind-major", "code_hash": code, "config_hash": config, "schema_hash": schema, "tags": []any{},
	}
}

func priceFeed() map[string]any {
	n := indicator("feed-c", "feed-cfg", "feed-s")
	n["node_type"], n["period"], n["params"] = "PriceFeed", json.Number("0"), map[string]any{"symbol": "btc"}
	n["schema_compat_id"] = "feed-major"
	return n
}

func tagQuery() map[string]any {
	n := indicator("tag-c", "tag-cfg", "tag-s")
	n["node_type"], n["period"], n["tags"], n["match_mode"] = "TagQueryNode", json.Number("0"), anys([]string{"btc", "price"}), "any"
	n["params"] = map[string]any{"query_tags": anys([]string{"btc", "price"}), "match_mode": "any", "interval": json.Number("60")}
	n["schema_compat_id"] = "tag-major"
	return n
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}
