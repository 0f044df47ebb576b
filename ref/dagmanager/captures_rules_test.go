package dagmanager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// difference is a deliberate one: a rule that makes of the original's answer the
// one that is wanted, by what the original said and never by the name of the
// exchange. It says whether it applied. Since the wanted answer is then another
// one, a reference that answers as the original does fails the exchange.
type difference struct {
	rare   bool // our recording does not show it; others may
	point  int  // of section 9 of the design: where the original is wrong
	what   string
	better func(r *replayer, c *capture, want *heard) bool
}

var differences = []difference{
	{point: 1, what: "a diff registers nodes and queues: what was diffed before is reuse, and names grow only past names of other nodes", better: reuseRule},
	{point: 1, what: "tag queries find the queues that diffs made", better: tagRule},
	{point: 1, what: "queues of a diff are no orphans, so the garbage collection looks at none of them", better: gcRule},
	{point: 1, what: "RedoDiff of new nodes works", better: redoRule},
	{point: 2, what: "an error has its code and says why", better: codeRule},
	{rare: true, point: 2, what: "over HTTP too", better: httpErrorRule},
	{point: 3, what: "each chunk carries its own items, so that its acknowledgement speaks of them; the union is the same", better: chunkRule},
	{point: 3, what: "an acknowledgement counts at once, for the chunk that waits longest", better: lateAckRule},
	{point: 3, what: "acknowledgements of streams of one strategy go to their own stream", better: ownStreamRule},
	{point: 4, what: "a refusal is no failure of the broker and opens no breaker", better: breakerRule},
	{point: 6, what: "a memory store that works is ok", better: memoryHealthRule},
	{point: 6, what: "grpc.health.v1 is served", better: healthServiceRule},
	{point: 9, what: "QueueUpdated names the queues, and its etag and idempotency key change with them", better: queueUpdateRule},
}

// exception finds the Python exception in the details of a gRPC error.
var exception = regexp.MustCompile(`^Unexpected <class '(?:[\w.]*\.)?(\w+)'>: (?s:(.*))$`)

func exceptionOf(details string) (class, message string) {
	m := exception.FindStringSubmatch(details)
	if m == nil {
		return "", details
	}
	return m[1], m[2]
}

// codeRule tells an exception by a code and its own words.
func codeRule(_ *replayer, c *capture, want *heard) bool {
	class, message := exceptionOf(c.Response.Details)
	if class == "" || want.Code != "UNKNOWN" {
		return false
	}
	for _, e := range exceptions {
		if e.class == class && strings.Contains(message, e.message) {
			want.Code, want.Says = e.code, e.says
			if e.says == nil {
				want.Says = []string{message}
			}
			return true
		}
	}
	return false
}

// exceptions say how an exception is told instead, and what its text must hold,
// one of several; nothing means the original's message.
var exceptions = []struct {
	class, message string // a part of the original's message
	code           string
	says           []string
}{
	{"JSONDecodeError", "", "INVALID_ARGUMENT", []string{"dag_json is not JSON"}},
	{"AttributeError", "", "INVALID_ARGUMENT", []string{"of type"}},
	{"TypeError", "", "INVALID_ARGUMENT", []string{"want"}},
	{"KeyError", "", "INVALID_ARGUMENT", []string{"is missing"}},
	{"ValueError", "", "INVALID_ARGUMENT", []string{"must match", "want"}},
	{"UnicodeEncodeError", "", "INVALID_ARGUMENT", []string{"surrogate"}},
	{"DecodeError", "", "INTERNAL", []string{"unmarshal"}}, // as gRPC's table of codes has it
	{"CrossContextTopicReuseError", "", "FAILED_PRECONDITION", nil},
	{"TopicExistsError", "", "FAILED_PRECONDITION", nil},
	{"TimeoutError", "acknowledge", "DEADLINE_EXCEEDED", []string{"did not acknowledge diff chunk"}},
	{"KafkaException", "INVALID_REPLICATION_FACTOR", "FAILED_PRECONDITION", []string{"eplication"}},
	{"KafkaException", "transport", "UNAVAILABLE", []string{"unavailable"}},
	{"ServiceUnavailable", "", "UNAVAILABLE", []string{"not available"}},
}

// breakerRule: behind the original's open circuit stands a broker that refused.
func breakerRule(r *replayer, c *capture, want *heard) bool {
	if _, message := exceptionOf(c.Response.Details); message != "circuit open" {
		return false
	}
	if r.target == "dm-kafka" {
		want.Code, want.Says = "FAILED_PRECONDITION", []string{"eplication"}
		return true
	}
	*want = r.diffFor(c)
	return true
}

