package dagmanager

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kfake"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// What the original was asked while it ran, and what it answered, is asked of
// this DAG Manager: real gRPC and HTTP on loopback, backends embedded. Each
// answer is the original's, save for the deliberate differences of
// captures_rules_test.go. A recording holds a part of the conversations only,
// so what an answer owes to a request that is not in it follows from the rules too.

// capture is one exchange of a recording.
type capture struct {
	Name, Target string
	Request      struct {
		Method, Path string
		Headers      map[string]string
		Body         json.RawMessage
		Client       struct {
			Ack      json.RawMessage
			Deadline float64 `json:"deadline_s"`
		}
	}
	Response struct {
		Status  json.RawMessage // a number of HTTP or a code of gRPC
		Details string
		Headers map[string]string
		Body    json.RawMessage
		Count   int `json:"chunk_count"`
		Chunks  []capturedChunk
	}
	Value json.RawMessage // a look into a database instead of an exchange
}

type capturedChunk struct {
	Queues   json.RawMessage `json:"queue_map"`
	Sentinel string          `json:"sentinel_id"`
	Version  string
	CRC      uint32 `json:"crc32"`
	HasCRC   bool   `json:"_has_crc32"`
	Buffer   []any  `json:"buffer_nodes"`
}

func (c *capture) isDiff() bool { return strings.HasSuffix(c.Request.Path, "DiffService/Diff") }

// family is the first part of the name: what was recorded in one go.
func (c *capture) family() string {
	family, _, _ := strings.Cut(c.Name, ".")
	return family
}

// batch is the name without a number at its end: such exchanges were recorded
// at the same time.
func (c *capture) batch() string {
	at := strings.LastIndexByte(c.Name, '_')
	if at < 0 || strings.Trim(c.Name[at+1:], "0123456789") != "" {
		return c.Name
	}
	return c.Name[:at]
}

