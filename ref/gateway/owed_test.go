package gateway

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

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
	if q, _ := s.redis.List("strategy_queue"); !slices.Equal(q, ids) {
		t.Errorf("queue %v, want %v", q, ids)
	}
	s.wantLasting()
	dm.serve(t)
	s.eventually("nothing is owed", func() bool { return len(s.owed()) == 0 })
	s.eventually("the gauge says so", func() bool { return s.metric("gateway_owed_diffs") == "0" })
	for i, id := range ids {
		s.wantDiffOf(id, oneNode(fmt.Sprint(i)))
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
	before := time.Now().Add(-time.Minute)
	if _, err := s.redis.ZAdd(submit.OwedKey, float64(before.UnixMilli()), id); err != nil { // as if time had passed
		t.Fatal(err)
	}
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
		s.redis.HSet("strategy:"+id, "dag", dag)
		if _, err := s.redis.ZAdd(submit.OwedKey, 0, id); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "--redis", s.redis.Addr(), "--dagmanager", dm.addr)
	s.eventually("all are paid", func() bool { return len(s.owed()) == 0 })
	if n := len(s.dmDiffs()); n != 41 {
		t.Errorf("%d diffs for 41 strategies", n)
	}
}

func TestRefusedDiffIsNotOwed(t *testing.T) {
	s := newStand(t, withManager(&manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.FailedPrecondition)}))
	s.accepted(body(oneNode("a"), "w"))
	if got := s.owed(); got != nil {
		t.Errorf("owed %v", got)
	}
	if got := s.metric(`gateway_diffs_total{outcome="refused"}`); got != "1" {
		t.Errorf("refused %s times", got)
	}
}

func TestOwedDiffThatIsRefusedOrLostIsDropped(t *testing.T) {
	dm := &manager{}
	s := newStand(t, withManager(dm))
	dm.stop()
	s.accepted(body(oneNode("a"), "w"))
	if _, err := s.redis.ZAdd(submit.OwedKey, 0, "of-nobody"); err != nil {
		t.Fatal(err)
	}
	dm.answer(refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.InvalidArgument))
	dm.serve(t)
	s.eventually("nothing is owed", func() bool { return len(s.owed()) == 0 })
	if got := s.metric("gateway_owed_diffs_dropped_total"); got != "2" {
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
