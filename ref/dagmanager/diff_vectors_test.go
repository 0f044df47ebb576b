package dagmanager

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// The original's answers are the expectation of every vector of dm_diff, save
// for the deliberate differences below. Each is a rule, not a list of vectors:
// oracle.better applies it to what the original answered.
//
//	rule        design  instead of the original                   because
//	reuse       9.1     a node that an earlier diff registered    a diff registers nodes and queues: the
//	                    keeps its queue: not new, nothing made,   same DAG again is reuse
//	                    buffered when its schema changed
//	regrow      9.1     names grow only past names that are       follows from reuse: topics that the original
//	                    taken                                     made twice do not exist
//	take up     9.1     a topic that exists under the node's      an earlier life of the node made it; growing
//	                    name, in its shape, owned by no node,     would give one node two topics, after each
//	                    is the node's                             restart another one
//	codes       9.2     UNKNOWN becomes INVALID_ARGUMENT or       errors carry their codes, with a reason
//	                    FAILED_PRECONDITION
//	nothing     9.2     a diff that is refused makes no topic     nothing is half-made
//	 half-made

type vectorNode struct {
	Node        string   `json:"node_id"`
	Type        string   `json:"node_type"`
	Code        string   `json:"code_hash"`
	Schema      string   `json:"schema_hash"`
	Compat      string   `json:"schema_compat_id"`
	Interval    *int64   `json:"interval"`
	Period      *int64   `json:"period"`
	Tags        []string `json:"tags"`
	Topic       *string  `json:"topic"`
	Global      bool     `json:"global"`
	ComputeKeys []string `json:"compute_keys"`
}

type vectorRequest struct {
	Strategy  *string `json:"strategy_id"`
	DAG       string  `json:"dag_json"`
	World     string  `json:"world_id"`
	Domain    string  `json:"execution_domain"`
	AsOf      string  `json:"as_of"`
	Partition string  `json:"partition"`
	Dataset   string  `json:"dataset_fingerprint"`
}

type vectorInput struct {
	Requests []vectorRequest
	Seeds    []vectorNode      `json:"seed_nodes"`
	Existing []json.RawMessage `json:"existing_topics"`

	Generated *struct {
		Count int
		Node  map[string]any
	}
}

type weightEvent struct {
	Sentinel string  `json:"sentinel_id"`
	Weight   float64 `json:"weight"`
	Version  string  `json:"sentinel_version"`
	World    *string `json:"world_id"`
}

type vectorBuffer struct {
	NodeID   string   `json:"node_id"`
	Type     string   `json:"node_type"`
	Code     string   `json:"code_hash"`
	Schema   string   `json:"schema_hash"`
	Compat   string   `json:"schema_compat_id"`
	Interval int64    `json:"interval"`
	Period   int32    `json:"period"`
	Tags     []string `json:"tags"`
	Lag      int32    `json:"lag"`
}

// vectorResult is one answer. Names of the wire; an error has Error set.
type vectorResult struct {
	Error   string `json:"error"`
	Message string `json:"message"`

	Queues    [][2]string    `json:"queue_map"`
	Sentinel  string         `json:"sentinel_id"`
	Version   string         `json:"version"`
	CRC       uint32         `json:"crc32"`
	Chunks    int            `json:"chunks"`
	New       []string       `json:"new_nodes"`
	Buffer    []vectorBuffer `json:"buffer"`
	Created   []string       `json:"created"`
	Sentinels []string       `json:"inserted_sentinels"`
	Weights   []weightEvent  `json:"weight_events"`
}

// bench is what the requests of one vector share.
type bench struct {
	*server
	store *nodestore.Memory
	mem   *topics.Memory
}

