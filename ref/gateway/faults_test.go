package gateway

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"

	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func TestRedisDown(t *testing.T) {
	s := newStand(t)
	s.redis.Close()
	s.refused("/strategies", body(oneNode("a"), "w"), http.StatusServiceUnavailable, "E_REGISTRY")
	if got := s.metric("lost_requests_total"); got != "1" {
		t.Errorf("lost_requests_total = %s, want 1", got)
	}
	if a := s.post("/strategies/dry-run", body(oneNode("a"), "w")); a.status != 200 {
		t.Errorf("dry run %d %s", a.status, a.body)
	}
	if a := s.get("/health"); a.status != 200 || !strings.Contains(a.body, `"redis":"error"`) {
		t.Errorf("health %d %s", a.status, a.body)
	}
	if a := s.get("/strategies/x/status"); a.status != http.StatusServiceUnavailable {
		t.Errorf("status %d %s", a.status, a.body)
	}
	if err := s.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	s.accepted(body(oneNode("a"), "w"))
}

// failMulti makes Redis refuse the n-th transaction, though it hears the commands
// inside.
func (s *stand) failMulti(n int32) {
	var seen atomic.Int32
	s.redis.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
		if cmd != "MULTI" || seen.Add(1) != n {
			return false
		}
		c.WriteError("LOADING as told")
		return true
	})
}

func TestAClaimIsTriedAgainAndAConfirmationIsNot(t *testing.T) {
	s := newStand(t, withArgs("--workers", "0", "--degrade-every", "1h"))
	s.failMulti(1)
	s.accepted(body(oneNode("a"), "w"))
	if got := s.metric(`gateway_stage_retries_total{stage="register"}`); got != "1" {
		t.Errorf("%s retries", got)
	}
	s.failMulti(2)
	s.refused("/strategies", body(oneNode("b"), "w"), http.StatusServiceUnavailable, "E_REGISTRY")
	if got := s.metric(`gateway_stage_retries_total{stage="confirm"}`); got != "0" {
		t.Errorf("%s retries of what must not be done twice", got)
	}
	if queue, _ := s.redis.List("strategy_queue"); len(queue) != 1 {
		t.Errorf("queue %v", queue)
	}
}

// produceFaults are the ways in which a broker fails to store a record; each
// gives what ends it.
func produceFaults() map[string]func(*kfake.Cluster) (heal func()) {
	return map[string]func(*kfake.Cluster) func(){
		"drops the connection": func(c *kfake.Cluster) func() {
			var broken atomic.Bool
			broken.Store(true)
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				return nil, context.DeadlineExceeded, broken.Load()
			})
			return func() { broken.Store(false) }
		},
		"hangs": func(c *kfake.Cluster) func() {
			healed := make(chan struct{})
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.SleepControl(func() { <-healed })
				return nil, nil, false
			})
			return func() { close(healed) }
		},
	}
}

func TestCommitLogDownRollsBack(t *testing.T) {
	for name, fault := range produceFaults() {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, withKafka, withArgs("--commitlog-timeout", "1s"))
			heal := fault(s.kafka)
			s.refused("/strategies", body(oneNode("a"), "w"), http.StatusServiceUnavailable, "E_COMMITLOG")
			s.wantNothingStored()
			if got := s.metric("lost_requests_total"); got != "1" {
				t.Errorf("lost_requests_total = %s, want 1", got)
			}
			heal()
			s.eventually("the same DAG is accepted", func() bool {
				return s.post("/strategies", body(oneNode("a"), "w")).status == http.StatusAccepted
			})
		})
	}
}

// What was refused because Kafka was away must not be written when it is back:
// the client was told that nothing happened, and sends it again.
func TestARefusedSubmissionIsNotWrittenAfterTheOutage(t *testing.T) {
	s := newStand(t, withKafka, withArgs("--commitlog-timeout", "1s"))
	s.accepted(body(oneNode("before"), "w"))
	heal := produceFaults()["drops the connection"](s.kafka)
	s.refused("/strategies", body(oneNode("refused"), "w"), http.StatusServiceUnavailable, "E_COMMITLOG")
	s.refused("/strategies", body(oneNode("also refused"), "w"), http.StatusServiceUnavailable, "E_COMMITLOG")
	heal()
	s.eventually("another DAG is accepted", func() bool {
		return s.post("/strategies", body(oneNode("after"), "w")).status == http.StatusAccepted
	})
	if got := len(s.records()); got != 2 {
		t.Errorf("%d records in the commit log; want the 2 of the accepted", got)
	}
}

