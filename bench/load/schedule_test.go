package load

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestConstantNeverDrifts(t *testing.T) {
	for _, c := range []Constant{{3000, 24 * time.Hour}, {7, time.Second / 3}, {1, time.Nanosecond}, {1_000_000, time.Minute}, {999, 0}} {
		n := c.N()
		if n > 0 && c.Due(n-1) >= c.For || c.Due(n) < c.For {
			t.Errorf("%+v: N = %d, but request %d is due at %v and %d at %v", c, n, n-1, c.Due(n-1), n, c.Due(n))
		}
		for _, i := range []int64{0, 1, 2, n / 2, n} {
			// In floating point, as an independent reckoning: within rounding.
			if want := float64(i) / float64(c.Rate); math.Abs(c.Due(i).Seconds()-want) > 1e-9*max(1, want) {
				t.Errorf("%+v: Due(%d) = %v; want %vs", c, i, c.Due(i), want)
			}
		}
	}
	if c := (Constant{1000, 35 * time.Second}); c.N() != 35000 || c.Due(5000) != 5*time.Second {
		t.Errorf("N = %d, Due(5000) = %v; want 35000, exactly 5s", c.N(), c.Due(5000))
	}
}

// areaAt integrates the rate of s up to x, independently of Due.
func areaAt(s Ramps, x float64) (sum float64) {
	r0 := s.Start
	for _, p := range s.Ramps {
		d := p.For.Seconds()
		y := min(max(x, 0), d)
		sum += r0*y + (p.Rate-r0)/d*y*y/2
		x, r0 = x-d, p.Rate
	}
	return sum
}

func TestRampsInvertTheArea(t *testing.T) {
	for _, s := range []Ramps{
		{100, []Ramp{{1000, 4 * time.Second}, {1000, 2 * time.Second}, {0, 3 * time.Second}}},
		{0, []Ramp{{500, time.Second}}},
		{10, []Ramp{{0, time.Second}, {0, time.Second}, {10, time.Second}}},
		{333, []Ramp{{333, 7 * time.Second}}},
	} {
		prev := time.Duration(-1)
		for i := range s.N() {
			due := s.Due(i)
			if due < prev {
				t.Fatalf("%+v: Due(%d) = %v after %v", s, i, due, prev)
			}
			if got := areaAt(s, due.Seconds()); math.Abs(got-float64(i)) > 1e-5 {
				t.Fatalf("%+v: %v requests are due before Due(%d) = %v", s, got, i, due)
			}
			prev = due
		}
		if got, want := float64(s.N()), areaAt(s, 1e9); math.Abs(got-want) > 1 {
			t.Errorf("%+v: N = %v; the area is %v", s, got, want)
		}
	}
	if n := (Ramps{100, []Ramp{{1000, 4 * time.Second}, {1000, 2 * time.Second}, {0, 3 * time.Second}}}).N(); n != 5700 {
		t.Errorf("N = %d; want 5700", n)
	}
}

func TestFlatRampsAreConstant(t *testing.T) {
	c, r := Constant{300, 10 * time.Second}, Ramps{300, []Ramp{{300, 4 * time.Second}, {300, 6 * time.Second}}}
	if c.N() != r.N() {
		t.Fatalf("N = %d and %d", c.N(), r.N())
	}
	for i := range c.N() {
		if d := c.Due(i) - r.Due(i); d < -2 || d > 2 {
			t.Fatalf("request %d due at %v and %v", i, c.Due(i), r.Due(i))
		}
	}
}

func TestStripesShareOutEveryIndexOnce(t *testing.T) {
	const n = 1001
	for k := int64(1); k <= 8; k++ {
		var got []int64
		for start := range k {
			got = slices.AppendSeq(got, Stripe{Start: start, Offsets: []int64{k}}.Indexes(n))
		}
		slices.Sort(got)
		if int64(len(got)) != n || got[0] != 0 || got[n-1] != n-1 || len(slices.Compact(got)) != n {
			t.Errorf("%d stripes: %d indexes, %d distinct; want %d", k, len(got), len(slices.Compact(got)), n)
		}
	}
}
