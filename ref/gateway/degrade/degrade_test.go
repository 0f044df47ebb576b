package degrade

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/gateway/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func report(redis, dagManager, world health.State) health.Report {
	return health.Report{Redis: redis, Postgres: health.OK, DagManager: dagManager, WorldService: world}
}

func TestLevelByHealthAndProcessors(t *testing.T) {
	for _, c := range []struct {
		redis, dagManager, world health.State
		busy                     float64
		want                     Level
	}{
		{health.OK, health.OK, health.OK, 0, Normal},
		{health.OK, health.OK, health.Unknown, 85, Normal},
		{health.OK, health.Timeout, health.OK, 0, Partial},
		{health.Error, health.OK, health.Unknown, 0, Partial},
		{health.OK, health.OK, health.Open, 0, Partial},
		{health.OK, health.OK, health.OK, 85.1, Minimal},
		{health.Error, health.Error, health.OK, 0, Minimal},
		{health.OK, health.OK, health.OK, 95.1, Static},
		{health.Error, health.Timeout, health.Open, 0, Static},
	} {
		if got := Of(report(c.redis, c.dagManager, c.world), c.busy); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
}

// queue counts what is held.
type queue struct {
	mu            sync.Mutex
	held, drained int   // guarded by mu
	err           error // guarded by mu
}

func (q *queue) set(held int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held, q.err = held, err
}

func (q *queue) out() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.drained
}

func (q *queue) Drain(context.Context) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return 0, q.err
	}
	n := q.held
	q.drained, q.held = q.drained+n, 0
	return n, nil
}

func newDriver(ask func(context.Context) health.Report, q *queue) *Driver {
	return New(Config{
		Ask: ask, Every: 5 * time.Second, Queue: q, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func TestTheLevelFollowsHealthAndHeldStrategiesAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Value
		now.Store(report(health.OK, health.OK, health.OK))
		q := &queue{}
		d := newDriver(func(context.Context) health.Report { return now.Load().(health.Report) }, q)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		after := func(r health.Report) (Level, bool) {
			now.Store(r)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			return d.Level(), d.Hold()
		}
		if level, hold := after(report(health.OK, health.Error, health.OK)); level != Partial || !hold {
			t.Errorf("DAG Manager sick: %s, hold %v", level, hold)
		}
		q.set(2, nil)
		if level, hold := after(report(health.Error, health.OK, health.OK)); level != Partial || hold || q.out() != 0 {
			t.Errorf("Redis sick: %s, hold %v, drained %d", level, hold, q.out())
		}
		q.set(2, errors.New("as told"))
		after(report(health.OK, health.OK, health.OK))
		q.set(2, nil)
		if level, hold := after(report(health.OK, health.OK, health.OK)); level != Normal || hold || q.out() != 2 {
			t.Errorf("all well: %s, hold %v, drained %d", level, hold, q.out())
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestGate(t *testing.T) {
	d := newDriver(nil, nil)
	gate := d.Gate(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, c := range []struct {
		level        Level
		method, path string
		want         int
		retry        string
	}{
		{Partial, "POST", "/strategies", 418, ""},
		{Minimal, "POST", "/strategies", 503, ""},
		{Minimal, "GET", "/strategies", 418, ""},
		{Minimal, "POST", "/strategies/dry-run", 418, ""},
		{Static, "GET", "/health", 204, "30"},
		{Static, "POST", "/strategies", 204, "30"},
	} {
		d.level.Store(int32(c.level))
		w := httptest.NewRecorder()
		gate.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.want || w.Header().Get("Retry-After") != c.retry || w.Body.Len() != 0 {
			t.Errorf("%s %s %s: %d %v", c.level, c.method, c.path, w.Code, w.Header())
		}
	}
}

func TestProcessors(t *testing.T) {
	before, ok := parseTimes([]byte("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 2 3\n"))
	after, ok2 := parseTimes([]byte("cpu  40 0 40 100 20 0 0 0 0 0\n"))
	if got := after.since(before); !ok || !ok2 || got != 60 {
		t.Errorf("busy %v", got)
	}
	if got := before.since(times{}); got != 0 {
		t.Errorf("the first time: %v", got)
	}
	for _, text := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6", "cpu a b c d e f"} {
		if _, ok := parseTimes([]byte(text)); ok {
			t.Errorf("%q is read", text)
		}
	}
}