func TestRedisLostAfterRegistrationLeavesNothingThatStays(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm))
	dm.chunks = func(ctx context.Context, req *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		s.redis.SetError("LOADING as told") // between registration and confirmation
		return goodChunk(ctx, req)
	}
	s.refused("/strategies", body(oneNode("a"), "w"), http.StatusServiceUnavailable, "E_REGISTRY")
	dm.mu.Lock()
	dm.chunks = nil
	dm.mu.Unlock()
	s.redis.SetError("")
	for _, k := range s.redis.Keys() {
		if s.redis.TTL(k) == 0 {
			t.Errorf("key %s stays for ever", k)
		}
	}
	s.redis.FastForward(time.Minute)
	s.wantNothingStored()
	s.accepted(body(oneNode("a"), "w"))
}

// claim writes a registration that another gateway has not confirmed yet.
func (s *stand) claim(dag, id string) (hash string) {
	s.t.Helper()
	probe := s.accepted(body(dag, "w")).StrategyID
	hash = s.redis.HGet("strategy:"+probe, "hash")
	s.redis.FlushAll()
	if err := s.redis.Set("dag_hash:"+hash, id); err != nil {
		s.t.Fatal(err)
	}
	s.redis.SetTTL("dag_hash:"+hash, time.Minute)
	s.redis.HSet("strategy:"+id, "hash", hash)
	return hash
}

func TestDuplicateOfAPendingRegistrationWaitsForItsOutcome(t *testing.T) {
	const other = "11111111-2222-4333-8444-555555555555"
	for name, c := range map[string]struct {
		outcome func(s *stand, hash string)
		want    int
	}{
		"confirmed":  {func(s *stand, _ string) { s.redis.HSet("strategy:"+other, "state", "queued") }, 409},
		"taken back": {func(s *stand, hash string) { s.redis.Del("dag_hash:" + hash) }, 202},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t)
			hash := s.claim(oneNode("a"), other)
			got := make(chan answer, 1)
			go func() { got <- s.post("/strategies", body(oneNode("a"), "w")) }()
			time.Sleep(20 * time.Millisecond) // it waits; a wrong early answer shows below
			c.outcome(s, hash)
			if a := <-got; a.status != c.want || c.want == 409 && !strings.Contains(a.body, other) {
				t.Errorf("answer %d %s, want %d", a.status, a.body, c.want)
			}
		})
	}
}

// chunksOf answers a diff with chunks made by make_.
func chunksOf(make_ func(req *pb.DiffRequest) []*pb.DiffChunk) func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error) {
	return func(_ context.Context, req *pb.DiffRequest) ([]*pb.DiffChunk, error) { return make_(req), nil }
}

func crc(n uint32) *uint32 { return &n }

// badDiffs are diffs without a usable reply, with the sentinel that a dry run
// of one world answers then.
func badDiffs() map[string]struct {
	chunks   func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error)
	sentinel string
	outcome  string // in gateway_diffs_total
} {
	return map[string]struct {
		chunks   func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error)
		sentinel string
		outcome  string
	}{
		"hangs":       {hang[*pb.DiffRequest, []*pb.DiffChunk], "dryrun:3d03d42a", "late"},
		"other crc":   {chunksOf(func(*pb.DiffRequest) []*pb.DiffChunk { return []*pb.DiffChunk{{SentinelId: "s", Crc32: crc(7)}} }), "dryrun:3d03d42a", "crc_differs"},
		"no chunk":    {chunksOf(func(*pb.DiffRequest) []*pb.DiffChunk { return nil }), "dryrun:3d03d42a", "crc_differs"},
		"no crc":      {chunksOf(func(*pb.DiffRequest) []*pb.DiffChunk { return []*pb.DiffChunk{{SentinelId: "s"}} }), "", "no_reply"},
		"disagreeing": {chunksOf(func(r *pb.DiffRequest) []*pb.DiffChunk { return []*pb.DiffChunk{{Crc32: crcOf(r)}, {Crc32: crc(7)}} }), "", "no_reply"},
		"refused":     {refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.InvalidArgument), "", "refused"},
		"internal":    {refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Internal), "", "no_reply"},
	}
}

