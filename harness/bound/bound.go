// Package bound finds where a property ceases to hold, by trials that cost time
// and may be noisy: coarse steps first, then bisection, then confirmation. It is
// pure: what a trial is, the caller knows.
package bound

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// Search looks for the largest x between Least and Most at which a property
// holds that holds below and not above it.
type Search struct {
	First  float64 // where to begin
	Least  float64 // > 0
	Most   float64
	Within float64 // relative width at which bisection ends, such as 0.05
	Times  int     // trials that must hold at the answer, beside those of the search
	// Round, if not nil, makes a number one that can be tried.
	Round func(x float64) float64
	// Try holds the property against x. confirm is set for the trials that
	// confirm the answer, which may be longer.
	Try func(ctx context.Context, x float64, confirm bool) (bool, error)
}

// Answer of a search.
type Answer struct {
	X         float64 // largest that held and was confirmed
	Above     float64 // smallest that did not hold; 0: none was met
	Confirmed bool    // false: nothing holds between Least and Most
	Trials    int
}

// Highest searches. An error of a trial ends it.
func Highest(ctx context.Context, s Search) (Answer, error) {
	x, err := begin(s)
	if err != nil {
		return Answer{}, err
	}
	lo, hi, err := x.bracket(ctx)
	if err == nil && lo > 0 {
		lo, hi, err = x.bisect(ctx, lo, hi)
	}
	if err == nil && lo > 0 {
		lo, hi, err = x.confirm(ctx, lo, hi)
	}
	return Answer{X: lo, Above: hi, Confirmed: err == nil && lo > 0, Trials: x.trials}, err
}

func begin(s Search) (*search, error) {
	if !(s.Least > 0 && s.Most >= s.Least && s.Within > 0 && s.Times >= 1) {
		return nil, errors.New("bound: want 0 < least ≤ most, a width above 0 and at least one confirmation")
	}
	if s.Round == nil {
		s.Round = func(v float64) float64 { return v }
	}
	return &search{Search: s}, nil
}

// Lowest searches for the smallest x at which a property holds that holds above
// and not below it; Answer.Above is then the largest that did not hold.
func Lowest(ctx context.Context, s Search) (Answer, error) {
	flip := s
	flip.First, flip.Least, flip.Most = 1/s.First, 1/s.Most, 1/s.Least
	if s.Round != nil {
		flip.Round = func(u float64) float64 { return 1 / s.Round(1/u) }
	}
	flip.Try = func(ctx context.Context, u float64, confirm bool) (bool, error) { return s.Try(ctx, 1/u, confirm) }
	a, err := Highest(ctx, flip)
	a.X, a.Above = inverse(a.X), inverse(a.Above)
	return a, err
}

func inverse(u float64) float64 {
	if u == 0 {
		return 0
	}
	return 1 / u
}

type search struct {
	Search
	trials int
}

func (s *search) holds(ctx context.Context, x float64, confirm bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, context.Cause(ctx)
	}
	s.trials++
	ok, err := s.Try(ctx, x, confirm)
	if err != nil {
		return false, fmt.Errorf("at %g: %w", x, err)
	}
	return ok, nil
}

// bracket goes up by half again and down by half until the property changes.
func (s *search) bracket(ctx context.Context) (lo, hi float64, err error) {
	x := s.Round(min(max(s.First, s.Least), s.Most))
	for {
		ok, err := s.holds(ctx, x, false)
		if err != nil {
			return 0, 0, err
		}
		next := x / 2
		if ok {
			lo, next = x, x*1.5
		} else {
			hi = x
		}
		if lo > 0 && hi > 0 {
			return lo, hi, nil
		}
		next = s.Round(min(max(next, s.Least), s.Most))
		if next == x { // an end was reached
			return lo, hi, nil
		}
		x = next
	}
}

func (s *search) bisect(ctx context.Context, lo, hi float64) (float64, float64, error) {
	for hi > 0 && hi/lo > 1+s.Within {
		mid := s.between(lo, hi)
		if mid == 0 {
			break
		}
		ok, err := s.holds(ctx, mid, false)
		if err != nil {
			return lo, hi, err
		}
		if ok {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, hi, nil
}

// between is a number that can be tried strictly between two, 0 where there is
// none.
func (s *search) between(lo, hi float64) float64 {
	for _, mid := range []float64{s.Round(math.Sqrt(lo * hi)), s.Round((lo + hi) / 2)} {
		if mid > lo && mid < hi {
			return mid
		}
	}
	return 0
}

// confirm tries lo again; where it does not hold after all, it steps down by the
// width. lo becomes 0 when nothing is left.
func (s *search) confirm(ctx context.Context, lo, hi float64) (float64, float64, error) {
	for held := 0; held < s.Times; {
		ok, err := s.holds(ctx, lo, true)
		if err != nil {
			return lo, hi, err
		}
		if ok {
			held++
			continue
		}
		next := s.Round(lo / (1 + s.Within))
		hi, held = lo, 0
		if next < s.Least || next >= lo {
			return 0, hi, nil
		}
		lo = next
	}
	return lo, hi, nil
}
