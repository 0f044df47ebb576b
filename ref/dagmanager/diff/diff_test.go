package diff_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand is a store and a broker in memory.
type stand struct {
	t     testing.TB
	store *nodestore.Memory
	mem   *topics.Memory
	*topics.Session
}

func newStand(t testing.TB) *stand {
	mem := topics.NewMemory()
	return &stand{t, nodestore.NewMemory(), mem, topics.NewSession(mem, topics.Options{})}
}

func (s *stand) diff(dag string) (*diff.Result, error) {
	return diff.Run(s.t.Context(), diff.ExecutionContext{StrategyID: "s", DAG: dag, Namespaces: true, Now: time.UnixMilli(1)}, s.store, s.Session)
}

func (s *stand) must(dag string) *diff.Result {
	s.t.Helper()
	r, err := s.diff(dag)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// node is a node of a drawn DAG.
type node struct {
	ID       string   `json:"node_id"`
	Type     string   `json:"node_type"`
	Code     string   `json:"code_hash"`
	Schema   string   `json:"schema_hash"`
	Interval any      `json:"interval"`
	Tags     []string `json:"tags"`
	Inputs   []string `json:"inputs"`
}

// draw makes a DAG whose node ids share few digests, so that names collide.
func draw(r *rand.Rand, n int) []node {
	nodes := make([]node, n)
	for i := range nodes {
		nodes[i] = node{
			ID:       fmt.Sprintf("blake3:%08x%04x%d", r.IntN(3), r.IntN(3), i),
			Type:     []string{"N", "PriceFeed", "TradeOrder", ""}[r.IntN(4)],
			Code:     fmt.Sprint("c", r.IntN(5)),
			Schema:   "s",
			Interval: []any{60, 60.0, nil, "60s", 0}[r.IntN(5)],
			Tags:     [][]string{{"BTC"}, {}, {"///", "x"}}[r.IntN(3)],
			Inputs:   []string{},
		}
		for range r.IntN(3) {
			if i > 0 {
				nodes[i].Inputs = append(nodes[i].Inputs, nodes[r.IntN(i)].ID)
			}
		}
	}
	return nodes
}

func dagOf(nodes []node, more ...string) string {
	b, err := json.Marshal(nodes)
	if err != nil {
		panic(err)
	}
	return `{"nodes":` + string(b) + strings.Join(append([]string{""}, more...), ",") + `}`
}

// queues is the map of a result without its order.
func queues(r *diff.Result) map[string]string {
	out := map[string]string{}
	for _, q := range r.Queues {
		out[q.Key] = q.Topic
	}
	return out
}

func seeds(t *testing.T, check func(t *testing.T, r *rand.Rand)) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { check(t, rand.New(rand.NewPCG(seed, 7))) })
	}
}

func TestDiffOfWhatWasDiffedIsAllReuse(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		s := newStand(t)
		dag := dagOf(draw(r, 1+r.IntN(40)))
		first := s.must(dag)
		made := len(s.mem.Names())
		for range 3 {
			again := s.must(dag)
			for _, q := range again.Queues {
				if q.New {
					t.Errorf("%s is new again", q.NodeID)
				}
			}
			if d := cmp.Diff(queues(first), queues(again)); d != "" || len(again.Registered) > 0 || len(again.Buffer) > 0 {
				t.Errorf("registered %v, buffer %v, queues (-first +again):\n%s", again.Registered, again.Buffer, d)
			}
		}
		if n := len(s.mem.Names()); n != made || made != len(first.Queues) {
			t.Errorf("%d topics for %d nodes, then %d", made, len(first.Queues), n)
		}
	})
}

func TestOrderOfInputNeverChangesIdentities(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		nodes := draw(r, 2+r.IntN(30))
		want := newStand(t).must(dagOf(nodes))
		r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		got := newStand(t).must(dagOf(nodes))
		keys := func(r *diff.Result) []string { return slices.Sorted(maps.Keys(queues(r))) }
		if d := cmp.Diff(keys(want), keys(got)); d != "" {
			t.Errorf("(-in order +shuffled):\n%s", d)
		}
	})
}