func TestDiffThatFailsOnlyChangesTheAnswer(t *testing.T) {
	for name, c := range badDiffs() {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, withManager(&manager{chunks: c.chunks}))
			ack := s.accepted(body(oneNode("a"), "w"))
			if ack.SentinelID != ack.StrategyID+"-sentinel" || len(ack.QueueMap) != 0 {
				t.Errorf("submit answered %+v", ack)
			}
			a := s.post("/strategies/dry-run", body(oneNode("b"), "w"))
			if dry := ackOf(t, a); a.status != 200 || dry.SentinelID != c.sentinel || len(dry.QueueMap) != 0 {
				t.Errorf("dry run answered %d %s, want sentinel %q", a.status, a.body, c.sentinel)
			}
			if got := s.metric(`gateway_diffs_total{outcome="` + c.outcome + `"}`); got != "2" {
				t.Errorf("%s counted %s times, want twice", c.outcome, got)
			}
		})
	}
}

func TestSentinelOfTheReplyIsPassedOn(t *testing.T) {
	s := newStand(t, withManager(&manager{chunks: chunksOf(func(r *pb.DiffRequest) []*pb.DiffChunk {
		return []*pb.DiffChunk{{SentinelId: "first", Crc32: crcOf(r)}, {SentinelId: "last", Crc32: crcOf(r)}}
	})}))
	if got := s.accepted(body(oneNode("a"), "w")).SentinelID; got != "last" {
		t.Errorf("sentinel %q", got)
	}
	_, acks, _ := s.dm.seen()
	if len(acks) != 2 || acks[0].GetChunkId() != 0 || acks[1].GetChunkId() != 1 {
		t.Errorf("acks %v, want each chunk by its number", acks)
	}
}

func TestDagManagerDownThenBack(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm), withArgs("--breaker-open", "100ms"))
	s.accepted(body(oneNode("warm"), "w"))
	dm.stop()
	ack := s.accepted(body(tagNode("down", `["a"]`), "w"))
	if len(ack.QueueMap) != 1 || ack.SentinelID != ack.StrategyID+"-sentinel" {
		t.Errorf("answer %+v, want the node with no queues", ack)
	}
	for range 4 { // opens the breaker
		if a := s.get("/queues/by_tag?tags=a&interval=60"); a.status != 200 || a.body != `{"queues":[]}` {
			t.Errorf("queues %d %s", a.status, a.body)
		}
	}
	if got := s.metric("dagclient_breaker_open_total"); got == "0" {
		t.Error("the breaker never opened")
	}
	if a := s.get("/health"); !strings.Contains(a.body, `"dagmanager":"error"`) {
		t.Errorf("health %s", a.body)
	}
	dm.queues = func(context.Context, *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error) {
		return []*pb.QueueDescriptor{{Queue: "q"}}, nil
	}
	dm.serve(t)
	s.eventually("tag lookups work again", func() bool {
		return s.get("/queues/by_tag?tags=a&interval=60").body == `{"queues":[{"queue":"q","global":false}]}`
	})
}

// eventually repeats ok for ten seconds at most.
func (s *stand) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Errorf("not within 10 s: %s", what)
}

func TestLookupsThatHangAreBounded(t *testing.T) {
	s := newStand(t, withArgs("--lookup-limit", "50ms"), withManager(&manager{queues: hang[*pb.TagQueryRequest, []*pb.QueueDescriptor]}))
	if ack := s.accepted(body(tagNode("a", `["a"]`), "w", "v")); len(ack.QueueMap) != 1 {
		t.Errorf("answer %+v", ack)
	}
	if a := s.get("/queues/by_tag?tags=a&interval=60"); a.status != 200 || a.body != `{"queues":[]}` {
		t.Errorf("queues %d %s", a.status, a.body)
	}
}

