package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"

	"qmtl.internal/plumbline/ref/gateway/submit"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// answer makes the manager answer diffs anew.
func (m *manager) answer(chunks func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks = chunks
}

// owed gives the strategies whose diff is written down as owed.
func (s *stand) owed() []string {
	s.t.Helper()
	if !s.redis.Exists(submit.OwedKey) {
		return nil
	}
	ids, err := s.redis.ZMembers(submit.OwedKey)
	if err != nil {
		s.t.Fatal(err)
	}
	return ids
}

// wantLasting: no key expires.
func (s *stand) wantLasting() {
	s.t.Helper()
	for _, k := range s.redis.Keys() {
		if strings.HasPrefix(k, "lock:") {
			continue // of the worker that holds it
		}
		if ttl := s.redis.TTL(k); ttl != 0 {
			s.t.Errorf("key %s expires in %s", k, ttl)
		}
	}
}

// diffsOf gives the diffs that were asked for a strategy.
func (s *stand) diffsOf(id string) (found []*pb.DiffRequest) {
	for _, d := range s.dmDiffs() {
		if d.GetStrategyId() == id {
			found = append(found, d)
		}
	}
	return found
}

func TestGoodDiffOwesNothing(t *testing.T) {
	s := newStand(t)
	s.accepted(body(oneNode("a"), "w"))
	if s.redis.Exists(submit.OwedKey) {
		t.Errorf("owed: %v", s.owed())
	}
}

func TestOwedDiffsArePaidOnceTheDagManagerIsBack(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm), withArgs("--breaker-open", "100ms"))
	dm.stop()
	var ids []string
	for i := range 8 { // late, no reply, breaker open
		ids = append(ids, s.accepted(bodyWith(oneNode(fmt.Sprint(i)), paperMeta, "alpha", "beta")).StrategyID)
	}
	if got := s.owed(); len(got) != len(ids) {
		t.Errorf("%d owed, want %d", len(got), len(ids))
	}
	s.wantLasting()
	dm.serve(t)
	s.eventually("nothing is owed", func() bool { return len(s.owed()) == 0 })
	s.eventually("the gauge says so", func() bool { return s.metric("gateway_owed_diffs") == "0" })
	for i, id := range ids {
		s.wantDiffOf(id, oneNode(fmt.Sprint(i)))
		s.wantState(id, "completed")
	}
	if got := s.metric("gateway_owed_diffs_paid_total"); got != "8" {
		t.Errorf("paid %s", got)
	}
}

// wantDiffOf: the last diff of id asked for dag as it was submitted, in the
// context of paperMeta.
func (s *stand) wantDiffOf(id, dag string) {
	s.t.Helper()
	asked := s.diffsOf(id)
	if len(asked) == 0 {
		s.t.Errorf("no diff of %s", id)
		return
	}
	d := asked[len(asked)-1]
	got, err := pyjson.ParseString(d.GetDagJson())
	want, _ := pyjson.ParseString(dag)
	if a, b := pyjson.Append(nil, got, 0), pyjson.Append(nil, want, 0); err != nil || string(a) != string(b) {
		s.t.Errorf("dag %s\nwant %s (%v)", a, b, err)
	}
	if d.GetWorldId() != "alpha" || d.GetExecutionDomain() != "backtest" || d.GetAsOf() != "2025-01-01T00:00:00Z" {
		s.t.Errorf("context of %v", d)
	}
}

func TestLateDiffIsLeftToEndAndNotRepeated(t *testing.T) {
	let := make(chan struct{})
	s := newStand(t, withManager(&manager{chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		<-let
		return goodChunk(ctx, r)
	}}), withArgs("--diff-limit", "20ms"))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	if got := s.owed(); !slices.Equal(got, []string{id}) {
		t.Errorf("owed %v while the diff is under way", got)
	}
	if got := s.metric(`gateway_diffs_total{outcome="late"}`); got != "1" {
		t.Errorf("late %s times", got)
	}
	close(let)
	s.eventually("the diff settles its debt", func() bool { return len(s.owed()) == 0 })
	if n := len(s.diffsOf(id)); n != 1 {
		t.Errorf("%d diffs", n)
	}
}

func TestOwedDiffsOutliveTheGateway(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm))
	dm.stop()
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, "alpha")).StrategyID
	heir := &manager{}
	run(t, "--redis", s.redis.Addr(), "--dagmanager", heir.serve(t))
	s.dm = heir
	s.eventually("another gateway pays", func() bool { return len(s.owed()) == 0 })
	s.wantDiffOf(id, oneNode("a"))
}

func TestGatewaysShareDebtsWithoutDoublingThem(t *testing.T) {
	dm := &manager{chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		time.Sleep(10 * time.Millisecond) // long enough for the other to try the same
		return goodChunk(ctx, r)
	}}
	s := newStand(t, withManager(dm))
	s.accepted(body(oneNode("0"), "w"))
	first := s.diffsOf(s.dmDiffs()[0].GetStrategyId())[0].GetStrategyId()
	dag := s.redis.HGet("strategy:"+first, "dag")
	for i := range 40 {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		s.redis.HSet("strategy:"+id, "dag", dag, "state", "queued")
		if _, err := s.redis.ZAdd(submit.OwedKey, 0, id); err != nil {
			t.Fatal(err)
		}
		if _, err := s.redis.RPush("strategy_queue", id); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "--redis", s.redis.Addr(), "--dagmanager", dm.addr)
	s.eventually("all are paid", func() bool { return len(s.owed()) == 0 })
	if n := len(s.dmDiffs()); n != 41 {
		t.Errorf("%d diffs for 41 strategies", n)
	}
}

