package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/audit"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Kafka and a Redis as a right control plane leaves them.
type world struct {
	testing.TB
	redis    *miniredis.Miniredis
	kafka    *kgo.Client
	where    audit.World
	outcomes []load.Outcome
	made     map[string]bool // topics
}

func newWorld(t testing.TB) *world {
	t.Helper()
	addr, cl := kafkaOf(t)
	r := miniredis.RunT(t)
	return &world{TB: t, redis: r, kafka: cl, made: map[string]bool{}, where: audit.World{
		Kafka: addr, Redis: r.Addr(), CommitLog: "gateway.ingest",
	}}
}

func kafkaOf(t testing.TB) (addr string, cl *kgo.Client) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "gateway.ingest"),
		kfake.BrokerConfigs(map[string]string{"log.segment.bytes": "1048576"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	if cl, err = kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cluster.ListenAddrs()[0], cl
}

// stored is what one submission leaves behind, open to be spoilt.
type stored struct {
	id, key, hash, blob, state string
	nodes                      []pyjson.Value
	kafkaKey                   string
	dag                        pyjson.Value
}

func node(n int) pyjson.Value {
	return pyjson.OfObject(
		pyjson.Member{Key: "node_id", Value: pyjson.OfString(nodeID(n))},
		pyjson.Member{Key: "node_type", Value: pyjson.OfString("Indicator_Node")},
	)
}

func nodeID(n int) string { return fmt.Sprintf("blake3:%08x%056x", n+1, n) }

func topicOf(n int) string { return fmt.Sprintf("btc_Indicator_Node_%08x_v1", n+1) }

func right(i int) stored {
	s := stored{id: fmt.Sprintf("id-%04d", i), key: fmt.Sprintf("key-%04d", i), state: "queued", nodes: []pyjson.Value{node(i % 3), node(3)}}
	return s.seal()
}

// seal computes what follows from the nodes.
func (s stored) seal() stored {
	dag := pyjson.OfObject(
		pyjson.Member{Key: "schema_version", Value: pyjson.OfString("v1")},
		pyjson.Member{Key: "nodes", Value: pyjson.OfArray(s.nodes...)},
		pyjson.Member{Key: load.KeyField, Value: pyjson.OfString(s.key)},
	)
	s.hash = contract.DAGHash(dag)
	s.dag, _ = contract.StoredDAG(dag, s.id, "")
	s.blob = contract.StoredBase64(s.dag)
	s.kafkaKey = "ingest:" + s.id
	return s
}

func (w *world) log(s stored) {
	w.Helper()
	w.produce(s.kafkaKey, string(s.record()))
}

// record is the value of the commit-log record.
func (s stored) record() []byte {
	payload := map[string]any{
		"event": "gateway.ingest", "version": 1, "strategy_id": s.id, "dag_hash": s.hash,
		"dag": json.RawMessage(pyjson.Append(nil, s.dag, pyjson.Compact)), "dag_base64": s.blob,
	}
	value, err := json.Marshal([]any{"gateway.ingest", 1, s.id, payload})
	if err != nil {
		panic(err) // of values made above
	}
	return value
}

func (w *world) produce(key, value string) {
	w.Helper()
	r := &kgo.Record{Topic: "gateway.ingest", Key: []byte(key), Value: []byte(value)}
	if err := w.kafka.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		w.Fatal(err)
	}
}

func (w *world) register(s stored) {
	w.redis.HSet("strategy:"+s.id, "dag", s.blob, "hash", s.hash, "state", s.state)
}

func (w *world) hashKey(s stored) {
	w.Helper()
	if err := w.redis.Set("dag_hash:"+s.hash, s.id); err != nil {
		w.Fatal(err)
	}
}

func (w *world) queue(s stored) {
	w.Helper()
	if _, err := w.redis.RPush("strategy_queue", s.id); err != nil {
		w.Fatal(err)
	}
}

