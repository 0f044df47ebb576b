// Package nodestoretest says, in runnable form, what a node store must do.
package nodestoretest

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

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Store is a node store with everything that the suite asks of it.
type Store interface {
	diff.Nodes
	Put(ctx context.Context, n diff.Node) error
	Queues(ctx context.Context, tags []string, interval int64, mode string) ([]contract.QueueRef, error)
	NodeByQueue(ctx context.Context, topic string) (*diff.Node, error)
	Owned(ctx context.Context, topics []string) ([]bool, error)
	OpenClaims(ctx context.Context, most int) ([]diff.Claimed, error)
	ClearBuffering(ctx context.Context, nodeID, computeKey string) error
	BufferingNodes(ctx context.Context, olderThan time.Time, computeKey string) ([]string, error)
	Ping(ctx context.Context) error
}

// Traits say where stores differ with leave of the contract (dagmanager.md 5.2
// to 5.4).
type Traits struct {
	// MarksByKey: a node has a buffering mark for each compute key, and the last
	// mark counts; otherwise it has one, and the first counts.
	MarksByKey bool
	// NoTagsIsAll: a tag query without tags finds every node of the interval;
	// otherwise none.
	NoTagsIsAll bool
	// Ordered: tag queries answer in the order in which nodes came.
	Ordered bool
}

// Open returns two handles of one empty store, as two processes would have
// them, and arranges their clean-up. They may be the same.
type Open func(testing.TB) (Store, Store)

// Run checks one implementation.
func Run(t *testing.T, traits Traits, open Open) {
	for name, check := range map[string]func(*testing.T, suite){
		"an unknown node is nil, not an error":                 unknown,
		"a claim is met by others, and visible once confirmed": claimed,
		"contexts and codes of one node have their own queues": apart,
		"no topic belongs to two nodes":                        oneOwner,
		"a released claim leaves no trace":                     released,
		"what was confirmed is not released":                   confirmedStays,
		"a claim that cannot be named claims nothing":          allOrNothing,
		"many claims of one node at once win once":             race,
		"claims that overlap under the same names":             raceForNames,
		"a node that others wrote is found by tag":             foreign,
		"a tag query without tags":                             noTags,
		"snapshots do not change":                              snapshots,
		"a later put replaces tags and queue":                  replaced,
		"marks survive a put and are cleared":                  marked,
		"a second mark":                                        markedAgain,
		"marks and compute keys":                               markedByKey,
		"the node of a queue":                                  byQueue,
		"who owns a topic, and which claims are open":          owners,
		"what one handle does the other sees":                  twoHandles,
		"an open claim is taken over":                          takenOver,
		"claims in one batch may repeat each other":            repeated,
		"any text is an id":                                    oddText,
		"thousands of nodes are one batch":                     many,
		"a store answers a ping":                               ping,
	} {
		t.Run(name, func(t *testing.T) {
			first, second := open(t)
			check(t, suite{t, traits, first, second})
		})
	}
}

type suite struct {
	t *testing.T
	Traits
	Store
	second Store
}

func (s suite) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s suite) lookup(id string) *diff.Node {
	s.t.Helper()
	got, err := s.Lookup(s.t.Context(), []string{id})
	s.ok(err)
	if len(got) != 1 {
		s.t.Fatalf("%d answers for one id", len(got))
	}
	return got[0]
}

func (s suite) names(tags []string, interval int64, mode string) []string {
	s.t.Helper()
	found, err := s.Queues(s.t.Context(), tags, interval, mode)
	s.ok(err)
	names := []string{}
	for _, q := range found {
		names = append(names, q.Queue)
	}
	if !s.Ordered {
		slices.Sort(names)
	}
	return names
}

// inOrder is names as a store gives them that keeps their order.
func (s suite) inOrder(names ...string) []string {
	if !s.Ordered {
		slices.Sort(names)
	}
	return names
}

