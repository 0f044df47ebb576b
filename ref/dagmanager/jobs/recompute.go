package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// Buffering is what a Recompute needs of a graph store.
type Buffering interface {
	Lookup(ctx context.Context, ids []string) ([]*diff.Node, error)
	BufferingNodes(ctx context.Context, olderThan time.Time, computeKey string) ([]string, error)
	ClearBuffering(ctx context.Context, nodeID, computeKey string) error
}

// Recompute ends the buffering of nodes that began long ago (dagmanager.md 6.2):
// each is diffed once more as a DAG of its own, announced, and its marks are
// taken away. A node whose queues all serve contexts is not diffed, since a DAG
// of its own has none and would make it another queue.
type Recompute struct {
	Nodes    Buffering
	Age      time.Duration // of the mark
	Diff     func(ctx context.Context, strategyID, dag string) error
	Announce func(tags []string, interval int64)
	Now      func() time.Time
}

// Run does it for all nodes that are due. A node that fails keeps its mark.
func (r *Recompute) Run(ctx context.Context) error {
	ids, err := r.Nodes.BufferingNodes(ctx, r.Now().Add(-r.Age), "")
	if err != nil || len(ids) == 0 {
		return err
	}
	nodes, err := r.Nodes.Lookup(ctx, ids)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		if n == nil {
			continue // marked without a record
		}
		if err := r.one(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", n.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Recompute) one(ctx context.Context, n *diff.Node) error {
	if withoutContext(n) {
		if err := r.Diff(ctx, n.ID, alone(n)); err != nil {
			return err
		}
	}
	if len(n.Tags) > 0 && n.Interval != nil {
		r.Announce(n.Tags, *n.Interval)
	}
	return r.Nodes.ClearBuffering(ctx, n.ID, "")
}

// withoutContext says whether a diff without a context would reuse the node.
func withoutContext(n *diff.Node) bool {
	key := dag.ComputeKey(n.ID, dag.ComputeContext{})
	if len(n.Bindings) == 0 {
		return n.HasQueue && (len(n.ComputeKeys) == 0 || slices.Contains(n.ComputeKeys, key))
	}
	return slices.ContainsFunc(n.Bindings, func(b diff.Binding) bool { return b.Ready && b.Serves(key, n.CodeHash, "") })
}

// alone is the DAG of one node, with what is stored of it.
func alone(n *diff.Node) string {
	b, err := json.Marshal(map[string]any{"nodes": []map[string]any{{
		"node_id": n.ID, "node_type": n.NodeType, "code_hash": n.CodeHash, "schema_hash": n.SchemaHash,
		"interval": n.Interval, "period": n.Period, "tags": slices.Concat([]string{}, n.Tags),
	}}})
	if err != nil {
		return "" // strings and integers can always be marshalled
	}
	return string(b)
}