// A refusal is no success: whoever asks later hears that the strategy failed.
func TestStrategyWhoseDiffIsRefusedAtOnceHasFailed(t *testing.T) {
	s := newStand(t, withManager(&manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.FailedPrecondition)}))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	s.wantState(id, "failed")
	if why := s.redis.HGet("strategy:"+id, "failure"); !strings.Contains(why, "FailedPrecondition") {
		t.Errorf("failure %q", why)
	}
	if got := s.owed(); got != nil {
		t.Errorf("owed %v", got)
	}
	if got := s.metric(`gateway_diffs_total{outcome="refused"}`); got != "1" {
		t.Errorf("refused %s times", got)
	}
}

func TestStrategyWhoseOwedDiffIsRefusedHasFailed(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm))
	dm.stop()
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	dm.answer(refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.InvalidArgument))
	dm.serve(t)
	s.eventually("nothing is owed", func() bool { return len(s.owed()) == 0 })
	s.wantState(id, "failed")
	if got := s.metric("gateway_owed_diffs_dropped_total"); got != "1" {
		t.Errorf("dropped %s", got)
	}
}

func TestOwedDiffThatFailsIsTriedAgain(t *testing.T) {
	dm := &manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Unavailable)}
	s := newStand(t, withManager(dm))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	dm.answer(nil)
	s.eventually("it is paid", func() bool { return len(s.owed()) == 0 })
	s.wantPaid(id)
}

func (s *stand) wantPaid(id string) {
	s.t.Helper()
	if n := len(s.diffsOf(id)); n < 2 {
		s.t.Errorf("%d diffs of %s, want the failed ones and a good one", n, id)
	}
}

func TestRolledBackSubmissionOwesNothing(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm))
	dm.chunks = func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		s.redis.FlushAll() // the registration is gone when it is to be confirmed
		return nil, refuseUnavailable()
	}
	s.refused("/strategies", body(oneNode("a"), "w"), 503, "E_REGISTRY")
	s.wantNothingStored()
}

func refuseUnavailable() error {
	_, err := refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Unavailable)(context.Background(), nil)
	return err
}

// wantState waits until the gateway says that a strategy is in a state.
func (s *stand) wantState(id, state string) {
	s.t.Helper()
	want := `{"status":"` + state + `"}`
	s.eventually(id+" is "+state, func() bool { return s.get("/strategies/"+id+"/status").body == want })
}

func TestAcceptedStrategiesAreWorkedOff(t *testing.T) {
	s := newStand(t)
	for i := range 3 {
		s.wantState(s.accepted(body(oneNode(fmt.Sprint(i)), "w")).StrategyID, "completed")
	}
	s.eventually("the queue is empty", func() bool { return !s.redis.Exists("strategy_queue") })
	if n := len(s.dmDiffs()); n != 3 {
		t.Errorf("%d diffs of 3 strategies: a good diff is not repeated", n)
	}
	s.wantLasting()
}

func TestWithoutWorkersStrategiesStayQueued(t *testing.T) {
	s := newStand(t, withArgs("--workers", "0"))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	s.wantState(id, "queued")
	if q, _ := s.redis.List("strategy_queue"); !slices.Equal(q, []string{id}) {
		t.Errorf("queue %v", q)
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	dm := &manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Internal)}
	s := newStand(t, withManager(dm), withArgs("--worker-attempts", "3", "--worker-backoff", "10ms", "--breaker-open", "50ms"))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	before := len(s.diffsOf(id))
	s.eventually("nothing is owed", func() bool { return len(s.owed()) == 0 })
	s.wantState(id, "failed")
	if n := len(s.diffsOf(id)) - before; n > 3 {
		t.Errorf("%d attempts", n)
	}
	if got := s.redis.HGet("strategy:"+id, "failure"); !strings.Contains(got, "as told") {
		t.Errorf("reason %q", got)
	}
}

func TestWhatADeadGatewayHeldIsHealedByAnother(t *testing.T) {
	s := newStand(t, withManager(&manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Unavailable)}), withArgs("--workers", "0"))
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, "alpha")).StrategyID
	// what a gateway leaves behind that is killed while it works
	rdb := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer rdb.Close()
	left, err := submit.NewRegistry(rdb, submit.DefaultPlan()).Take(t.Context(), "dead:1", 10, time.Now().Add(-time.Hour))
	if err != nil || len(left) != 1 || left[0].ID != id {
		t.Fatalf("took %v (%v)", left, err)
	}
	heir := &manager{}
	run(t, "--redis", s.redis.Addr(), "--dagmanager", heir.serve(t))
	s.dm = heir
	s.redis.FastForward(submit.DefaultPlan().Lease)
	s.wantState(id, "completed")
	s.wantDiffOf(id, oneNode("a"))
}

func TestClientsHearHowAStrategyGetsOn(t *testing.T) {
	s := newStand(t, withManager(&manager{chunks: func(_ context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		return []*pb.DiffChunk{{SentinelId: "x", Crc32: crcOf(r), QueueMap: map[string]string{"n:60:0": "topic_v1"}}}, nil
	}}))
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	for _, want := range [][]string{
		{`"type": "progress"`, `"status": "processing"`}, {`"type": "queue_map"`, `"queue_map": {"n:60:0": "topic_v1"}`}, {`"type": "progress"`, `"status": "completed"`},
	} {
		_, frame, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range append(want, id) {
			if !strings.Contains(string(frame), part) {
				t.Errorf("frame %s lacks %s", frame, part)
			}
		}
	}
}
