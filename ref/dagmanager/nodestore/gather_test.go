package nodestore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
)

// together is a store whose writes are gathered.
type together struct {
	nodestoretest.Store
	gathered *nodestore.Gathered
}

func gathered(s nodestoretest.Store) together { return together{s, nodestore.Gather(s)} }

func (g together) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	return g.gathered.Claim(ctx, claims)
}

func (g together) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	return g.gathered.Confirm(ctx, queues)
}

func TestGatheredMemory(t *testing.T) {
	nodestoretest.Run(t, nodestoretest.Traits{MarksByKey: true, NoTagsIsAll: true, Ordered: true},
		func(testing.TB) (nodestoretest.Store, nodestoretest.Store) {
			g := gathered(nodestore.NewMemory())
			return g, g
		})
}

func TestGatheredNeo4j(t *testing.T) {
	nodestoretest.Run(t, nodestoretest.Traits{}, func(t testing.TB) (nodestoretest.Store, nodestoretest.Store) {
		g := emptyGraph(t)
		return gathered(written{g.open(), g}), gathered(written{g.open(), g})
	})
}

// slow is a store whose every write takes a second.
type slow struct {
	*nodestore.Memory
	mu       sync.Mutex
	claims   []int // sizes
	confirms []int
	fail     func(claims []diff.Claim) error
}

func (s *slow) note(sizes *[]int, n int) {
	s.mu.Lock()
	*sizes = append(*sizes, n)
	s.mu.Unlock()
	time.Sleep(time.Second)
}

func (s *slow) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	s.note(&s.claims, len(claims))
	if s.fail != nil {
		if err := s.fail(claims); err != nil {
			return nil, err
		}
	}
	return s.Memory.Claim(ctx, claims)
}

func (s *slow) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	s.note(&s.confirms, len(queues))
	return s.Memory.Confirm(ctx, queues)
}

// registerAll claims and confirms as many diffs at once do, and returns how many
// queues were fresh.
func registerAll(t *testing.T, nodes diff.Nodes, diffs int, claimsOf func(int) []diff.Claim) (fresh int, failed []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range diffs {
		wg.Go(func() {
			got, err := nodes.Claim(t.Context(), claimsOf(i))
			var done []bool
			if err == nil {
				done, err = nodes.Confirm(t.Context(), got)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
			}
			for _, f := range done {
				if f {
					fresh++
				}
			}
		})
	}
	wg.Wait()
	return fresh, failed
}

func TestConcurrentDiffsShareTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory()}
		fresh, failed := registerAll(t, nodestore.Gather(s), 64, func(i int) []diff.Claim {
			return []diff.Claim{want("shared", "shared"), want(fmt.Sprint("own", i), fmt.Sprint("own", i))}
		})
		if fresh != 65 || failed != nil {
			t.Errorf("%d fresh queues, %v; want 65: each once", fresh, failed)
		}
		if len(s.claims) > 2 || len(s.confirms) > 3 {
			t.Errorf("transactions of %v claims and %v confirmations; want the first and one for all others", s.claims, s.confirms)
		}
	})
}

func TestLargeDiffIsSeveralTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory()}
		fresh, failed := registerAll(t, nodestore.Gather(s), 1, func(int) (claims []diff.Claim) {
			for i := range 1000 {
				claims = append(claims, want(fmt.Sprint("n", i), fmt.Sprint("t", i)))
			}
			return claims
		})
		if fresh != 1000 || failed != nil || len(s.claims) != 4 || len(s.confirms) != 4 {
			t.Errorf("%d fresh, %v, transactions of %v claims and %v confirmations", fresh, failed, s.claims, s.confirms)
		}
	})
}

var errBad = errors.New("bad")

// What goes wrong with one claim is told to its diff only.
func TestErrorsOfOneDiffAreItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory()}
		fresh, failed := registerAll(t, nodestore.Gather(s), 20, func(i int) []diff.Claim {
			c := want(fmt.Sprint("n", i), fmt.Sprint("t", i))
			if i%10 == 5 {
				c.Choose = func(func(string) bool) (string, error) { return "", errBad }
			}
			return []diff.Claim{want(fmt.Sprint("before", i), fmt.Sprint("b", i)), c}
		})
		if fresh != 36 || len(failed) != 2 || !errors.Is(failed[0], errBad) || !errors.Is(failed[1], errBad) {
			t.Errorf("%d fresh, errors %v", fresh, failed)
		}
		left, err := s.Lookup(t.Context(), []string{"before5", "n5", "before15"})
		if err != nil || left[0] != nil || left[1] != nil || left[2] != nil {
			t.Errorf("what failed left %v, %v", left, err)
		}
	})
}

// An outage is told to all at once: nobody waits for attempts of others.
func TestOutageIsToldToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory(), fail: func([]diff.Claim) error { return nodestore.ErrUnavailable }}
		start := time.Now()
		_, failed := registerAll(t, nodestore.Gather(s), 20, func(i int) []diff.Claim { return []diff.Claim{want(fmt.Sprint(i), fmt.Sprint(i))} })
		if len(failed) != 20 || time.Since(start) > 2*time.Second {
			t.Errorf("%d errors after %s", len(failed), time.Since(start))
		}
	})
}

// A large diff that fails in the middle leaves nothing claimed.
func TestFailureOfALaterTransactionTakesTheEarlierBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory()}
		s.fail = func([]diff.Claim) error {
			if len(s.claims) == 3 {
				return errBad
			}
			return nil
		}
		var claims []diff.Claim
		var ids []string
		for i := range 1000 {
			ids = append(ids, fmt.Sprint("n", i))
			claims = append(claims, want(ids[i], fmt.Sprint("t", i)))
		}
		if _, err := nodestore.Gather(s).Claim(t.Context(), claims); !errors.Is(err, errBad) {
			t.Errorf("error %v", err)
		}
		left, err := s.Lookup(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range left {
			if n != nil {
				t.Fatalf("node %d is left", i)
			}
		}
	})
}

// Whose queue is gone is told so, and nobody else.
func TestGoneQueueIsToldToItsDiff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Memory: nodestore.NewMemory()}
		g := nodestore.Gather(s)
		var all []diff.Claimed
		for i := range 10 {
			got, err := s.Memory.Claim(t.Context(), []diff.Claim{want(fmt.Sprint(i), fmt.Sprint(i))})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, got...)
		}
		if err := s.Release(t.Context(), all[7:8]); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i, q := range all {
			wg.Go(func() {
				fresh, err := g.Confirm(t.Context(), []diff.Claimed{q})
				if gone := i == 7; errors.Is(err, diff.ErrGone) != gone || len(fresh) != 1 || fresh[0] == gone {
					t.Errorf("queue %d: fresh %v, %v", i, fresh, err)
				}
			})
		}
		wg.Wait()
	})
}