func newBench(t *testing.T, in vectorInput) *bench {
	t.Helper()
	b := &bench{store: nodestore.NewMemory(), mem: topics.NewMemory()}
	b.server = &server{store: b.store, topics: topics.NewSession(b.mem, topics.Options{}), namespaces: true}
	for _, n := range in.Seeds {
		node := diff.Node{ID: n.Node, NodeType: n.Type, CodeHash: n.Code, SchemaHash: n.Schema, SchemaCompatID: n.Compat,
			Interval: n.Interval, Period: n.Period, Tags: n.Tags, Global: n.Global, ComputeKeys: n.ComputeKeys}
		if n.Topic != nil {
			node.Topic, node.HasQueue = *n.Topic, true
		}
		if err := b.store.Put(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	for _, raw := range in.Existing {
		doc := document(t, raw)
		b.mem.Put(str(doc, "name"), shapeOf(doc))
	}
	return b
}

func (b *bench) diff(t *testing.T, r vectorRequest) (vectorResult, error) {
	t.Helper()
	strategy := "s1"
	if r.Strategy != nil {
		strategy = *r.Strategy
	}
	had := len(b.mem.Names())
	_, hadSentinel := b.store.Sentinel(contract.SentinelID(strategy))
	res, err := diff.Run(t.Context(), diff.ExecutionContext{
		StrategyID: strategy, DAG: r.DAG, Namespaces: b.namespaces,
		Request: diff.RequestContext{WorldID: r.World, ExecutionDomain: r.Domain, AsOf: r.AsOf,
			Partition: r.Partition, DatasetFingerprint: r.Dataset},
	}, b.store, b.server.topics)
	out := vectorResult{Created: b.mem.Names()[had:], Queues: [][2]string{}, New: []string{}, Buffer: []vectorBuffer{},
		Sentinels: []string{}, Weights: []weightEvent{}}
	if err != nil {
		return out, err
	}
	b.fill(&out, res)
	if res.Inserted && !hadSentinel {
		out.Sentinels = []string{res.SentinelID}
	}
	return out, nil
}

func (b *bench) fill(out *vectorResult, res *diff.Result) {
	out.Sentinel, out.Version, out.CRC = res.SentinelID, res.Version, res.CRC32
	out.Chunks = len(stream.Chunks(answerOf(res)))
	for _, q := range res.Queues {
		out.Queues = append(out.Queues, [2]string{q.Key, q.Topic})
		if q.New {
			out.New = append(out.New, q.NodeID)
		}
	}
	for _, i := range res.Buffer {
		out.Buffer = append(out.Buffer, vectorBuffer{i.NodeID, i.NodeType, i.CodeHash, i.SchemaHash, i.SchemaCompatID,
			i.Interval, i.Period, i.Tags, i.Lag})
	}
	if w := res.Weight; w != nil && b.weights.changed(*w) {
		e := weightEvent{Sentinel: w.SentinelID, Weight: w.Weight, Version: w.SentinelVersion}
		if w.WorldID != "" {
			e.World = &w.WorldID
		}
		out.Weights = append(out.Weights, e)
	}
}

// generate makes the request of a vector that only describes it.
func generate(t *testing.T, in *vectorInput) {
	t.Helper()
	if in.Generated == nil {
		return
	}
	var nodes []map[string]any
	for i := range in.Generated.Count {
		node := map[string]any{}
		for k, v := range in.Generated.Node {
			if s, ok := v.(string); ok {
				v = strings.ReplaceAll(s, "<i as 4 digits>", fmt.Sprintf("%04d", i))
			}
			node[k] = v
		}
		nodes = append(nodes, node)
	}
	b, err := json.Marshal(map[string]any{"nodes": nodes})
	if err != nil {
		t.Fatal(err)
	}
	in.Requests = []vectorRequest{{DAG: string(b)}}
}

func TestDiffVectors(t *testing.T) {
	vectors.Run(t, "dm_diff", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[vectorInput](t, v.Input)
		generate(t, &in)
		b := newBench(t, in)
		raw := vectors.Decode[struct{ Results []json.RawMessage }](t, v.Output)
		o := newOracle(t, in)
		for i, r := range in.Requests {
			got, err := b.diff(t, r)
			if in.Generated != nil {
				checkCounts(t, raw.Results[i], got, err)
				continue
			}
			want := o.better(r, vectors.Decode[vectorResult](t, raw.Results[i]))
			if want.Error != "" {
				checkRefusal(t, want, got, err)
				continue
			}
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("request %d (-want +got):\n%s", i, d)
			}
		}
	})
}

