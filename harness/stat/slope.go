package stat

import (
	"errors"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// Slope is how fast y grows with x: Sen's median of the slopes between all pairs
// of points, which a third of wild points cannot move, with its interval by
// Kendall's variance. Points that follow each other closely are less independent
// than the interval assumes.
type Slope struct {
	Value, Lo, Hi float64 // y per x
	N             int     // points
}

// maxSlopePoints bounds the work, which grows with the square; more points are
// thinned out evenly.
const maxSlopePoints = 1000

// leastSlopePoints are needed for an interval.
const leastSlopePoints = 8

// TheilSen fits points (x, y); two points of one x say nothing about each other.
func TheilSen(points [][2]float64, alpha float64) (Slope, error) {
	if !(alpha > 0 && alpha < 1) {
		return Slope{}, errors.New("stat: alpha must lie between 0 and 1")
	}
	for _, p := range points {
		if math.IsNaN(p[0]+p[1]) || math.IsInf(p[0]+p[1], 0) {
			return Slope{}, errors.New("stat: a point is not finite")
		}
	}
	points = thinned(points)
	pairs := pairSlopes(points)
	if len(points) < leastSlopePoints || len(pairs) == 0 {
		return Slope{}, errors.New("stat: too few points for a slope; take at least 8 at different times")
	}
	n := float64(len(points))
	reach := distuv.UnitNormal.Quantile(1-alpha/2) * math.Sqrt(n*(n-1)*(2*n+5)/18)
	last := len(pairs) - 1
	lo := max(0, int(math.Floor((float64(len(pairs))-reach)/2))-1)
	hi := min(last, int(math.Ceil((float64(len(pairs))+reach)/2)))
	return Slope{Value: median(pairs), Lo: pairs[lo], Hi: pairs[hi], N: len(points)}, nil
}

func thinned(points [][2]float64) [][2]float64 {
	step := (len(points) + maxSlopePoints - 1) / maxSlopePoints
	if step <= 1 {
		return points
	}
	var out [][2]float64
	for i := 0; i < len(points); i += step {
		out = append(out, points[i])
	}
	return out
}

// pairSlopes lists the slopes between all pairs, sorted.
func pairSlopes(points [][2]float64) []float64 {
	var out []float64
	for i, a := range points {
		for _, b := range points[i+1:] {
			if a[0] != b[0] {
				out = append(out, (b[1]-a[1])/(b[0]-a[0]))
			}
		}
	}
	slices.Sort(out)
	return out
}