func TestHealthTellsASickDagManagerFromASlowOne(t *testing.T) {
	s := newStand(t, withManager(&manager{state: "error"}))
	if a := s.get("/health"); !strings.Contains(a.body, `"dagmanager":"error"`) {
		t.Errorf("health %s", a.body)
	}
}

func TestTagQueryAnswersByWorldAndNamespace(t *testing.T) {
	dm := &manager{queues: func(context.Context, *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error) {
		return []*pb.QueueDescriptor{{Queue: "btc_feed_1"}, {Queue: "shared_feed", Global: true}}, nil
	}}
	s := newStand(t, withManager(dm))
	a := s.post("/strategies", bodyWith(tagNode("a", `["price","btc"]`), paperMeta, " alpha ", "beta", "alpha"))
	want := `[{"queue":"alpha.backtest.btc_feed_1","global":false},{"queue":"alpha.backtest.shared_feed","global":true},` +
		`{"queue":"beta.backtest.btc_feed_1","global":false},{"queue":"beta.backtest.shared_feed","global":true}]`
	if !strings.Contains(a.body, want) {
		t.Errorf("answer %s\nlacks %s", a.body, want)
	}
	_, _, asked := dm.seen()
	if len(asked) != 2 || strings.Join(asked[0].GetTags(), " ") != "btc price" || asked[0].GetMatchMode() != contract.MatchAny {
		t.Errorf("asked %v", asked)
	}
	if n := len(s.dmDiffs()); n != 1 {
		t.Errorf("%d diffs, want one for the first world", n)
	}
}

func (s *stand) dmDiffs() []*pb.DiffRequest {
	diffs, _, _ := s.dm.seen()
	return diffs
}

func TestDryRunUnitesTheDiffsOfAllWorldsAndStoresNothing(t *testing.T) {
	dm := &manager{chunks: chunksOf(func(r *pb.DiffRequest) []*pb.DiffChunk {
		return []*pb.DiffChunk{
			{SentinelId: "dryrun-sentinel", Crc32: crcOf(r), QueueMap: map[string]string{"blake3:aa:60:0#ck=blake3:cc": "t1"}},
			{SentinelId: "dryrun-sentinel", Crc32: crcOf(r), QueueMap: map[string]string{"blake3:bb:60:0#ck=blake3:dd": "t2"}},
		}
	})}
	s := newStand(t, withKafka, withManager(dm))
	for range 2 { // a dry run is never a duplicate
		a := s.post("/strategies/dry-run", bodyWith(oneNode("a"), paperMeta, "alpha", "beta"))
		want := `{"strategy_id":"dryrun","queue_map":{` +
			`"blake3:aa":[{"queue":"alpha.backtest.t1","global":false},{"queue":"beta.backtest.t1","global":false}],` +
			`"blake3:bb":[{"queue":"alpha.backtest.t2","global":false},{"queue":"beta.backtest.t2","global":false}]},` +
			`"sentinel_id":"dryrun-sentinel","node_ids_crc32":1023661098,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`
		if a.status != 200 || a.body != want {
			t.Errorf("answer %d %s\nwant 200 %s", a.status, a.body, want)
		}
	}
	s.wantNothingStored()
	if n := len(s.records()); n != 0 {
		t.Errorf("%d records", n)
	}
}

func TestDryRunOfSeveralWorldsLeavesOutTheSilentOnes(t *testing.T) {
	dm := &manager{chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		if r.GetWorldId() == "alpha" {
			return refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.FailedPrecondition)(ctx, r)
		}
		return []*pb.DiffChunk{{SentinelId: "s", Crc32: crcOf(r), QueueMap: map[string]string{"n:60:0": "t"}}}, nil
	}}
	s := newStand(t, withManager(dm))
	ack := ackOf(t, s.post("/strategies/dry-run", body(oneNode("a"), "alpha", "beta")))
	if len(ack.QueueMap) != 1 || len(ack.QueueMap["n"]) != 1 || ack.QueueMap["n"][0].Queue != "beta.backtest.t" {
		t.Errorf("answer %+v", ack)
	}
}
