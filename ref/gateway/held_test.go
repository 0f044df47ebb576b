package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"qmtl.internal/plumbline/ref/gateway/submit"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// goodDiffs counts the diffs that ended well, by strategy.
type goodDiffs struct {
	mu sync.Mutex
	of map[string]int // guarded by mu
}

func (g *goodDiffs) answer(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
	g.mu.Lock()
	g.of[r.GetStrategyId()]++
	g.mu.Unlock()
	return goodChunk(ctx, r)
}

func (g *goodDiffs) wantOnce(t *testing.T, ids []string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		if g.of[id] != 1 {
			t.Errorf("%s was worked %d times", id, g.of[id])
		}
	}
	if len(g.of) != len(ids) {
		t.Errorf("%d strategies were worked, %d were submitted", len(g.of), len(ids))
	}
}

// beside starts another gateway on the same servers.
func (s *stand) beside(args ...string) *stand {
	ready := run(s.t, append([]string{"--redis", s.redis.Addr(), "--dagmanager", s.dm.addr}, args...)...)
	other := *s
	other.url = "http://" + ready.Addresses["http"]
	return &other
}

// Several gateways hold submissions in one list, notice at the same time that
// the DAG Manager is well again, and all let go of what is held: each submission
// joins the queue once and is worked once, whoever took it in.
func TestWhatSeveralGatewaysHoldIsWorkedExactlyOnce(t *testing.T) {
	often := []string{"--degrade-every", "20ms", "--workers", "4"}
	s := newStand(t, withArgs(often...))
	all := []*stand{s, s.beside(often...), s.beside(often...)}
	s.dm.answer(refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.Unavailable))
	s.dm.ill("unknown")
	for _, one := range all {
		one.becomes("PARTIAL")
	}
	var ids []string
	for i := range 45 {
		ids = append(ids, all[i%len(all)].accepted(body(oneNode(fmt.Sprint(i)), "w")).StrategyID)
	}
	held, err := s.redis.List(submit.HeldKey)
	if err != nil || !slices.Equal(held, ids) {
		t.Fatalf("held %v, %v\nwant all, in order", held, err)
	}
	well := &goodDiffs{of: map[string]int{}}
	s.dm.answer(well.answer)
	s.dm.ill("ok")
	for _, id := range ids {
		s.wantState(id, "completed")
	}
	well.wantOnce(t, ids)
	for _, key := range []string{submit.HeldKey, submit.QueueKey, submit.OwedKey} {
		if s.redis.Exists(key) {
			t.Errorf("%s is not empty", key)
		}
	}
}