func (w *world) topic(names ...string) {
	w.Helper()
	adm := kadm.NewClient(w.kafka)
	for _, n := range names {
		if w.made[n] {
			continue
		}
		w.made[n] = true
		if _, err := adm.CreateTopic(context.Background(), 1, 1, nil, n); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) tell(s stored, fate load.Fate) {
	o := load.Outcome{Index: int64(len(w.outcomes)), Key: s.key, Fate: fate, Window: true}
	switch fate {
	case load.Accepted:
		o.Status, o.ID = 202, s.id
	case load.Rejected:
		o.Status, o.ID = 409, s.id
	case load.Unexpected:
		o.Status = 500
	}
	w.outcomes = append(w.outcomes, o)
}

// keep stores everything that an accepted submission must leave.
func (w *world) keep(s stored) {
	w.Helper()
	w.log(s)
	w.register(s)
	w.hashKey(s)
	w.queue(s)
}

// five right submissions, one deliberate duplicate that was refused.
func fill(w *world) {
	w.Helper()
	for i := range 5 {
		w.tell(right(i), load.Accepted)
		w.keep(right(i))
	}
	w.tell(right(2), load.Rejected)
	w.topic(topicOf(0), topicOf(1), topicOf(2), topicOf(3))
}

func (w *world) audit() (*record.Audit, error) {
	return w.auditAfter(audit.Snapshot{})
}

func (w *world) auditAfter(before audit.Snapshot) (*record.Audit, error) {
	var lines strings.Builder
	e := json.NewEncoder(&lines)
	for _, o := range w.outcomes {
		if err := e.Encode(o); err != nil {
			w.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return audit.Run(ctx, w.where, before, strings.NewReader(lines.String()))
}

func TestRightWorldIsClean(t *testing.T) {
	w := newWorld(t)
	fill(w)
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if got.Accepted != 5 || got.Records != 5 || got.Registered != 5 || got.Nodes != 4 || got.Topics != 4 {
		t.Errorf("audit = %+v; want 5 accepted, 5 records, 5 registered, 4 nodes, 4 topics", got)
	}
	if len(got.Lost)+len(got.Duplicates)+len(got.Orphans) != 0 {
		t.Errorf("a right world has findings: %+v", got)
	}
}

// What other tenants of the same servers do is not the workload's.
func TestStrangersDoNotDisturb(t *testing.T) {
	w := newWorld(t)
	fill(w)
	stranger := stored{id: "other", nodes: []pyjson.Value{node(9)}, state: "queued"}
	stranger = stranger.seal()
	stranger.dag = pyjson.OfObject(pyjson.Member{Key: "nodes", Value: pyjson.OfArray(node(9))})
	stranger.blob = contract.StoredBase64(stranger.dag)
	w.keep(stranger)
	w.produce("rebalance:x", `["gateway.rebalance",1,"x",{}]`)
	w.produce("", "poison")
	w.produce("", `{"an":"object"}`)
	w.redis.HSet("strategy:broken", "dag", "%%%")
	w.topic("eth_Indicator_Node_ffffffff_v1", "activation")
	if err := w.redis.Set("strategy:text", "not a hash"); err != nil {
		t.Fatal(err)
	}
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Lost)+len(got.Duplicates)+len(got.Orphans) != 0 || got.Records != 5 {
		t.Errorf("strangers were counted: %+v", got)
	}
}

// One fault, planted into a right world: who must be named, under what.
func TestPlantedFaults(t *testing.T) {
	extra := right(7) // never told to anybody
	type want struct{ list, id, what string }
	for name, c := range map[string]struct {
		plant func(w *world)
		want  want
	}{
		"no commit-log record": {func(w *world) {
			w.tell(extra, load.Accepted)
			w.register(extra)
			w.hashKey(extra)
			w.queue(extra)
		}, want{"lost", extra.id, "no commit-log record"}},
		"no registration":  {func(w *world) { w.redis.Del("strategy:id-0001") }, want{"lost", "id-0001", "no registration"}},
		"no duplicate key": {func(w *world) { w.redis.Del("dag_hash:" + right(1).hash) }, want{"lost", "id-0001", "no dag_hash key"}},
		"no queue entry": {func(w *world) {
			if _, err := w.redis.Lpop("strategy_queue"); err != nil {
				w.Fatal(err)
			}
		}, want{"lost", "id-0000", "no entry in strategy_queue"}},
		"two records":       {func(w *world) { w.log(right(1)) }, want{"duplicates", "id-0001", "2 commit-log records"}},
		"two queue entries": {func(w *world) { w.queue(right(1)) }, want{"duplicates", "id-0001", "2 entries in strategy_queue"}},
		"two duplicate keys": {func(w *world) {
			if err := w.redis.Set("dag_hash:0000", "id-0001"); err != nil {
				w.Fatal(err)
			}
		}, want{"duplicates", "id-0001", "2 dag_hash keys"}},
		"accepted twice": {func(w *world) {
			again := right(1)
			again.id = "id-twin"
			w.tell(again, load.Accepted)
			w.keep(again.seal())
		}, want{"duplicates", "id-twin", "one DAG must be acknowledged once"}},
		"one id for two submissions": {func(w *world) {
			other := right(7)
			other.id = "id-0001"
			w.tell(other, load.Accepted)
		}, want{"duplicates", "id-0001", "two submissions"}},
		"stored twice, told once": {func(w *world) {
			twin := right(1)
			twin.id = "id-twin"
			twin.nodes = append(twin.nodes, node(1))
			w.keep(twin.seal())
		}, want{"duplicates", "id-twin", "beside id-0001"}},
		"stored, never told": {func(w *world) {
			w.outcomes = append(w.outcomes, load.Outcome{Index: 99, Key: extra.key, Fate: load.Rejected, Status: 429})
			w.keep(extra)
		}, want{"orphans", extra.id, "never acknowledged"}},
		"stored, never asked for":          {func(w *world) { w.keep(extra) }, want{"orphans", extra.id, "no request had its key"}},
		"registered only, never asked for": {func(w *world) { w.register(extra) }, want{"orphans", extra.id, "in Redis"}},
		"duplicate key to nowhere": {func(w *world) {
			if err := w.redis.Set("dag_hash:feed", "ghost"); err != nil {
				w.Fatal(err)
			}
		}, want{"orphans", "ghost", "dag_hash:feed points to it"}},
		"queue entry to nowhere": {func(w *world) { w.queue(stored{id: "ghost"}) }, want{"orphans", "ghost", "strategy_queue points"}},
		"refused for somebody else": {func(w *world) {
			o := right(1)
			o.id = "ghost"
			w.tell(o, load.Rejected)
		}, want{"orphans", "ghost", "refused as a duplicate"}},
		"unreadable record": {func(w *world) { w.produce("x", `["gateway.ingest",1,"x",{"dag":{"plumbline_key":"k"`) },
			want{"orphans", "gateway.ingest[0]@5", "cannot be read"}},
		"wrong hash": {func(w *world) {
			w.tell(extra, load.Accepted)
			bad := extra
			bad.hash = strings.Repeat("0", 64)
			w.keep(bad)
		}, want{"lost", extra.id, "its DAG hashes to"}},
		"another DAG in Redis": {func(w *world) { w.redis.HSet("strategy:id-0001", "dag", right(2).blob) },
			want{"lost", "id-0001", "not the one in its commit-log record"}},
		"another hash in Redis": {func(w *world) { w.redis.HSet("strategy:id-0001", "hash", "x") }, want{"lost", "id-0001", "hash in Redis is x"}},
		"a registration of another type": {func(w *world) {
			w.redis.Del("strategy:id-0001")
			if err := w.redis.Set("strategy:id-0001", "text"); err != nil {
				w.Fatal(err)
			}
		}, want{"lost", "id-0001", "no registration"}},
		"base64 of another DAG": {func(w *world) {
			w.tell(extra, load.Accepted)
			bad := extra
			bad.blob = right(2).blob
			w.keep(bad)
		}, want{"lost", extra.id, "dag_base64 that is not its dag"}},
		"record of another submission": {func(w *world) {
			w.tell(extra, load.Accepted)
			bad := extra
			bad.key = "key-else"
			bad = bad.seal()
			bad.id = extra.id
			w.keep(bad)
		}, want{"lost", extra.id, "not of \"key-0007\""}},
		"wrong record key": {func(w *world) {
			w.tell(extra, load.Accepted)
			bad := extra
			bad.kafkaKey = "ingest:else"
			w.keep(bad)
		}, want{"lost", extra.id, "has the key"}},
		"a node without topic": {func(w *world) {
			s := right(7)
			s.nodes = append(s.nodes, node(8))
			s = s.seal()
			w.tell(s, load.Accepted)
			w.keep(s)
		}, want{"lost", nodeID(8), "no topic"}},
		"a node with two topics": {func(w *world) { w.topic("btc_Indicator_Node_0000000100_v1") }, want{"duplicates", nodeID(0), "2 topics"}},
		"two topics in a namespace": {func(w *world) {
			w.topic("w.live.btc_Indicator_Node_00000001_v1", "w.live.btc_Indicator_Node_0000000100_v1.2")
		},
			want{"duplicates", nodeID(0), "in namespace w.live"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fill(w)
			c.plant(w)
			got, err := w.audit()
			if err != nil {
				t.Fatal(err)
			}
			lists := map[string][]record.Finding{"lost": got.Lost, "duplicates": got.Duplicates, "orphans": got.Orphans}
			if !slices.ContainsFunc(lists[c.want.list], func(f record.Finding) bool {
				return f.ID == c.want.id && strings.Contains(f.What, c.want.what)
			}) {
				t.Errorf("audit = lost %v, duplicates %v, orphans %v; want %s to name %s: …%s…", got.Lost, got.Duplicates, got.Orphans, c.want.list, c.want.id, c.want.what)
			}
		})
	}
}

// However much is missing of a submission, it is one lost submission.
func TestOneSubmissionIsOneFinding(t *testing.T) {
	w := newWorld(t)
	fill(w)
	w.tell(right(7), load.Accepted)
	w.tell(right(8), load.Accepted)
	w.outcomes[len(w.outcomes)-1].Window = false
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Lost) != 2 || got.Lost[0].WarmUp || !got.Lost[1].WarmUp {
		t.Errorf("lost = %+v; want id-0007, and id-0008 of the warm-up", got.Lost)
	}
}

// What may have happened behind a lost or odd answer is no finding.
func TestLostAnswersExcuseWhatTheyMayHaveDone(t *testing.T) {
	w := newWorld(t)
	fill(w)
	w.tell(right(7), load.Lost)
	w.keep(right(7)) // arrived, the answer did not
	w.tell(right(8), load.Unexpected)
	w.log(right(8)) // failed half-way
	w.tell(right(9), load.Lost)
	if err := w.redis.Set("dag_hash:"+right(9).hash, right(9).id); err != nil { // only half-way
		t.Fatal(err)
	}
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Lost)+len(got.Duplicates)+len(got.Orphans) != 0 {
		t.Errorf("findings where none can be proved: %+v", got)
	}
}

