package stat_test

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"qmtl.internal/plumbline/harness/stat"
)

var slower = stat.Question{Alpha: 0.05, LeastCare: 0.05, Worse: stat.HigherIsWorse}

func compare(t *testing.T, base, cand []float64, q stat.Question) stat.Answer {
	t.Helper()
	a, err := stat.Compare(base, cand, q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The numbers of the R manual page of wilcox.test (Hollander & Wolfe 1973, 69f):
// wilcox.test(y, x, conf.int = TRUE, conf.level = 0.95).
func TestCompareAgreesWithR(t *testing.T) {
	x := []float64{0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46}
	y := []float64{1.15, 0.88, 0.90, 0.74, 1.21}
	a := compare(t, y, x, slower)
	near(t, "P", a.P, 0.2544122544122544)
	near(t, "Shift", a.Shift, 0.305)
	near(t, "Lo", a.Lo, -0.15)
	near(t, "Hi", a.Hi, 0.76)
	if !a.Bounded || slower.Regressed(a) || slower.NoWorse(a) {
		t.Errorf("%+v: want bounded and inconclusive", a)
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9 {
		t.Errorf("%s = %.12g; want %.12g", what, got, want)
	}
}

// All differences made and sorted must give what counting finds.
func TestShiftIsTheMedianOfAllDifferences(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		x, y := draw(rng, 1+rng.IntN(40), tied), draw(rng, 1+rng.IntN(40), tied)
		var all []float64
		for _, a := range x {
			for _, b := range y {
				all = append(all, b-a)
			}
		}
		slices.Sort(all)
		n := len(all)
		want := (all[(n-1)/2] + all[n/2]) / 2
		a := compare(t, x, y, slower)
		if a.Shift != want {
			t.Fatalf("Shift of %v and %v = %g; want %g", x, y, a.Shift, want)
		}
		if !slices.Contains(all, a.Lo) || !slices.Contains(all, a.Hi) || a.Lo > a.Shift || a.Shift > a.Hi {
			t.Fatalf("%+v: want bounds among the differences, around the shift", a)
		}
	}
}

func draw(rng *rand.Rand, n int, one func(*rand.Rand) float64) []float64 {
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = one(rng)
	}
	return xs
}

func tied(rng *rand.Rand) float64    { return float64(rng.IntN(12)) }
func smooth(rng *rand.Rand) float64  { return rng.NormFloat64()*10 + 100 }
func longTail(r *rand.Rand) float64  { return math.Exp(r.NormFloat64()) }
func integer(rng *rand.Rand) float64 { return float64(rng.IntN(1 << 20)) }

func TestSwappingSidesMirrorsTheAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		x, y := draw(rng, 2+rng.IntN(70), tied), draw(rng, 2+rng.IntN(70), tied)
		a, b := compare(t, x, y, slower), compare(t, y, x, slower)
		if a.Shift != -b.Shift || a.Lo != -b.Hi || a.Hi != -b.Lo || a.Bounded != b.Bounded {
			t.Fatalf("%+v and swapped %+v: want mirrored shifts", a, b)
		}
		near(t, "P swapped", b.P, a.P)
		near(t, "Cliff swapped", b.Cliff, -a.Cliff)
	}
}

func TestShiftingTheCandidateShiftsTheAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		x, y := draw(rng, 2+rng.IntN(60), integer), draw(rng, 2+rng.IntN(60), integer)
		by := float64(rng.IntN(1<<20) - 1<<19)
		moved := make([]float64, len(y))
		for i := range y {
			moved[i] = y[i] + by
		}
		a, b := compare(t, x, y, slower), compare(t, x, moved, slower)
		if b.Shift != a.Shift+by || b.Lo != a.Lo+by || b.Hi != a.Hi+by {
			t.Fatalf("moved by %g: %+v after %+v; want all moved by that", by, b, a)
		}
	}
}

