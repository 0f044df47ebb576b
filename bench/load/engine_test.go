package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a Source whose requests do what a function says.
type scripted func(ctx context.Context, i int64) (Reply, error)

func (s scripted) Request(i int64) Request { return &scriptedRequest{s: s, i: i} }

type scriptedRequest struct {
	s     scripted
	i     int64
	reply Reply
}

func (r *scriptedRequest) Class() string { return [...]string{"even", "odd"}[r.i%2] }
func (r *scriptedRequest) Key() string   { return fmt.Sprint("key-", r.i) }
func (r *scriptedRequest) Reply() Reply  { return r.reply }
func (r *scriptedRequest) Send(ctx context.Context) (err error) {
	r.reply, err = r.s(ctx, r.i)
	return err
}

// sleepy answers 202 after d of the context's time.
func sleepy(d time.Duration) scripted {
	return func(ctx context.Context, _ int64) (Reply, error) {
		select {
		case <-time.After(d):
			return Reply{Fate: Accepted, Status: 202}, nil
		case <-ctx.Done():
			return Reply{}, ctx.Err()
		}
	}
}

// virtual is a config in virtual time: window of 2 s after 1 s of warm-up.
func virtual(rate int64) Config {
	return Config{
		Schedule: Constant{Rate: rate, For: 3 * time.Second}, WarmUp: time.Second, Window: 2 * time.Second,
		MaxInFlight: 10, Backlog: 5, Drain: 10 * time.Second, GoTimers: true,
	}
}

func offer(t *testing.T, c Config, src Source) (*Evidence, []Outcome) {
	t.Helper()
	var seen []Outcome
	c.Observe = func(o Outcome) error { seen = append(seen, o); return nil }
	ev, err := Offer(t.Context(), c, src)
	if err != nil {
		t.Fatal(err)
	}
	return ev, seen
}

func TestCalmRunIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ev, seen := offer(t, virtual(100), sleepy(20*time.Millisecond))
		r := ev.Result
		if want := (Ledger{Offered: 200, Answered: 200, Accepted: 200}); r.Ledger != want {
			t.Errorf("window %+v; want %+v", r.Ledger, want)
		}
		if want := (Ledger{Offered: 100, Answered: 100, Accepted: 100}); r.WarmUpLedger != want {
			t.Errorf("warm-up %+v; want %+v", r.WarmUpLedger, want)
		}
		checkOutcomes(t, seen)
		if r.LateShare != 0 || r.Aborted != "" || r.Wall != 3010*time.Millisecond {
			t.Errorf("late share %v, aborted %q, wall %v; want 0, none, 3.01s", r.LateShare, r.Aborted, r.Wall)
		}
		checkClasses(t, r)
		checkSeconds(t, r, 20)
	})
}

func checkOutcomes(t *testing.T, seen []Outcome) {
	t.Helper()
	if len(seen) != 300 || seen[99].Window || !seen[100].Window {
		t.Fatalf("%d outcomes; want 300, the first 100 of the warm-up", len(seen))
	}
	for _, o := range seen {
		if o.Due != time.Duration(o.Index)*10*time.Millisecond || o.Done-o.Due != 20*time.Millisecond {
			t.Fatalf("outcome %+v; want due every 10ms and done 20ms later", o)
		}
	}
}

func checkClasses(t *testing.T, r Result) {
	t.Helper()
	for class, n := range map[string]int64{All: 200, "even": 100, "odd": 100} {
		c := r.Classes[class]
		if c.N != n || math.Abs(c.Latency.P50-20) > 0.02 || math.Abs(c.Latency.Mean-20) > 0.02 || c.Lag.Max > 0.001 {
			t.Errorf("class %s = %+v; want %d observations of 20 ms and no lag", class, c, n)
		}
	}
	if last := r.Curve[len(r.Curve)-1]; last.Percentile != 100 || math.Abs(last.MS-20) > 0.02 {
		t.Errorf("curve ends at %+v; want 100, 20 ms", last)
	}
}