func TestNodesWithOneBeginning(t *testing.T) {
	w := newWorld(t)
	fill(w)
	twin := pyjson.OfObject(
		pyjson.Member{Key: "node_id", Value: pyjson.OfString("blake3:00000001ff" + strings.Repeat("0", 54))},
		pyjson.Member{Key: "node_type", Value: pyjson.OfString("Indicator_Node")},
	)
	s := stored{id: "id-x", key: "key-x", state: "queued", nodes: []pyjson.Value{twin}}.seal()
	w.tell(s, load.Accepted)
	w.keep(s)
	w.topic("btc_Indicator_Node_00000001ff_v1")
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Lost)+len(got.Duplicates) != 0 {
		t.Errorf("two nodes with two topics have findings: %+v", got)
	}
}

func TestTakenFromTheQueue(t *testing.T) {
	w := newWorld(t)
	fill(w)
	w.redis.HSet("strategy:id-0000", "state", "processing")
	if _, err := w.redis.Lpop("strategy_queue"); err != nil {
		t.Fatal(err)
	}
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Lost) != 0 {
		t.Errorf("a strategy in work counts as lost: %v", got.Lost)
	}
}

func TestWhatDangledBeforeIsNotTheLoads(t *testing.T) {
	w := newWorld(t)
	if err := w.redis.Set("dag_hash:feed", "ghost"); err != nil {
		t.Fatal(err)
	}
	w.topic("btc_Indicator_Node_0000000100_v1") // a longer name of node 0
	before, err := audit.Look(context.Background(), w.where)
	if err != nil {
		t.Fatal(err)
	}
	fill(w)
	got, err := w.auditAfter(before)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Orphans)+len(got.Duplicates) != 0 {
		t.Errorf("orphans %v, duplicates %v; want none", got.Orphans, got.Duplicates)
	}
}

