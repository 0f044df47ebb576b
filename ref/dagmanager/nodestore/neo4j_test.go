package nodestore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/neo4j/neo4j-go-driver/v5/neo4j"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
)

// server is a Neo4j server seen by somebody who is not a DAG Manager.
type server struct {
	t      testing.TB
	url    string
	driver neo4j.DriverWithContext
}

// emptyGraph is a server without nodes; its schema is as earlier tests left it.
func emptyGraph(t testing.TB) *server {
	t.Helper()
	g := &server{t: t, url: nodestoretest.Server(t)}
	var err error
	if g.driver, err = neo4j.NewDriverWithContext(g.url, neo4j.NoAuth()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.driver.Close(context.Background()) })
	g.run("MATCH (n) DETACH DELETE n", nil)
	return g
}

// run executes one statement and returns its rows.
func (g *server) run(cypher string, params map[string]any) [][]any {
	g.t.Helper()
	res, err := neo4j.ExecuteQuery(context.WithoutCancel(g.t.Context()), g.driver, cypher, params, neo4j.EagerResultTransformer)
	if err != nil {
		g.t.Fatalf("%s: %v", cypher, err)
	}
	var rows [][]any
	for _, r := range res.Records {
		rows = append(rows, r.Values)
	}
	return rows
}

// open opens a store on the graph.
func (g *server) open(edit ...func(*nodestore.Neo4jOptions)) *nodestore.Neo4j {
	g.t.Helper()
	o := nodestore.Neo4jOptions{URL: g.url, Cache: 1000, Timeout: time.Minute, Retry: 30 * time.Second} // for slow machines
	for _, e := range edit {
		e(&o)
	}
	s, err := nodestore.OpenNeo4j(o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// written is a store on a graph into which others write, too.
type written struct {
	*nodestore.Neo4j
	graph *server
}

// Put writes a node as others do: what is known of it is replaced, marks stay.
func (w written) Put(_ context.Context, n diff.Node) error {
	w.graph.run("MATCH (:ComputeNode {node_id: $id})-[]->(q:Queue) DETACH DELETE q", map[string]any{"id": n.ID})
	w.graph.run(`MERGE (n:ComputeNode {node_id: $id})
SET n.node_type = $type, n.code_hash = $code, n.schema_hash = $schema, n.schema_id = $compat, n.tags = $tags,
    n.compute_keys = $keys, n.global = $global, n.period = $period`,
		map[string]any{"id": n.ID, "type": n.NodeType, "code": n.CodeHash, "schema": n.SchemaHash, "compat": n.SchemaCompatID,
			"tags": n.Tags, "keys": n.ComputeKeys, "global": n.Global, "period": n.Period})
	if n.HasQueue {
		w.graph.run("MATCH (n:ComputeNode {node_id: $id}) CREATE (n)-[:EMITS]->(:Queue {topic: $topic, interval: $interval})",
			map[string]any{"id": n.ID, "topic": n.Topic, "interval": n.Interval})
	}
	return nil
}

func TestNeo4j(t *testing.T) {
	nodestoretest.Run(t, nodestoretest.Traits{}, func(t testing.TB) (nodestoretest.Store, nodestoretest.Store) {
		g := emptyGraph(t)
		return written{g.open(), g}, written{g.open(), g}
	})
}

// want claims the topic for a node.
func want(id, topic string) diff.Claim {
	interval := int64(60)
	return diff.Claim{
		Node:       diff.Node{ID: id, CodeHash: "c", SchemaHash: "s", Interval: &interval, Tags: []string{"x"}},
		ComputeKey: "k",
		Choose:     func(func(string) bool) (string, error) { return topic, nil },
	}
}

func register(t testing.TB, s *nodestore.Neo4j, claims ...diff.Claim) {
	t.Helper()
	got, err := s.Claim(t.Context(), claims)
	if err == nil {
		_, err = s.Confirm(t.Context(), got)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// known says which of the ids a store knows.
func known(t testing.TB, s *nodestore.Neo4j, ids ...string) (found []string) {
	t.Helper()
	nodes, err := s.Lookup(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n != nil {
			found = append(found, n.ID)
		}
	}
	return found
}

// soon waits until ok.
func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not yet: %s", what)
		}
	}
}

var quick = func(o *nodestore.Neo4jOptions) { o.Timeout, o.Retry = time.Second, 300*time.Millisecond }

func through(g *nodestoretest.Gate) func(*nodestore.Neo4jOptions) {
	return func(o *nodestore.Neo4jOptions) { o.URL = g.URL() }
}

// What is remembered costs no round trip: it is known while nobody answers.
func TestKnownNodesCostNoRoundTrip(t *testing.T) {
	graph := emptyGraph(t)
	gate := nodestoretest.NewGate(t, graph.url)
	s := graph.open(quick, through(gate))
	register(t, s, want("a", "ta"), want("b", "tb"))
	written{s, graph}.Put(t.Context(), diff.Node{ID: "foreign", HasQueue: true, Topic: "tf"})
	if got := known(t, s, "a", "b", "foreign"); len(got) != 3 {
		t.Fatalf("known: %v", got)
	}
	if _, err := s.Claim(t.Context(), []diff.Claim{want("open", "to")}); err != nil {
		t.Fatal(err)
	}
	known(t, s, "open")
	gate.Shut()
	if got := known(t, s, "b", "a"); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("known without the database: %v", got)
	}
	for _, id := range []string{"foreign", "open", "new"} { // these must be asked for
		if _, err := s.Lookup(t.Context(), []string{"a", id}); !errors.Is(err, nodestore.ErrUnavailable) {
			t.Errorf("%s without the database: %v", id, err)
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	graph := emptyGraph(t)
	few := graph.open(func(o *nodestore.Neo4jOptions) { o.Cache = 2 })
	none := graph.open(func(o *nodestore.Neo4jOptions) { o.Cache = 0 })
	register(t, few, want("a", "ta"), want("b", "tb"), want("c", "tc"))
	if got := known(t, few, "a", "b", "c"); len(got) != 3 || few.Remembered() != 2 {
		t.Errorf("known %v, %d remembered", got, few.Remembered())
	}
	if got := known(t, none, "a", "b", "c"); len(got) != 3 || none.Remembered() != 0 {
		t.Errorf("known %v, %d remembered", got, none.Remembered())
	}
}

// Another database may come back than the one that went away.
func TestAnOutageEndsWhatIsRemembered(t *testing.T) {
	graph := emptyGraph(t)
	gate := nodestoretest.NewGate(t, graph.url)
	s := graph.open(quick, through(gate))
	register(t, s, want("a", "ta"))
	gate.Shut()
	if err := s.Ping(t.Context()); !errors.Is(err, nodestore.ErrUnavailable) {
		t.Fatalf("ping: %v", err)
	}
	graph.run("MATCH (n) DETACH DELETE n", nil)
	for _, o := range []string{"CONSTRAINT compute_pk", "INDEX kafka_topic"} {
		graph.run("DROP "+o, nil)
	}
	gate.Open()
	soon(t, "the database answers", func() bool { return s.Ping(t.Context()) == nil })
	register(t, s, want("b", "tb"))
	if got := known(t, s, "a", "b"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("known: %v", got)
	}
	if got := len(graph.schema()); got != 5 {
		t.Errorf("%d schema objects", got)
	}
}

// schema gives the names of constraints and indexes that are not the server's own.
func (g *server) schema() (names []string) {
	g.t.Helper()
	for _, r := range g.run(`SHOW INDEXES YIELD name, labelsOrTypes, properties, owningConstraint, type WHERE type <> 'LOOKUP'
RETURN name + ' ' + labelsOrTypes[0] + '.' + properties[0] + CASE WHEN owningConstraint IS NULL THEN '' ELSE ' unique' END AS it ORDER BY it`, nil) {
		names = append(names, r[0].(string))
	}
	return names
}

func TestSchemaComesAndGoes(t *testing.T) {
	graph := emptyGraph(t)
	s := graph.open()
	if _, err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := []string{"compute_pk", "kafka_topic", "compute_tags", "queue_interval", "compute_buffering_since"}
	for _, c := range []struct {
		name string
		do   func(context.Context) ([]string, error)
		want []string
	}{{"roll back nothing", s.Rollback, nil}, {"init", s.Init, all}, {"init again", s.Init, nil}, {"roll back", s.Rollback, all}, {"init anew", s.Init, all}} {
		got, err := c.do(t.Context())
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	if d := cmp.Diff([]string{
		"compute_buffering_since ComputeNode.buffering_since", "compute_pk ComputeNode.node_id unique", "compute_tags ComputeNode.tags",
		"kafka_topic Queue.topic", "queue_interval Queue.interval",
	}, graph.schema()); d != "" {
		t.Errorf("schema (-want +got):\n%s", d)
	}
}

// Several DAG Managers that begin at once on a database without a schema.
func TestTheFirstWriteMakesTheSchema(t *testing.T) {
	graph := emptyGraph(t)
	if _, err := graph.open().Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		s := graph.open()
		wg.Go(func() {
			got, err := s.Claim(t.Context(), []diff.Claim{want("a", fmt.Sprint("t", i))})
			if err == nil {
				_, err = s.Confirm(t.Context(), got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := graph.run("MATCH (n:ComputeNode)-->(q:Queue) RETURN count(DISTINCT n), count(q)", nil)[0]; !slices.Equal(got, []any{int64(1), int64(1)}) {
		t.Errorf("nodes and queues: %v", got)
	}
	if got := len(graph.schema()); got != 5 {
		t.Errorf("%d schema objects", got)
	}
}

// Others read this graph by the labels and edges of the contract.
func TestTheGraphAsOthersReadIt(t *testing.T) {
	graph := emptyGraph(t)
	s := graph.open()
	if _, err := s.Claim(t.Context(), []diff.Claim{want("claimed", "tc")}); err != nil {
		t.Fatal(err)
	}
	register(t, s, want("ready", "tr"))
	sentinel := func(ids ...string) {
		err := s.Record(t.Context(), diff.Findings{Sentinel: &diff.Sentinel{ID: "s-sentinel", Version: "v1", NodeIDs: ids, At: time.Now()}})
		if err != nil {
			t.Fatal(err)
		}
	}
	sentinel("ready", "nobody")
	sentinel("ready")
	sentinel()
	for _, c := range []struct {
		query string
		want  [][]any
	}{
		{"MATCH (n:ComputeNode)-[:EMITS]->(q:Queue) RETURN n.node_id, q.topic, q.interval, n.compute_keys, n.tags",
			[][]any{{"ready", "tr", int64(60), []any{"k"}, []any{"x"}}}},
		{"MATCH (v:VersionSentinel)-[:HAS]->(n:ComputeNode) RETURN v.sentinel_id, v.version, n.node_id, v.created_at > 0",
			[][]any{{"s-sentinel", "v1", "ready", true}, {"s-sentinel", "v1", "ready", true}}},
		{"MATCH (n) RETURN labels(n)[0] AS l, count(*) ORDER BY l", // nothing is left of locks
			[][]any{{"ComputeNode", int64(2)}, {"Queue", int64(2)}, {"VersionSentinel", int64(2)}}},
	} {
		if d := cmp.Diff(c.want, graph.run(c.query, nil)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.query, d)
		}
	}
	if n, q, err := s.Size(t.Context()); n != 2 || q != 2 || err != nil {
		t.Errorf("size %d, %d, %v", n, q, err)
	}
}

// What others wrote need not be as we would have written it.
func TestOddNodesOfOthers(t *testing.T) {
	graph := emptyGraph(t)
	s := graph.open()
	graph.run(`CREATE (:ComputeNode {node_id: 'a', schema_id: 'old', period: 'long', compute_keys: ['k'], tags: 'x'})-[:EMITS]->(:Queue {topic: '', interval: 60.5}),
(:ComputeNode {node_id: 'b', tags: ['x']})-[:EMITS]->(:Queue {topic: 'tb', interval: 60}), (:ComputeNode {node_id: 'c'})`, nil)
	nodes, err := s.Lookup(t.Context(), []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	sixty := int64(60)
	want := []*diff.Node{
		{ID: "a", SchemaCompatID: "old", HasQueue: true, ComputeKeys: []string{"k"}, Tags: []string{}},
		{ID: "b", HasQueue: true, Topic: "tb", Interval: &sixty, Tags: []string{"x"}, ComputeKeys: []string{}},
		{ID: "c", Tags: []string{}, ComputeKeys: []string{}},
	}
	if d := cmp.Diff(want, nodes); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := s.Record(t.Context(), diff.Findings{Bound: []diff.Mark{{NodeID: "c", ComputeKey: "k"}, {NodeID: "c", ComputeKey: "k"}, {NodeID: "c"}}}); err != nil {
		t.Fatal(err)
	}
	if got := graph.run("MATCH (n {node_id: 'c'}) RETURN n.compute_keys", nil)[0][0]; !cmp.Equal(got, []any{"k"}) {
		t.Errorf("keys of c: %v", got)
	}
}

func TestWhatTheGraphCannotIndexIsRefused(t *testing.T) {
	s := emptyGraph(t).open()
	id, tag := want(strings.Repeat("x", 9000), "t"), want("n", "t")
	tag.Node.Tags = []string{strings.Repeat("x", 5000), strings.Repeat("y", 5000)}
	for _, c := range []diff.Claim{id, tag} {
		var wrong *diff.InputError
		if _, err := s.Claim(t.Context(), []diff.Claim{want("fine", "tf"), c}); !errors.As(err, &wrong) || wrong.NodeID != c.Node.ID {
			t.Errorf("claim: %v", err)
		}
	}
	largest := want(strings.Repeat("x", 7000), "t")
	largest.Node.Tags = []string{strings.Repeat("x", 6990)}
	register(t, s, largest)
	if got := known(t, s, "fine", largest.Node.ID); len(got) != 1 {
		t.Errorf("%d known", len(got))
	}
}

// Away or mute, the database is missed within the limit, and found again.
func TestOutage(t *testing.T) {
	graph := emptyGraph(t)
	gate := nodestoretest.NewGate(t, graph.url)
	s := graph.open(quick, through(gate))
	calls := map[string]func(context.Context) error{
		"lookup": func(ctx context.Context) error { _, err := s.Lookup(ctx, []string{"n"}); return err },
		"claim":  func(ctx context.Context) error { _, err := s.Claim(ctx, []diff.Claim{want("n", "t")}); return err },
		"queues": func(ctx context.Context) error { _, err := s.Queues(ctx, []string{"x"}, 60, "any"); return err },
		"ping":   s.Ping,
	}
	for _, outage := range []struct {
		name     string
		away     func()
		back     func()
		reopened bool
	}{{"shut", gate.Shut, gate.Open, true}, {"mute", gate.Mute, gate.Speak, false}} {
		soon(t, "the database answers", func() bool { return s.Ping(t.Context()) == nil })
		outage.away()
		var wg sync.WaitGroup
		for name, call := range calls {
			wg.Go(func() {
				if err := call(t.Context()); !errors.Is(err, nodestore.ErrUnavailable) {
					t.Errorf("%s, %s: %v", outage.name, name, err)
				}
			})
		}
		wg.Wait()
		outage.back()
	}
	soon(t, "a claim", func() bool { return calls["claim"](t.Context()) == nil })
}

// Callers in an outage do not stand in a line: a hundred that need the database
// are told within the time that a few operations may take.
func TestAnOutageMakesNoLine(t *testing.T) {
	graph := emptyGraph(t)
	gate := nodestoretest.NewGate(t, graph.url)
	s := graph.open(quick, through(gate))
	gate.Mute()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a line would take a hundred seconds
	defer cancel()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := s.Claim(ctx, []diff.Claim{want("n", "t")}); !errors.Is(err, nodestore.ErrUnavailable) {
				t.Errorf("claim: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestACallerMayLeave(t *testing.T) {
	graph := emptyGraph(t)
	gate := nodestoretest.NewGate(t, graph.url)
	s := graph.open(through(gate))
	known(t, s, "n")
	gate.Mute()
	ctx, leave := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, leave)
	if _, err := s.Lookup(ctx, []string{"n"}); !errors.Is(err, context.Canceled) {
		t.Errorf("lookup: %v", err)
	}
}

func TestNeo4jAddresses(t *testing.T) {
	for address, wrong := range map[string]string{
		"bolt://127.0.0.1:7687": "", "neo4j+s://graph.example:7687": "", "bolt://[::1]:7687": "",
		"": "want bolt://", "127.0.0.1:7687": "want bolt://", "http://127.0.0.1": "want bolt://", "bolt://": "want bolt://",
		"bolt://me:secret@host:1": "do not belong", "bolt://host/db": "nothing may follow", "bolt://host?x=secret": "nothing may follow",
		"bolt://ho st:secret": "want bolt://",
	} {
		err := nodestore.CheckNeo4jURL(address)
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v; want …%s…", address, err, wrong)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the secret: %v", address, err)
		}
	}
}