func TestEveryNodeHasOneTopicOfItsOwn(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		s := newStand(t)
		owner := map[string]string{}
		for range 5 {
			for _, q := range s.must(dagOf(draw(r, 1+r.IntN(30)))).Queues {
				if other, taken := owner[q.Topic]; taken && other != q.Key {
					// The same node with other code is another queue of the node.
					if id := strings.SplitN(q.Key, "#", 2)[0]; !strings.HasPrefix(other, id[:strings.LastIndex(id[:strings.LastIndex(id, ":")], ":")]) {
						t.Errorf("topic %s belongs to %s and %s", q.Topic, other, q.Key)
					}
				}
				owner[q.Topic] = q.Key
			}
		}
		all := s.mem.Names()
		for _, name := range all {
			if owner[name] == "" {
				t.Errorf("topic %s belongs to nobody", name)
			}
		}
	})
}

func TestOverlappingDiffsAgree(t *testing.T) {
	s := newStand(t)
	nodes := draw(rand.New(rand.NewPCG(1, 1)), 100)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 64 {
		wg.Go(func() {
			r, err := s.diff(dagOf(nodes))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			fresh += len(r.Registered)
		})
	}
	wg.Wait()
	if n := len(s.mem.Names()); n != 100 || fresh != 100 {
		t.Errorf("%d topics, %d registrations; want 100 of each", n, fresh)
	}
}

const one = `{"node_id":"blake3:0123456789abcdef","node_type":"N","code_hash":"%s","schema_hash":"%s","interval":60,"period":5,"tags":["a"]}`

func oneNode(code, schema string, more ...string) string {
	return `{"nodes":[` + fmt.Sprintf(one, code, schema) + `]` + strings.Join(append([]string{""}, more...), ",") + `}`
}

func (s *stand) expect(dag, topic string, fresh bool) *diff.Result {
	s.t.Helper()
	r := s.must(dag)
	if q := r.Queues[0]; q.Topic != topic || q.New != fresh {
		s.t.Errorf("%s, new %v; want %s, new %v", q.Topic, q.New, topic, fresh)
	}
	return r
}

func TestContextsHaveTheirOwnQueues(t *testing.T) {
	s := newStand(t)
	live := func(world string) string {
		return `"compute_context":{"execution_domain":"live","world":"` + world + `"}`
	}
	for _, again := range []bool{true, false} {
		s.expect(oneNode("c", "s"), "a_N_01234567_v1", again)
		s.expect(oneNode("c", "s", live("w1")), "w1.live.a_N_01234567_v1", again)
		s.expect(oneNode("c", "s", live("")), "a_N_0123456789_v1", again)
		s.expect(oneNode("c", "s", live("w2")), "w2.live.a_N_01234567_v1", again)
	}
	if n := len(s.mem.Names()); n != 4 {
		t.Errorf("%d topics, want 4", n)
	}
}

func TestOtherCodeIsANewQueueAndTheOldOneStays(t *testing.T) {
	s := newStand(t)
	for _, again := range []bool{true, false} {
		s.expect(oneNode("c1", "s"), "a_N_01234567_v1", again)
		s.expect(oneNode("c2", "s"), "a_N_0123456789_v1", again)
	}
}

func TestVersionLabelOfTheFirstDiffStays(t *testing.T) {
	s := newStand(t)
	s.expect(oneNode("c", "s", `"version":"v7"`), "a_N_01234567_v7", true)
	s.expect(oneNode("c", "s", `"version":"v8"`), "a_N_01234567_v7", false)
}

