package nodestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neo4j/neo4j-go-driver/v5/neo4j"
	"github.com/neo4j/neo4j-go-driver/v5/neo4j/config"
	"github.com/neo4j/neo4j-go-driver/v5/neo4j/notifications"

	"qmtl.internal/plumbline/ref/dagmanager/batch"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/scenarios/contract"
)

// ErrUnavailable says that the graph database did not answer in time.
var ErrUnavailable = errors.New("the graph database is not available")

// ErrRefused says that the graph database answered, and did not let us in.
var ErrRefused = errors.New("the graph database refuses our user")

// Neo4jOptions are the settings of a Neo4j store. A zero field takes its
// default, except where it says otherwise.
type Neo4jOptions struct {
	URL      string // as CheckNeo4jURL wants it
	User     string // "neo4j"
	Password string // "" means a server that asks for none; never logged
	Database string // "" means the user's home database, as it does for the server

	Timeout time.Duration // of one operation with all its retries; 5 s
	Retry   time.Duration // how long an operation that fails is begun anew; 2 s
	// Cache is how many nodes are remembered; 0 means none.
	Cache int
	// CacheAge is how long what is remembered of a node counts; 1 min.
	CacheAge time.Duration
	// TagAge is how long the answer to a tag query is given again; 500 ms. What
	// this store adds meanwhile is never missing from it.
	TagAge time.Duration
	Log    *slog.Logger // nil logs nothing
}

