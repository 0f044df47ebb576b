package nodestore_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
)

// What is exported is a graph that a store in memory can begin with, over
// several pages; open claims are no part of it.
func TestExportedGraphCanBeLoaded(t *testing.T) {
	g := emptyGraph(t)
	s := g.open()
	const nodes = 1003 // more than a page
	claims := make([]diff.Claim, nodes)
	for i := range claims {
		claims[i] = want(fmt.Sprintf("n%04d", i), fmt.Sprintf("t%04d", i))
	}
	register(t, s, claims...)
	if _, err := s.Claim(t.Context(), []diff.Claim{want("open", "claimed")}); err != nil {
		t.Fatal(err)
	}
	m := exported(t, s)
	if n, queues := m.Size(); n != nodes || queues != nodes {
		t.Errorf("%d nodes and %d queues, want %d", n, queues, nodes)
	}
	checkExported(t, m, nodes)
}

func checkExported(t *testing.T, m *nodestore.Memory, nodes int) {
	t.Helper()
	found, err := m.Queues(t.Context(), []string{"x"}, 60, "any")
	if err != nil || len(found) != nodes || found[0].Queue != "t0000" || found[nodes-1].Queue != "t1002" {
		t.Errorf("%d queues by tag, %v", len(found), err)
	}
	got, err := m.Lookup(t.Context(), []string{"n0007", "open"})
	if err != nil || got[0] == nil || got[1] != nil {
		t.Fatalf("looked up: %+v, %v", got, err)
	}
	if got[0].CodeHash != "c" || len(got[0].ComputeKeys) != 1 {
		t.Errorf("looked up: %+v", got[0])
	}
}

// exported is a store in memory that began with what s exports.
func exported(t *testing.T, s *nodestore.Neo4j) *nodestore.Memory {
	t.Helper()
	var file bytes.Buffer
	if err := s.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	m := nodestore.NewMemory()
	if err := m.Load(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSchemaIsToldAsStatements(t *testing.T) {
	g := emptyGraph(t)
	s := g.open()
	if _, err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	statements, err := s.Schema(t.Context())
	if err != nil || len(statements) != 5 {
		t.Fatalf("%d statements, %v: %q", len(statements), err, statements)
	}
	for i, name := range []string{"compute_pk", "compute_buffering_since", "compute_tags", "kafka_topic", "queue_interval"} {
		if !strings.HasPrefix(statements[i], "CREATE ") || !strings.Contains(statements[i], name) {
			t.Errorf("statement %d is %q, want one about %s", i, statements[i], name)
		}
	}
}
