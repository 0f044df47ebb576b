package load

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The layout that all histograms share, so that they merge exactly: values in
// nanoseconds from 1 µs to 120 s, three significant digits.
const (
	lowest  = int64(time.Microsecond)
	highest = int64(120 * time.Second)
	digits  = 3
)

// All is the class that holds the observations of every other class.
const All = "all"

// Timing holds the three histograms of one class of requests. Values are in
// nanoseconds; what is shorter than 1 µs counts as 1 µs at most, what is longer
// than 120 s as 120 s.
type Timing struct {
	Lag     *hdrhistogram.Histogram // sent − due, of every request that left
	Service *hdrhistogram.Histogram // done − sent, of every answered one
	Latency *hdrhistogram.Histogram // done − due, of every answered one
}

// NewTiming returns empty histograms of the common layout.
func NewTiming() *Timing { return &Timing{newHistogram(), newHistogram(), newHistogram()} }

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(lowest, highest, digits) }

// Merge adds the observations of o, bucket for bucket.
func (t *Timing) Merge(o *Timing) error {
	for _, p := range t.pairs(o) {
		if n := p[0].Merge(p[1]); n > 0 {
			return fmt.Errorf("histogram: %d observations lie beyond the common layout", n)
		}
	}
	return nil
}

func (t *Timing) pairs(o *Timing) [3][2]*hdrhistogram.Histogram {
	return [3][2]*hdrhistogram.Histogram{{t.Lag, o.Lag}, {t.Service, o.Service}, {t.Latency, o.Latency}}
}

// kinds names the histograms as latency.hlog does.
func (t *Timing) kinds() map[string]*hdrhistogram.Histogram {
	return map[string]*hdrhistogram.Histogram{"lag": t.Lag, "service": t.Service, "latency": t.Latency}
}

// Class summarises the timing.
func (t *Timing) Class() Class {
	return Class{N: t.Latency.TotalCount(), Lag: quantiles(t.Lag), Service: quantiles(t.Service), Latency: quantiles(t.Latency)}
}

func put(h *hdrhistogram.Histogram, d time.Duration) {
	// A value within the layout cannot be refused.
	_ = h.RecordValue(min(max(0, int64(d)), highest))
}

func quantiles(h *hdrhistogram.Histogram) Quantiles {
	at := func(q float64) float64 { return millis(h.ValueAtQuantile(q)) }
	return Quantiles{P50: at(50), P90: at(90), P95: at(95), P99: at(99), P999: at(99.9), Max: millis(h.Max()), Mean: h.Mean() / 1e6}
}

func millis(ns int64) float64 { return float64(ns) / 1e6 }

// ClassOf is the timing of some outcomes. Those that were never sent or never
// answered have none.
func ClassOf(outcomes []Outcome) Class {
	t := Timings{}.of(All)
	for _, o := range outcomes {
		if o.Fate == Dropped || o.Fate == Lost {
			continue
		}
		put(t.Lag, o.Sent-o.Due)
		put(t.Service, o.Done-o.Sent)
		put(t.Latency, o.Done-o.Due)
	}
	return t.Class()
}

// Timings holds the timing of each class, without All.
type Timings map[string]*Timing

// of returns the timing of class, which it creates at need.
func (ts Timings) of(class string) *Timing {
	t := ts[class]
	if t == nil {
		t = NewTiming()
		ts[class] = t
	}
	return t
}

// Merge adds the observations of o, class by class.
func (ts Timings) Merge(o Timings) error {
	for _, class := range slices.Sorted(maps.Keys(o)) {
		if err := ts.of(class).Merge(o[class]); err != nil {
			return fmt.Errorf("class %s: %w", class, err)
		}
	}
	return nil
}

// Union is the timing of all classes together.
func (ts Timings) Union() (*Timing, error) {
	all := NewTiming()
	for _, class := range slices.Sorted(maps.Keys(ts)) {
		if err := all.Merge(ts[class]); err != nil {
			return nil, fmt.Errorf("class %s: %w", class, err)
		}
	}
	return all, nil
}

// curve is the percentile curve of h: finer the nearer it comes to 100.
func curve(h *hdrhistogram.Histogram) []CurvePoint {
	if h.TotalCount() == 0 {
		return nil
	}
	const ticksPerHalfDistance = 5
	brackets := h.CumulativeDistributionWithTicks(ticksPerHalfDistance)
	out := make([]CurvePoint, len(brackets))
	for i, b := range brackets {
		out[i] = CurvePoint{Percentile: b.Quantile, MS: millis(b.ValueAt)}
	}
	return out
}