// redoRule: the nodes of the DAG get their queues.
func redoRule(r *replayer, c *capture, want *heard) bool {
	if _, message := exceptionOf(c.Response.Details); !strings.Contains(message, "asyncio.run()") {
		return false
	}
	d := r.diffFor(c).Diff
	*want = heard{Code: "OK", Body: map[string]any{"sentinel_id": d.Sentinel, "version": d.Version, "queue_map": anyMap(d.Queues)}}
	return true
}

// tagRule adds the queues that earlier exchanges made.
func tagRule(r *replayer, c *capture, want *heard) bool {
	if !strings.HasSuffix(c.Request.Path, "/GetQueues") || want.Code != "OK" {
		return false
	}
	var q struct {
		Tags     []string
		Interval json.Number
		Mode     string `json:"match_mode"`
	}
	if json.Unmarshal(c.Request.Body, &q) != nil {
		return false
	}
	body := want.Body.(map[string]any)
	found := body["queues"].([]any)
	before := len(found)
	for _, m := range r.told.made {
		if fmt.Sprint(m.interval) == q.Interval.String() && m.matches(q.Tags, q.Mode) {
			found = append(found, map[string]any{"queue": m.topic, "global": false})
		}
	}
	body["queues"] = found
	return len(found) > before
}

func (m madeQueue) matches(tags []string, mode string) bool {
	has := func(tag string) bool { return slices.Contains(m.tags, tag) }
	if mode == "all" {
		return !slices.ContainsFunc(tags, func(tag string) bool { return !has(tag) })
	}
	return len(tags) == 0 || slices.ContainsFunc(tags, has)
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// chunkRule: chunks that repeat the whole map say the same together. Of a stream
// that did not end well, no more is known than its chunks carry.
func chunkRule(_ *replayer, c *capture, want *heard) bool {
	if want.Diff == nil || len(want.Diff.Queues) <= stream.ChunkItems {
		return false
	}
	want.Diff.Repeats = false
	sent := len(want.Diff.Queues)
	if how, err := c.manner(); err == nil && how.cancel {
		sent = stream.ChunkItems
	} else if want.Code != "OK" {
		sent = 10 * stream.ChunkItems // the window
	}
	for i, n := range nodesOf(c.document()) {
		if i >= sent {
			delete(want.Diff.Queues, n.key)
		}
	}
	return true
}

// lateAckRule: the original goes on waiting for a moment after the last
// acknowledgement that it needs, and repeats its chunks once more.
func lateAckRule(_ *replayer, c *capture, want *heard) bool {
	how, err := c.manner()
	if err != nil || how.late == 0 || want.Diff == nil {
		return false
	}
	fresh := chunksOf(len(want.Diff.Queues), len(want.Diff.Buffer))
	once := fresh * (1 + int(how.late/time.Second)) // what was sent before the first acknowledgement
	if want.Diff.Chunks <= once {
		return false
	}
	want.Diff.Chunks = once
	return true
}

func chunksOf(fresh, buffered int) int { return max(1, (max(fresh, buffered)+99)/100) }

// ownStreamRule: a client that acknowledged each chunk is not ended.
func ownStreamRule(r *replayer, c *capture, want *heard) bool {
	how, err := c.manner()
	if err != nil || !how.each || want.Code != "DEADLINE_EXCEEDED" || want.Diff == nil {
		return false
	}
	*want = r.diffFor(c)
	return true
}

// memoryHealthRule: the original says unknown and degraded of a memory store.
func memoryHealthRule(_ *replayer, _ *capture, want *heard) bool {
	body, _ := want.Body.(map[string]any)
	if body["neo4j"] != "unknown" {
		return false
	}
	body = maps.Clone(body)
	body["neo4j"] = "ok"
	if body["status"] == "degraded" {
		body["status"] = "ok"
	}
	want.Body = body
	return true
}

func healthServiceRule(_ *replayer, c *capture, want *heard) bool {
	if !strings.HasPrefix(c.Request.Path, "/grpc.health.v1.Health/") || want.Code != "UNIMPLEMENTED" {
		return false
	}
	want.Code = "OK"
	return true
}

// queueUpdateRule checks what changes from one answer to the next by its form.
func queueUpdateRule(r *replayer, _ *capture, want *heard) bool {
	applied := false
	for i, record := range want.Records {
		event := record["value"].(map[string]any)
		data, _ := event["data"].(map[string]any)
		if event["type"] != "queue_updated" {
			continue
		}
		data["queues"] = "named"
		data["etag"] = data["etag"].(string) + ":revision"
		data["idempotency_key"] = data["idempotency_key"].(string) + ":revision"
		want.Records[i], applied = record, true
	}
	return applied
}

// told is what a DAG Manager told its clients so far, as it should have.
type told struct {
	seeds  map[string]string      // topic by node id
	queues map[string][]madeQueue // by key of the queue map and code
	topics map[string]bool
	made   []madeQueue // all, in order
}

// madeQueue is a queue that a diff made.
type madeQueue struct {
	topic, schema string
	tags          []string
	interval      int64 // -1 for none
}

func newTold(t *testing.T) *told {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "captures_graph.json"))
	if err != nil {
		t.Fatal(err)
	}
	var graph struct{ Nodes []struct{ ID, Topic string } }
	if err := json.Unmarshal(b, &graph); err != nil {
		t.Fatal(err)
	}
	out := &told{seeds: map[string]string{}, queues: map[string][]madeQueue{}, topics: map[string]bool{}}
	for _, n := range graph.Nodes {
		out.seeds[n.ID], out.topics[n.Topic] = n.Topic, true
	}
	return out
}