func checkSeconds(t *testing.T, r Result, ms float64) {
	t.Helper()
	if len(r.Seconds) != 2 {
		t.Fatalf("seconds %+v; want 2", r.Seconds)
	}
	for k, s := range r.Seconds {
		if s.At != float64(k+1) || s.Offered != 100 || s.Answered != 100 || math.Abs(s.P99-ms) > 0.02 {
			t.Errorf("second %d = %+v; want at %d, 100 of 100 in %v ms", k, s, k+1, ms)
		}
	}
}

// Ten senders of 100 ms serve 100/s. Offered 150/s, the backlog fills and the
// rest is dropped; what waited shows it in its latency, not in its service time.
func TestOverloadFillsTheBacklogAndDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ev, seen := offer(t, virtual(150), sleepy(100*time.Millisecond))
		checkOverloaded(t, ev.Result.Ledger)
		c := ev.Result.Classes[All]
		if math.Abs(c.Service.Max-100) > 0.2 || c.Latency.P50 < 130 || c.Latency.Max > 170 || c.Lag.P50 < 30 {
			t.Errorf("all = %+v; want service 100 ms, and up to 60 ms more from due", c)
		}
		if r := ev.Result; r.LateShare != 0 || r.Generator.Max > 0.001 || r.Waited < 190 {
			t.Errorf("late share %v, generator %+v, %d waited; want the wait on the SUT's account", r.LateShare, r.Generator, r.Waited)
		}
		if len(seen) != 450 {
			t.Errorf("%d outcomes; want one for each of 450", len(seen))
		}
	})
}

// A source that cannot make bodies fast enough starves the generator: that is
// its own lateness, whatever the SUT does.
func TestStarvedGeneratorIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ev, _ := offer(t, virtual(100), slowSource{sleepy(time.Millisecond), 12 * time.Millisecond})
		r := ev.Result
		if r.LateShare < 0.9 || r.Generator.P99 < 300 || r.Waited != 0 || r.Ledger.Answered != 200 {
			t.Errorf("late share %v, generator %+v, %d waited, ledger %+v; want a generator that falls behind", r.LateShare, r.Generator, r.Waited, r.Ledger)
		}
	})
}

// slowSource takes its time over every request.
type slowSource struct {
	scripted
	takes time.Duration
}

func (s slowSource) Request(i int64) Request {
	time.Sleep(s.takes)
	return s.scripted.Request(i)
}

func checkOverloaded(t *testing.T, l Ledger) {
	t.Helper()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if l.Offered != 300 || l.Dropped < 90 || l.Dropped > 110 || l.Answered != 300-l.Dropped || l.Lost+l.InFlight != 0 {
		t.Errorf("ledger %+v; want 300 offered and about 100 dropped", l)
	}
}

// The server freezes for 1.4 s. Service time hides it, since few requests were
// on their way; latency from due does not.
func TestFreezeShowsFromDueOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now().Add(lead)
		c := virtual(1000)
		c.Schedule, c.Window = Constant{Rate: 1000, For: 20 * time.Second}, 19*time.Second
		c.MaxInFlight, c.Backlog = 50, 2000
		freeze := func(ctx context.Context, i int64) (Reply, error) {
			if at := time.Since(began); at > 5*time.Second && at < 6400*time.Millisecond {
				time.Sleep(6400*time.Millisecond - at)
			}
			return sleepy(time.Millisecond)(ctx, i)
		}
		ev, _ := offer(t, c, scripted(freeze))
		got := ev.Result.Classes[All]
		if got.Latency.P99 < 1000 || got.Service.P99 > 10 {
			t.Errorf("p99 from due %v ms, of service %v ms; want the freeze in the first only", got.Latency.P99, got.Service.P99)
		}
		if l := ev.Result.Ledger; l.Dropped != 0 || l.Answered != 19000 {
			t.Errorf("ledger %+v; want nothing dropped", l)
		}
	})
}

func TestCapWithoutBacklogCountsTheFreezeAsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := virtual(100)
		c.Backlog = 0
		ev, _ := offer(t, c, sleepy(time.Second))
		if l := ev.Result.Ledger; l.Offered != 200 || l.Dropped < 170 || l.Check() != nil {
			t.Errorf("ledger %+v; want most dropped", l)
		}
	})
}

func TestSilenceIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := virtual(10)
		c.MaxInFlight, c.Drain = 100, 2*time.Second
		silent := func(ctx context.Context, i int64) (Reply, error) {
			if i%4 == 3 {
				<-ctx.Done()
				return Reply{}, ctx.Err()
			}
			return Reply{Fate: Accepted, Status: 202}, nil
		}
		ev, _ := offer(t, c, scripted(silent))
		if want := (Ledger{Offered: 20, Answered: 15, Accepted: 15, Lost: 5}); ev.Result.Ledger != want {
			t.Errorf("ledger %+v; want %+v", ev.Result.Ledger, want)
		}
		if ev.Result.LostBy["no answer in time"] != 5 {
			t.Errorf("lost by %v", ev.Result.LostBy)
		}
	})
}

func TestUnexpectedAnswersAreCountedAndSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := virtual(100)
		odd := func(_ context.Context, i int64) (Reply, error) {
			if i%2 == 1 {
				return Reply{Fate: Unexpected, Status: 500, Why: "500", Body: bytes.Repeat([]byte("x"), 3*maxBody)}, nil
			}
			return Reply{Fate: Rejected, Status: 409, ID: "first"}, nil
		}
		ev, seen := offer(t, c, scripted(odd))
		if want := (Ledger{Offered: 200, Answered: 200, Rejected: 100, Unexpected: 100}); ev.Result.Ledger != want {
			t.Errorf("ledger %+v; want %+v", ev.Result.Ledger, want)
		}
		if ev.Result.Unexpected["500"] != 100 || len(ev.Result.Samples) != maxSamples || len(ev.Result.Samples[0].Body) != maxBody {
			t.Errorf("unexpected %v, %d samples of %d bytes", ev.Result.Unexpected, len(ev.Result.Samples), len(ev.Result.Samples[0].Body))
		}
		if seen[0].ID != "first" || seen[1].Error != "500" || seen[1].Status != 500 {
			t.Errorf("outcomes %+v, %+v", seen[0], seen[1])
		}
	})
}

func TestFateThatNobodySetIsUnexpected(t *testing.T) {
	var l Ledger
	l.Offered, l.InFlight = 1, 1
	l.settle("")
	if l.Unexpected != 1 || l.Check() != nil {
		t.Errorf("ledger %+v", l)
	}
}

func TestCancelEndsOfferingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(lead+1500*time.Millisecond, func() { cancel(errors.New("interrupted")) })
		c, n := virtual(100), 0
		c.MaxInFlight = 1
		c.Observe = func(Outcome) error { n++; return nil }
		before := time.Now()
		ev, err := Offer(ctx, c, sleepy(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		r := ev.Result
		if r.Aborted != "interrupted" || r.Ledger.Offered < 45 || r.Ledger.Offered > 56 || r.Ledger.InFlight != 0 {
			t.Errorf("aborted %q, ledger %+v; want about 50 offered", r.Aborted, r.Ledger)
		}
		if r.WarmUpLedger.Lost != 1 || r.LostBy["run aborted"] != 0 || int64(n) != r.Ledger.Offered+r.WarmUpLedger.Offered {
			t.Errorf("warm-up %+v, lost by %v, %d outcomes", r.WarmUpLedger, r.LostBy, n)
		}
		if took := time.Since(before); took > lead+1500*time.Millisecond+abortedWait+cut {
			t.Errorf("took %v", took)
		}
	})
}

func TestEvidenceThatCannotBeKeptEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left")
		c, calls := virtual(100), 0
		c.Observe = func(Outcome) error {
			if calls++; calls == 50 {
				return full
			}
			return nil
		}
		ev, err := Offer(t.Context(), c, sleepy(time.Millisecond))
		if !errors.Is(err, full) || calls != 50 || ev.Result.WarmUpLedger.Offered > 60 || ev.Result.Aborted == "" {
			t.Errorf("Offer = %+v, %v after %d outcomes; want an end at the 50th", ev.Result.WarmUpLedger, err, calls)
		}
	})
}

func TestConfigMistakes(t *testing.T) {
	_, err := Offer(t.Context(), Config{Backlog: -1, WarmUp: -1, StartAt: time.Unix(1, 0)}, sleepy(0))
	for _, want := range []string{"schedule", "max in flight", "backlog", "drain", "warm-up", "start at"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Offer = %v; want it to name %q", err, want)
		}
	}
}

