package nodestore

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// A lock is a node whose id is a list, which no node's id is, made and taken away
// again in one transaction, so that nothing of it is ever stored: making a node
// under a unique id is the one thing in this graph that lets a single
// transaction pass. Locks are taken in order, first those of nodes, then those
// of topics, and held until the transaction ends.
//
// Every write begins by locking its nodes and reads them then: what it decides
// from there on stays true until its commit. MERGE and SET alone would not do:
// the shared locks that they begin with let two transactions wait for each
// other.
const lockAndReadQuery = `
UNWIND $ids AS id
MERGE (lock:ComputeNode {node_id: ['node', id]})
DELETE lock
WITH collect(id) AS ids
UNWIND ids AS id
MATCH (n:ComputeNode {node_id: id})
` + withQueues

// placeQuery makes queues whose topics are free, with their nodes where those
// are missing, and says which were free.
const placeQuery = `
UNWIND $queues AS new
MERGE (lock:ComputeNode {node_id: ['topic', new.topic]})
DELETE lock
WITH collect(new) AS all
UNWIND all AS new
MERGE (n:ComputeNode {node_id: new.node_id})
ON CREATE SET n += new.node, n.created_at = timestamp()
WITH n, new
OPTIONAL MATCH (owned:Queue {topic: new.topic})
WITH n, new, count(owned) = 0 AS free
FOREACH (_ IN CASE WHEN free THEN [1] ELSE [] END |
  CREATE (n)-[:CLAIMS]->(:Queue {topic: new.topic, interval: new.interval, compute_key: new.compute_key,
    code_hash: new.code_hash, schema_hash: new.schema_hash, ordinal: new.ordinal, claimed_by: $token}))
RETURN new.topic AS topic, free`

// indexed is how many bytes of an id, or of a node's tags, the graph's indexes
// can hold for sure; they end at 8 KB, with what they add themselves.
const indexed = 7000

func checkClaims(claims []diff.Claim) error {
	for _, c := range claims {
		size := 0
		for _, tag := range c.Node.Tags {
			size += len(tag) + 8
		}
		if len(c.Node.ID) > indexed || size > indexed {
			return &diff.InputError{Reason: diff.ReasonNode, NodeID: c.Node.ID,
				Err: fmt.Errorf("its id has %d bytes and its tags %d; the graph database takes %d each", len(c.Node.ID), size, indexed)}
		}
	}
	return nil
}

