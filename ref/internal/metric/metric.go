// Package metric has the kinds of metric that both services need beside those
// of the client library: families whose labels come from clients and therefore
// must end somewhere, families that several parts move, and percentiles over
// the last few values.
package metric

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries is how many combinations of label values have a series of their
// own; all later ones share one, with "other" for every value.
const maxSeries = 256

// bound admits the first maxSeries combinations.
type bound struct {
	mu   sync.Mutex
	seen map[string]struct{} // guarded by mu
}

// values gives the label values to use for those that were given.
func (b *bound) values(given []string) []string {
	kept := make([]string, len(given))
	for i, v := range given {
		kept[i] = strings.ToValidUTF8(v, "\uFFFD")
	}
	if !b.admit(strings.Join(kept, "\x00")) {
		for i := range kept {
			kept[i] = "other"
		}
	}
	return kept
}

func (b *bound) admit(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.seen[key]; ok {
		return true
	}
	if len(b.seen) >= maxSeries {
		return false
	}
	if b.seen == nil {
		b.seen = map[string]struct{}{}
	}
	b.seen[key] = struct{}{}
	return true
}

// Labels bounds the label values of a family that is not made here. The zero
// value is ready; it is safe for concurrent use.
type Labels struct{ bound bound }

// Of gives the label values to use for those that a client gave.
func (l *Labels) Of(values ...string) []string { return l.bound.values(values) }

// Counters is a counter vector whose label values come from clients.
type Counters struct {
	vec   *prometheus.CounterVec
	bound bound
}

// NewCounters registers a family with reg.
func NewCounters(reg prometheus.Registerer, name, help string, labels ...string) *Counters {
	c := &Counters{vec: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)}
	reg.MustRegister(c.vec)
	return c
}

// With gives the counter for values.
func (c *Counters) With(values ...string) prometheus.Counter {
	return c.vec.WithLabelValues(c.bound.values(values)...)
}

// Gauges is a gauge vector whose label values come from clients.
type Gauges struct {
	vec   *prometheus.GaugeVec
	bound bound
}

// NewGauges registers a family with reg.
func NewGauges(reg prometheus.Registerer, name, help string, labels ...string) *Gauges {
	g := &Gauges{vec: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)}
	reg.MustRegister(g.vec)
	return g
}

// With gives the gauge for values.
func (g *Gauges) With(values ...string) prometheus.Gauge {
	return g.vec.WithLabelValues(g.bound.values(values)...)
}

// NewCounter registers one counter with reg.
func NewCounter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	reg.MustRegister(c)
	return c
}

// NewGauge registers one gauge with reg.
func NewGauge(reg prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	reg.MustRegister(g)
	return g
}

// Share registers *c, or makes it the family that another part registered
// before.
func Share[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var there prometheus.AlreadyRegisteredError
	if !errors.As(err, &there) {
		return err
	}
	have, ok := there.ExistingCollector.(C)
	if !ok {
		return fmt.Errorf("metrics: %w as a %T", err, there.ExistingCollector)
	}
	*c = have
	return nil
}

// Window keeps the last 100 durations. The zero value is ready; it is safe for
// concurrent use.
type Window struct {
	mu   sync.Mutex
	last [100]float64 // milliseconds
	n    int          // ever added
}

// Add takes a duration in.
func (w *Window) Add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[w.n%len(w.last)] = float64(d) / float64(time.Millisecond)
	w.n++
}

// P95 is the value at floor(0.95 n) - 1 of the sorted window in milliseconds
// (gateway.md section 4), 0 when it is empty.
func (w *Window) P95() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.n, len(w.last))
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(w.last[:n]))
	return sorted[max(0, n*95/100-1)]
}