func (s suite) same(what string, got, want any) {
	s.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		s.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (s suite) claim(claims ...diff.Claim) []diff.Claimed {
	s.t.Helper()
	got, err := s.Claim(s.t.Context(), claims)
	s.ok(err)
	if len(got) != len(claims) {
		s.t.Fatalf("%d answers for %d claims", len(got), len(claims))
	}
	return got
}

func (s suite) confirm(queues []diff.Claimed) []bool {
	s.t.Helper()
	fresh, err := s.Confirm(s.t.Context(), queues)
	s.ok(err)
	return fresh
}

func (s suite) bind(id, key string) {
	s.t.Helper()
	s.ok(s.Record(s.t.Context(), diff.Findings{Bound: []diff.Mark{{NodeID: id, ComputeKey: key}}}))
}

func (s suite) buffer(id, key string, ms int64) {
	s.t.Helper()
	s.ok(s.Record(s.t.Context(), diff.Findings{Buffering: []diff.Mark{{NodeID: id, ComputeKey: key}}, At: time.UnixMilli(ms)}))
}

func number(i int64) *int64 { return &i }

// want claims a queue for a node under the first free of t0, t1, …
func want(id, code, key string) diff.Claim {
	return diff.Claim{
		Node:       diff.Node{ID: id, NodeType: "N", CodeHash: code, SchemaHash: "s", Interval: number(60), Tags: []string{"x", "y"}},
		ComputeKey: key,
		Choose: func(owned func(string) bool) (string, error) {
			for n := 0; ; n++ {
				if name := fmt.Sprintf("t%d", n); !owned(name) {
					return name, nil
				}
			}
		},
	}
}

func unknown(t *testing.T, s suite) {
	if n := s.lookup("nope"); n != nil {
		t.Errorf("Lookup = %+v", n)
	}
	none, err := s.NodeByQueue(t.Context(), "nope")
	s.ok(err)
	if none != nil {
		t.Errorf("NodeByQueue = %+v", none)
	}
}

func claimed(t *testing.T, s suite) {
	first, second := s.claim(want("n", "c", "k")), s.claim(want("n", "c", "k"))
	s.same("who won", []bool{first[0].Won, second[0].Won}, []bool{true, false})
	s.same("topics", []string{first[0].Binding.Topic, second[0].Binding.Topic}, []string{"t0", "t0"})
	n := s.lookup("n")
	s.same("bindings before it is confirmed", n.Bindings,
		[]diff.Binding{{ComputeKey: "k", CodeHash: "c", SchemaHash: "s", Topic: "t0"}})
	s.same("a queue before", n.HasQueue, false)
	s.same("queues before", s.names([]string{"x"}, 60, "any"), []string{})
	s.same("first confirmation", s.confirm(second), []bool{true})
	s.same("second confirmation", s.confirm(first), []bool{false})
	s.same("queues after", s.names([]string{"x"}, 60, "any"), []string{"t0"})
	n = s.lookup("n")
	s.same("bindings after", n.Bindings,
		[]diff.Binding{{ComputeKey: "k", CodeHash: "c", SchemaHash: "s", Topic: "t0", Ready: true}})
	s.same("the record", []string{n.Topic, n.CodeHash, n.SchemaHash}, []string{"t0", "c", "s"})
	s.same("keys", n.ComputeKeys, []string{"k"})
	owner, err := s.NodeByQueue(t.Context(), "t0")
	s.ok(err)
	s.same("owner of t0", owner, n)
}

func apart(t *testing.T, s suite) {
	space := want("n", "c", "k")
	space.Namespace = "w.live"
	space.Choose = func(func(string) bool) (string, error) { return "w.live.t", nil }
	got := s.claim(want("n", "c", "k"), want("n", "c", "k2"), want("n", "c2", "k"), space)
	topics := map[string]bool{}
	for _, c := range got {
		topics[c.Binding.Topic] = c.Won
	}
	s.same("topics", topics, map[string]bool{"t0": true, "t1": true, "t2": true, "w.live.t": true})
	s.confirm(got)
	s.same("queues", s.names([]string{"y"}, 60, "all"), []string{"t0", "t1", "t2", "w.live.t"})
	s.same("first queue", s.lookup("n").Topic, "t0")
	if again := s.claim(space); again[0].Won || again[0].Binding.Topic != "w.live.t" {
		t.Errorf("the queue in the namespace is not found again: %+v", again)
	}
}

func oneOwner(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "other", HasQueue: true, Topic: "t0"}))
	got := s.claim(want("a", "c", "k"), want("b", "c", "k"))
	topics := []string{got[0].Binding.Topic, got[1].Binding.Topic}
	slices.Sort(topics)
	s.same("topics", topics, []string{"t1", "t2"})
}

