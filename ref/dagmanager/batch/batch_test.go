package batch_test

import (
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
		g := batch.New(100, l.work(t))
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() { g.Do(numbers(i, 1)) })
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
		g := batch.New(10, l.work(t))
		start := time.Now()
		var wg sync.WaitGroup
		took := func(n int) (d time.Duration) {
			g.Do(numbers(0, n))
			return time.Since(start)
		}
		var large, small time.Duration
		wg.Go(func() { large = took(100) })
		synctest.Wait()
		wg.Go(func() { small = took(1) })
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

// Who leads while others wait does not lead for them for ever.
func TestTheLeadIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		g := batch.New(1, l.work(t))
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				g.Do([]int{i})
				if d := time.Since(start); d != time.Duration(i+1)*time.Second {
					t.Errorf("caller %d was done after %s", i, d)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		g.Do([]int{5}) // and it works for who comes when all are gone
		if len(l.calls) != 6 {
			t.Errorf("calls %v", l.calls)
		}
	})
}

func TestNothingIsDoneForNoJobs(t *testing.T) {
	batch.New(1, func([]int) { t.Error("called") }).Do(nil)
}

func TestAPanicHarmsOnlyWhoMakesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		g := batch.New(100, func([]int) {
			time.Sleep(time.Second)
			if first {
				first = false
				panic("bug")
			}
		})
		var wg sync.WaitGroup
		var panics atomic.Int32
		for range 3 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				g.Do([]int{1})
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
	g := batch.New(7, func(jobs []int) {
		for _, j := range jobs {
			done[j].Add(1)
		}
	})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			mine := numbers(i*20, 20)
			g.Do(mine)
			for _, j := range mine {
				if n := done[j].Load(); n != 1 {
					t.Errorf("job %d was done %d times when Do returned", j, n)
				}
			}
		})
	}
	wg.Wait()
}