// Claim implements diff.Nodes, all claims in one transaction.
func (s *Neo4j) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	if err := checkClaims(claims); err != nil {
		return nil, err
	}
	token := rand.Text()
	var got []diff.Claimed
	err := s.write(ctx, "claim", func(tx tx) error {
		c := claiming{tx: tx, token: token, claims: claims, got: make([]diff.Claimed, len(claims)), owned: map[string]bool{}}
		got = c.got
		return c.run()
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// claiming is one attempt at a batch of claims.
type claiming struct {
	tx
	token  string
	claims []diff.Claim
	known  map[string]*vertex
	owned  map[string]bool // topics that turned out to be taken, or that this attempt takes
	got    []diff.Claimed
}

func (c *claiming) run() error {
	if err := c.begin(); err != nil {
		return err
	}
	open := make([]int, len(c.claims))
	for i := range open {
		open[i] = i
	}
	for len(open) > 0 { // ends: each round settles a claim or learns of a topic that is taken
		var err error
		if open, err = c.round(open); err != nil {
			return err
		}
	}
	return nil
}

// begin locks and reads the nodes of all claims.
func (c *claiming) begin() error {
	ids := make([]string, len(c.claims))
	for i := range c.claims {
		ids[i] = c.claims[i].Node.ID
	}
	var err error
	if c.known, err = c.tx.lockAndRead(ids); err != nil {
		return err
	}
	for _, claim := range c.claims {
		if c.known[claim.Node.ID] == nil {
			n := claim.Node
			c.known[n.ID] = &vertex{node: &n, missing: propertiesOf(n)}
		}
	}
	return nil
}

func propertiesOf(n diff.Node) params {
	p := params{
		"node_id": n.ID, "node_type": n.NodeType, "code_hash": n.CodeHash, "schema_hash": n.SchemaHash,
		"schema_compat_id": n.SchemaCompatID, "tags": slices.Concat([]string{}, n.Tags),
		"compute_keys": slices.Concat([]string{}, n.ComputeKeys), "global": n.Global,
	}
	for name, value := range map[string]*int64{"interval": n.Interval, "period": n.Period, "bucket": n.Bucket} {
		if value != nil {
			p[name] = *value
		}
	}
	return p
}

// trial is a queue that a round tries to make, for the claim of that index.
type trial struct {
	claim int
	at    *vertex
	queue
}

// round answers the claims whose queue is there, and tries to make the others.
// It returns those that are still open.
func (c *claiming) round(open []int) (rest []int, err error) {
	type want struct{ node, key, code, space string }
	trying := map[want]bool{}
	var trials []trial
	for _, i := range open {
		claim := &c.claims[i]
		v := c.known[claim.Node.ID]
		if q := v.serving(claim); q != nil {
			c.got[i] = diff.Claimed{NodeID: claim.Node.ID, Binding: q.Binding, Won: c.won(i, q)}
			continue
		}
		same := want{claim.Node.ID, claim.ComputeKey, claim.Node.CodeHash, claim.Namespace}
		if trying[same] {
			rest = append(rest, i) // meets the queue in the next round
			continue
		}
		trying[same] = true
		t, err := c.try(i, v)
		if err != nil {
			return nil, err
		}
		trials = append(trials, t)
	}
	taken, err := c.place(trials)
	return append(rest, taken...), err
}

// try names the queue of a claim.
func (c *claiming) try(i int, v *vertex) (trial, error) {
	claim := &c.claims[i]
	topic, err := claim.Choose(func(topic string) bool { return c.owned[topic] })
	if err != nil {
		return trial{}, err
	}
	c.owned[topic] = true
	v.ordinal++
	return trial{i, v, queue{
		Binding: diff.Binding{ComputeKey: claim.ComputeKey, CodeHash: claim.Node.CodeHash, SchemaHash: claim.Node.SchemaHash, Topic: topic},
		ordinal: v.ordinal - 1, claimedBy: c.token,
	}}, nil
}

// won says whether claim i is the one that made q: of several alike in one
// batch, the first.
func (c *claiming) won(i int, q *queue) bool {
	return q.claimedBy == c.token && !slices.ContainsFunc(c.got[:i], func(g diff.Claimed) bool { return g.Binding.Topic == q.Topic })
}

func (v *vertex) serving(claim *diff.Claim) *queue {
	for i := range v.queues {
		if q := &v.queues[i]; q.Serves(claim.ComputeKey, claim.Node.CodeHash, claim.Namespace) {
			return q
		}
	}
	return nil
}

// place makes the queues whose topics are free and returns the claims that need
// another name.
func (c *claiming) place(trials []trial) (open []int, err error) {
	if len(trials) == 0 {
		return nil, nil
	}
	slices.SortFunc(trials, func(a, b trial) int { return cmp.Compare(a.Topic, b.Topic) }) // the order of locking
	queues := make([]params, len(trials))
	for i, t := range trials {
		queues[i] = t.params()
	}
	rows, err := c.tx.run(placeQuery, params{"queues": queues, "token": c.token})
	if err != nil {
		return nil, err
	}
	free := make(map[string]bool, len(rows))
	for _, r := range rows {
		free[textOf(r, "topic")], _ = r["free"].(bool)
	}
	for _, t := range trials {
		if !free[t.Topic] {
			open = append(open, t.claim)
			continue
		}
		t.at.queues = append(t.at.queues, t.queue)
		c.got[t.claim] = diff.Claimed{NodeID: t.at.node.ID, Binding: t.Binding, Won: true}
	}
	slices.Sort(open)
	return open, nil
}

func (t trial) params() params {
	p := params{
		"node_id": t.at.node.ID, "topic": t.Topic, "compute_key": t.ComputeKey,
		"code_hash": t.CodeHash, "schema_hash": t.SchemaHash, "ordinal": t.ordinal,
	}
	if t.at.missing != nil {
		p["node"] = t.at.missing
	}
	if t.at.node.Interval != nil {
		p["interval"] = *t.at.node.Interval
	}
	return p
}

// lockAndRead locks nodes and reads those that are there.
func (t tx) lockAndRead(ids []string) (map[string]*vertex, error) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	rows, err := t.run(lockAndReadQuery, params{"ids": slices.Compact(ids)})
	if err != nil {
		return nil, err
	}
	known := make(map[string]*vertex, len(rows))
	for _, r := range rows {
		v := readVertex(r)
		known[v.node.ID] = v
	}
	return known, nil
}

func nodesOf(queues []diff.Claimed) []string {
	ids := make([]string, len(queues))
	for i, q := range queues {
		ids[i] = q.NodeID
	}
	return ids
}

// confirmQuery turns claims into queues that everybody sees.
const confirmQuery = `
UNWIND $queues AS ready
MATCH (n:ComputeNode {node_id: ready.node_id})-[claim:CLAIMS]->(q:Queue {topic: ready.topic})
DELETE claim
CREATE (n)-[:EMITS {ordinal: ready.ordinal}]->(q)
SET q.confirmed_by = $token, n.compute_keys = ready.compute_keys`

// Confirm implements diff.Nodes, all queues in one transaction.
func (s *Neo4j) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	token := rand.Text()
	var c confirming
	era := s.cache.begin()
	err := s.write(ctx, "confirm", func(tx tx) (err error) {
		c = confirming{token: token, fresh: make([]bool, len(queues))}
		if c.known, err = tx.lockAndRead(nodesOf(queues)); err != nil {
			return err
		}
		for i, q := range queues {
			c.confirm(i, q)
		}
		if len(c.ready) == 0 {
			return nil
		}
		_, err = tx.run(confirmQuery, params{"queues": c.ready, "token": token})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, v := range c.known {
		s.cache.put(era, v.node)
		s.tags.add(v.node, v.readyOf(queues))
	}
	if c.gone {
		return c.fresh, diff.ErrGone
	}
	return c.fresh, nil
}

// confirming is one attempt at confirming a batch of queues.
type confirming struct {
	token string
	known map[string]*vertex
	ready []params
	fresh []bool
	gone  bool
}

// confirm decides about one queue. One that this very call confirmed in an
// attempt whose end is not known is as fresh as any.
func (c *confirming) confirm(i int, claimed diff.Claimed) {
	v := c.known[claimed.NodeID]
	q := v.find(claimed.Binding.Topic)
	switch {
	case q == nil:
		c.gone = true
	case q.Ready:
		c.fresh[i] = q.confirmedBy == c.token
	default:
		c.fresh[i] = true
		v.ready(q)
		c.ready = append(c.ready, params{"node_id": v.node.ID, "topic": q.Topic, "ordinal": q.emitted, "compute_keys": v.node.ComputeKeys})
	}
}

// readyOf are the topics of those of the queues that are v's and ready.
func (v *vertex) readyOf(queues []diff.Claimed) []string {
	var topics []string
	for _, claimed := range queues {
		if q := v.find(claimed.Binding.Topic); claimed.NodeID == v.node.ID && q != nil && q.Ready {
			topics = append(topics, q.Topic)
		}
	}
	return topics
}

// ready makes a queue one of the node's queues; the first is also its Topic.
func (v *vertex) ready(q *queue) {
	n := v.node
	q.Ready, q.emitted = true, v.emits
	v.emits++
	n.Bindings[slices.IndexFunc(n.Bindings, func(b diff.Binding) bool { return b.Topic == q.Topic })].Ready = true
	if !n.HasQueue {
		n.Topic, n.HasQueue = q.Topic, true
	}
	if n.Topic == q.Topic && !slices.Contains(n.ComputeKeys, q.ComputeKey) {
		n.ComputeKeys = append(n.ComputeKeys, q.ComputeKey)
	}
}

// What releasing takes away: queues, and nodes that only a claim had made.
const (
	releaseQuery = `
UNWIND $queues AS given
MATCH (:ComputeNode {node_id: given.node_id})-[:CLAIMS]->(q:Queue {topic: given.topic})
DETACH DELETE q`
	forgetQuery = `
UNWIND $ids AS id
MATCH (n:ComputeNode {node_id: id})
WHERE NOT (n)--() AND size(coalesce(n.compute_keys, [])) = 0 AND n.buffering_since IS NULL
DELETE n`
)

// Release implements diff.Nodes, all queues in one transaction.
func (s *Neo4j) Release(ctx context.Context, queues []diff.Claimed) error {
	if len(queues) == 0 {
		return nil
	}
	return s.write(ctx, "release", func(tx tx) error {
		known, err := tx.lockAndRead(nodesOf(queues))
		if err != nil {
			return err
		}
		var given []params
		var ids []string
		for _, claimed := range queues {
			if q := known[claimed.NodeID].find(claimed.Binding.Topic); q != nil && !q.Ready {
				given = append(given, params{"node_id": claimed.NodeID, "topic": q.Topic})
				ids = append(ids, claimed.NodeID)
			}
		}
		if len(given) == 0 {
			return nil
		}
		if _, err := tx.run(releaseQuery, params{"queues": given}); err != nil {
			return err
		}
		_, err = tx.run(forgetQuery, params{"ids": ids})
		return err
	})
}

// The statements of Record. A sentinel is a new vertex each time.
const (
	bindQuery = `
UNWIND $marks AS mark
MATCH (n:ComputeNode {node_id: mark.node_id})
WHERE NOT mark.compute_key IN coalesce(n.compute_keys, [])
SET n.compute_keys = coalesce(n.compute_keys, []) + mark.compute_key`
	bufferQuery = `
UNWIND $ids AS id
MATCH (n:ComputeNode {node_id: id})
SET n.buffering_since = coalesce(n.buffering_since, $at)`
	sentinelQuery = `
CREATE (s:VersionSentinel {sentinel_id: $id, version: $version, created_at: timestamp()})
WITH s
UNWIND $ids AS id
MATCH (n:ComputeNode {node_id: id})
MERGE (s)-[:HAS]->(n)`
)

// Record implements diff.Nodes in one transaction; findings that change nothing
// cost none. A mark that a node has stays, whatever its compute key; a sentinel
// without nodes is not stored.
func (s *Neo4j) Record(ctx context.Context, f diff.Findings) error {
	steps := s.steps(f)
	if len(steps) == 0 {
		return nil
	}
	marked := idsOf(slices.Concat(f.Bound, f.Buffering))
	return s.write(ctx, "record", func(tx tx) error {
		if len(marked) > 0 {
			if _, err := tx.lockAndRead(marked); err != nil {
				return err
			}
		}
		for _, step := range steps {
			if _, err := tx.run(step.cypher, step.params); err != nil {
				return err
			}
		}
		return nil
	})
}

// statement is one statement with its parameters.
type statement struct {
	cypher string
	params params
}

func (s *Neo4j) steps(f diff.Findings) (steps []statement) {
	if marks := marksOf(f.Bound); len(marks) > 0 {
		steps = append(steps, statement{bindQuery, params{"marks": marks}})
	}
	if len(f.Buffering) > 0 {
		steps = append(steps, statement{bufferQuery, params{"ids": idsOf(f.Buffering), "at": f.At.UnixMilli()}})
	}
	if f.Sentinel != nil && len(f.Sentinel.NodeIDs) > 0 {
		steps = append(steps, statement{sentinelQuery, params{"id": f.Sentinel.ID, "version": f.Sentinel.Version, "ids": f.Sentinel.NodeIDs}})
	}
	return steps
}

func idsOf(marks []diff.Mark) []string {
	ids := make([]string, len(marks))
	for i, m := range marks {
		ids[i] = m.NodeID
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// marksOf gives the marks that have a compute key, each once.
func marksOf(list []diff.Mark) []params {
	seen := map[diff.Mark]bool{}
	var out []params
	for _, m := range list {
		if m.ComputeKey == "" || seen[m] {
			continue
		}
		seen[m] = true
		out = append(out, params{"node_id": m.NodeID, "compute_key": m.ComputeKey})
	}
	return out
}

var _ diff.Nodes = (*Neo4j)(nil)