func released(t *testing.T, s suite) {
	got := s.claim(want("n", "c", "k"))
	s.ok(s.Release(t.Context(), got))
	if n := s.lookup("n"); n != nil {
		t.Errorf("after release: %+v", n)
	}
	if _, err := s.Confirm(t.Context(), got); !errors.Is(err, diff.ErrGone) {
		t.Errorf("Confirm after release: %v", err)
	}
	if again := s.claim(want("other", "c", "k")); again[0].Binding.Topic != "t0" {
		t.Errorf("the topic stays taken: %+v", again)
	}
}

func confirmedStays(t *testing.T, s suite) {
	got := s.claim(want("n", "c", "k"))
	s.confirm(got)
	s.ok(s.Release(t.Context(), got))
	if n := s.lookup("n"); n == nil || len(n.Bindings) != 1 {
		t.Errorf("after release: %+v", n)
	}
}

func allOrNothing(t *testing.T, s suite) {
	bad := want("b", "c", "k")
	no := errors.New("no name")
	bad.Choose = func(func(string) bool) (string, error) { return "", no }
	if _, err := s.Claim(t.Context(), []diff.Claim{want("a", "c", "k"), bad}); !errors.Is(err, no) {
		t.Fatalf("Claim: %v", err)
	}
	if n := s.lookup("a"); n != nil {
		t.Errorf("half of the claims stayed: %+v", n)
	}
}

// claimAndConfirm does what a diff of these claims does, at one handle.
func claimAndConfirm(ctx context.Context, store Store, claims []diff.Claim) (got []diff.Claimed, fresh []bool, err error) {
	if got, err = store.Claim(ctx, claims); err != nil {
		return nil, nil, err
	}
	fresh, err = store.Confirm(ctx, got)
	return got, fresh, err
}

