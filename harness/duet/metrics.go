package duet

import (
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/stat"
)

// Names of metrics beside the quantiles of latency (p50_ms, p90_ms, p95_ms,
// p99_ms).
const (
	Mean   = "mean_ms"            // of latency
	CPU    = "cpu_us_per_request" // of a process; all: their sum
	Allocs = "allocs_per_request" // objects on the heap, same
	Heap   = "heap_peak_bytes"    // largest live heap, same
)

// quantiles that are compared, where a class has enough requests for them.
var quantiles = []float64{0.5, 0.9, 0.95, 0.99}

// leastOf is how many observations a mean needs.
const leastOf = 20

// Quantiles are the figures of latency of each class and of all together, by
// metric/class, in milliseconds. A class with too few requests for a quantile
// has no such figure.
func Quantiles(l load.Latencies) map[string]float64 {
	out := map[string]float64{}
	figures(out, load.All, l.Union())
	for class, h := range l {
		figures(out, class, h)
	}
	return out
}

// Enough tells whether n requests are enough for a metric of latency.
func Enough(metric string, n int64) bool {
	for _, q := range quantiles {
		if metric == fmt.Sprintf("p%g_ms", q*100) {
			return stat.Enough(q, int(n)) == nil
		}
	}
	return n >= leastOf
}

func figures(out map[string]float64, class string, h *hdrhistogram.Histogram) {
	n := int(h.TotalCount())
	if n >= leastOf {
		out[Mean+"/"+class] = h.Mean() / 1e6
	}
	for _, q := range quantiles {
		if stat.Enough(q, n) == nil {
			out[fmt.Sprintf("p%g_ms/%s", q*100, class)] = around(h, q) / 1e6
		}
	}
}

// far is from where on a quantile is taken with its neighbours.
const far = 0.99

// The neighbours of a far quantile: those beyond which from so many to so many
// times as many requests lie. In a tail that falls off as a power, their mean is
// the quantile itself.
const (
	farthest = 0.263
	nearest  = 2
)

// around is the q-quantile in nanoseconds. One far out, which rests on few
// requests, is the geometric mean of its neighbours, for p99 from p98 to p99.74.
// It shifts as the quantile does, with less noise.
func around(h *hdrhistogram.Histogram, q float64) float64 {
	if q < far {
		return quantile(h, q)
	}
	n := float64(h.TotalCount())
	from, to := (1-nearest*(1-q))*n, (1-farthest*(1-q))*n // ranks
	seen, sum := 0.0, 0.0
	for _, bar := range h.Distribution() {
		next := seen + float64(bar.Count)
		if within := min(next, to) - max(seen, from); within > 0 {
			sum += within * math.Log(float64(bar.From+bar.To+1)/2)
		}
		seen = next
	}
	return math.Exp(sum / (to - from))
}

// quantile reads the q-quantile between the borders of its bucket, in
// nanoseconds: the ratio of two builds that differ by less than a bucket would
// otherwise be 1 or a whole bucket.
func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	rank := q * float64(h.TotalCount())
	seen := 0.0
	for _, bar := range h.Distribution() {
		n := float64(bar.Count)
		if n > 0 && seen+n >= rank {
			return float64(bar.From) + float64(bar.To+1-bar.From)*(rank-seen)/n
		}
		seen += n
	}
	return float64(h.Max())
}
