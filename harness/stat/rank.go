package stat

import (
	"math"
	"slices"

	"github.com/aclements/go-moremath/stats"
	"gonum.org/v1/gonum/stat/distuv"
)

// exactLimit is the size of the larger sample up to which the distribution of U
// is computed and not taken to be normal; with ties it costs more, and
// exactTiedLimit applies.
const (
	exactLimit     = 50
	exactTiedLimit = 25
)

// ranking is what Mann–Whitney's test sees of two samples.
type ranking struct {
	n, m int
	u    float64 // pairs with y > x, and half of those with y = x
	ties []int   // how many observations share each value, by rising value
}

// rankSamples takes sorted samples.
func rankSamples(x, y []float64) ranking {
	r := ranking{n: len(x), m: len(y)}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		v := least(x[i:], y[j:])
		nx, ny := run(x[i:], v), run(y[j:], v)
		r.u += float64(ny) * (float64(i) + float64(nx)/2)
		r.ties = append(r.ties, nx+ny)
		i, j = i+nx, j+ny
	}
	return r
}

func least(x, y []float64) float64 {
	switch {
	case len(x) == 0:
		return y[0]
	case len(y) == 0:
		return x[0]
	}
	return min(x[0], y[0])
}

// run counts how often xs starts with v.
func run(xs []float64, v float64) int {
	n := 0
	for n < len(xs) && xs[n] == v {
		n++
	}
	return n
}

// cliff is Cliff's δ.
func (r ranking) cliff() float64 { return 2*r.u/(float64(r.n)*float64(r.m)) - 1 }

// p is two-sided: twice the smaller tail. The tails are taken one by one,
// because with ties the distribution of U need not be symmetric (which
// go-moremath's own test overlooks: its p changes when the samples swap).
func (r ranking) p() float64 {
	limit := exactLimit
	if slices.Max(r.ties) > 1 {
		limit = exactTiedLimit
	}
	switch {
	case len(r.ties) == 1: // all observations are one value
		return 1
	case max(r.n, r.m) > limit:
		return r.normalP()
	}
	pairs := float64(r.n * r.m)
	least := stats.UDist{N1: r.m, N2: r.n, T: r.ties}.CDF(r.u)
	most := stats.UDist{N1: r.n, N2: r.m, T: r.ties}.CDF(pairs - r.u)
	return min(1, 2*min(least, most))
}

// normalP corrects for ties and for continuity.
func (r ranking) normalP() float64 {
	n, m := float64(r.n), float64(r.m)
	correction := 0.0
	for _, t := range r.ties {
		t := float64(t)
		correction += t*t*t - t
	}
	sigma := math.Sqrt(n * m / 12 * (n + m + 1 - correction/((n+m)*(n+m-1))))
	z := max(0, math.Abs(r.u-n*m/2)-0.5) / sigma
	return 2 * distuv.UnitNormal.Survival(z)
}