func (s suite) race(claimers int, claims func(claimer int) []diff.Claim) (queues map[string]string, wins, fresh int) {
	s.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	queues = map[string]string{}
	for c := range claimers {
		wg.Go(func() {
			store := []Store{s.Store, s.second}[c%2]
			got, done, err := claimAndConfirm(s.t.Context(), store, claims(c))
			if err != nil {
				s.t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range got {
				b := got[i].Binding
				wins, fresh = wins+one(got[i].Won), fresh+one(done[i])
				key := got[i].NodeID + " " + b.ComputeKey + " " + b.CodeHash
				if before, known := queues[key]; known && before != b.Topic {
					s.t.Errorf("%s has the queues %s and %s", key, before, b.Topic)
				}
				queues[key] = b.Topic
			}
		})
	}
	wg.Wait()
	return queues, wins, fresh
}

func race(t *testing.T, s suite) {
	const nodes = 20
	queues, wins, fresh := s.race(64, func(int) (claims []diff.Claim) {
		for n := range nodes {
			claims = append(claims, want(fmt.Sprint("n", n), "c", "k"))
		}
		return claims
	})
	s.same("won, confirmed, queues", []int{wins, fresh, len(queues)}, []int{nodes, nodes, nodes})
	s.same("queues by tag", len(s.names([]string{"x"}, 60, "any")), nodes)
	for n := range nodes {
		s.same("bindings", len(s.lookup(fmt.Sprint("n", n)).Bindings), 1)
	}
}

// Nodes that overlap in any order, all under the same few names.
func raceForNames(t *testing.T, s suite) {
	const claimers, nodes = 64, 16
	queues, wins, fresh := s.race(claimers, func(c int) (claims []diff.Claim) {
		for n := range 4 {
			claims = append(claims, want(fmt.Sprint("n", (c*7+n*5)%nodes), "c", "k"))
		}
		return claims
	})
	s.same("won, confirmed, queues", []int{wins, fresh, len(queues)}, []int{nodes, nodes, nodes})
	topics := map[string]bool{}
	for _, topic := range queues {
		topics[topic] = true
	}
	s.same("topics", len(topics), nodes)
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func foreign(t *testing.T, s suite) {
	for _, n := range []diff.Node{
		{ID: "b", HasQueue: true, Topic: "tb", Interval: number(60), Tags: []string{"y", "y"}, Global: true},
		{ID: "a", HasQueue: true, Topic: "ta", Interval: number(60), Tags: []string{"x", "y"}},
		{ID: "c", HasQueue: true, Topic: "tc", Interval: number(30), Tags: []string{"x"}},
		{ID: "d", HasQueue: true, Topic: "td", Tags: []string{"x"}},
	} {
		s.ok(s.Put(t.Context(), n))
	}
	s.same("any", s.names([]string{"x", "y"}, 60, "any"), s.inOrder("tb", "ta"))
	s.same("unknown mode is any", s.names([]string{"y"}, 60, "ALL"), s.inOrder("tb", "ta"))
	s.same("all", s.names([]string{"y", "x"}, 60, "all"), []string{"ta"})
	s.same("other interval", s.names([]string{"x"}, 30, "any"), []string{"tc"})
	s.same("no such tag", s.names([]string{"z"}, 60, "any"), []string{})
	found, err := s.Queues(t.Context(), []string{"y"}, 60, "any")
	s.ok(err)
	for _, q := range found {
		s.same("global flag of "+q.Queue, q.Global, q.Queue == "tb")
	}
	s.bind("a", "k")
	s.bind("a", "k")
	s.same("keys", s.lookup("a").ComputeKeys, []string{"k"})
}

func snapshots(t *testing.T, s suite) {
	s.confirm(s.claim(want("n", "c", "k")))
	before := *s.lookup("n")
	held := s.lookup("n")
	s.confirm(s.claim(want("n", "c", "k2")))
	s.bind("n", "k3")
	s.same("snapshot", *held, before)
	if len(s.lookup("n").Bindings) != 2 {
		t.Errorf("now: %+v", s.lookup("n"))
	}
}

func replaced(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", HasQueue: true, Topic: "old", Interval: number(60), Tags: []string{"x"}}))
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", HasQueue: true, Topic: "new", Interval: number(30), Tags: []string{"z"}}))
	s.same("old tag", s.names([]string{"x"}, 60, "any"), []string{})
	s.same("new tag", s.names([]string{"z"}, 30, "any"), []string{"new"})
	n, err := s.NodeByQueue(t.Context(), "old")
	s.ok(err)
	if n != nil {
		t.Errorf("the old queue still has an owner: %+v", n)
	}
}

// buffering gives, sorted, the nodes that buffer since before ms.
func (s suite) buffering(ms int64, key string) []string {
	s.t.Helper()
	ids, err := s.BufferingNodes(s.t.Context(), time.UnixMilli(ms), key)
	s.ok(err)
	slices.Sort(ids)
	return append([]string{}, ids...)
}

func marked(t *testing.T, s suite) {
	s.buffer("nope", "k", 1)
	s.ok(s.Put(t.Context(), diff.Node{ID: "a"}))
	s.buffer("a", "k", 10)
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", CodeHash: "c"}))
	s.same("strictly older", s.buffering(10, "k"), []string{})
	s.same("by key", s.buffering(11, "k"), []string{"a"})
	s.same("by any", s.buffering(11, ""), []string{"a"})
	s.ok(s.ClearBuffering(t.Context(), "a", ""))
	s.same("all cleared", s.buffering(11, ""), []string{})
	s.ok(s.ClearBuffering(t.Context(), "nope", ""))
}

func markedAgain(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a"}))
	s.buffer("a", "k", 10)
	s.buffer("a", "k", 20)
	if s.MarksByKey {
		s.same("the last mark counts", s.buffering(20, "k"), []string{})
	} else {
		s.same("the first mark counts", s.buffering(11, "k"), []string{"a"})
	}
	s.same("marked", s.buffering(21, "k"), []string{"a"})
}

func markedByKey(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a"}))
	s.buffer("a", "k", 10)
	others := []string{"a"} // what another key sees
	if s.MarksByKey {
		others = []string{}
	}
	s.same("by another key", s.buffering(11, "z"), others)
	s.ok(s.ClearBuffering(t.Context(), "a", "z"))
	rest := []string{"a"} // what clearing another key leaves
	if !s.MarksByKey {
		rest = []string{}
	}
	s.same("another key cleared", s.buffering(11, "k"), rest)
}

func noTags(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", HasQueue: true, Topic: "ta", Interval: number(60), Tags: []string{"x"}}))
	s.confirm(s.claim(want("b", "c", "k")))
	all := []string{}
	if s.NoTagsIsAll {
		all = []string{"ta", "t0"}
	}
	s.same("no tags", s.names(nil, 60, "any"), all)
}

// What GC asks for: who feeds a queue, whoever wrote it.
func byQueue(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", HasQueue: true, Topic: "ta", Interval: number(60), Tags: []string{"x"},
		NodeType: "T", CodeHash: "c", SchemaHash: "s", SchemaCompatID: "v", Period: number(5), ComputeKeys: []string{"k"}}))
	s.confirm(s.claim(want("b", "c", "k"), want("b", "c", "k2")))
	for topic, id := range map[string]string{"ta": "a", "t0": "b", "t1": "b"} {
		n, err := s.NodeByQueue(t.Context(), topic)
		s.ok(err)
		s.same("node of "+topic, n, s.lookup(id))
		s.same("id", n.ID, id)
	}
	a := s.lookup("a")
	s.same("fields", []any{a.NodeType, a.CodeHash, a.SchemaHash, a.SchemaCompatID, *a.Interval, *a.Period, a.Tags, a.HasQueue, a.ComputeKeys},
		[]any{"T", "c", "s", "v", int64(60), int64(5), []string{"x"}, true, []string{"k"}})
}

