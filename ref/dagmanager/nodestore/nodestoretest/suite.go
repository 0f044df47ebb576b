// Package nodestoretest says, in runnable form, what a node store must do.
package nodestoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	ClearBuffering(ctx context.Context, nodeID, computeKey string) error
	BufferingNodes(ctx context.Context, olderThan time.Time, computeKey string) ([]string, error)
	Ping(ctx context.Context) error
}

// Run checks one implementation. open returns an empty store and arranges its
// own clean-up.
func Run(t *testing.T, open func(testing.TB) Store) {
	for name, check := range map[string]func(*testing.T, suite){
		"an unknown node is nil, not an error":                  unknown,
		"a claim is met by others, and visible once confirmed":  claimed,
		"contexts and codes of one node have their own queues":  apart,
		"no topic belongs to two nodes":                         oneOwner,
		"a released claim leaves no trace":                      released,
		"what was confirmed is not released":                    confirmedStays,
		"a claim that cannot be named claims nothing":           allOrNothing,
		"many claims of one node at once win once":              race,
		"a node that others wrote is found by tag":              foreign,
		"snapshots do not change":                               snapshots,
		"a later put replaces tags and queue":                   replaced,
		"marks are kept apart by compute key and survive a put": marked,
		"a store answers a ping":                                ping,
	} {
		t.Run(name, func(t *testing.T) { check(t, suite{t, open(t)}) })
	}
}

type suite struct {
	t *testing.T
	Store
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
	if got[0].Binding.Topic != "t1" || got[1].Binding.Topic != "t2" {
		t.Errorf("topics %q and %q", got[0].Binding.Topic, got[1].Binding.Topic)
	}
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

func race(t *testing.T, s suite) {
	const claimers, nodes = 16, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	wins, fresh := 0, 0
	for range claimers {
		wg.Go(func() {
			var claims []diff.Claim
			for n := range nodes {
				claims = append(claims, want(fmt.Sprint("n", n), "c", "k"))
			}
			got, err := s.Claim(t.Context(), claims)
			if err != nil {
				t.Error(err)
				return
			}
			done, err := s.Confirm(t.Context(), got)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range got {
				wins, fresh = wins+one(got[i].Won), fresh+one(done[i])
			}
		})
	}
	wg.Wait()
	if wins != nodes || fresh != nodes || len(s.names(nil, 60, "any")) != nodes {
		t.Errorf("%d won, %d confirmed, %d queues; want %d", wins, fresh, len(s.names(nil, 60, "any")), nodes)
	}
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
	s.same("any", s.names([]string{"x", "y"}, 60, "any"), []string{"tb", "ta"})
	s.same("unknown mode is any", s.names([]string{"y"}, 60, "ALL"), []string{"tb", "ta"})
	s.same("all", s.names([]string{"y", "x"}, 60, "all"), []string{"ta"})
	s.same("other interval", s.names([]string{"x"}, 30, "any"), []string{"tc"})
	s.same("no such tag", s.names([]string{"z"}, 60, "any"), []string{})
	found, err := s.Queues(t.Context(), []string{"y"}, 60, "any")
	s.ok(err)
	s.same("global", []bool{found[0].Global, found[1].Global}, []bool{true, false})
	s.ok(s.Bind(t.Context(), "a", "k"))
	s.ok(s.Bind(t.Context(), "a", "k"))
	s.same("keys", s.lookup("a").ComputeKeys, []string{"k"})
}

func snapshots(t *testing.T, s suite) {
	s.confirm(s.claim(want("n", "c", "k")))
	before := *s.lookup("n")
	held := s.lookup("n")
	s.confirm(s.claim(want("n", "c", "k2")))
	s.ok(s.Bind(t.Context(), "n", "k3"))
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

func marked(t *testing.T, s suite) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	before := func(ms int64, key string) []string {
		ids, err := s.BufferingNodes(t.Context(), at(ms), key)
		s.ok(err)
		slices.Sort(ids)
		return slices.Clip(append([]string{}, ids...))
	}
	s.ok(s.MarkBuffering(t.Context(), []diff.Mark{{NodeID: "nope", ComputeKey: "k"}}, at(1)))
	s.ok(s.Put(t.Context(), diff.Node{ID: "a"}))
	s.ok(s.MarkBuffering(t.Context(), []diff.Mark{{NodeID: "a", ComputeKey: "k"}}, at(10)))
	s.ok(s.Put(t.Context(), diff.Node{ID: "a", CodeHash: "c"}))
	s.same("strictly older", before(10, "k"), []string{})
	s.same("by key", before(11, "k"), []string{"a"})
	s.same("by any", before(11, ""), []string{"a"})
	s.same("by another key", before(11, "z"), []string{})
	s.ok(s.ClearBuffering(t.Context(), "a", "z"))
	s.same("another key cleared", before(11, "k"), []string{"a"})
	s.ok(s.ClearBuffering(t.Context(), "a", ""))
	s.same("all cleared", before(11, ""), []string{})
}

func ping(t *testing.T, s suite) { s.ok(s.Ping(t.Context())) }
