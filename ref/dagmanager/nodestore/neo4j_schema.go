package nodestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neo4j/neo4j-go-driver/v5/neo4j"
)

// schemaObject is a constraint or an index of the graph.
type schemaObject struct{ name, create, drop string }

// schema is what the graph has besides nodes (dagmanager.md 5.2).
var schema = []schemaObject{
	{"compute_pk",
		"CREATE CONSTRAINT compute_pk IF NOT EXISTS FOR (n:ComputeNode) REQUIRE n.node_id IS UNIQUE",
		"DROP CONSTRAINT compute_pk IF EXISTS"},
	index("kafka_topic", "Queue", "topic"),
	index("compute_tags", "ComputeNode", "tags"),
	index("queue_interval", "Queue", "interval"),
	index("compute_buffering_since", "ComputeNode", "buffering_since"),
}

func index(name, label, property string) schemaObject {
	return schemaObject{name,
		fmt.Sprintf("CREATE INDEX %s IF NOT EXISTS FOR (n:%s) ON (n.%s)", name, label, property),
		fmt.Sprintf("DROP INDEX %s IF EXISTS", name)}
}

// indexWait is how long a new index may take to know the nodes that are there.
const indexWait = 30 * time.Second

// Init makes the schema objects that are missing, in the order of dagmanager.md
// 5.2, and returns their names. Doing it again changes nothing.
func (s *Neo4j) Init(ctx context.Context) (made []string, err error) {
	made, err = s.change(ctx, "init schema", func(o schemaObject) string { return o.create })
	if err != nil {
		return made, err
	}
	// In steps, so that no statement takes longer than an operation may.
	for begun := time.Now(); ; {
		rows, err := s.query(ctx, "wait for indexes", "SHOW INDEXES YIELD name, state WHERE state = 'POPULATING' RETURN name", nil)
		if err != nil || len(rows) == 0 {
			return made, err
		}
		if time.Since(begun) > indexWait {
			return made, fmt.Errorf("neo4j: index %s is not complete after %s", textOf(rows[0], "name"), indexWait)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return made, context.Cause(ctx)
		}
	}
}

// Rollback drops the schema objects and returns the names of those that were
// there. Nodes stay. Doing it again changes nothing.
func (s *Neo4j) Rollback(ctx context.Context) (dropped []string, err error) {
	return s.change(ctx, "roll back schema", func(o schemaObject) string { return o.drop })
}

// change runs one statement for each object, each in a transaction of its own as
// the database wants it, and returns the names of those that it changed.
func (s *Neo4j) change(ctx context.Context, what string, of func(schemaObject) string) (changed []string, err error) {
	for _, o := range schema {
		did := false
		err := s.transact(ctx, what, neo4j.AccessModeWrite, func(tx tx) error {
			res, err := tx.Run(tx.ctx, of(o), nil)
			if err != nil {
				return err
			}
			summary, err := res.Consume(tx.ctx)
			if err != nil {
				return err
			}
			c := summary.Counters()
			did = c.ConstraintsAdded()+c.ConstraintsRemoved()+c.IndexesAdded()+c.IndexesRemoved() > 0
			return nil
		})
		if err != nil && !overtaken(err) {
			return changed, fmt.Errorf("%s: %w", o.name, err)
		}
		if err == nil && did {
			changed = append(changed, o.name)
		}
	}
	return changed, nil
}

// overtaken says whether somebody else made the object at the same time, which
// IF NOT EXISTS does not see.
func overtaken(err error) bool {
	var answer *neo4j.Neo4jError
	return errors.As(err, &answer) && (answer.Code == "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists" ||
		answer.Code == "Neo.ClientError.Schema.ConstraintAlreadyExists")
}

const uniqueQuery = `
SHOW CONSTRAINTS YIELD type, labelsOrTypes, properties
WHERE type IN ['UNIQUENESS', 'NODE_PROPERTY_UNIQUENESS', 'NODE_KEY'] AND labelsOrTypes = ['ComputeNode'] AND properties = ['node_id']
RETURN count(*) AS there`

// look is one look at the schema, for all who wait for it.
type look struct {
	done chan struct{}
	err  error // valid once done is closed
}

// prepare makes sure, once and again after each outage, that the database keeps
// node ids apart: without that, two DAG Managers could make one node twice. A
// database without the schema gets it. What is remembered of the database that
// went away is forgotten. One caller looks, and what it finds is true for all
// that came meanwhile: while the database is away nobody waits in a line.
func (s *Neo4j) prepare(ctx context.Context) error {
	if s.seen.Load() == s.outages.Load() {
		return nil
	}
	s.mu.Lock()
	l, mine := s.looking, s.looking == nil
	if mine {
		l = &look{done: make(chan struct{}), err: ErrUnavailable}
		s.looking = l
	}
	s.mu.Unlock()
	if mine {
		defer func() {
			s.mu.Lock()
			s.looking = nil
			s.mu.Unlock()
			close(l.done)
		}()
		l.err = s.look(context.WithoutCancel(ctx))
		return l.err
	}
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// look looks at the schema and makes it where it is missing.
func (s *Neo4j) look(ctx context.Context) error {
	outages := s.outages.Load()
	rows, err := s.query(ctx, "look at the schema", uniqueQuery, nil)
	if err != nil {
		return err
	}
	s.cache.clear()
	if len(rows) == 0 || integerOf(rows[0], "there") == 0 {
		made, err := s.Init(ctx)
		if err != nil {
			return errors.Join(errors.New("the graph has no schema (dagmanager neo4j-init makes it)"), err)
		}
		s.opts.Log.Info("graph schema made", "objects", made)
	}
	s.seen.Store(outages)
	if s.away.Swap(false) {
		s.opts.Log.Info("graph database is back")
	}
	return nil
}