// One process must see what another does, whatever it remembers.
func twoHandles(t *testing.T, s suite) {
	mine := s.claim(want("n", "c", "k"))
	s.confirm(mine)
	s.same("ready, seen here", s.lookup("n").Bindings[0].Ready, true)
	theirs, _, err := claimAndConfirm(t.Context(), s.second, []diff.Claim{want("n", "c", "k"), want("n", "c", "k2")})
	s.ok(err)
	s.same("the first is met, the second made", []bool{theirs[0].Won, theirs[1].Won}, []bool{false, true})
	s.same("met", theirs[0].Binding, diff.Binding{ComputeKey: "k", CodeHash: "c", SchemaHash: "s", Topic: "t0", Ready: true})
	again := s.claim(want("n", "c", "k2")) // what is remembered here may lack it; a claim finds it
	s.same("met in turn", []any{again[0].Won, again[0].Binding.Topic, again[0].Binding.Ready}, []any{false, "t1", true})
	s.same("not confirmed twice", s.confirm(again), []bool{false})
	s.same("tags", s.names([]string{"x"}, 60, "all"), []string{"t0", "t1"})
}

// A claim of a process that died is completed by whoever meets it.
func takenOver(t *testing.T, s suite) {
	s.claim(want("n", "c", "k"))
	n, err := s.second.Lookup(t.Context(), []string{"n"})
	s.ok(err)
	s.same("an open claim", n[0].Bindings[0].Ready, false)
	got, fresh, err := claimAndConfirm(t.Context(), s.second, []diff.Claim{want("n", "c", "k")})
	s.ok(err)
	s.same("taken over", []any{got[0].Won, got[0].Binding.Topic, fresh[0]}, []any{false, "t0", true})
	s.same("seen by the first", s.lookup("n").Bindings[0].Ready, true)
}

