package duet

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"qmtl.internal/plumbline/bench/load"
)

// A far quantile with its neighbours lies where the quantile lies, moves as it
// moves, and is steadier.
func TestFarQuantileWithItsNeighbours(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	const draws, shift = 400, 0.05
	var alone, together, moved [draws]float64
	for i := range draws {
		h, later := load.NewLatencies(), load.NewLatencies()
		for range 2000 {
			ms := 0.6 * rng.ExpFloat64() // log scale
			if err := errors.Join(h.RecordValue(int64(1e6*math.Exp(ms))), later.RecordValue(int64(1e6*math.Exp(ms+shift)))); err != nil {
				t.Fatal(err)
			}
		}
		alone[i], together[i], moved[i] = math.Log(quantile(h, 0.99)), math.Log(around(h, 0.99)), math.Log(around(later, 0.99))
	}
	if d := center(together[:]) - center(alone[:]); math.Abs(d) > 0.03 {
		t.Errorf("p99 with its neighbours is %+.1f %% off p99", 100*d)
	}
	if d := center(moved[:]) - center(together[:]); math.Abs(d-shift) > 0.001 {
		t.Errorf("a shift of %.1f %% shows as %+.2f %%", 100*shift, 100*d)
	}
	if a, b := scatter(alone[:]), scatter(together[:]); b > 0.95*a {
		t.Errorf("p99 with its neighbours scatters by %.3f, p99 alone by %.3f; want it steadier", b, a)
	}
}

func center(xs []float64) (m float64) {
	for _, x := range xs {
		m += x / float64(len(xs))
	}
	return m
}

func scatter(xs []float64) float64 {
	m, square := center(xs), 0.0
	for _, x := range xs {
		square += (x - m) * (x - m)
	}
	return math.Sqrt(square / float64(len(xs)-1))
}
