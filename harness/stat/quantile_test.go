package stat_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"qmtl.internal/plumbline/harness/stat"
)

func TestUpperBoundNeedsAsManyObservationsAsTheGlossarySays(t *testing.T) {
	for q, least := range map[float64]int{0.95: 72, 0.99: 368, 0.999: 3688} {
		for n, want := range map[int]bool{least - 1: false, least: true} {
			_, hi, err := stat.Ranks(n, q, 0.95)
			if err != nil || (hi > 0) != want {
				t.Errorf("Ranks(%d, %g): upper rank %d, %v; want one: %v", n, q, hi, err, want)
			}
		}
		if w := stat.Enough(q, least-1); len(w) != 1 {
			t.Errorf("Enough(%g, %d) = %v; want one warning", q, least-1, w)
		}
	}
	for q, n := range map[float64]int{0.5: 20, 0.95: 200, 0.99: 1000, 0.999: 10000} {
		if w := stat.Enough(q, n); w != nil {
			t.Errorf("Enough(%g, %d) = %v; want none", q, n, w)
		}
		if w := stat.Enough(q, n-1); len(w) != 1 {
			t.Errorf("Enough(%g, %d) = %v; want one warning", q, n-1, w)
		}
	}
	if w := stat.Enough(1, 10); len(w) != 1 {
		t.Errorf("Enough(1, 10) = %v; want a warning", w)
	}
}

// Textbook ranks: the median of 10 lies between the 2nd and 9th with 97.9 %,
// of 25 between the 8th and 18th with 95.7 %.
func TestRanksOfTheMedian(t *testing.T) {
	for n, want := range map[int][2]int{5: {0, 0}, 6: {1, 6}, 10: {2, 9}, 25: {8, 18}} {
		lo, hi, err := stat.Ranks(n, 0.5, 0.95)
		if err != nil || [2]int{lo, hi} != want {
			t.Errorf("Ranks(%d, 0.5, 0.95) = %d, %d, %v; want %v", n, lo, hi, err, want)
		}
	}
}

func TestQuantileIntervalHoldsTheTruth(t *testing.T) {
	const sims = 2000
	rng := rand.New(rand.NewPCG(10, 11))
	for _, q := range []float64{0.5, 0.95} {
		truth := -math.Log(1 - q) // of the exponential distribution
		held := 0
		for range sims {
			e, err := stat.Quantile(draw(rng, 300, (*rand.Rand).ExpFloat64), q, 0.95)
			if err != nil {
				t.Fatal(err)
			}
			held += count(holds(e, truth) && holds(e, e.Value))
		}
		if held < sims*95/100 {
			t.Errorf("q %g: the interval held the truth %d times in %d; want 95 %%", q, held, sims)
		}
	}
}

func holds(e stat.Estimate, v float64) bool {
	return e.HasLo && e.HasHi && e.Lo <= v && v <= e.Hi
}

func TestQuantileOfASmallSample(t *testing.T) {
	e, err := stat.Quantile([]float64{5, 1, 4, 2, 3}, 0.95, 0.95)
	if err != nil {
		t.Fatal(err)
	}
	if e.Value != 5 || e.HasHi || e.N != 5 || len(e.Warnings) == 0 {
		t.Errorf("Quantile = %+v; want 5, no upper bound, a warning", e)
	}
	xs := make([]float64, 100)
	for i := range xs {
		xs[i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0.01: 1, 0.29: 29, 0.5: 50, 0.501: 51, 0.95: 95, 0.999: 100} {
		if e, err := stat.Quantile(xs, q, 0.95); err != nil || e.Value != want {
			t.Errorf("Quantile(1..100, %g) = %g, %v; want %g", q, e.Value, err, want)
		}
	}
}

func TestQuantileRefuses(t *testing.T) {
	good := []float64{1, 2, 3}
	rows := []struct {
		name    string
		xs      []float64
		q, conf float64
	}{
		{"empty", nil, 0.5, 0.95}, {"NaN", []float64{math.NaN()}, 0.5, 0.95}, {"Inf", []float64{1, math.Inf(1)}, 0.5, 0.95},
		{"q 0", good, 0, 0.95}, {"q 1", good, 1, 0.95}, {"q NaN", good, math.NaN(), 0.95},
		{"confidence 0", good, 0.5, 0}, {"confidence 1", good, 0.5, 1}, {"confidence NaN", good, 0.5, math.NaN()},
	}
	for _, r := range rows {
		if e, err := stat.Quantile(r.xs, r.q, r.conf); err == nil {
			t.Errorf("%s: Quantile = %+v; want an error", r.name, e)
		}
	}
}
