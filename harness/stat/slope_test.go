package stat_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"qmtl.internal/plumbline/harness/stat"
)

func line(n int, slope float64, noise func(i int) float64) (out [][2]float64) {
	for i := range n {
		x := float64(i) / 2
		out = append(out, [2]float64{x, 100 + slope*x + noise(i)})
	}
	return out
}

func TestTheilSenFindsTheSlope(t *testing.T) {
	exact, err := stat.TheilSen(line(20, 3, func(int) float64 { return 0 }), 0.05)
	if err != nil || math.Abs(exact.Value-3) > 1e-9 || math.Abs(exact.Lo-3) > 1e-9 || math.Abs(exact.Hi-3) > 1e-9 || exact.N != 20 {
		t.Errorf("exact line: %+v, %v", exact, err)
	}
}

func TestTheilSenBearsWildAndManyPoints(t *testing.T) {
	// A quarter of wild points moves the median of the slopes little.
	wild, err := stat.TheilSen(line(60, 3, func(i int) float64 {
		if i%4 == 0 {
			return 1e4
		}
		return 0
	}), 0.05)
	if err != nil || math.Abs(wild.Value-3) > 0.5 {
		t.Errorf("wild points: %+v, %v", wild, err)
	}
	long, err := stat.TheilSen(line(5000, -2, func(int) float64 { return 0 }), 0.05)
	if err != nil || math.Abs(long.Value+2) > 1e-9 || long.N > 1000 {
		t.Errorf("many points: %+v, %v", long, err)
	}
}

// The interval holds the truth about as often as it says.
func TestTheilSenInterval(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const trials = 400
	hit := 0
	for range trials {
		s, err := stat.TheilSen(line(40, 1, func(int) float64 { return 5 * rng.NormFloat64() }), 0.05)
		if err != nil {
			t.Fatal(err)
		}
		if s.Lo <= 1 && 1 <= s.Hi && s.Lo <= s.Value && s.Value <= s.Hi {
			hit++
		}
	}
	if share := float64(hit) / trials; share < 0.92 || share > 0.99 {
		t.Errorf("the interval at 95 %% held the slope in %.1f %% of %d trials", 100*share, trials)
	}
}

func TestTheilSenRefuses(t *testing.T) {
	same := make([][2]float64, 20)
	for name, c := range map[string]struct {
		points [][2]float64
		alpha  float64
	}{
		"few points":  {line(7, 1, func(int) float64 { return 0 }), 0.05},
		"one instant": {same, 0.05},
		"no alpha":    {line(20, 1, func(int) float64 { return 0 }), 0},
		"no number":   {append(line(20, 1, func(int) float64 { return 0 }), [2]float64{1, math.NaN()}), 0.05},
	} {
		if s, err := stat.TheilSen(c.points, c.alpha); err == nil {
			t.Errorf("%s: %+v, and no error", name, s)
		}
	}
}
