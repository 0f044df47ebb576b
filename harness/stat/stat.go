// Package stat compares two samples and says how sure it is, and reads
// quantiles with the interval that the number of observations allows.
//
// It assumes no distribution: locations are compared by ranks (Mann–Whitney,
// Hodges–Lehmann), quantiles bounded by order statistics. What cannot be
// computed from the given numbers is an error or a warning, never a number.
package stat

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/aclements/go-moremath/stats"
	"gonum.org/v1/gonum/stat/distuv"
)

// A Question is what a reader wants to know about two samples.
type Question struct {
	Alpha     float64   // chance accepted of an alarm by noise, e.g. 0.05
	LeastCare float64   // least shift worth a person's time, relative to the base's median, e.g. 0.05
	Worse     Direction // which way is bad
}

// Direction tells which change of a metric is bad.
type Direction int

// There is no default: the zero Direction is refused.
const (
	HigherIsWorse Direction = iota + 1 // latency, memory, complexity
	LowerIsWorse                       // throughput
)

// An Answer keeps size, certainty and caveats side by side. Shift, Lo and Hi
// have the unit of the observations.
type Answer struct {
	BaseN, CandidateN int
	Base, Candidate   float64 // medians
	Shift             float64 // Hodges–Lehmann: median of all candidate − base differences; + is more
	Lo, Hi            float64 // distribution-free interval of Shift at 1 − Alpha; all differences when not Bounded
	Bounded           bool    // false: too few observations for an interval at this Alpha
	P                 float64 // two-sided Mann–Whitney; replace it by Holm's value in a family of comparisons
	Cliff             float64 // Cliff's δ: P(candidate > base) − P(candidate < base), −1 to 1
	Warnings          []string
}

// Effect is a shift relative to the base's median: 0.05 is five per cent more.
type Effect struct{ Shift, Lo, Hi float64 }

// Relative expresses the shift in parts of the base's median; false when that is zero.
func (a Answer) Relative() (Effect, bool) {
	unit := math.Abs(a.Base)
	if unit == 0 {
		return Effect{}, false
	}
	return Effect{a.Shift / unit, a.Lo / unit, a.Hi / unit}, true
}

// Compare answers q for two samples of independent observations. Order within a
// sample does not matter; the slices are not changed. Swapping the samples
// negates Shift and swaps its bounds; adding a constant to the candidate adds it
// to Shift, Lo and Hi. Empty samples and values that are not finite are errors.
func Compare(base, candidate []float64, q Question) (Answer, error) {
	if err := errors.Join(q.check(), checkSample("base", base), checkSample("candidate", candidate)); err != nil {
		return Answer{}, err
	}
	x, y := slices.Sorted(slices.Values(base)), slices.Sorted(slices.Values(candidate))
	a := Answer{BaseN: len(x), CandidateN: len(y), Base: median(x), Candidate: median(y)}
	d := differences{x, y}
	pairs := d.pairs()
	k := boundRank(len(x), len(y), q.Alpha)
	a.Bounded = k >= 1
	k = max(k, 1)
	a.Shift, a.Lo, a.Hi = d.median(), d.rank(k), d.rank(pairs+1-k)
	if math.IsInf(a.Lo, 0) || math.IsInf(a.Hi, 0) {
		return Answer{}, errors.New("stat: the differences between the samples are too large for a number; scale the values")
	}
	ranks := rankSamples(x, y)
	a.P, a.Cliff = ranks.p(), ranks.cliff()
	if !a.Bounded {
		a.Warnings = append(a.Warnings, fmt.Sprintf(
			"%d and %d observations cannot show a difference at α = %g; take at least %d a side", len(x), len(y), q.Alpha, Need(q.Alpha)))
	}
	if a.Base == 0 {
		a.Warnings = append(a.Warnings, "the base's median is 0: no relative shift exists, and any shift counts")
	}
	return a, nil
}

