package health

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func yes(context.Context) (bool, error)   { return true, nil }
func no(context.Context) (bool, error)    { return false, nil }
func raise(context.Context) (bool, error) { return true, errors.New("as told") }
func hang(ctx context.Context) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// behaviours by the words of the vectors.
var behaviours = map[string]Collector{
	"absent": Fixed(Unknown), "true": Probe(yes), "false": Probe(no), "raise": Probe(raise), "hang": Probe(hang),
	"closed": Breaker(func() bool { return false }), "open": Breaker(func() bool { return true }),
}

func TestHealthAndModelsHealthVectors(t *testing.T) {
	vectors.Run(t, "health_and_models", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		if text(in, "op") != "health" {
			return // other ops: package submit and later issues
		}
		m := NewMonitor(Collectors{
			Redis: collector(t, in, "redis"), Postgres: collector(t, in, "database"),
			DagManager: collector(t, in, "dagmanager"), WorldService: collector(t, in, "worldservice"),
		}, capabilities(in.Member("capabilities")), 20*time.Millisecond, CacheFor)
		got := string(pyjson.Append(nil, m.Report(t.Context()).JSON(), pyjson.Spaced|pyjson.ASCII))
		if want := text(out, "body_json"); got != want {
			t.Errorf("body %s\nwant %s", got, want)
		}
	})
}

func parse(t *testing.T, raw []byte) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func text(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

func collector(t *testing.T, in pyjson.Value, key string) Collector {
	t.Helper()
	c, ok := behaviours[text(in, key)]
	if !ok {
		t.Fatalf("unknown behaviour %q", text(in, key))
	}
	return c
}

func capabilities(v pyjson.Value) Capabilities {
	c := Capabilities{RebalanceSchemaVersion: 1, AlphaMetricsCapable: v.Member("alpha_metrics_capable").IsTrue(), ComputeContextContract: text(v, "compute_context_contract")}
	if n, ok := v.Member("rebalance_schema_version").Int64(); ok {
		c.RebalanceSchemaVersion = int(n)
	}
	return c
}

func TestManyCallersShareOneRoundAndItsAnswer(t *testing.T) {
	var asked atomic.Int32
	gate := make(chan struct{})
	m := NewMonitor(Collectors{
		Redis:    func(context.Context) State { asked.Add(1); <-gate; return OK },
		Postgres: Fixed(OK), DagManager: Fixed(OK), WorldService: Fixed(OK),
	}, Capabilities{RebalanceSchemaVersion: 1}, time.Minute, time.Minute)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			if got := m.Report(t.Context()).Status(); got != "ok" {
				t.Errorf("status %s", got)
			}
		})
	}
	close(gate)
	callers.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestAnswerIsKeptForAWhileOnly(t *testing.T) {
	asked := 0
	now := time.Unix(0, 0)
	m := NewMonitor(Collectors{
		Redis: func(context.Context) State { asked++; return Error }, Postgres: Fixed(OK), DagManager: Fixed(OK), WorldService: Fixed(OK),
	}, Capabilities{}, time.Minute, 2*time.Second)
	m.now = func() time.Time { return now }
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{0, 1}, {1999 * time.Millisecond, 1}, {time.Millisecond, 2}} {
		now = now.Add(step.pass)
		m.Report(t.Context())
		if asked != step.want {
			t.Errorf("at %s: asked %d times, want %d", now.Sub(time.Unix(0, 0)), asked, step.want)
		}
	}
	if m.Fresh(t.Context()); asked != 3 {
		t.Errorf("a fresh answer was wanted: asked %d times, want 3", asked)
	}
	if m.Report(t.Context()); asked != 3 {
		t.Errorf("after a fresh answer: asked %d times, want 3", asked)
	}
}

func TestCollectorThatIgnoresItsContextCannotHoldTheAnswer(t *testing.T) {
	release := make(chan struct{})
	done := make(chan struct{})
	m := NewMonitor(Collectors{
		Redis:    func(context.Context) State { defer close(done); <-release; return OK },
		Postgres: Fixed(OK), DagManager: Fixed(OK), WorldService: Fixed(OK),
	}, Capabilities{}, 5*time.Millisecond, time.Minute)
	if got := m.Report(t.Context()); got.Redis != Timeout || got.Postgres != OK {
		t.Errorf("report %+v", got)
	}
	close(release)
	<-done
}

func TestCallerThatLeavesDoesNotSpoilTheAnswerOfOthers(t *testing.T) {
	m := NewMonitor(Collectors{Redis: Probe(func(ctx context.Context) (bool, error) { return ctx.Err() == nil, ctx.Err() }),
		Postgres: Fixed(OK), DagManager: Fixed(OK), WorldService: Fixed(OK)}, Capabilities{}, time.Minute, time.Minute)
	gone, leave := context.WithCancel(t.Context())
	leave()
	if got := m.Report(gone); got.Redis != OK {
		t.Errorf("report %+v", got)
	}
}

// Each dependency may hang in its own way, and none of them takes from the time
// of another or holds the answer longer than its own limit.
func TestEachCollectorHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stubborn := func(context.Context) State { <-release; return OK }
		slow := func(context.Context) State { time.Sleep(300 * time.Millisecond); return OK }
		m := NewMonitor(Collectors{
			Redis: stubborn, Postgres: Within(100*time.Millisecond, stubborn), DagManager: slow, WorldService: Within(200*time.Millisecond, slow),
		}, Capabilities{}, ProbeLimit, CacheFor)
		begun := time.Now()
		got := m.Report(t.Context())
		if took := time.Since(begun); took != ProbeLimit {
			t.Errorf("took %s, want the longest limit", took)
		}
		if want := (Report{Redis: Timeout, Postgres: Timeout, DagManager: OK, WorldService: Timeout}); got != want {
			t.Errorf("report %+v", got)
		}
		if again := m.Report(t.Context()); again != got {
			t.Errorf("asked again within %s: %+v", CacheFor, again)
		}
		close(release)
	})
}