// readCaptures gives the exchanges with a DAG Manager of one file.
func readCaptures(t *testing.T, file string) []*capture {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*capture
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 64<<20)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var c capture
		var target struct{ Target string }
		if err := json.Unmarshal(lines.Bytes(), &target); err != nil {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		if !strings.HasPrefix(target.Target, "dm-") {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		if c.Value != nil { // a look into Neo4j, not an exchange: nodestoretest says what is stored
			t.Logf("%s:%d: %s is not an exchange", file, n, c.Name)
			continue
		}
		all = append(all, &c)
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all
}

// setting is what an exchange needs: a target, and whether the server behind it is away.
type setting struct {
	target string
	away   bool
}

func (s setting) String() string {
	if s.away {
		return s.target + "-away"
	}
	return s.target
}

// away finds the families that were recorded while the server behind the
// DAG Manager was away, by what the original said of it.
var away = regexp.MustCompile(`Connection refused|Failed to establish connection|ServiceUnavailable|Broker transport failure|\\?"neo4j\\?": ?\\?"error`)

// bySetting parts a recording, in order, by what its exchanges need.
func bySetting(all []*capture) (order []setting, parts map[setting][]*capture) {
	gone := map[string]bool{}
	for _, c := range all {
		gone[c.family()] = gone[c.family()] || away.MatchString(c.Response.Details) || away.Match(c.Response.Body)
	}
	parts = map[setting][]*capture{}
	for _, c := range all {
		s := setting{c.Target, gone[c.family()]}
		if !slices.Contains(order, s) {
			order = append(order, s)
		}
		parts[s] = append(parts[s], c)
	}
	return order, parts
}

// flags are those of a DAG Manager with what s needs, and the broker of the
// ControlBus when there is one. The graph database is played by the memory
// store, whose contract is the same where these exchanges look.
func (s setting) flags(t *testing.T) (flags []string, bus string) {
	t.Helper()
	graph := []string{"--memory-repo", filepath.Join("testdata", "captures_graph.json")}
	switch s {
	case setting{"dm-neo4j", true}:
		return []string{"--neo4j", "bolt://127.0.0.1:1", "--neo4j-retry", "100ms"}, ""
	case setting{"dm-kafka", true}:
		return append(graph, "--kafka", "127.0.0.1:1", "--kafka-timeout", "1s"), ""
	case setting{"dm-kafka", false}:
		_, addr := kafka(t)
		return append(graph, "--kafka", addr), ""
	case setting{"dm-bus", false}:
		_, addr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight"))
		return append(graph, "--controlbus", addr), addr
	case setting{"dm-mem", false}, setting{"dm-neo4j", false}:
		return graph, ""
	}
	t.Fatalf("nothing is known of the target %s", s)
	return nil, ""
}

// TestCaptures replays the recording beside it, and the one of the folder that
// PLUMBLINE_VECTORS names, where it is set.
func TestCaptures(t *testing.T) {
	t.Parallel()
	more := filepath.Join(os.Getenv(vectors.Env), "captures.jsonl")
	if _, err := os.Stat(more); err == nil && os.Getenv(vectors.Env) != "" {
		t.Run("more", func(t *testing.T) { replay(t, more) })
	}
	showed := replay(t, filepath.Join("testdata", "captures.jsonl"))
	for i, d := range differences {
		if !showed[i] && !d.rare {
			t.Errorf("9.%d %s: no exchange shows this difference; strike it off the list", d.point, d.what)
		}
	}
}

// replay asks what the file holds, compares, and says which differences showed.
func replay(t *testing.T, file string) (showed map[int]bool) {
	if testing.Short() {
		t.Skip("clients that never acknowledge take 30 s; run without -short")
	}
	all := readCaptures(t, file)
	if len(all) == 0 {
		t.Fatalf("%s holds no exchange with a DAG Manager: it would prove nothing", file)
	}
	order, parts := bySetting(all)
	replayers := make([]*replayer, len(order))
	t.Run("replayed", func(t *testing.T) { // ends when all parts have
		for i, s := range order {
			t.Run(s.String(), func(t *testing.T) {
				t.Parallel()
				replayers[i] = s.replay(t, parts[s])
			})
		}
	})
	showed = map[int]bool{}
	for _, r := range replayers {
		if r != nil { // nil: filtered out by -run
			maps.Copy(showed, r.showed)
		}
	}
	return showed
}

// replay asks one DAG Manager a part of a recording.
func (s setting) replay(t *testing.T, part []*capture) *replayer {
	flags, bus := s.flags(t)
	r := &replayer{process: run(t, flags...), setting: s, told: newTold(t), showed: map[int]bool{}}
	if bus != "" {
		r.bus = newTap(t, bus, r.process)
	}
	r.askAll(t, part)
	for i, c := range part {
		t.Run(c.Name, func(t *testing.T) { r.check(t, c, r.got[i]) })
	}
	return r
}

// replayer is one DAG Manager that is asked a part of a recording.
type replayer struct {
	*process
	setting
	bus   *tap // nil without a ControlBus
	told  *told
	asked []*capture
	got   []outcome

	showed map[int]bool // differences, by place
}

// outcome is what came of one exchange.
type outcome struct {
	heard heard
	err   error // the exchange could not be had
}

// askAll asks one exchange after the other; those that were recorded at once
// are asked at once, and clients that never acknowledge hold up nobody.
func (r *replayer) askAll(t *testing.T, all []*capture) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.got = make([]outcome, len(all))
	var patient sync.WaitGroup
	defer patient.Wait()
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[to].batch() == all[from].batch() {
			to++
		}
		var batch sync.WaitGroup
		for i := from; i < to; i++ {
			wg := &batch
			if string(all[i].Request.Client.Ack) == `"none"` {
				wg = &patient
			}
			begun := make(chan struct{})
			once := sync.OnceFunc(func() { close(begun) })
			wg.Go(func() {
				defer once()
				r.got[i] = r.ask(ctx, all[i], once)
			})
			batch.Go(func() { <-begun })
		}
		batch.Wait()
		r.asked = all[:to]
		from = to
	}
}

// check compares one answer with the original's, made better by the differences.
func (r *replayer) check(t *testing.T, c *capture, got outcome) {
	if got.err != nil {
		t.Fatal(got.err)
	}
	want, err := r.original(c)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range differences {
		before := want.clone()
		if d.better(r, c, &want) {
			r.showed[i] = true
			if cmp.Equal(before, want, cmpopts.EquateEmpty()) {
				t.Errorf("9.%d %s changes nothing in what the original answers", d.point, d.what)
			}
		}
	}
	if d := cmp.Diff(want, got.heard, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(heard{}, "Text", "Says")); d != "" {
		t.Errorf("(-want +got):\n%s\nit says %q", d, got.heard.Text)
	}
	if len(want.Says) > 0 && !slices.ContainsFunc(want.Says, func(s string) bool { return strings.Contains(got.heard.Text, s) }) {
		t.Errorf("it says %q; want one of %q", got.heard.Text, want.Says)
	}
}