func (o Neo4jOptions) withDefaults() Neo4jOptions {
	if o.User == "" {
		o.User = "neo4j"
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Retry == 0 {
		o.Retry = 2 * time.Second
	}
	if o.CacheAge == 0 {
		o.CacheAge = time.Minute
	}
	if o.TagAge == 0 {
		o.TagAge = 500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// CheckNeo4jURL says what is wrong with the address of a Neo4j server. The error
// does not repeat the address: it may hold a password.
func CheckNeo4jURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || !schemes[u.Scheme]:
		return errors.New("want bolt://HOST:PORT (or bolt+s, bolt+ssc, neo4j, neo4j+s, neo4j+ssc)")
	case u.User != nil:
		return errors.New("user and password do not belong into the address; they have settings of their own")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return errors.New("nothing may follow HOST:PORT")
	}
	return nil
}

var schemes = map[string]bool{"bolt": true, "bolt+s": true, "bolt+ssc": true, "neo4j": true, "neo4j+s": true, "neo4j+ssc": true}

// Neo4j is a store in a Neo4j database (dagmanager.md 5.2 and 5.4). It is safe
// for concurrent use, by this process and by others: what must be decided once
// is decided by the database, under locks on the nodes concerned.
//
// A queue is (:ComputeNode)-[:CLAIMS]->(:Queue) while it is a claim, and
// (:ComputeNode)-[:EMITS]->(:Queue) once it is ready; readers that know only
// EMITS never see a claim.
type Neo4j struct {
	driver neo4j.DriverWithContext
	opts   Neo4jOptions
	cache  *cache
	tags   *answers

	reads   *batch.Group[string, *reading]
	renewal *renewal

	// The schema is looked at whenever an outage was seen since it was last:
	// another database may have come back than the one that went.
	outages atomic.Uint64 // begins with 1
	seen    atomic.Uint64 // the outages when the schema was looked at last
	away    atomic.Bool   // an outage was logged, and its end was not
	mu      sync.Mutex
	looking *look // nil while nobody looks
}

// OpenNeo4j returns a store that has not spoken to the database yet: one that
// does not answer is no reason not to start. Close ends it.
func OpenNeo4j(o Neo4jOptions) (*Neo4j, error) {
	if err := CheckNeo4jURL(o.URL); err != nil {
		return nil, fmt.Errorf("neo4j address: %w", err)
	}
	o = o.withDefaults()
	auth := neo4j.NoAuth()
	if o.Password != "" {
		auth = neo4j.BasicAuth(o.User, o.Password, "")
	}
	driver, err := neo4j.NewDriverWithContext(o.URL, auth, func(c *config.Config) {
		c.MaxTransactionRetryTime = o.Retry
		c.ConnectionAcquisitionTimeout = o.Retry
		c.SocketConnectTimeout = o.Retry
		c.NotificationsMinSeverity = notifications.DisabledLevel // hints about missing data cost an analysis
		c.TelemetryDisabled = true
		c.UserAgent = "plumbline-dagmanager"
	})
	if err != nil {
		return nil, fmt.Errorf("neo4j: %w", err)
	}
	s := &Neo4j{driver: driver, opts: o, cache: newCache(o.Cache, o.CacheAge), tags: newAnswers(o.TagAge)}
	s.reads = batch.New(mostReads, func(r *reading) string { return r.id }, s.readAll)
	s.renewal = newRenewal(func(ctx context.Context, ids []string) error {
		return s.readInto(ctx, ids, make(map[string]*diff.Node, len(ids)))
	})
	s.outages.Store(1)
	return s, nil
}

// Close ends all connections.
func (s *Neo4j) Close(ctx context.Context) error {
	s.renewal.close()
	return s.driver.Close(ctx)
}

// Ping says whether the database answers a query.
func (s *Neo4j) Ping(ctx context.Context) error {
	_, err := s.query(ctx, "ping", "RETURN 1", nil)
	return err
}

// Size returns how many nodes and queues the graph has, from the database's own
// counters.
func (s *Neo4j) Size(ctx context.Context) (nodes, queues int, err error) {
	rows, err := s.query(ctx, "count", countQuery, nil)
	if err != nil || len(rows) < 2 {
		return 0, 0, err
	}
	return int(integerOf(rows[0], "n")), int(integerOf(rows[1], "n")), nil
}

const countQuery = `
MATCH (n:ComputeNode) RETURN count(n) AS n
UNION ALL
MATCH (q:Queue) RETURN count(q) AS n`

// Warm makes the schema if it is missing and lets the database plan the
// statements of diffs, which takes it seconds when it has just started. Nothing
// else depends on it.
func (s *Neo4j) Warm(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil { // first: it changes plans
		return err
	}
	for _, read := range []statement{
		{lookupQuery, params{"ids": []string{}}},
		{queuesAnyQuery, params{"tags": []string{}, "interval": -1}},
		{queuesAllQuery, params{"tags": []string{}, "interval": -1}},
	} {
		if _, err := s.query(ctx, "warm up", read.cypher, read.params); err != nil {
			return err
		}
	}
	return s.write(ctx, "warm up", func(tx tx) error {
		if _, err := tx.lockAndRead(nil); err != nil {
			return err
		}
		for _, cypher := range []string{placeQuery, confirmQuery} {
			if _, err := tx.run(cypher, params{"queues": []params{}, "token": ""}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Recall returns what is remembered of each id as Lookup would, nil for the rest.
func (s *Neo4j) Recall(ids []string) []*diff.Node {
	found, _, aging := s.cache.get(ids)
	s.renewal.add(aging)
	return found
}

// Remembered returns how many nodes a lookup finds without asking the database.
func (s *Neo4j) Remembered() int { return s.cache.count() }

// row is one row of a result, by column.
type row = map[string]any

// work is what a transaction does. It may be run several times, and counts when
// the last time ended well.
type work func(tx tx) error

// tx is a transaction with its context.
type tx struct {
	ctx context.Context
	neo4j.ManagedTransaction
}

// run executes one statement and returns its rows.
func (t tx) run(cypher string, params map[string]any) ([]row, error) {
	res, err := t.Run(t.ctx, cypher, params)
	if err != nil {
		return nil, err
	}
	return collect(t.ctx, res)
}

// query runs one statement that changes nothing: at first without a transaction
// around it, which saves two round trips, and after an error that may pass as
// every other.
func (s *Neo4j) query(ctx context.Context, what, cypher string, given params) (rows []row, err error) {
	limited, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	if rows, err = s.ask(limited, cypher, given); err == nil {
		return rows, nil
	}
	if neo4j.IsRetryable(err) {
		err = s.attempt(limited, neo4j.AccessModeRead, func(tx tx) (err error) {
			rows, err = tx.run(cypher, given)
			return err
		})
	}
	return rows, s.explain(ctx, what, err)
}

func (s *Neo4j) ask(ctx context.Context, cypher string, given params) ([]row, error) {
	session := s.driver.NewSession(ctx, neo4j.SessionConfig{AccessMode: neo4j.AccessModeRead, DatabaseName: s.opts.Database})
	defer s.end(ctx, session)
	res, err := session.Run(ctx, cypher, given)
	if err != nil {
		return nil, err
	}
	return collect(ctx, res)
}

// end closes a session, whose work is done or failed already.
func (s *Neo4j) end(ctx context.Context, session neo4j.SessionWithContext) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := session.Close(ctx); err != nil {
		s.opts.Log.Debug("neo4j session", "error", err)
	}
}

func collect(ctx context.Context, res neo4j.ResultWithContext) ([]row, error) {
	records, err := res.Collect(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(records))
	for i, r := range records {
		rows[i] = r.AsMap()
	}
	return rows, nil
}

// write runs do as one transaction on a database whose schema was seen.
func (s *Neo4j) write(ctx context.Context, what string, do work) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return s.transact(ctx, what, neo4j.AccessModeWrite, do)
}

// transact runs do as one transaction, all within the time limit.
func (s *Neo4j) transact(ctx context.Context, what string, mode neo4j.AccessMode, do work) error {
	limited, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	return s.explain(ctx, what, s.attempt(limited, mode, do))
}

// attempt runs do as one transaction. The driver begins it anew after an error
// that may pass.
func (s *Neo4j) attempt(ctx context.Context, mode neo4j.AccessMode, do work) error {
	begun, unsure := time.Now(), 0
	for {
		err := s.once(ctx, mode, do)
		var stuck deadlock
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stuck) && time.Since(begun) < s.opts.Retry && nap(ctx):
		case uncertain(err) && unsure < uncertainTries:
			unsure++
		default:
			return err
		}
	}
}

// uncertainTries bounds how often a transaction is begun anew because nobody
// knows whether it was committed. Every write of this store may be done twice.
const uncertainTries = 2

// deadlock is the end of a transaction that two of them came to wait for each
// other. The driver would begin anew after a second; nothing speaks for that.
type deadlock struct{ error }

func (d deadlock) Unwrap() error { return d.error }

func asDeadlock(err error) error {
	var answer *neo4j.Neo4jError
	if errors.As(err, &answer) && answer.Code == "Neo.TransientError.Transaction.DeadlockDetected" {
		return deadlock{err}
	}
	return err
}

// nap waits for a few milliseconds; false means that ctx ended.
func nap(ctx context.Context) bool {
	select {
	case <-time.After(time.Millisecond + rand.N(20*time.Millisecond)):
		return true
	case <-ctx.Done():
		return false
	}
}

// uncertain says whether the connection broke during the commit.
func uncertain(err error) bool { return neo4j.IsConnectivityError(err) && !neo4j.IsRetryable(err) }

func (s *Neo4j) once(ctx context.Context, mode neo4j.AccessMode, do work) error {
	session := s.driver.NewSession(ctx, neo4j.SessionConfig{AccessMode: mode, DatabaseName: s.opts.Database})
	defer s.end(ctx, session)
	run := func(t neo4j.ManagedTransaction) (any, error) { return nil, asDeadlock(do(tx{ctx, t})) }
	if mode == neo4j.AccessModeRead {
		_, err := session.ExecuteRead(ctx, run)
		return err
	}
	_, err := session.ExecuteWrite(ctx, run)
	return err
}

// explain says what an error of the driver means to a caller. One that is not
// the driver's is returned as it is.
func (s *Neo4j) explain(ctx context.Context, what string, err error) error {
	var answer *neo4j.Neo4jError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // the caller's own time is up
		return fmt.Errorf("neo4j: %s: %w", what, context.Cause(ctx))
	case errors.As(err, &answer) && answer.HasSecurityCode(), as[*neo4j.InvalidAuthenticationError](err):
		return s.missing(fmt.Errorf("neo4j: %s: %w: %w", what, ErrRefused, err))
	case absent(err):
		return s.missing(fmt.Errorf("neo4j: %s: %w: %w", what, ErrUnavailable, err))
	case answer != nil, as[*neo4j.UsageError](err):
		return fmt.Errorf("neo4j: %s: %w", what, err)
	}
	return err
}

// missing takes down an outage, and says so once.
func (s *Neo4j) missing(err error) error {
	s.outages.Add(1)
	if !s.away.Swap(true) {
		s.opts.Log.Warn("graph database missed", "error", err)
	}
	return err
}

// absent says whether err means that the server is away, or too busy.
func absent(err error) bool {
	return neo4j.IsConnectivityError(err) || neo4j.IsTransactionExecutionLimit(err) || neo4j.IsRetryable(err) ||
		errors.Is(err, context.DeadlineExceeded) || as[*neo4j.ConnectivityError](err)
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// Lookup implements diff.Nodes. Nodes that are remembered cost no round trip;
// those in use are read again before what is remembered counts no more.
//
// Only nodes are remembered all of whose queues were registered by diffs and are
// ready. No DAG Manager takes such a queue away or changes it, so that what is
// remembered can only lack a queue that another one has added since; a diff
// then claims it, and the claim, which always asks the database, finds it.
// Nodes that others wrote, and open claims, are asked for each time. What an
// operator deletes is noticed after CacheAge, or after an outage.
func (s *Neo4j) Lookup(ctx context.Context, ids []string) ([]*diff.Node, error) {
	out, missing, aging := s.cache.get(ids)
	s.renewal.add(aging)
	if len(missing) == 0 {
		return out, nil
	}
	found, err := s.read(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if out[i] == nil {
			out[i] = found[id]
		}
	}
	return out, nil
}

// reader is a caller who looks nodes up.
type reader struct{ ctx context.Context }

// reading is a node that somebody looks up.
type reading struct {
	of   *reader
	id   string
	node *diff.Node
	err  error
}

// mostReads is how many nodes one statement reads.
const mostReads = 1000

// read asks the database about nodes, together with what others ask meanwhile.
func (s *Neo4j) read(ctx context.Context, ids []string) (map[string]*diff.Node, error) {
	jobs := make([]*reading, len(ids))
	of := &reader{ctx}
	for i, id := range ids {
		jobs[i] = &reading{of: of, id: id}
	}
	if err := s.reads.Do(ctx, jobs); err != nil {
		return nil, fmt.Errorf("neo4j: lookup: %w", err)
	}
	found := make(map[string]*diff.Node, len(jobs))
	for _, j := range jobs {
		if j.err != nil {
			return nil, j.err
		}
		found[j.id] = j.node
	}
	return found, nil
}

// readAll is one statement for the readings of many.
func (s *Neo4j) readAll(jobs []*reading) {
	byID := make(map[string]*diff.Node, len(jobs))
	ids := make([]string, 0, len(jobs))
	for _, j := range jobs {
		if _, asked := byID[j.id]; !asked {
			byID[j.id] = nil
			ids = append(ids, j.id)
		}
	}
	ctx, end := untilAllLeft(jobs)
	defer end()
	err := s.readInto(ctx, ids, byID)
	for _, j := range jobs {
		j.node, j.err = byID[j.id], err
	}
}

// untilAllLeft ends when nobody waits for any of the readings any more.
func untilAllLeft(jobs []*reading) (ctx context.Context, end func()) {
	readers := map[*reader]bool{}
	for _, j := range jobs {
		readers[j.of] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	var left atomic.Int64
	left.Store(int64(len(readers)))
	stops := make([]func() bool, 0, len(readers))
	for of := range readers {
		stops = append(stops, context.AfterFunc(of.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

func (s *Neo4j) readInto(ctx context.Context, ids []string, byID map[string]*diff.Node) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	era := s.cache.begin()
	rows, err := s.query(ctx, "lookup", lookupQuery, params{"ids": ids})
	if err != nil {
		return err
	}
	for _, r := range rows {
		v := readVertex(r)
		byID[v.node.ID] = v.node
		s.cache.put(era, v.node)
	}
	return nil
}

type params = map[string]any

const lookupQuery = `
UNWIND $ids AS id
MATCH (n:ComputeNode {node_id: id})
` + withQueues

// withQueues ends a query that found nodes n, as readVertex wants it.
const withQueues = `
OPTIONAL MATCH (n)-[r:EMITS|CLAIMS]->(q:Queue)
RETURN properties(n) AS node,
       collect(CASE WHEN q IS NULL THEN null ELSE q {.*, claim: type(r) = 'CLAIMS', emitted: r.ordinal} END) AS queues`

// NodeByQueue returns the node that feeds a queue, nil when none does.
func (s *Neo4j) NodeByQueue(ctx context.Context, topic string) (*diff.Node, error) {
	rows, err := s.query(ctx, "node by queue", nodeByQueueQuery, params{"topic": topic})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return readVertex(rows[0]).node, nil
}

const nodeByQueueQuery = `
MATCH (n:ComputeNode)-[:EMITS]->(:Queue {topic: $topic})
WITH n LIMIT 1
` + withQueues

// mostTopics is how many topics one statement is about.
const mostTopics = 1000

// Owned says of each topic whether a queue of the graph has it, ready or not.
func (s *Neo4j) Owned(ctx context.Context, topics []string) ([]bool, error) {
	owned := make([]bool, 0, len(topics))
	for part := range slices.Chunk(topics, mostTopics) {
		rows, err := s.query(ctx, "owned topics", ownedQuery, params{"topics": part})
		if err != nil {
			return nil, err
		}
		found := make(map[string]bool, len(rows))
		for _, r := range rows {
			found[textOf(r, "topic")] = true
		}
		for _, topic := range part {
			owned = append(owned, found[topic])
		}
	}
	return owned, nil
}

const ownedQuery = `
UNWIND $topics AS topic
MATCH (q:Queue {topic: topic})
RETURN DISTINCT topic`

// OpenClaims returns queues that are claimed and not ready, at most most.
func (s *Neo4j) OpenClaims(ctx context.Context, most int) ([]diff.Claimed, error) {
	rows, err := s.query(ctx, "open claims",
		"MATCH (n:ComputeNode)-[:CLAIMS]->(q:Queue) RETURN n.node_id AS node, q.topic AS topic ORDER BY topic LIMIT $most",
		params{"most": most})
	if err != nil {
		return nil, err
	}
	out := make([]diff.Claimed, len(rows))
	for i, r := range rows {
		out[i] = diff.Claimed{NodeID: textOf(r, "node"), Binding: diff.Binding{Topic: textOf(r, "topic")}}
	}
	return out, nil
}

// Queues returns the queues with that interval of nodes with any (or, with mode
// "all", all) of the tags; without tags none. Their order says nothing. What
// another process added since may be missing for TagAge. The caller does not
// change the result.
func (s *Neo4j) Queues(ctx context.Context, tags []string, interval int64, mode string) ([]contract.QueueRef, error) {
	if len(tags) == 0 {
		return nil, nil
	}
	q := question{tags, interval, mode == contract.MatchAll}
	return s.tags.get(ctx, q, func() ([]contract.QueueRef, error) { return s.find(ctx, q) })
}

func (s *Neo4j) find(ctx context.Context, q question) ([]contract.QueueRef, error) {
	query := queuesAnyQuery
	if q.all {
		query = queuesAllQuery
	}
	rows, err := s.query(ctx, "queues by tag", query, params{"tags": q.tags, "interval": q.interval})
	if err != nil {
		return nil, err
	}
	var out []contract.QueueRef
	for _, r := range rows { // one
		topics, _ := r["topics"].([]any)
		global, _ := r["global"].([]any)
		for i := range min(len(topics), len(global)) {
			topic, _ := topics[i].(string)
			everywhere, _ := global[i].(bool)
			out = append(out, contract.QueueRef{Queue: topic, Global: everywhere})
		}
	}
	return out, nil
}

// Ordered so that the same question gets the same answer, and in one row: at
// hundreds of queues the rows cost more than the search.
const (
	queuesAnyQuery = `
MATCH (q:Queue {interval: $interval})<-[:EMITS]-(n:ComputeNode)
WHERE any(tag IN $tags WHERE tag IN n.tags)` + inOneRow
	queuesAllQuery = `
MATCH (q:Queue {interval: $interval})<-[:EMITS]-(n:ComputeNode)
WHERE all(tag IN $tags WHERE tag IN n.tags)` + inOneRow
	inOneRow = `
WITH q.topic AS topic, coalesce(n.global, false) AS global, n.created_at AS made ORDER BY made, topic WHERE topic IS NOT NULL
RETURN collect(topic) AS topics, collect(global) AS global`
)

// BufferingNodes returns the ids of nodes that buffer since before olderThan.
// The graph keeps one mark a node, whatever its compute key.
func (s *Neo4j) BufferingNodes(ctx context.Context, olderThan time.Time, _ string) ([]string, error) {
	rows, err := s.query(ctx, "buffering nodes",
		"MATCH (n:ComputeNode) WHERE n.buffering_since < $before RETURN n.node_id AS id ORDER BY n.buffering_since, id",
		params{"before": olderThan.UnixMilli()})
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = textOf(r, "id")
	}
	return ids, nil
}

// ClearBuffering takes the node's mark away, whatever its compute key.
func (s *Neo4j) ClearBuffering(ctx context.Context, nodeID, _ string) error {
	return s.write(ctx, "clear buffering", func(tx tx) error {
		_, err := tx.run("MATCH (n:ComputeNode {node_id: $id}) REMOVE n.buffering_since", params{"id": nodeID})
		return err
	})
}
