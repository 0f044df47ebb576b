package load

import (
	"iter"
	"math"
	"math/bits"
	"time"
)

// Schedule says when each request of a run is due. It is fixed before the run.
type Schedule interface {
	// Due is the offset of request i from the start, 0 <= i < N. It never
	// decreases with i.
	Due(i int64) time.Duration
	// N is the number of requests: those with Due < the schedule's end.
	N() int64
}

// Constant offers Rate requests a second over For. Due(i) is
// floor(i * 1 s / Rate), in integers, so nothing drifts and exactly
// ceil(Rate * For) requests are due before For.
type Constant struct {
	Rate int64         // requests per second, > 0
	For  time.Duration // >= 0
}

// Due implements Schedule.
func (c Constant) Due(i int64) time.Duration {
	hi, lo := bits.Mul64(uint64(i), uint64(time.Second))
	q, _ := bits.Div64(hi, lo, uint64(c.Rate))
	return time.Duration(q)
}

// N implements Schedule.
func (c Constant) N() int64 {
	hi, lo := bits.Mul64(uint64(c.For), uint64(c.Rate))
	q, r := bits.Div64(hi, lo, uint64(time.Second))
	if r > 0 {
		q++
	}
	return int64(q)
}

// Ramp is one piece of Ramps: the rate moves in a straight line from where the
// piece before left it to Rate over For. A piece that keeps the rate is flat.
type Ramp struct {
	Rate float64       // requests per second at the end of the piece, >= 0
	For  time.Duration // > 0
}

// Ramps offers a rate that changes in straight lines. Due is the closed-form
// inverse of the area under the rate.
type Ramps struct {
	Start float64 // requests per second at offset zero, >= 0
	Ramps []Ramp
}

// N implements Schedule.
func (s Ramps) N() int64 {
	total, r0 := 0.0, s.Start
	for _, p := range s.Ramps {
		total += area(r0, p)
		r0 = p.Rate
	}
	return int64(math.Ceil(total - slack(total)))
}

// Due implements Schedule.
func (s Ramps) Due(i int64) time.Duration {
	need, r0 := float64(i), s.Start
	var at time.Duration
	for _, p := range s.Ramps {
		a := area(r0, p)
		if a > 0 && need < a-slack(a) {
			return at + inverse(need, r0, p)
		}
		need, at, r0 = max(0, need-a), at+p.For, p.Rate
	}
	return at
}

// area is the number of requests due within p when it starts at rate r0.
func area(r0 float64, p Ramp) float64 { return (r0 + p.Rate) / 2 * p.For.Seconds() }

// slack is the rounding error that sums of areas may carry.
func slack(a float64) float64 { return 1e-9 * max(1, a) }

// inverse solves slope/2 t^2 + r0 t = need for t, in the form that does not
// subtract nearly equal numbers and also serves slope 0.
func inverse(need, r0 float64, p Ramp) time.Duration {
	if need <= 0 {
		return 0
	}
	slope := (p.Rate - r0) / p.For.Seconds()
	t := 2 * need / (r0 + math.Sqrt(max(0, r0*r0+2*slope*need)))
	return min(time.Duration(math.Round(t*1e9)), p.For)
}

// Stripe is the share of a schedule that one of several generators offers: it
// begins at index Start and steps by Offsets, over and over. The stripes of all
// generators together hold every index once. The zero Stripe is the whole.
type Stripe struct {
	Start   int64
	Offsets []int64 // each > 0
}

// Indexes are those below n that belong to the stripe, in order.
func (s Stripe) Indexes(n int64) iter.Seq[int64] {
	steps := s.Offsets
	if len(steps) == 0 {
		steps = []int64{1}
	}
	return func(yield func(int64) bool) {
		for i, k := s.Start, 0; i < n && yield(i); k++ {
			i += steps[k%len(steps)]
		}
	}
}
