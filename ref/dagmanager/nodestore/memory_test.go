package nodestore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	traits := nodestoretest.Traits{MarksByKey: true, NoTagsIsAll: true, Ordered: true}
	nodestoretest.Run(t, traits, func(testing.TB) (nodestoretest.Store, nodestoretest.Store) {
		m := nodestore.NewMemory()
		return m, m
	})
}

// op is one step of a buffering vector, with what the original assumes for
// fields that are left out.
type op struct {
	Op         string          `json:"op"`
	NodeID     string          `json:"node_id"`
	NodeIDs    []string        `json:"node_ids"`
	SentinelID string          `json:"sentinel_id"`
	Version    string          `json:"version"`
	TS         int64           `json:"ts"`
	OlderThan  int64           `json:"older_than_ms"`
	ComputeKey string          `json:"compute_key"`
	Tags       []string        `json:"tags"`
	Interval   json.RawMessage `json:"interval"`
	MatchMode  string          `json:"match_mode"`

	CodeHash    *string  `json:"code_hash"`
	SchemaHash  *string  `json:"schema_hash"`
	Topic       *string  `json:"topic"`
	Global      bool     `json:"is_global"`
	ComputeKeys []string `json:"compute_keys"`
}

func or[T any](p *T, value T) T {
	if p == nil {
		return value
	}
	return *p
}

// ops apply a step; a query gives its result.
var ops = map[string]func(context.Context, *nodestore.Memory, op) (any, error){
	"add_node": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		sixty := int64(60)
		interval := &sixty
		if len(o.Interval) > 0 {
			if err := json.Unmarshal(o.Interval, &interval); err != nil { // null is none
				return nil, err
			}
		}
		return nil, m.Put(ctx, diff.Node{
			ID: o.NodeID, CodeHash: or(o.CodeHash, "c"), SchemaHash: or(o.SchemaHash, "s"), HasQueue: true,
			Topic: or(o.Topic, "t"), Interval: interval, Tags: o.Tags, Global: o.Global, ComputeKeys: o.ComputeKeys,
		})
	},
	"mark": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		return nil, m.MarkBuffering(ctx, []diff.Mark{{NodeID: o.NodeID, ComputeKey: o.ComputeKey}}, time.UnixMilli(o.TS))
	},
	"clear": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		return nil, m.ClearBuffering(ctx, o.NodeID, o.ComputeKey)
	},
	"bind": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		return nil, m.Bind(ctx, o.NodeID, o.ComputeKey)
	},
	"sentinel": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		return nil, m.InsertSentinel(ctx, diff.Sentinel{ID: o.SentinelID, Version: o.Version, NodeIDs: o.NodeIDs})
	},
	"buffering": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		ids, err := m.BufferingNodes(ctx, time.UnixMilli(o.OlderThan), o.ComputeKey)
		return append([]string{}, ids...), err
	},
	"get": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		found, err := m.Lookup(ctx, o.NodeIDs)
		rows := [][]any{}
		for _, n := range found {
			if n != nil {
				rows = append(rows, []any{n.ID, n.CodeHash, n.SchemaHash, n.Topic, n.Interval, n.ComputeKeys})
			}
		}
		return rows, err
	},
	"queues": func(ctx context.Context, m *nodestore.Memory, o op) (any, error) {
		rows := []any{}
		var interval *float64
		if len(o.Interval) == 0 {
			o.Interval = json.RawMessage("null")
		}
		if err := json.Unmarshal(o.Interval, &interval); err != nil {
			return nil, err
		}
		if interval == nil || *interval != float64(int64(*interval)) { // no request can ask for that
			return rows, nil
		}
		found, err := m.Queues(ctx, o.Tags, int64(*interval), o.MatchMode)
		for _, q := range found {
			rows = append(rows, map[string]any{"queue": q.Queue, "global": q.Global})
		}
		return rows, err
	},
}

func TestBufferingVectors(t *testing.T) {
	vectors.Run(t, "buffering", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct{ Ops []op }](t, v.Input)
		want := vectors.Decode[struct{ Results []any }](t, v.Output)
		m := nodestore.NewMemory()
		got := []any{}
		for _, o := range in.Ops {
			apply, known := ops[o.Op]
			if !known {
				t.Fatalf("unknown op %q", o.Op)
			}
			result, err := apply(t.Context(), m, o)
			if err != nil {
				t.Fatal(err)
			}
			if result != nil {
				got = append(got, plain(t, result))
			}
		}
		if d := cmp.Diff(want.Results, got); d != "" {
			t.Errorf("results (-want +got):\n%s", d)
		}
	})
}

// plain is v as JSON would give it back.
func plain(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return vectors.Decode[any](t, b)
}

// A store keeps what a node needs and nothing of the text that it came in.
func TestMemoryPerNodeIsModest(t *testing.T) {
	const nodes = 20_000
	m := nodestore.NewMemory()
	before := heap()
	for i := range nodes {
		text := strings.Repeat(fmt.Sprintf("%08d", i), 1000) // 8 KB that must not stay
		interval := int64(60)
		got, err := m.Claim(t.Context(), []diff.Claim{{
			Node: diff.Node{ID: text[:71], NodeType: text[:13], CodeHash: text[:64], SchemaHash: text[:64],
				Interval: &interval, Tags: []string{text[:3], text[:8]}},
			ComputeKey: text[:71],
			Choose:     func(func(string) bool) (string, error) { return fmt.Sprintf("btc_N_%08d_v1", i), nil },
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Confirm(t.Context(), got); err != nil {
			t.Fatal(err)
		}
	}
	if per := (heap() - before) / nodes; per > 2500 {
		t.Errorf("%d bytes a node", per)
	} else {
		t.Logf("%d bytes a node", per)
	}
	runtime.KeepAlive(m)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func TestSentinelsAreKept(t *testing.T) {
	m := nodestore.NewMemory()
	if _, there := m.Sentinel("s"); there {
		t.Fatal("an empty store has a sentinel")
	}
	for _, version := range []string{"v1", "v2"} {
		if err := m.InsertSentinel(t.Context(), diff.Sentinel{ID: "s", Version: version, NodeIDs: []string{"n"}}); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := m.Sentinel("s")
	if got.Version != "v2" || !slices.Equal(got.NodeIDs, []string{"n"}) {
		t.Errorf("sentinel %+v", got)
	}
}