// Six instances that share a zero offer what one would.
func TestStripedInstancesOfferTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[int64]time.Duration{}
		merged := Timings{}
		for k := range int64(6) {
			c := virtual(100)
			c.Stripe = Stripe{Start: k, Offsets: []int64{6}}
			ev, out := offer(t, c, sleepy(time.Duration(k)*time.Millisecond))
			for _, o := range out {
				seen[o.Index] = o.Due
			}
			var log bytes.Buffer
			if err := WriteTimings(&log, ev.Result.Started, ev.Ended, ev.Timings); err != nil {
				t.Fatal(err)
			}
			if err := ReadTimings(&log, merged); err != nil {
				t.Fatal(err)
			}
		}
		for i := range int64(300) {
			if due, ok := seen[i]; !ok || due != time.Duration(i)*10*time.Millisecond {
				t.Errorf("request %d due %v, %v", i, due, ok)
			}
		}
		if all, err := merged.Union(); err != nil || all.Latency.TotalCount() != 200 {
			t.Errorf("merged %v, %v; want 200 observations", all, err)
		}
	})
}

// The instrument itself: with a real pacer the generator is on time within
// bounds that only a broken pacer, not a busy machine, breaks.
func TestPreciseLagAndLedgerOverRealTime(t *testing.T) {
	var calls atomic.Int64
	c := Config{Schedule: Constant{1000, time.Second}, WarmUp: 200 * time.Millisecond, Window: 800 * time.Millisecond,
		MaxInFlight: 100, Backlog: 1000, Drain: 5 * time.Second}
	ev, seen := offer(t, c, scripted(func(context.Context, int64) (Reply, error) {
		calls.Add(1)
		return Reply{Fate: Accepted}, nil
	}))
	if ev.Result.Ledger.Answered != 800 || ev.Result.WarmUpLedger.Answered != 200 || calls.Load() != 1000 {
		t.Errorf("ledgers %+v %+v, %d calls", ev.Result.Ledger, ev.Result.WarmUpLedger, calls.Load())
	}
	for _, o := range seen {
		if o.Sent < o.Due {
			t.Fatalf("request %d sent %v before it was due", o.Index, o.Due-o.Sent)
		}
	}
	if lag := ev.Result.Classes[All].Lag; lag.P50 > 200 {
		t.Errorf("lag %+v: the pacer does not keep time", lag)
	}
}

// Ten minutes leave no more behind than one, but for an entry a second.
func TestMemoryIsConstant(t *testing.T) {
	one, ten := liveAfter(t, time.Minute), liveAfter(t, 10*time.Minute)
	const entries = 540 * 128 // seconds more, with room
	if ten > one+entries+64<<10 {
		t.Errorf("%d bytes live after a minute, %d after ten", one, ten)
	}
}

// liveAfter is the heap that the evidence of a run of length d holds, measured
// while the run's last requests are still open.
func liveAfter(t *testing.T, d time.Duration) (live int64) {
	synctest.Test(t, func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := virtual(50)
		c.Schedule, c.Window = Constant{Rate: 50, For: d}, d-c.WarmUp
		last := c.Schedule.N() - 1
		src := scripted(func(ctx context.Context, i int64) (Reply, error) {
			if i == last {
				runtime.GC()
				runtime.ReadMemStats(&after)
			}
			return sleepy(10*time.Millisecond)(ctx, i)
		})
		ev, err := Offer(t.Context(), c, src)
		if err != nil || ev.Result.Ledger.Answered != int64(50*c.Window.Seconds()) {
			t.Fatalf("%v, %+v", err, ev.Result.Ledger)
		}
		live = int64(after.HeapAlloc) - int64(before.HeapAlloc)
	})
	return live
}

func TestEmptyRunIsValidJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		ev, err := Offer(ctx, virtual(100), sleepy(0))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(ev.Result)
		if err != nil || ev.Result.Ledger != (Ledger{}) || len(ev.Result.Classes) != 0 {
			t.Errorf("result %s, %v; want an empty one", b, err)
		}
	})
}