// queue is what a node is told: the topic that it has in the namespace, else a
// new one with the shortest name that no other node has. like is what the
// original told.
func (o *told) queue(n submittedNode, like, version string) (topic string, fresh, buffer bool) {
	if like == o.seeds[n.id] && like != "" {
		return like, false, false
	}
	identity := n.key + "\x00" + n.code
	known := o.queues[identity]
	for _, q := range known {
		if contract.InNamespace(q.topic, n.namespace) {
			return q.topic, false, q.schema != n.schema()
		}
	}
	topic = shortest(like, n.id, version, func(name string) bool { return o.topics[name] })
	q := madeQueue{topic, n.schema(), tagsOf(n.doc), whole(n.doc.Member("interval"))}
	o.queues[identity], o.topics[topic] = append(known, q), true
	o.made = append(o.made, q)
	return topic, len(known) == 0, false
}

func tagsOf(doc pyjson.Value) (tags []string) {
	for _, tag := range doc.Member("tags").Elems() {
		if !tag.IsNull() {
			tags = append(tags, tag.Text())
		}
	}
	return tags
}

func whole(v pyjson.Value) int64 {
	i, there := v.Int64()
	if !there {
		return -1
	}
	return i
}

// shortest is the shortest form of a topic's name that is not taken.
func shortest(topic, id, version string, taken func(string) bool) string {
	digest := strings.TrimPrefix(id, "blake3:")
	for n := len(digest); n > 0; n-- {
		head, tail, found := strings.Cut(topic, "_"+digest[:n]+"_")
		if !found {
			continue
		}
		if n == len(digest) && counted.MatchString(strings.TrimPrefix(tail, version)) { // all digits were taken
			tail = version
		}
		for _, cut := range cuts(digest) {
			if name := head + "_" + cut + "_" + tail; !taken(name) {
				return name
			}
		}
	}
	return topic // named after its code, or after no digest
}

var counted = regexp.MustCompile(`^-\d+$`)

// reuseRule gives each node the queue that it has since an earlier exchange, or
// the shortest name, and buffers those whose schema is another one since.
func reuseRule(r *replayer, c *capture, want *heard) bool {
	if want.Diff == nil || !c.isDiff() {
		return false
	}
	better, fresh, buffered := r.better(c, *want.Diff)
	chunks := want.Diff.Chunks
	if how, err := c.manner(); err == nil && how.each && how.late == 0 {
		chunks = min(chunks, chunksOf(fresh, len(want.Diff.Buffer)+len(buffered)))
	}
	if chunks == want.Diff.Chunks && len(buffered) == 0 && maps.Equal(better, want.Diff.Queues) {
		return false
	}
	want.Diff.Queues, want.Diff.Chunks = better, chunks
	want.Diff.Buffer = slices.Concat(want.Diff.Buffer, buffered)
	return true
}

// better gives queue map, number of new nodes and instructions of known ones.
func (r *replayer) better(c *capture, d heardDiff) (queues map[string]string, fresh int, buffered []any) {
	queues = map[string]string{}
	for _, n := range nodesOf(c.document()) {
		like, there := d.Queues[n.key]
		if !there {
			continue
		}
		topic, isNew, buffer := r.told.queue(n, like, d.Version)
		queues[n.key] = topic
		if isNew {
			fresh++
		}
		if buffer {
			buffered = append(buffered, n.instruction())
		}
	}
	return queues, fresh, buffered
}

// submittedNode is a node with its key in the queue map.
type submittedNode struct {
	id, key, code, namespace string
	doc                      pyjson.Value
}