func TestOtherSchemaBuffersEachTime(t *testing.T) {
	s := newStand(t)
	s.must(oneNode("c", "s1"))
	for range 2 {
		r := s.expect(oneNode("c", "s2"), "a_N_01234567_v1", false)
		want := []diff.Instruction{{NodeID: "blake3:0123456789abcdef", NodeType: "N", CodeHash: "c", SchemaHash: "s2",
			Interval: 60, Period: 5, Lag: 5, Tags: []string{"a"}}}
		if d := cmp.Diff(want, r.Buffer); d != "" {
			t.Errorf("buffer (-want +got):\n%s", d)
		}
	}
	ids, err := s.store.BufferingNodes(t.Context(), time.UnixMilli(2), "")
	if err != nil || len(ids) != 1 {
		t.Errorf("marks %v, %v", ids, err)
	}
}

func TestNamespaceOfAKnownNode(t *testing.T) {
	s := newStand(t)
	s.expect(oneNode("c", "s"), "a_N_01234567_v1", true)
	ns := `"meta":{"topic_namespace":"my.ns"}`
	r := s.expect(oneNode("c", "s", ns), "my.ns.a_N_01234567_v1", false)
	if len(r.Registered) != 1 {
		t.Errorf("the new queue is not announced: %+v", r.Registered)
	}
	s.expect(oneNode("c", "s", ns), "my.ns.a_N_01234567_v1", false)
	s.expect(oneNode("c", "s"), "a_N_01234567_v1", false)
	if n := len(s.mem.Names()); n != 2 {
		t.Errorf("%d topics, want 2", n)
	}
}

func TestNamespacesCanBeOff(t *testing.T) {
	s := newStand(t)
	r, err := diff.Run(t.Context(), diff.ExecutionContext{DAG: oneNode("c", "s", `"meta":{"topic_namespace":"my.ns"}`)}, s.store, s.Session)
	if err != nil || r.Queues[0].Topic != "a_N_01234567_v1" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRecordsOfOthers(t *testing.T) {
	put := func(s *stand, keys ...string) {
		t.Helper()
		if err := s.store.Put(t.Context(), diff.Node{ID: "blake3:0123456789abcdef", CodeHash: "c", SchemaHash: "s",
			HasQueue: true, Topic: "stored", ComputeKeys: keys}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the first context takes the queue, the next is refused", func(t *testing.T) {
		s := newStand(t)
		put(s)
		s.expect(oneNode("c", "s"), "stored", false)
		_, err := s.diff(oneNode("c", "s", `"compute_context":{"execution_domain":"shadow"}`))
		var crossed *diff.ContextError
		if !errors.As(err, &crossed) || len(s.mem.Names()) > 0 {
			t.Errorf("error %v, topics %v", err, s.mem.Names())
		}
		s.expect(oneNode("c", "s"), "stored", false)
	})
	t.Run("a namespace gives the known node a queue in it", func(t *testing.T) {
		s := newStand(t)
		put(s)
		ns := `"meta":{"topic_namespace":"ns"}`
		s.expect(oneNode("c", "s", ns), "ns.a_N_01234567_v1", false)
		s.expect(oneNode("c", "s", ns), "ns.a_N_01234567_v1", false)
	})
	t.Run("a topic that somebody owns is not taken", func(t *testing.T) {
		s := newStand(t)
		if err := s.store.Put(t.Context(), diff.Node{ID: "other", HasQueue: true, Topic: "a_N_01234567_v1"}); err != nil {
			t.Fatal(err)
		}
		s.expect(oneNode("c", "s"), "a_N_0123456789_v1", true)
	})
}

func TestTopicsThatExist(t *testing.T) {
	fits := topics.Shape{Partitions: 1, Config: map[string]string{"retention.ms": "2592000000"}}
	for _, c := range []struct {
		name  string
		shape topics.Shape
		topic string
	}{
		{"left by an earlier life", fits, "a_N_01234567_v1"},
		{"in another shape", topics.Shape{Partitions: 9}, "a_N_0123456789_v1"},
		{"with another retention", topics.Shape{Partitions: 1, Config: map[string]string{"retention.ms": "5"}}, "a_N_0123456789_v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStand(t)
			s.mem.Put("a_N_01234567_v1", c.shape)
			s.expect(oneNode("ccccccccc", "s"), c.topic, true)
			s.expect(oneNode("ccccccccc", "s"), c.topic, false)
		})
	}
	t.Run("named after its code", func(t *testing.T) {
		s := newStand(t)
		s.mem.Put("a_N_ffeeddcc_v1", fits)
		s.expect(oneNode("ffeeddcc11", "s"), "a_N_ffeeddcc_v1", true)
	})
	t.Run("named after its code, with another retention", func(t *testing.T) {
		s := newStand(t)
		s.mem.Put("a_N_ffeeddcc_v1", topics.Shape{Config: map[string]string{"retention.ms": "5"}})
		_, err := s.diff(oneNode("ffeeddcc11", "s"))
		var mismatch *topics.MismatchError
		if !errors.As(err, &mismatch) {
			t.Errorf("error %v, want a mismatch", err)
		}
	})
}