// Nothing acknowledged is not clean, it is no audit.
func TestEmptyWorldIsNoAudit(t *testing.T) {
	for name, outcomes := range map[string][]load.Outcome{
		"no outcomes":     nil,
		"all dropped":     {{Key: "a", Fate: load.Dropped}},
		"only refusals":   {{Key: "a", Fate: load.Rejected, Status: 409}},
		"only odd errors": {{Key: "a", Fate: load.Unexpected, Status: 500}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.outcomes = outcomes
			if got, err := w.audit(); !errors.Is(err, audit.ErrNothing) {
				t.Errorf("Run = %+v, %v; want ErrNothing", got, err)
			}
		})
	}
}

func TestBrokenOutcomes(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ lines, want string }{
		"no JSON":           {"{\"i\":0,\"key\":\"a\",\"fate\":\"dropped\"}\n{", "line 2"},
		"no key":            {`{"i":1,"fate":"accepted","id":"x"}`, "no key"},
		"no id":             {`{"i":1,"key":"a","fate":"accepted"}`, "without a strategy id"},
		"no fate":           {`{"i":1,"key":"a"}`, "fate"},
		"a line too long":   {strings.Repeat("x", 2<<20), "too long"},
		"a fate of no name": {`{"i":1,"key":"a","fate":"fine"}`, `"fine"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := audit.Run(context.Background(), w.where, audit.Snapshot{}, strings.NewReader(c.lines))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run = %v; want an error naming %q", err, c.want)
			}
		})
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	w := newWorld(t)
	fill(w)
	w.redis.Close()
	if _, err := w.audit(); err == nil || !strings.Contains(err.Error(), "redis") {
		t.Errorf("Run without Redis = %v; want an error that names it", err)
	}
}

func TestNoCommitLogLosesEverything(t *testing.T) {
	w := newWorld(t)
	fill(w)
	w.where.CommitLog = "nowhere"
	got, err := w.audit()
	if err != nil {
		t.Fatal(err)
	}
	if got.Records != 0 || len(got.Lost) < 5 {
		t.Errorf("audit = %+v; want every submission lost", got)
	}
}
