package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log keeps the calls of a group whose every call takes a second.
type log struct {
	running atomic.Int32
	calls   [][]int
}

func (l *log) work(t *testing.T) func([]int) {
	return func(jobs []int) {
		if l.running.Add(1) > 1 {
			t.Error("two calls at a time")
		}
		l.calls = append(l.calls, slices.Clone(jobs))
		time.Sleep(time.Second)
		l.running.Add(-1)
	}
}

func self(n int) int { return n }

func numbers(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

func TestWhatComesMeanwhileGoesWithTheNextCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(100, self, l.work(t))
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() { g.Do(t.Context(), numbers(i, 1)) })
		}
		wg.Wait()
		if len(l.calls) != 2 {
			t.Fatalf("%d calls: %v; want the first one's and one for all others", len(l.calls), l.calls)
		}
		all := slices.Concat(l.calls...)
		slices.Sort(all)
		if !slices.Equal(all, numbers(0, 64)) {
			t.Errorf("jobs %v", all)
		}
	})
}

func TestDoReturnsWhenItsOwnJobsAreDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(10, self, l.work(t))
		start := time.Now()
		var wg sync.WaitGroup
		took := func(from, n int) (d time.Duration) {
			g.Do(t.Context(), numbers(from, n))
			return time.Since(start)
		}
		var large, small time.Duration
		wg.Go(func() { large = took(0, 100) })
		synctest.Wait()
		wg.Go(func() { small = took(1000, 1) })
		wg.Wait()
		if small != 2*time.Second {
			t.Errorf("the small one took %s; want it to go with the second call", small)
		}
		if large < 10*time.Second || large > 11*time.Second {
			t.Errorf("the large one took %s", large)
		}
		for _, jobs := range l.calls {
			if len(jobs) > 10 {
				t.Errorf("a call with %d jobs", len(jobs))
			}
		}
	})
}

// Of many callers with several jobs each, the first ones are done first, rather
// than all a little.
func TestCallersAreServedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(40, self, l.work(t))
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 41 {
			wg.Go(func() {
				g.Do(t.Context(), numbers(i*100, 10))
				if d, want := time.Since(start), time.Duration(1+(i+3)/4)*time.Second; d != want {
					t.Errorf("caller %d was done after %s, want %s", i, d, want)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}

// Who leads while others wait does not lead for them for ever.
func TestTheLeadIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(1, self, l.work(t))
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				g.Do(t.Context(), []int{i})
				if d := time.Since(start); d != time.Duration(i+1)*time.Second {
					t.Errorf("caller %d was done after %s", i, d)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		g.Do(t.Context(), []int{5}) // and it works for who comes when all are gone
		if len(l.calls) != 6 {
			t.Errorf("calls %v", l.calls)
		}
	})
}

// Jobs with the same key take no room.
func TestJobsThatWantTheSameGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(10, self, l.work(t))
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { g.Do(t.Context(), numbers(0, 10)) })
			synctest.Wait()
		}
		wg.Wait()
		if len(l.calls) != 2 || len(l.calls[1]) != 990 {
			t.Errorf("%d calls; want the first one's and one for all others", len(l.calls))
		}
	})
}

// Who leaves before anything was begun for them takes their jobs along.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(2, self, l.work(t))
		var wg sync.WaitGroup
		bored := errors.New("bored")
		after := func(d time.Duration, jobs []int, want error) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), d, bored)
				defer cancel()
				if err := g.Do(ctx, jobs); !errors.Is(err, want) {
					t.Errorf("jobs %v: %v, want %v", jobs, err, want)
				}
			})
			synctest.Wait()
		}
		after(500*time.Millisecond, numbers(0, 1), nil)   // its call is on its way
		after(1500*time.Millisecond, numbers(10, 3), nil) // one of them is
		after(1500*time.Millisecond, numbers(20, 1), nil)
		after(1500*time.Millisecond, numbers(30, 1), bored)
		after(time.Minute, numbers(40, 1), nil)
		wg.Wait()
		all := slices.Concat(l.calls...)
		slices.Sort(all)
		if want := []int{0, 10, 11, 12, 20, 40}; !slices.Equal(all, want) {
			t.Errorf("jobs %v, want %v", all, want)
		}
	})
}

func TestNothingIsDoneForNoJobs(t *testing.T) {
	batch.New(1, self, func([]int) { t.Error("called") }).Do(t.Context(), nil)
}

func TestAPanicHarmsOnlyWhoMakesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		g := batch.New(100, self, func([]int) {
			time.Sleep(time.Second)
			if first {
				first = false
				panic("bug")
			}
		})
		var wg sync.WaitGroup
		var panics atomic.Int32
		for i := range 3 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				g.Do(t.Context(), []int{i})
			})
			synctest.Wait()
		}
		wg.Wait()
		if panics.Load() != 1 {
			t.Errorf("%d panics; want one", panics.Load())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	done := make([]atomic.Int32, 64*20)
	g := batch.New(7, self, func(jobs []int) {
		for _, j := range jobs {
			done[j].Add(1)
		}
	})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			mine := numbers(i*20, 20)
			g.Do(t.Context(), mine)
			for _, j := range mine {
				if n := done[j].Load(); n != 1 {
					t.Errorf("job %d was done %d times when Do returned", j, n)
				}
			}
		})
	}
	wg.Wait()
}