// broken fails to make topics until it is mended.
type broken struct {
	*topics.Memory
	mu   sync.Mutex
	fail bool
	half int // topics that are made before it fails
}

func (b *broken) Create(ctx context.Context, specs []topics.Spec) ([]error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fail {
		return b.Memory.Create(ctx, specs)
	}
	if _, err := b.Memory.Create(ctx, specs[:min(b.half, len(specs))]); err != nil {
		return nil, err
	}
	return nil, topics.ErrUnavailable
}

func TestFailureInTheMiddleIsTakenUp(t *testing.T) {
	mem := topics.NewMemory()
	b := &broken{Memory: mem, fail: true, half: 3}
	s := &stand{t, nodestore.NewMemory(), mem, topics.NewSession(b, topics.Options{})}
	dag := dagOf(draw(rand.New(rand.NewPCG(3, 3)), 8))
	if _, err := s.diff(dag); !errors.Is(err, topics.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	if nodes, queues := s.store.Size(); nodes != 0 || queues != 0 {
		t.Errorf("%d nodes and %d queues stay after a failure", nodes, queues)
	}
	b.fail = false
	r := s.must(dag)
	if n := len(mem.Names()); n != 8 || len(r.Registered) != 8 {
		t.Errorf("%d topics, %d registrations; want 8 of each", n, len(r.Registered))
	}
}

// A diff that died after its claim harms nobody: the next one completes it.
func TestClaimOfTheDeadIsCompleted(t *testing.T) {
	s := newStand(t)
	dead := deadStore{s.store}
	_, err := diff.Run(t.Context(), diff.ExecutionContext{DAG: oneNode("c", "s")}, dead, s.Session)
	if !errors.Is(err, errDead) {
		t.Fatalf("error %v", err)
	}
	r := s.expect(oneNode("c", "s"), "a_N_01234567_v1", true)
	if len(r.Registered) != 1 || len(s.mem.Names()) != 1 {
		t.Errorf("registered %v, topics %v", r.Registered, s.mem.Names())
	}
}

var errDead = errors.New("dead")

type deadStore struct{ *nodestore.Memory }

func (deadStore) Confirm(context.Context, []diff.Claimed) ([]bool, error) { return nil, errDead }

func TestSentinelOfSafeMode(t *testing.T) {
	dag := func(domain string) string {
		return `{"compute_context":{"execution_domain":"` + domain + `"},"nodes":[{"node_type":"VersionSentinel","node_id":"q","version":"2","weight":0.5}]}`
	}
	s := newStand(t)
	if r := s.must(dag("backtest")); r.Inserted || r.Weight != nil {
		t.Errorf("safe mode: %+v", r)
	}
	if r := s.must(dag("live")); !r.Inserted || !r.Gap || r.Weight == nil || r.Weight.Weight != 0.5 || r.Version != "2" {
		t.Errorf("live: %+v", r)
	}
}

// Weights are read as Python's float() reads them.
func TestWeightsInAnyScript(t *testing.T) {
	for text, want := range map[string]float64{
		"0.5": 0.5, "\u0660.\u0665": 0.5, "\uff10\uff0e\uff15": -1, "\U0001d7ce.\U0001d7d3": 0.5, "\U0001d7d8.\U0001d7e1": 0.9, "1e-1": 0.1,
		"\u2003.25\u2003": 0.25, "\u00bd": -1, "0x1p-2": -1, "1e400": -1, "-1e400": -1, "": -1, "0__1": -1, "5.": 1, ".": -1, "1e": -1, "+-1": -1, "00.5": 0.5,
	} {
		got, ok := diff.CoerceWeight(pyjson.OfString(text))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func FuzzDAG(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `{"nodes":null}`, `{"nodes":[{}]}`, oneNode("c", "s"), oneNode("c", "s", `"meta":{"topic_namespace":{"world":1}}`),
		`{"nodes":"abc","compute_context":{"world":[]}}`, `{"nodes":[{"node_id":"\ud800","code_hash":null,"schema_hash":5,"inputs":"ab","tags":{"a":1}}]}`,
		`{"nodes":[{"node_id":"a","code_hash":"c","schema_hash":"s","interval":1e400,"bucket":NaN}],"version":[1]}`,
		`{"nodes":[{"node_type":"VersionSentinel","weight":"1e999"}],"meta":{"weight":-0.0}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dag string) {
		s := newStand(t)
		first, err := s.diff(dag)
		if err != nil {
			if n := len(s.mem.Names()); n > 0 {
				t.Errorf("%d topics though %v", n, err)
			}
			return
		}
		again, err := s.diff(dag)
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		for i, q := range again.Queues {
			if q.New || q.Topic != first.Queues[i].Topic {
				t.Errorf("%+v, then %+v", first.Queues[i], q)
			}
		}
	})
}

// plain are names whose letters Kafka takes; a broker says so of the others.
var plain = regexp.MustCompile(`^[0-9A-Za-z_-]{0,100}$`)

// FuzzNames makes queues of nodes with any names, in any namespace: each topic
// belongs to one node, and of plain names come names that Kafka takes.
func FuzzNames(f *testing.F) {
	f.Add("blake3:abcdef1234567890", "blake3:abcdef1299999999", "N", "c", "btc", "w", "live")
	f.Add("", "", "", "", "", "", "")
	f.Add("노드", "노드:a", "é/ü", "\x00", "///", "..", "-.-")
	f.Add("a", "A", "T", "ffeeddcc", strings.Repeat("x", 300), strings.Repeat("w", 300), strings.Repeat("d", 300))
	f.Fuzz(func(t *testing.T, id, other, kind, code, tag, world, domain string) {
		nodes := []node{
			{ID: id, Type: kind, Code: code, Schema: "s", Interval: 60, Tags: []string{tag}, Inputs: []string{}},
			{ID: other, Type: kind, Code: code, Schema: "s", Interval: 60, Tags: []string{tag}, Inputs: []string{}},
		}
		space, err := json.Marshal(map[string]string{"world": world, "domain": domain})
		if err != nil {
			t.Fatal(err)
		}
		r, err := newStand(t).diff(dagOf(nodes, `"meta":{"topic_namespace":`+string(space)+`}`))
		if err != nil {
			var wrong *diff.InputError
			var alike *topics.CollisionError // but for case
			if !errors.As(err, &wrong) && !errors.As(err, &alike) {
				t.Errorf("%v", err)
			}
			return
		}
		wantOwnTopics(t, r, plain.MatchString(id+other+kind+code+tag))
	})
}

func wantOwnTopics(t *testing.T, r *diff.Result, legal bool) {
	t.Helper()
	owner := map[string]string{}
	for _, q := range r.Queues {
		if err := contract.CheckTopicName(q.Topic); legal && len(q.Topic) < 200 && err != nil {
			t.Errorf("%+v: %v", q, err)
		}
		if key, taken := owner[strings.ToLower(q.Topic)]; taken && key != q.Key {
			t.Errorf("%q and %q share %s", key, q.Key, q.Topic)
		}
		owner[strings.ToLower(q.Topic)] = q.Key
	}
}