func (q Question) check() error {
	var errs []error
	if !(q.Alpha > 0 && q.Alpha < 1) {
		errs = append(errs, fmt.Errorf("stat: Alpha %g is not between 0 and 1", q.Alpha))
	}
	if !(q.LeastCare >= 0) || math.IsInf(q.LeastCare, 0) {
		errs = append(errs, fmt.Errorf("stat: LeastCare %g is not a finite part of the base", q.LeastCare))
	}
	if q.Worse != HigherIsWorse && q.Worse != LowerIsWorse {
		errs = append(errs, errors.New("stat: Worse does not say whether higher or lower is worse"))
	}
	return errors.Join(errs...)
}

func checkSample(side string, xs []float64) error {
	if len(xs) == 0 {
		return fmt.Errorf("stat: the %s has no observations", side)
	}
	for i, x := range xs {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("stat: observation %d of the %s is %g, not a finite number", i, side, x)
		}
	}
	return nil
}

// Regressed needs both: the shift is real, and even its kind end is worse than
// what anyone cares about.
func (q Question) Regressed(a Answer) bool {
	lo, _ := q.badness(a)
	return a.P < q.Alpha && a.Bounded && lo > q.care(a)
}

// Improved is Regressed the other way round.
func (q Question) Improved(a Answer) bool {
	_, hi := q.badness(a)
	return a.P < q.Alpha && a.Bounded && hi < -q.care(a)
}

// NoWorse tells that a shift worth caring about is ruled out: not even the
// unkind end of the interval reaches it. A comparison that is neither
// Regressed nor NoWorse is inconclusive.
func (q Question) NoWorse(a Answer) bool {
	_, hi := q.badness(a)
	return a.Bounded && hi < q.care(a)
}

// badness is the interval with + meaning worse.
func (q Question) badness(a Answer) (lo, hi float64) {
	if q.Worse == LowerIsWorse {
		return -a.Hi, -a.Lo
	}
	return a.Lo, a.Hi
}

func (q Question) care(a Answer) float64 { return q.LeastCare * math.Abs(a.Base) }

func median(sorted []float64) float64 {
	n := len(sorted)
	return middle(sorted[(n-1)/2], sorted[n/2])
}

// middle halves before it adds, so that it cannot overflow, but only when it must.
func middle(a, b float64) float64 {
	if m := (a + b) / 2; !math.IsInf(m, 0) {
		return m
	}
	return a/2 + b/2
}

// boundRank is the k such that the k-th smallest and k-th largest difference
// bound the shift at confidence 1 − α; 0 when the samples are too small.
func boundRank(n, m int, alpha float64) int {
	pairs := float64(n) * float64(m)
	if n > exactLimit || m > exactLimit {
		sigma := math.Sqrt(pairs * float64(n+m+1) / 12)
		return max(0, int(math.Floor(pairs/2+distuv.UnitNormal.Quantile(alpha/2)*sigma+0.5)))
	}
	u := stats.UDist{N1: n, N2: m}
	lo, hi := 0, n*m/2+1 // P(U ≤ lo−1) ≤ α/2 < P(U ≤ hi−1)
	for hi-lo > 1 {
		k := (lo + hi) / 2
		if u.CDF(float64(k-1)) <= alpha/2 {
			lo = k
		} else {
			hi = k
		}
	}
	return lo
}

// Need is the least number of observations a side with which any difference,
// however large, could reach significance at alpha.
func Need(alpha float64) int {
	for n := 1; n < exactLimit; n++ {
		if 2*(stats.UDist{N1: n, N2: n}).CDF(0) <= alpha {
			return n
		}
	}
	return exactLimit
}

// Holm corrects the p-values of a family of comparisons so that the chance of
// even one false alarm stays within alpha. The order is kept.
func Holm(ps []float64) ([]float64, error) {
	order := make([]int, len(ps))
	for i, p := range ps {
		if !(p >= 0 && p <= 1) {
			return nil, fmt.Errorf("stat: p-value %d is %g, not between 0 and 1", i, p)
		}
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case ps[a] < ps[b]:
			return -1
		case ps[a] > ps[b]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(ps))
	floor := 0.0
	for rank, i := range order {
		floor = max(floor, min(1, ps[i]*float64(len(ps)-rank)))
		out[i] = floor
	}
	return out, nil
}