// The gate alarms on Regressed only; with LeastCare 0, the harshest case, that
// is one side of the test. Improved is counted too, against chance: five per
// cent and three standard errors, for alarms of either side and for the interval.
func TestSameBuildRaisesNoMoreAlarmsThanAlpha(t *testing.T) {
	const sims = 2000
	chance := 3 * math.Sqrt(0.05*0.95*sims)
	q := stat.Question{Alpha: 0.05, Worse: stat.HigherIsWorse}
	draws := map[string]func(*rand.Rand) float64{"smooth": smooth, "long tail": longTail, "tied": tied}
	for name, one := range draws {
		for _, n := range []int{6, 12, 60} {
			rng := rand.New(rand.NewPCG(7, uint64(n)))
			regressed, improved, missed := 0, 0, 0
			for range sims {
				a := compare(t, draw(rng, n, one), draw(rng, n, one), q)
				regressed += count(q.Regressed(a))
				improved += count(q.Improved(a))
				missed += count(a.Lo > 0 || a.Hi < 0)
			}
			if regressed > sims*5/100 {
				t.Errorf("%s, %d a side: %d alarms in %d comparisons of equals; want at most 5 %%", name, n, regressed, sims)
			}
			if both := regressed + improved; float64(both) > sims*0.05+chance {
				t.Errorf("%s, %d a side: %d alarms of either side in %d; want 5 %%", name, n, both, sims)
			}
			if float64(missed) > sims*0.05+chance {
				t.Errorf("%s, %d a side: the interval missed the true shift %d times in %d; want 5 %%", name, n, missed, sims)
			}
		}
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Every way to deal the pooled values out to the two sides is as likely as any
// other; p must be what counting them all gives, with ties and without.
func TestPIsWhatCountingAllDealsGives(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 13))
	for range 60 {
		n, m := 1+rng.IntN(5), 1+rng.IntN(5)
		few := func(r *rand.Rand) float64 { return float64(r.IntN(6)) }
		pool := draw(rng, n+m, few)
		a := compare(t, pool[:n], pool[n:], slower)
		near(t, "P", a.P, countDeals(pool, n))
	}
}

// countDeals is the two-sided p of the first n of pool against the rest.
func countDeals(pool []float64, n int) float64 {
	seen := twiceU(pool, 1<<n-1)
	least, most, all := 0, 0, 0
	for deal := range 1 << len(pool) {
		if bits.OnesCount(uint(deal)) != n {
			continue
		}
		u := twiceU(pool, deal)
		all++
		least += count(u <= seen)
		most += count(u >= seen)
	}
	return min(1, 2*float64(min(least, most))/float64(all))
}

// twiceU is 2U of the values whose bit is not set over those whose bit is.
func twiceU(pool []float64, deal int) int {
	u := 0
	for i, x := range pool {
		for j, y := range pool {
			if deal>>i&1 == 1 && deal>>j&1 == 0 {
				u += 1 + count(y > x) - count(y < x)
			}
		}
	}
	return u
}

func TestARealShiftIsSeen(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	seen, missed := 0, 0
	for range 200 {
		base, cand := draw(rng, 30, smooth), draw(rng, 30, smooth)
		for i := range cand {
			cand[i] += 25 // a quarter of the base, 2.5 σ
		}
		a := compare(t, base, cand, slower)
		if slower.Regressed(a) && !slower.Improved(a) && !slower.NoWorse(a) {
			seen++
		}
		if back := compare(t, cand, base, slower); !slower.Improved(back) || !slower.NoWorse(back) {
			missed++
		}
	}
	if seen < 198 || missed > 2 {
		t.Errorf("a shift of 25 %% seen in %d of 200, its opposite missed in %d; want nearly all", seen, missed)
	}
}

func TestSignificantButSmallIsNoRegression(t *testing.T) {
	base, cand := make([]float64, 100), make([]float64, 100)
	for i := range base {
		base[i], cand[i] = 1000+float64(i)/10, 1011+float64(i)/10 // 1 % more, far beyond the noise
	}
	a := compare(t, base, cand, slower)
	if a.P > 1e-6 || slower.Regressed(a) || !slower.NoWorse(a) {
		t.Errorf("%+v: want significant, not regressed, no worse", a)
	}
	strict := slower
	strict.LeastCare = 0.001
	if !strict.Regressed(a) {
		t.Errorf("%+v: want regressed for one who cares about 0.1 %%", a)
	}
	e, ok := a.Relative()
	if !ok || math.Abs(e.Shift-0.0109) > 1e-3 || e.Lo > e.Shift || e.Hi < e.Shift {
		t.Errorf("Relative() = %+v, %v; want about 1.1 %%", e, ok)
	}
}

func TestLowerIsWorse(t *testing.T) {
	q := stat.Question{Alpha: 0.05, LeastCare: 0.05, Worse: stat.LowerIsWorse}
	base, cand := []float64{100, 101, 102, 103, 104, 105}, []float64{80, 81, 82, 83, 84, 85}
	if a := compare(t, base, cand, q); !q.Regressed(a) || q.Improved(a) || q.NoWorse(a) {
		t.Errorf("%+v: want lower throughput to be a regression", a)
	}
	if a := compare(t, cand, base, q); q.Regressed(a) || !q.Improved(a) || !q.NoWorse(a) {
		t.Errorf("%+v: want higher throughput to be an improvement", a)
	}
}