// cut is a long text of a recording: what is known of it.
type cutText struct {
	Truncated bool
	Length    int
	SHA256    string
	Head      string
}

// dagOf is the dag_json of a request. One that was cut is made again: exactly
// where the rest repeats its last character, else with as many nodes of the
// same make, whose ids are other ones.
func (c *capture) dagOf() (dag string, exact bool, err error) {
	var body struct {
		DAG json.RawMessage `json:"dag_json"`
	}
	if err := json.Unmarshal(c.Request.Body, &body); err != nil {
		return "", false, err
	}
	if json.Unmarshal(body.DAG, &dag) == nil {
		return dag, true, nil
	}
	var cut cutText
	if err := json.Unmarshal(body.DAG, &cut); err != nil || !cut.Truncated {
		return "", false, fmt.Errorf("dag_json: %.80s", body.DAG)
	}
	if dag, ok := cut.padded(); ok {
		return dag, true, nil
	}
	n, err := c.nodeCount()
	if err != nil {
		return "", false, err
	}
	dag, err = cut.likeHead(n, c.Name)
	return dag, false, err
}

func (t cutText) padded() (string, bool) {
	for _, end := range []string{`"}`, `"]}`} {
		n := t.Length - len(t.Head) - len(end)
		if n < 0 {
			continue
		}
		whole := t.Head + strings.Repeat(t.Head[len(t.Head)-1:], n) + end
		if sum := sha256.Sum256([]byte(whole)); hex.EncodeToString(sum[:]) == t.SHA256 {
			return whole, true
		}
	}
	return "", false
}

// nodeCount is the size of the queue map that was answered.
func (c *capture) nodeCount() (int, error) {
	for _, chunk := range c.Response.Chunks {
		var short struct {
			Count int `json:"_count"`
		}
		if json.Unmarshal(chunk.Queues, &short) == nil && short.Count > 0 {
			return short.Count, nil
		}
	}
	return 0, fmt.Errorf("%s: the DAG was cut and no answer says how many nodes it had", c.Name)
}

// likeHead makes n nodes as the head shows them, each with the one before as its
// input when the second one has an input.
func (t cutText) likeHead(n int, name string) (string, error) {
	shown, err := t.nodes()
	if err != nil {
		return "", err
	}
	chained := false
	if len(shown) > 1 {
		inputs, _ := shown[1]["inputs"].([]any)
		chained = len(inputs) > 0
	}
	nodes := make([]map[string]any, n)
	for i := range nodes {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		id := hex.EncodeToString(sum[:])
		nodes[i] = maps.Clone(shown[0])
		nodes[i]["node_id"], nodes[i]["code_hash"], nodes[i]["inputs"] = "blake3:"+id, "cc"+id[54:], []any{}
		if chained && i > 0 {
			nodes[i]["inputs"] = []any{nodes[i-1]["node_id"]}
		}
	}
	b, err := json.Marshal(map[string]any{"nodes": nodes})
	return string(b), err
}

// nodes are those that the head shows whole, at least one.
func (t cutText) nodes() ([]map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(t.Head))
	for range 3 { // the object, "nodes", the list
		if _, err := dec.Token(); err != nil {
			return nil, err
		}
	}
	var all []map[string]any
	for dec.More() {
		var node map[string]any
		if dec.Decode(&node) != nil { // it is cut
			break
		}
		all = append(all, node)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the head of the DAG shows no whole node: %.80s", t.Head)
	}
	return all, nil
}

// document is the DAG of a request as it is read; Null when it cannot be.
func (c *capture) document() pyjson.Value {
	dag, _, err := c.dagOf()
	if err != nil {
		return pyjson.Value{}
	}
	doc, err := pyjson.ParseString(dag)
	if err != nil {
		return pyjson.Value{}
	}
	return doc
}