// checkCounts compares with a result that gives counts for lists.
func checkCounts(t *testing.T, raw json.RawMessage, got vectorResult, err error) {
	t.Helper()
	want := vectors.Decode[struct {
		Queues struct {
			Count       int
			First, Last [2]string
		} `json:"queue_map"`
		CRC      uint32 `json:"crc32"`
		Chunks   int
		Sentinel string `json:"sentinel_id"`
		New      int    `json:"new_nodes"`
		Created  int
	}](t, raw)
	if err != nil {
		t.Fatal(err)
	}
	n := len(got.Queues)
	if n != want.Queues.Count || got.Queues[0] != want.Queues.First || got.Queues[n-1] != want.Queues.Last ||
		got.CRC != want.CRC || got.Chunks != want.Chunks || got.Sentinel != want.Sentinel ||
		len(got.New) != want.New || len(got.Created) != want.Created {
		t.Errorf("got %d queues from %v to %v, crc %d, %d chunks, %d new, %d created; want %+v",
			n, got.Queues[0], got.Queues[n-1], got.CRC, got.Chunks, len(got.New), len(got.Created), want)
	}
}

// refusals say how an exception of the original is told instead, and what its
// text must say, one of several. Nothing means the original's message.
var refusals = map[string]struct {
	code codes.Code
	says []string
}{
	"JSONDecodeError":             {codes.InvalidArgument, []string{"dag_json is not JSON"}},
	"AttributeError":              {codes.InvalidArgument, []string{"of type"}},
	"TypeError":                   {codes.InvalidArgument, []string{"want"}},
	"KeyError":                    {codes.InvalidArgument, []string{"is missing"}},
	"ValueError":                  {codes.InvalidArgument, []string{"must match", "want"}},
	"OverflowError":               {codes.InvalidArgument, []string{"want"}},
	"RecursionError":              {codes.InvalidArgument, []string{"dag_json is not JSON"}},
	"UnicodeEncodeError":          {codes.InvalidArgument, []string{"surrogate"}},
	"CrossContextTopicReuseError": {codes.FailedPrecondition, nil},
	"TopicExistsError":            {codes.FailedPrecondition, nil},
}

func checkRefusal(t *testing.T, want, got vectorResult, err error) {
	t.Helper()
	rule, known := refusals[want.Error]
	if !known {
		t.Fatalf("no rule for %s", want.Error)
	}
	if rule.says == nil {
		rule.says = []string{want.Message}
	}
	st := status.Convert(statusOf(err))
	saysOne := slices.ContainsFunc(rule.says, func(text string) bool { return strings.Contains(st.Message(), text) })
	if st.Code() != rule.code || !saysOne {
		t.Errorf("status %v %q; want %v with %q", st.Code(), st.Message(), rule.code, rule.says)
	}
	if len(st.Details()) != 1 || st.Details()[0].(*errdetails.ErrorInfo).GetReason() == "" {
		t.Errorf("details %v, want one reason", st.Details())
	}
	if len(got.Created) > 0 {
		t.Errorf("made %v though it was refused", got.Created)
	}
}

// oracle knows what the requests so far should have left behind.
type oracle struct {
	t      *testing.T
	topics map[string]bool         // that exist
	free   map[string]topics.Shape // of those, the ones that no node owns
	owned  map[string]registeredNode
	seeded map[string]bool
}

type registeredNode struct{ topic, schema string }

func newOracle(t *testing.T, in vectorInput) *oracle {
	o := &oracle{t: t, topics: map[string]bool{}, free: map[string]topics.Shape{}, owned: map[string]registeredNode{}, seeded: map[string]bool{}}
	for _, raw := range in.Existing {
		doc := document(t, raw)
		name := str(doc, "name")
		o.topics[name], o.free[name] = true, shapeOf(doc)
	}
	for _, n := range in.Seeds {
		o.seeded[n.Node] = true
		if n.Topic != nil {
			delete(o.free, *n.Topic)
		}
	}
	return o
}