func TestTooFewObservationsConcludeNothing(t *testing.T) {
	a := compare(t, []float64{1, 2, 3}, []float64{1001, 1002, 1003}, slower)
	if a.Bounded || slower.Regressed(a) || slower.NoWorse(a) || len(a.Warnings) == 0 {
		t.Errorf("%+v: want no conclusion from three a side, and a warning", a)
	}
	if n := stat.Need(0.05); n != 4 {
		t.Errorf("Need(0.05) = %d; want 4", n)
	}
	if n := stat.Need(0.005); n != 6 { // Holm over ten metrics
		t.Errorf("Need(0.005) = %d; want 6", n)
	}
}

func TestBaseOfZero(t *testing.T) {
	zero := make([]float64, 8)
	a := compare(t, zero, []float64{1, 2, 3, 4, 5, 6, 7, 8}, slower)
	if _, ok := a.Relative(); ok || !slower.Regressed(a) || len(a.Warnings) != 1 {
		t.Errorf("%+v: want a regression, a warning and no relative shift", a)
	}
	if a := compare(t, zero, zero, slower); a.P != 1 || a.Shift != 0 || slower.Regressed(a) {
		t.Errorf("all zero: %+v; want no difference", a)
	}
}

func TestCompareRefusesWhatIsNoMeasurement(t *testing.T) {
	good := []float64{1, 2, 3, 4}
	samples := map[string][]float64{
		"empty": {}, "NaN": {1, math.NaN()}, "+Inf": {math.Inf(1)}, "-Inf": {1, 2, math.Inf(-1)},
	}
	for name, bad := range samples {
		for _, pair := range [][2][]float64{{bad, good}, {good, bad}, {bad, bad}} {
			if a, err := stat.Compare(pair[0], pair[1], slower); err == nil {
				t.Errorf("%s: Compare = %+v; want an error", name, a)
			}
		}
	}
	questions := map[string]stat.Question{
		"zero value":    {},
		"no direction":  {Alpha: 0.05},
		"alpha 0":       {Worse: stat.HigherIsWorse},
		"alpha 1":       {Alpha: 1, Worse: stat.HigherIsWorse},
		"alpha NaN":     {Alpha: math.NaN(), Worse: stat.HigherIsWorse},
		"care below 0":  {Alpha: 0.05, LeastCare: -1, Worse: stat.HigherIsWorse},
		"care NaN":      {Alpha: 0.05, LeastCare: math.NaN(), Worse: stat.HigherIsWorse},
		"care infinite": {Alpha: 0.05, LeastCare: math.Inf(1), Worse: stat.HigherIsWorse},
	}
	for name, q := range questions {
		if a, err := stat.Compare(good, good, q); err == nil {
			t.Errorf("%s: Compare = %+v; want an error", name, a)
		}
	}
	huge := math.MaxFloat64
	if a, err := stat.Compare([]float64{-huge, -huge}, []float64{huge, huge}, slower); err == nil {
		t.Errorf("overflow: Compare = %+v; want an error", a)
	}
}

func TestCompareLeavesItsInputAlone(t *testing.T) {
	x, y := []float64{3, 1, 2}, []float64{6, 5, 4}
	compare(t, x, y, slower)
	if !slices.Equal(x, []float64{3, 1, 2}) || !slices.Equal(y, []float64{6, 5, 4}) {
		t.Errorf("samples after Compare: %v, %v; want them as they were", x, y)
	}
}

func TestHolm(t *testing.T) {
	got, err := stat.Holm([]float64{0.01, 0.04, 0.03, 0.005})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{0.03, 0.06, 0.06, 0.02} { // R: p.adjust(p, "holm")
		near(t, "Holm", got[i], want)
	}
	if got, err := stat.Holm([]float64{0.9, 0.8}); err != nil || got[0] != 1 || got[1] != 1 {
		t.Errorf("Holm(0.9, 0.8) = %v, %v; want 1, 1", got, err)
	}
	for _, bad := range []float64{-0.1, 1.1, math.NaN()} {
		if got, err := stat.Holm([]float64{0.5, bad}); err == nil {
			t.Errorf("Holm(0.5, %g) = %v; want an error", bad, got)
		}
	}
	if got, err := stat.Holm(nil); err != nil || len(got) != 0 {
		t.Errorf("Holm(nil) = %v, %v; want nothing", got, err)
	}
}
