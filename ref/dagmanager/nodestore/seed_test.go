package nodestore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/scenarios/contract"
)

const graph = `{"directed":true,"multigraph":false,"graph":{},"nodes":[
 {"id":"a","type":"compute","node_type":"N","code_hash":"c","schema_hash":"s","schema_id":"m","interval":60,"period":null,
  "tags":["x"],"topic":"ta","global":true,"compute_keys":["k"],"buffering_since_ctx":{"k":5}},
 {"id":"b","type":"compute","interval":60,"tags":["x"]},
 {"id":"S","type":"sentinel","version":"v3","created_at":1},
 {"id":"other","type":"artifact"}],"edges":[{"source":"S","target":"a"}]}`

func TestLoad(t *testing.T) {
	m := nodestore.NewMemory()
	if err := m.Load(t.Context(), strings.NewReader(graph)); err != nil {
		t.Fatal(err)
	}
	found, err := m.Lookup(t.Context(), []string{"a", "b", "S", "other"})
	if err != nil {
		t.Fatal(err)
	}
	interval := int64(60)
	want := []*diff.Node{
		{ID: "a", NodeType: "N", CodeHash: "c", SchemaHash: "s", SchemaCompatID: "m", Interval: &interval, Tags: []string{"x"},
			HasQueue: true, Topic: "ta", Global: true, ComputeKeys: []string{"k"}},
		{ID: "b", Interval: &interval, Tags: []string{"x"}}, // without a queue
		nil, nil,
	}
	if d := cmp.Diff(want, found, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("nodes (-want +got):\n%s", d)
	}
	queues, err := m.Queues(t.Context(), []string{"x"}, 60, "any")
	if d := cmp.Diff([]contract.QueueRef{{Queue: "ta", Global: true}}, queues); d != "" || err != nil {
		t.Errorf("%v, queues (-want +got):\n%s", err, d)
	}
	if s, _ := m.Sentinel("S"); s.Version != "v3" {
		t.Errorf("sentinel %+v", s)
	}
	ids, err := m.BufferingNodes(t.Context(), time.UnixMilli(6), "k")
	if !slices.Equal(ids, []string{"a"}) {
		t.Errorf("buffering %v, %v", ids, err)
	}
}

func TestBadGraphStoresNothing(t *testing.T) {
	for _, bad := range []string{``, `[`, `{"nodes":[{"id":"a","type":"compute"},{"type":"compute"}]}`, `{"nodes":[{"id":"a","interval":"x"}]}`} {
		m := nodestore.NewMemory()
		if err := m.Load(t.Context(), strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
		if nodes, queues := m.Size(); nodes+queues > 0 {
			t.Errorf("%q left %d nodes and %d queues", bad, nodes, queues)
		}
	}
}