// better is the original's answer with the deliberate differences applied.
func (o *oracle) better(r vectorRequest, want vectorResult) vectorResult {
	if want.Error != "" {
		return want
	}
	nodes := o.nodes(r.DAG)
	out := want
	out.Queues, out.New, out.Created = [][2]string{}, []string{}, []string{}
	for _, entry := range want.Queues {
		id := contract.NodeIDOfPartitionKey(entry[0])
		_, key, _ := strings.Cut(entry[0], "#ck=")
		n := nodes[id]
		identity := id + "\x00" + key + "\x00" + str(n, "code_hash")
		if known, again := o.owned[identity]; again { // reuse
			out.Queues = append(out.Queues, [2]string{entry[0], known.topic})
			out.Buffer = o.buffered(out.Buffer, n, id, known)
			continue
		}
		topic := entry[1]
		if slices.Contains(want.New, id) {
			topic = o.regrow(topic, id, diff.KindOf(str(n, "node_type")))
			out.New = append(out.New, id)
			o.owned[identity] = registeredNode{topic, str(n, "schema_hash")}
		}
		if slices.Contains(want.Created, entry[1]) && !o.topics[topic] {
			out.Created = append(out.Created, topic)
		}
		o.topics[topic] = true
		delete(o.free, topic)
		out.Queues = append(out.Queues, [2]string{entry[0], topic})
	}
	out.Chunks = max(1, (max(len(out.New), len(out.Buffer))+99)/100)
	return out
}

func (o *oracle) nodes(dag string) map[string]pyjson.Value {
	doc, err := pyjson.ParseString(dag)
	if err != nil {
		o.t.Fatal(err)
	}
	nodes := map[string]pyjson.Value{}
	for _, n := range doc.Member("nodes").Elems() {
		nodes[str(n, "node_id")] = n
	}
	return nodes
}

// buffered takes the node out of the instructions or puts it in, by its schema.
func (o *oracle) buffered(have []vectorBuffer, n pyjson.Value, id string, known registeredNode) []vectorBuffer {
	have = slices.DeleteFunc(slices.Clone(have), func(b vectorBuffer) bool { return b.NodeID == id })
	if str(n, "schema_hash") == known.schema {
		return append([]vectorBuffer{}, have...)
	}
	interval, _ := n.Member("interval").Int64()
	period, _ := n.Member("period").Int64()
	b := vectorBuffer{NodeID: id, Type: str(n, "node_type"), Code: str(n, "code_hash"), Schema: str(n, "schema_hash"),
		Compat: str(n, "schema_compat_id"), Interval: interval, Period: int32(period), Lag: int32(period)}
	for _, tag := range n.Member("tags").Elems() {
		b.Tags = append(b.Tags, tag.Text())
	}
	return append(have, b)
}

// regrow is the shortest form of the original's name that no other node has:
// taken up when it exists and belongs to nobody, made when it does not exist.
func (o *oracle) regrow(topic, id string, kind diff.Kind) string {
	digest := strings.TrimPrefix(id, "blake3:")
	for n := len(digest); n > 0; n-- {
		head, tail, found := strings.Cut(topic, "_"+digest[:n]+"_")
		if !found {
			continue
		}
		if n == len(digest) { // a counted suffix came after all digits were taken
			tail, _, _ = strings.Cut(tail, "-")
		}
		for _, cut := range cuts(digest) {
			name := head + "_" + cut + "_" + tail
			if !o.topics[name] || o.takesUp(name, kind) {
				return name
			}
		}
	}
	return topic // named after its code, or after no digest
}

// takesUp says whether a topic that exists may be the node's from an earlier life.
func (o *oracle) takesUp(name string, kind diff.Kind) bool {
	shape, free := o.free[name]
	want, err := topics.ConfigOf(kind)
	if err != nil {
		o.t.Fatal(err)
	}
	return free && topics.Verify(name, want, map[string]topics.Shape{name: shape}) == nil
}

func cuts(digest string) []string {
	var out []string
	for n := 8; n < len(digest); n += 2 {
		out = append(out, digest[:n])
	}
	return append(out, digest)
}