// A batch may name a node, and even a queue, several times.
func repeated(t *testing.T, s suite) {
	got := s.claim(want("n", "c", "k"), want("m", "c", "k"), want("n", "c", "k"), want("n", "c", "k2"))
	s.same("won", []bool{got[0].Won, got[1].Won, got[2].Won, got[3].Won}, []bool{true, true, false, true})
	s.same("the same queue", got[2].Binding, got[0].Binding)
	s.confirm(got)
	s.same("bindings of n", len(s.lookup("n").Bindings), 2)
}

func (s suite) odd(id string) {
	s.t.Helper()
	claim := want(id, "c"+id, "k"+id)
	claim.Node.Tags = []string{id, "x"}
	s.confirm(s.claim(claim))
	n := s.lookup(id)
	s.same("node", []any{n.ID, n.CodeHash, n.Tags, n.ComputeKeys}, []any{id, "c" + id, []string{id, "x"}, []string{"k" + id}})
	s.same("found by tag", s.names([]string{id}, 60, "all"), []string{n.Topic})
}

// Ids, hashes and tags come from clients.
func oddText(t *testing.T, s suite) {
	for _, id := range []string{"", "topic", "노드", "a'b\"c`d", "$x {y} //z", "\x00", "nul\x00l", "line\nline", strings.Repeat("x", 6900)} {
		s.odd(id)
	}
}

// Thousands of nodes are one batch.
func many(t *testing.T, s suite) {
	const nodes = 3000
	claims := make([]diff.Claim, nodes)
	ids := make([]string, nodes)
	for i := range claims {
		ids[i] = fmt.Sprintf("n%04d", i)
		claims[i] = want(ids[i], "c", "k")
		claims[i].Choose = func(func(string) bool) (string, error) { return "t-" + ids[i], nil }
	}
	s.confirm(s.claim(claims...))
	known, err := s.Lookup(t.Context(), append(ids, "nope"))
	s.ok(err)
	for i, n := range known[:nodes] {
		if n == nil || n.ID != ids[i] || n.Topic != "t-"+ids[i] {
			t.Fatalf("node %d is %+v", i, n)
		}
	}
	s.same("the last", known[nodes] == nil, true)
}

func ping(t *testing.T, s suite) { s.ok(s.Ping(t.Context())) }

// owners is what a collector of orphans goes by: an open claim owns its topic.
func owners(t *testing.T, s suite) {
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", HasQueue: true, Topic: "ta", Interval: number(60)}))
	ready := s.claim(want("b", "c", "k"))
	s.confirm(ready)
	open := s.claim(want("b", "c", "k2"))
	owned := func() []bool {
		got, err := s.Owned(t.Context(), []string{"ta", "nobody", "t0", "t1", "t1"})
		s.ok(err)
		return got
	}
	claims := func(most int) (topics []string) {
		got, err := s.OpenClaims(t.Context(), most)
		s.ok(err)
		for _, c := range got {
			topics = append(topics, c.NodeID+" "+c.Binding.Topic)
		}
		return topics
	}
	s.same("owned", owned(), []bool{true, false, true, true, true})
	s.same("open claims", claims(10), []string{"b t1"})
	s.same("at most none", claims(0), []string(nil))
	found, err := s.OpenClaims(t.Context(), 10)
	s.ok(err)
	s.ok(s.Release(t.Context(), found))
	s.same("owned after the release", owned(), []bool{true, false, true, false, false})
	s.same("open claims after the release", claims(10), []string(nil))
	if _, err := s.Confirm(t.Context(), open); !errors.Is(err, diff.ErrGone) {
		t.Errorf("Confirm after the release: %v", err)
	}
}