func (n submittedNode) schema() string { return str(n.doc, "schema_hash") }

// instruction is the buffer instruction of a node as it was submitted.
func (n submittedNode) instruction() any {
	period, _ := n.doc.Member("period").Int64()
	return asJSON(&pb.BufferInstruction{NodeId: n.id, NodeType: str(n.doc, "node_type"), CodeHash: n.code, SchemaHash: n.schema(),
		Interval: max(0, whole(n.doc.Member("interval"))), Period: int32(period), Lag: int32(period), Tags: tagsOf(n.doc),
		SchemaCompatId: str(n.doc, "schema_compat_id")})
}

// nodesOf reads the nodes of a DAG that are no sentinels; of equal ids the last
// counts, in the place of the first.
func nodesOf(doc pyjson.Value) []submittedNode {
	plain, _, err := diff.Separate(doc)
	if err != nil {
		return nil
	}
	context := diff.InferContext(doc)
	namespace := diff.NamespaceOf(doc, context)
	var out []submittedNode
	place := map[string]int{}
	for _, n := range plain {
		id := str(n, "node_id")
		key := contract.PartitionKey(id, n.Member("interval"), n.Member("bucket"), dag.ComputeKey(id, context))
		node := submittedNode{id, key, str(n, "code_hash"), namespace, n}
		if at, seen := place[id]; seen {
			out[at] = node
			continue
		}
		place[id] = len(out)
		out = append(out, node)
	}
	return out
}

// diffFor is the answer to a diff of which the original says nothing: all of
// its nodes have a queue, named by the contract.
func (r *replayer) diffFor(c *capture) heard {
	var body struct {
		Strategy string `json:"strategy_id"`
		Sentinel string `json:"sentinel_id"`
	}
	_ = json.Unmarshal(c.Request.Body, &body) // both are "" when it has none
	doc := c.document()
	_, sentinels, err := diff.Separate(doc)
	if err != nil {
		return heard{Code: "INVALID_ARGUMENT"}
	}
	version := diff.VersionOf(doc, sentinels).Label
	d := &heardDiff{Chunks: 1, Sentinel: contract.SentinelID(cmp.Or(body.Strategy, body.Sentinel)), Version: version, Queues: map[string]string{}}
	var ids []string
	for _, n := range nodesOf(doc) {
		spec := contract.TopicSpec{Asset: contract.AssetOf(n.doc.Member("tags").Elems()), NodeType: str(n.doc, "node_type"), NodeID: n.id,
			Version: version, CodeHash: n.code, Namespace: diff.NamespaceOf(doc, diff.InferContext(doc))}
		like := ""
		for name := range spec.Names() {
			like = name
			break
		}
		d.Queues[n.key], _, _ = r.told.queue(n, like, version)
		ids = append(ids, n.id)
	}
	d.CRC = contract.CRC32(ids)
	return heard{Code: "OK", Diff: d}
}

// original is what the original answered, in the form of heard.
func (r *replayer) original(c *capture) (heard, error) {
	var code string
	if json.Unmarshal(c.Response.Status, &code) != nil {
		code = string(c.Response.Status)
	}
	want := heard{Code: code}
	var err error
	switch {
	case c.Request.Method == "KAFKA":
		want.Records, err = c.records()
	case c.Request.Method != "grpc":
		want.Headers = comparedHeaders(func(name string) string { return c.Response.Headers[name] })
		want.Body = libraryText(bodyOf(c.Response.Body))
	case c.isDiff() && len(c.Response.Chunks) > 0:
		want.Diff, err = c.originalDiff()
	case strings.HasSuffix(c.Request.Path, "/GetQueueStats"):
		want.Body = r.sizes(c)
	case string(c.Response.Body) != "null" && len(c.Response.Body) > 0:
		want.Body = bodyOf(c.Response.Body)
	}
	return want, err
}

// sizes are those of the topics that were made so far, where the original gave
// those of its own: more exchanges made them than were recorded.
func (r *replayer) sizes(c *capture) any {
	body, _ := bodyOf(c.Response.Body).(map[string]any)
	_, cut := body["head"]
	given, _ := body["sizes"].(map[string]any)
	if !cut && len(given) == 0 {
		return body
	}
	sizes := map[string]any{}
	for _, m := range r.told.made {
		sizes[m.topic] = "0"
	}
	return map[string]any{"sizes": sizes}
}

// bodyOf is a recorded body: JSON, or text that may be JSON.
func bodyOf(raw json.RawMessage) any {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return jsonOrText([]byte(text))
	}
	return jsonOrText(raw)
}

