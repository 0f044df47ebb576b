package nodestore_test

import (
	"context"
	"testing"

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
	o := nodestore.Neo4jOptions{URL: g.url, Cache: 1000}
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
