package stat

import "math"

// differences stands for all y − x of two sorted samples, without making them:
// the k-th smallest is found by halving the range of floats and counting.
type differences struct{ x, y []float64 }

func (d differences) pairs() int { return len(d.x) * len(d.y) }

func (d differences) median() float64 {
	n := d.pairs()
	a := d.rank((n + 1) / 2)
	if n%2 == 1 {
		return a
	}
	return middle(a, d.rank(n/2+1))
}

// rank is the k-th smallest difference, k from 1: the smallest float that at
// least k differences do not exceed. It is one of the differences, exactly.
func (d differences) rank(k int) float64 {
	lo, hi := ordinal(math.Inf(-1)), ordinal(math.Inf(1))
	for lo < hi {
		mid := lo + int64(uint64(hi-lo)/2)
		if d.upTo(fromOrdinal(mid)) >= k {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return fromOrdinal(lo)
}

// upTo counts the differences that are at most v, in one pass over both samples.
func (d differences) upTo(v float64) int {
	count, j := 0, 0
	for _, x := range d.x {
		for j < len(d.y) && d.y[j]-x <= v {
			j++
		}
		count += j
	}
	return count
}

// ordinal numbers the floats in their order; negative zero and zero are one.
func ordinal(f float64) int64 {
	bits := int64(math.Float64bits(f))
	if bits < 0 {
		return math.MinInt64 - bits
	}
	return bits
}

func fromOrdinal(i int64) float64 {
	if i < 0 {
		return math.Float64frombits(uint64(math.MinInt64 - i))
	}
	return math.Float64frombits(uint64(i))
}
