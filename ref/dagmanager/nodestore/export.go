package nodestore

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// exportPage is how many nodes one statement reads.
const exportPage = 1000

const exportQuery = `
MATCH (n:ComputeNode)
WHERE n.node_id > $after
WITH n ORDER BY n.node_id LIMIT $most
` + withQueues + `
ORDER BY node.node_id`

// Export writes the nodes of the graph in node-link JSON, as Load reads it. A
// node's queue there is its first one that is ready; a node without any is left
// out.
func (s *Neo4j) Export(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, `{"directed": true, "multigraph": false, "graph": {}, "nodes": [`)
	after, between := "", "\n"
	for {
		rows, err := s.query(ctx, "export", exportQuery, params{"after": after, "most": exportPage})
		if err != nil {
			return err
		}
		last := after
		for _, r := range rows {
			v := readVertex(r)
			last = v.node.ID
			if !v.node.HasQueue {
				continue
			}
			b, err := json.Marshal(fileNode(v, r))
			if err != nil {
				return fmt.Errorf("export node %s: %w", v.node.ID, err)
			}
			fmt.Fprintf(out, "%s  %s", between, b)
			between = ",\n"
		}
		if len(rows) < exportPage {
			break
		}
		after = last
	}
	fmt.Fprint(out, "\n], \"edges\": []}\n")
	return out.Flush()
}

func fileNode(v *vertex, r row) seedNode {
	n := v.node
	props, _ := r["node"].(row)
	return seedNode{
		ID: n.ID, Kind: "compute", NodeType: n.NodeType, CodeHash: n.CodeHash, SchemaHash: n.SchemaHash, SchemaCompatID: n.SchemaCompatID,
		Interval: n.Interval, Period: n.Period, Bucket: n.Bucket, Tags: n.Tags, Topic: &n.Topic, Global: n.Global, ComputeKeys: n.ComputeKeys,
		Since: numberOf(props, "buffering_since"),
	}
}

// Schema returns the statements that make the constraints and indexes of the
// graph, constraints first (dagmanager.md 5.2).
func (s *Neo4j) Schema(ctx context.Context) ([]string, error) {
	var out []string
	for _, query := range []string{
		"SHOW CONSTRAINTS YIELD name, createStatement RETURN name, createStatement ORDER BY name",
		"SHOW INDEXES YIELD name, type, owningConstraint, createStatement WHERE owningConstraint IS NULL AND type <> 'LOOKUP' RETURN name, createStatement ORDER BY name",
	} {
		rows, err := s.query(ctx, "show schema", query, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out = append(out, textOf(r, "createStatement"))
		}
	}
	return out, nil
}
