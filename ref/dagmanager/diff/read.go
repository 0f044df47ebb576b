package diff

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// InputError says that a DAG cannot be diffed as it is.
type InputError struct {
	Reason string // a short constant in upper case
	NodeID string // "" when it is not about one node
	Err    error
}

func (e *InputError) Error() string {
	if e.NodeID == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (node_id=%s)", e.Err, e.NodeID)
}

func (e *InputError) Unwrap() error { return e.Err }

// The reasons of an InputError.
const (
	ReasonNotJSON        = "DAG_NOT_JSON"
	ReasonNotObject      = "DAG_NOT_OBJECT"
	ReasonNodes          = "DAG_NODES_INVALID"
	ReasonNode           = "NODE_INVALID"
	ReasonSchemaConflict = "SCHEMA_ID_CONFLICT"
	ReasonNoTopicName    = "TOPIC_NAMES_EXHAUSTED"
)

// sentinelType is the node type of a sentinel.
const sentinelType = "VersionSentinel"

// node is a node as it was submitted.
type node struct {
	Node
	doc      pyjson.Value
	tags     []pyjson.Value
	inputs   []string
	interval pyjson.Value
	bucket   pyjson.Value
	key      string // compute key
}

// graph is a DAG that was read: its nodes in the order of the diff. A node is
// large and is read once, so order and plan go by pointers.
type graph struct {
	nodes     []*node
	ids       []string
	version   Version
	inferred  dag.ComputeContext
	merged    dag.ComputeContext
	namespace string
}

// read parses and orders a DAG (dagmanager.md 2.1 to 2.4).
func read(x ExecutionContext) (*graph, error) {
	doc, err := pyjson.ParseString(x.DAG)
	if err != nil {
		return nil, &InputError{Reason: ReasonNotJSON, Err: fmt.Errorf("dag_json is not JSON: %w", err)}
	}
	if doc.Kind() != pyjson.Object {
		return nil, &InputError{Reason: ReasonNotObject,
			Err: fmt.Errorf("dag_json is of type %s; want an object", doc.Kind())}
	}
	plain, sentinels, err := Separate(doc)
	if err != nil {
		return nil, err
	}
	g := &graph{version: VersionOf(doc, sentinels), inferred: InferContext(doc)}
	g.merged = MergeContext(g.inferred, x.Request)
	if x.Namespaces {
		g.namespace = NamespaceOf(doc, g.inferred)
	}
	nodes, err := scan(plain)
	if err != nil {
		return nil, err
	}
	g.order(nodes)
	return g, nil
}

// Separate gives the nodes of a DAG that are objects, sentinels apart.
func Separate(doc pyjson.Value) (plain, sentinels []pyjson.Value, err error) {
	list := doc.Member("nodes")
	if !list.Truthy() {
		return nil, nil, nil
	}
	elems, err := contract.Iterate(list)
	if err != nil {
		return nil, nil, &InputError{Reason: ReasonNodes, Err: fmt.Errorf("nodes: %w; want an array", err)}
	}
	plain = make([]pyjson.Value, 0, len(elems))
	for _, e := range elems {
		switch {
		case e.Kind() != pyjson.Object:
		case e.Member("node_type").Text() == sentinelType:
			sentinels = append(sentinels, e)
		default:
			plain = append(plain, e)
		}
	}
	return plain, sentinels, nil
}

