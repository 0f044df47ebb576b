package stat

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"gonum.org/v1/gonum/stat/distuv"
)

// Confidence of the intervals that reports show.
const Confidence = 0.95

// Estimate is a quantile of a sample with its interval. A bound that the sample
// is too small for is absent.
type Estimate struct {
	Q        float64
	N        int
	Value    float64 // the least observation that at least Q of all do not exceed
	Lo, Hi   float64
	HasLo    bool
	HasHi    bool
	Warnings []string
}

// Quantile reads the q-quantile (0 < q < 1) of xs, with the interval between
// two observations that holds the true quantile at the given confidence,
// whatever the distribution. xs is not changed.
func Quantile(xs []float64, q, confidence float64) (Estimate, error) {
	if err := checkSample("sample", xs); err != nil {
		return Estimate{}, err
	}
	lo, hi, err := Ranks(len(xs), q, confidence)
	if err != nil {
		return Estimate{}, err
	}
	sorted := slices.Sorted(slices.Values(xs))
	e := Estimate{Q: q, N: len(xs), Value: sorted[rankOf(len(xs), q)-1], Warnings: Enough(q, len(xs))}
	if e.HasLo = lo > 0; e.HasLo {
		e.Lo = sorted[lo-1]
	}
	if e.HasHi = hi > 0; e.HasHi {
		e.Hi = sorted[hi-1]
	}
	return e, nil
}

// rankOf is the number, from 1, of the observation that is the q-quantile. A
// product like 0.29 × 100 must not land one too high for lack of a bit.
func rankOf(n int, q float64) int {
	return min(max(1, int(math.Ceil(q*float64(n)-1e-9))), n)
}

// Ranks tells which of n ordered observations (from 1) bound the q-quantile at
// the given confidence, each side at half of the rest: for use where the
// observations sit in a histogram. 0 means that no observation bounds it.
func Ranks(n int, q, confidence float64) (lo, hi int, err error) {
	switch {
	case n < 1:
		return 0, 0, fmt.Errorf("stat: %d observations have no quantiles", n)
	case !(q > 0 && q < 1):
		return 0, 0, fmt.Errorf("stat: quantile %g is not between 0 and 1", q)
	case !(confidence > 0 && confidence < 1):
		return 0, 0, fmt.Errorf("stat: confidence %g is not between 0 and 1", confidence)
	}
	below := distuv.Binomial{N: float64(n), P: q} // how many observations lie below the quantile
	tail := (1 - confidence) / 2
	// The lo-th lies above with P(B < lo), the hi-th below with P(B ≥ hi).
	lo = sort.Search(n, func(k int) bool { return below.CDF(float64(k)) > tail })
	hi = 1 + sort.Search(n, func(k int) bool { return 1-below.CDF(float64(k)) <= tail })
	if hi > n {
		hi = 0
	}
	return lo, hi, nil
}

// Enough says what n observations are too few for, about the q-quantile; nil
// when they are enough. Ten observations beyond it are asked (200 for p95, 1,000
// for p99, 10,000 for p99.9); with fewer than 72, 368 or 3,688 it has no upper
// bound at 95 % at all.
func Enough(q float64, n int) []string {
	if !(q > 0 && q < 1) {
		return []string{fmt.Sprintf("quantile %g is not between 0 and 1", q)}
	}
	name := fmt.Sprintf("p%.6g", q*100)
	bound, ten := atLeast(math.Log((1-Confidence)/2)/math.Log(q)), atLeast(10/(1-q))
	switch {
	case n < bound:
		return []string{fmt.Sprintf("%s of %d observations has no upper bound at %g %%; take at least %d, better %d",
			name, n, Confidence*100, bound, ten)}
	case n < ten:
		return []string{fmt.Sprintf("%s of %d observations rests on fewer than 10 beyond it; take at least %d", name, n, ten)}
	}
	return nil
}

// atLeast rounds up, forgiving the last bits of a division.
func atLeast(x float64) int { return int(math.Ceil(x - 1e-6)) }
