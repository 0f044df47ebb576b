package gateway

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/internal/metric"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// pretrade are the figures of pre-trade checks as the original shows them: an
// attempt is counted whenever somebody subscribes to events of a world, and that
// world's figures are what /status tells from then on (gateway.md 1.2, 1.8).
// Nothing is ever rejected.
type pretrade struct {
	attempts *metric.Counters
	ratio    *metric.Gauges

	mu    sync.Mutex
	world string         // guarded by mu
	seen  map[string]int // attempts by world; guarded by mu
}

// worldsSeen bounds the worlds that are told apart; what comes later is one.
const worldsSeen = 256

func newPretrade(reg prometheus.Registerer) *pretrade {
	return &pretrade{
		attempts: metric.NewCounters(reg, "gw_pretrade_attempts_total", "Subscriptions to events of a world.", "world_id"),
		ratio:    metric.NewGauges(reg, "gw_pretrade_rejection_ratio", "Share of attempts that were rejected.", "world_id"),
		world:    "default", seen: map[string]int{},
	}
}

// subscribed counts an attempt for a world and makes it the one that is shown.
func (p *pretrade) subscribed(world string) {
	p.attempts.With(world).Inc()
	p.ratio.With(world).Set(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.seen[world]; !known && len(p.seen) >= worldsSeen {
		world = "other"
	}
	p.seen[world]++
	p.world = world
}

// value is the member of /status.
func (p *pretrade) value() pyjson.Value {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pyjson.OfObject(
		pyjson.Member{Key: "attempts", Value: pyjson.OfInt(int64(p.seen[p.world]))},
		pyjson.Member{Key: "rejections", Value: pyjson.OfObject()},
		pyjson.Member{Key: "ratio", Value: pyjson.OfFloat(0)},
	)
}