func (c *capture) originalDiff() (*heardDiff, error) {
	first := c.Response.Chunks[0]
	d := &heardDiff{Chunks: c.Response.Count, Sentinel: first.Sentinel, Version: first.Version, CRC: first.CRC,
		Repeats: c.Response.Count > 1, Queues: map[string]string{}, Buffer: first.Buffer}
	if !first.HasCRC {
		d.Differ = []string{"no crc32"}
	}
	_, exact, err := c.dagOf()
	if err != nil {
		return nil, err
	}
	if exact {
		return d, json.Unmarshal(first.Queues, &d.Queues)
	}
	return d, c.guess(d)
}

// guess fills in the queue map of a DAG that was made again: keys and topics as
// the contract names them, in the form of those that were recorded.
func (c *capture) guess(d *heardDiff) error {
	var short struct {
		First map[string]string `json:"_first"`
	}
	if err := json.Unmarshal(c.Response.Chunks[0].Queues, &short); err != nil {
		return err
	}
	keys := slices.Sorted(maps.Keys(short.First))
	if len(keys) == 0 {
		return fmt.Errorf("no queue of the cut map is shown: %.80s", c.Response.Chunks[0].Queues)
	}
	id := contract.NodeIDOfPartitionKey(keys[0])
	digest := strings.TrimPrefix(id, "blake3:")
	head, tail, found := strings.Cut(short.First[keys[0]], "_"+digest[:8]+"_")
	if !found {
		return fmt.Errorf("topic %s is not named after %s", short.First[keys[0]], id)
	}
	var ids []string
	for _, n := range nodesOf(c.document()) {
		d.Queues[n.key] = head + "_" + strings.TrimPrefix(n.id, "blake3:")[:8] + "_" + tail
		ids = append(ids, n.id)
	}
	d.CRC = contract.CRC32(ids)
	return nil
}

// gcRule: topics that the original collected as orphans, or would have, feed
// registered nodes.
func gcRule(_ *replayer, c *capture, want *heard) bool {
	if c.Request.Path != "/admin/gc-trigger" || want.Code != "202" {
		return false
	}
	want.Body = map[string]any{"processed": []any{}, "report": map[string]any{
		"observed": 0.0, "candidates": 0.0, "processed": []any{}, "skipped": []any{},
		"actions": map[string]any{"drop": 0.0, "archive": 0.0, "skip": 0.0}, "by_tag": map[string]any{}, "items": []any{},
	}}
	return true
}

// httpErrorRule tells why, where the original only says that it failed.
func httpErrorRule(_ *replayer, _ *capture, want *heard) bool {
	if want.Code != "500" {
		return false
	}
	want.Code, want.Headers, want.Body = "503", map[string]string{"content-type": "application/json"}, "a reason"
	return true
}

// libraryText takes out what the contract calls library-shaped: the words of a
// JSON parser, and of a description of the interface all but paths, methods and
// what the original answers there; and the message beside a reason.
func libraryText(body any) any {
	doc, _ := body.(map[string]any)
	if doc["openapi"] != nil {
		return routesOf(doc)
	}
	switch detail := doc["detail"].(type) {
	case []any:
		for _, item := range detail {
			if context, ok := item.(map[string]any)["ctx"].(map[string]any); ok && context["error"] != nil {
				context["error"] = "words of a parser"
			}
		}
	case map[string]any:
		if reason, ok := detail["code"].(string); ok && reason != "" {
			return "a reason"
		}
	}
	return body
}

func routesOf(doc map[string]any) any {
	routes := []any{doc["openapi"]}
	paths, _ := doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		methods, _ := paths[path].(map[string]any)
		for _, method := range slices.Sorted(maps.Keys(methods)) {
			answers, _ := methods[method].(map[string]any)["responses"].(map[string]any)
			for _, code := range slices.Sorted(maps.Keys(answers)) {
				if code < "500" {
					routes = append(routes, method+" "+path+" "+code)
				}
			}
		}
	}
	return routes
}

// clone is a deep copy.
func (h heard) clone() heard {
	if h.Diff != nil {
		d := *h.Diff
		d.Queues = maps.Clone(d.Queues)
		h.Diff = &d
	}
	h.Body = cloneJSON(h.Body)
	h.Records = slices.Clone(h.Records)
	for i, r := range h.Records {
		h.Records[i] = cloneJSON(r).(map[string]any)
	}
	return h
}

func cloneJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		for k := range out {
			out[k] = cloneJSON(out[k])
		}
		return out
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = cloneJSON(out[i])
		}
		return out
	}
	return v
}
