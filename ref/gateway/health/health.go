// Package health tells how a gateway's dependencies are. Each dependency has a
// collector; the monitor asks all of them at once, each under its own time
// limit, so that the slowest cannot hold the answer, and keeps the answer for a
// moment. It never decides anything: what to do about a sick dependency is
// somebody else's business.
package health

import (
	"context"
	"sync"
	"time"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// State is how one dependency is (gateway.md 1.2).
type State string

// The states that a collector may give.
const (
	OK      State = "ok"
	Error   State = "error"   // it answered badly or not at all
	Timeout State = "timeout" // it did not answer in time
	Unknown State = "unknown" // there is none
	Open    State = "open"    // its circuit breaker is open
)

// A Collector finds out how one dependency is. It may take as long as it likes:
// the monitor stops waiting at its limit, and ends ctx then.
type Collector func(ctx context.Context) State

// Probe adapts a question with a yes or no answer; an error is a no.
func Probe(ask func(context.Context) (bool, error)) Collector {
	return func(ctx context.Context) State {
		ok, err := ask(ctx)
		switch {
		case ok && err == nil:
			return OK
		case ctx.Err() != nil:
			return Timeout
		default:
			return Error
		}
	}
}

// Within gives collect a time limit of its own; one that ignores the end of its
// context is left behind with its answer.
func Within(limit time.Duration, collect Collector) Collector {
	return func(ctx context.Context) State {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		answer := make(chan State, 1)
		go func() { answer <- collect(ctx) }()
		select {
		case s := <-answer:
			return s
		case <-ctx.Done():
			return Timeout
		}
	}
}

// Fixed is the collector of a dependency whose state never changes: OK for one
// inside the process, Unknown for one that is not configured.
func Fixed(s State) Collector { return func(context.Context) State { return s } }

// Breaker looks at a circuit breaker instead of asking the dependency.
func Breaker(open func() bool) Collector {
	return func(context.Context) State {
		if open() {
			return Open
		}
		return OK
	}
}

// Capabilities are what the configuration says that this gateway can do.
type Capabilities struct {
	RebalanceSchemaVersion int // at least 1
	AlphaMetricsCapable    bool
	ComputeContextContract string // "" for none
}

// Collectors has one for each dependency of a gateway.
type Collectors struct {
	Redis, Postgres, DagManager, WorldService Collector
}

// The limits of gateway.md 1.2.
const (
	ProbeLimit = 750 * time.Millisecond
	CacheFor   = 2 * time.Second
)

// Monitor answers how the dependencies are. It is safe for concurrent use.
type Monitor struct {
	ask   Collectors
	can   Capabilities
	limit time.Duration
	keep  time.Duration
	now   func() time.Time

	mu     sync.Mutex // held during a round, so that rounds never overlap
	last   Report     // guarded by mu
	lastAt time.Time  // guarded by mu; zero before the first round
}

// NewMonitor asks by ask, waits for each dependency for limit at most, or less
// where its collector says so, and reuses an answer for keep.
func NewMonitor(ask Collectors, can Capabilities, limit, keep time.Duration) *Monitor {
	return &Monitor{ask: ask, can: can, limit: limit, keep: keep, now: time.Now}
}

// Report gives the present state of all dependencies. Callers that come while a
// round is running share its answer; their leaving does not end it.
func (m *Monitor) Report(ctx context.Context) Report {
	return m.notOlder(ctx, m.keep)
}

// Fresh is Report of now, for who acts on the answer for longer than Report
// would keep it.
func (m *Monitor) Fresh(ctx context.Context) Report { return m.notOlder(ctx, 0) }

func (m *Monitor) notOlder(ctx context.Context, age time.Duration) Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.lastAt.IsZero() && m.now().Sub(m.lastAt) < age {
		return m.last
	}
	m.last = m.round(context.WithoutCancel(ctx))
	m.lastAt = m.now()
	return m.last
}

func (m *Monitor) round(ctx context.Context) Report {
	r := Report{Capabilities: m.can}
	var all sync.WaitGroup
	for _, one := range []struct {
		collect Collector
		into    *State
	}{
		{m.ask.Redis, &r.Redis},
		{m.ask.Postgres, &r.Postgres},
		{m.ask.DagManager, &r.DagManager},
		{m.ask.WorldService, &r.WorldService},
	} {
		all.Go(func() { *one.into = Within(m.limit, one.collect)(ctx) })
	}
	all.Wait()
	return r
}

// Report is the answer of GET /health.
type Report struct {
	Redis, Postgres, DagManager, WorldService State
	Capabilities                              Capabilities
}

// Status is "ok" when every dependency is, else "degraded".
func (r Report) Status() string {
	if r.Redis == OK && r.Postgres == OK && r.DagManager == OK && r.WorldService == OK {
		return "ok"
	}
	return "degraded"
}

// JSON is the body of GET /health; more members follow for GET /status.
func (r Report) JSON(more ...pyjson.Member) pyjson.Value {
	version := pyjson.OfInt(int64(r.Capabilities.RebalanceSchemaVersion))
	alpha := pyjson.OfBool(r.Capabilities.AlphaMetricsCapable)
	can := []pyjson.Member{{Key: "rebalance_schema_version", Value: version}, {Key: "alpha_metrics_capable", Value: alpha}}
	if c := r.Capabilities.ComputeContextContract; c != "" {
		can = append(can, pyjson.Member{Key: "compute_context_contract", Value: pyjson.OfString(c)})
	}
	return pyjson.OfObject(append([]pyjson.Member{
		{Key: "status", Value: pyjson.OfString(r.Status())},
		{Key: "redis", Value: pyjson.OfString(string(r.Redis))},
		{Key: "postgres", Value: pyjson.OfString(string(r.Postgres))},
		{Key: "dagmanager", Value: pyjson.OfString(string(r.DagManager))},
		{Key: "worldservice", Value: pyjson.OfString(string(r.WorldService))},
		{Key: "capabilities", Value: pyjson.OfObject(can...)},
		{Key: "rebalance_schema_version", Value: version},
		{Key: "alpha_metrics_capable", Value: alpha},
	}, more...)...)
}
