package nodestore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// seedNode is a node of a graph file (dagmanager.md 5.3).
type seedNode struct {
	ID             string           `json:"id"`
	Kind           string           `json:"type"`
	NodeType       string           `json:"node_type"`
	CodeHash       string           `json:"code_hash"`
	SchemaHash     string           `json:"schema_hash"`
	SchemaCompatID string           `json:"schema_compat_id"`
	SchemaID       string           `json:"schema_id,omitempty"`
	Interval       *int64           `json:"interval"`
	Period         *int64           `json:"period"`
	Bucket         *int64           `json:"bucket"`
	Tags           []string         `json:"tags"`
	Topic          *string          `json:"topic"`
	Global         bool             `json:"global"`
	ComputeKeys    []string         `json:"compute_keys"`
	Since          *int64           `json:"buffering_since,omitempty"`     // ms
	SinceByKey     map[string]int64 `json:"buffering_since_ctx,omitempty"` // ms
	SentinelID     string           `json:"sentinel_id,omitempty"`
	Version        string           `json:"version,omitempty"`
	CreatedAt      int64            `json:"created_at,omitempty"` // ms
}

// Load reads a graph in node-link JSON, as the in-memory store of other DAG
// Managers writes it, and puts its nodes over what is there. Members that are
// not named in the contract, and edges, are left aside. On an error nothing was
// stored.
func (m *Memory) Load(ctx context.Context, r io.Reader) error {
	var file struct{ Nodes []seedNode }
	if err := json.NewDecoder(r).Decode(&file); err != nil {
		return fmt.Errorf("graph file: %w", err)
	}
	for i, n := range file.Nodes {
		if n.ID == "" && n.SentinelID == "" {
			return fmt.Errorf("graph file: node %d has no id", i)
		}
	}
	for _, n := range file.Nodes {
		if err := m.seed(ctx, n); err != nil {
			return fmt.Errorf("graph file: node %s: %w", n.ID, err)
		}
	}
	return nil
}

func (m *Memory) seed(ctx context.Context, n seedNode) error {
	switch n.Kind {
	case "compute":
		if err := m.Put(ctx, n.node()); err != nil {
			return err
		}
	case "sentinel":
		s := diff.Sentinel{ID: n.ID, Version: n.Version, At: time.UnixMilli(n.CreatedAt)}
		if err := m.InsertSentinel(ctx, s); err != nil {
			return err
		}
	}
	if n.Since != nil {
		if err := m.MarkBuffering(ctx, []diff.Mark{{NodeID: n.ID}}, time.UnixMilli(*n.Since)); err != nil {
			return err
		}
	}
	for key, since := range n.SinceByKey {
		if err := m.MarkBuffering(ctx, []diff.Mark{{NodeID: n.ID, ComputeKey: key}}, time.UnixMilli(since)); err != nil {
			return err
		}
	}
	return nil
}

func (n seedNode) node() diff.Node {
	out := diff.Node{
		ID: n.ID, NodeType: n.NodeType, CodeHash: n.CodeHash, SchemaHash: n.SchemaHash, SchemaCompatID: n.SchemaCompatID,
		Interval: n.Interval, Period: n.Period, Bucket: n.Bucket, Tags: n.Tags, Global: n.Global, ComputeKeys: n.ComputeKeys,
	}
	if out.SchemaCompatID == "" {
		out.SchemaCompatID = n.SchemaID
	}
	if n.Topic != nil {
		out.Topic, out.HasQueue = *n.Topic, true
	}
	return out
}