// scan reads the nodes that have an id; of equal ids the first place and the
// last node stay.
func scan(docs []pyjson.Value) ([]*node, error) {
	all := make([]node, len(docs))
	nodes := make([]*node, 0, len(docs))
	place := make(map[string]int, len(docs))
	for i, doc := range docs {
		id, there := doc.Get("node_id")
		if !there {
			continue
		}
		n := &all[i]
		if err := n.read(id, doc); err != nil {
			return nil, err
		}
		if at, seen := place[n.ID]; seen {
			nodes[at] = n
			continue
		}
		place[n.ID] = len(nodes)
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (n *node) read(id, doc pyjson.Value) error {
	n.doc = doc
	text, isText := id.Str()
	if !isText {
		return &InputError{Reason: ReasonNode, NodeID: id.Text(),
			Err: fmt.Errorf("node_id is of type %s; want a string", id.Kind())}
	}
	n.ID = text
	var err error
	n.SchemaCompatID, err = contract.SchemaCompatID(doc)
	if err != nil {
		return &InputError{Reason: ReasonSchemaConflict, NodeID: n.ID, Err: err}
	}
	for _, read := range [...]func(*node) error{readType, readHashes, readTags, readInputs, checkText} {
		if err := read(n); err != nil {
			return &InputError{Reason: ReasonNode, NodeID: n.ID, Err: err}
		}
	}
	n.interval, n.bucket = doc.Member("interval"), doc.Member("bucket")
	n.Interval, n.Period, n.Bucket = whole(n.interval), whole(doc.Member("period")), whole(n.bucket)
	return nil
}

// readType takes what is false to Python by its text, as null, which is "None".
func readType(n *node) error {
	value, there := n.doc.Get("node_type")
	if there && value.Truthy() && value.Kind() != pyjson.String {
		return fmt.Errorf("node_type is of type %s; want a string", value.Kind())
	}
	if there {
		n.NodeType = value.Text()
	}
	return nil
}

func readHashes(n *node) error {
	code, there := n.doc.Get("code_hash")
	if !there {
		return fmt.Errorf("code_hash is missing")
	}
	if code.Truthy() && code.Kind() != pyjson.String {
		return fmt.Errorf("code_hash is of type %s; want a string", code.Kind())
	}
	n.CodeHash, _ = code.Str()
	schema, there := n.doc.Get("schema_hash")
	if !there {
		return fmt.Errorf("schema_hash is missing")
	}
	if !schema.IsNull() {
		n.SchemaHash = schema.Text()
	}
	return nil
}

func readTags(n *node) error {
	tags, there := n.doc.Get("tags")
	if !there {
		return nil
	}
	var err error
	if n.tags, err = contract.Iterate(tags); err != nil {
		return fmt.Errorf("tags: %w; want an array of strings", err)
	}
	n.Tags = make([]string, 0, len(n.tags))
	for _, tag := range n.tags {
		if !tag.IsNull() {
			n.Tags = append(n.Tags, tag.Text())
		}
	}
	return nil
}

// noNode is an input that is no string, and so no node of this DAG.
const noNode = "\x00"

func readInputs(n *node) error {
	inputs, there := n.doc.Get("inputs")
	if !there {
		return nil
	}
	list, err := contract.Iterate(inputs)
	if err != nil {
		return fmt.Errorf("inputs: %w; want an array of node ids", err)
	}
	n.inputs = make([]string, 0, len(list))
	for _, in := range list {
		text, isText := in.Str()
		switch {
		case isText:
			n.inputs = append(n.inputs, text)
		case in.Kind() == pyjson.Array || in.Kind() == pyjson.Object:
			return fmt.Errorf("inputs holds a value of type %s; want node ids", in.Kind())
		default:
			n.inputs = append(n.inputs, noNode)
		}
	}
	return nil
}

// checkText refuses lone surrogates: they cannot leave as UTF-8.
func checkText(n *node) error {
	for _, text := range [...]string{n.ID, n.NodeType, n.CodeHash, n.SchemaHash, n.SchemaCompatID} {
		if !utf8.ValidString(text) {
			return halfPair(text)
		}
	}
	for _, text := range n.Tags {
		if !utf8.ValidString(text) {
			return halfPair(text)
		}
	}
	if interval := n.doc.Member("interval"); interval.Kind() == pyjson.String && !utf8.ValidString(interval.Text()) {
		return halfPair(interval.Text())
	}
	return nil
}

func halfPair(text string) error { return fmt.Errorf("%q holds half of a surrogate pair", text) }

// whole gives the integer that Python would call equal to v, nil for none.
func whole(v pyjson.Value) *int64 {
	switch v.Kind() {
	case pyjson.Int, pyjson.Bool, pyjson.Float:
	default:
		return nil
	}
	i, err := pyjson.ToInt(v)
	if f, isFloat := v.Float64(); err != nil || isFloat && float64(i) != f {
		return nil
	}
	return &i
}

// order puts the nodes into the order of the diff and gives them their keys.
func (g *graph) order(nodes []*node) {
	ids := make([]string, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	g.nodes = make([]*node, len(nodes))
	g.ids = make([]string, len(nodes))
	for to, from := range dag.Order(ids, func(i int) []string { return nodes[i].inputs }) {
		g.nodes[to] = nodes[from]
		g.ids[to] = nodes[from].ID
		g.nodes[to].key = dag.ComputeKey(nodes[from].ID, g.inferred)
	}
}

// KindOf gives the kind of topic that a node of that type feeds: by parts of its
// name, in lower case (dagmanager.md 3.1).
func KindOf(nodeType string) Kind {
	lowered := pyjson.Lower(nodeType)
	switch {
	case containsAny(lowered, "exec", "trade", "order", "portfolio"):
		return TradeExec
	case containsAny(lowered, "raw", "price", "ohlcv"):
		return Raw
	default:
		return Indicator
	}
}

func containsAny(s string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
