package stat_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"qmtl.internal/plumbline/harness/stat"
)

// world simulates a paired comparison as rounds of slots. The machine drifts by
// an autocorrelated noise with heavy tails that both arms feel in turn, every
// life of a process is by its own amount fast or slow, and every slot has noise
// of its own with heavy tails.
type world struct {
	rng               *rand.Rand
	rounds, pairs     int
	drift, life, slot float64 // spreads on the log scale
	heavy             bool
	stalls            bool    // of the machine, that hit one arm
	shift             float64 // of the candidate, log scale
}

func (w *world) noise() float64 {
	if !w.heavy {
		return w.rng.NormFloat64()
	}
	// Student's t with 3 degrees of freedom: a variance, but no kurtosis.
	chi := 0.0
	for range 3 {
		x := w.rng.NormFloat64()
		chi += x * x
	}
	return w.rng.NormFloat64() / math.Sqrt(chi/3)
}

// round gives what each arm showed in one round.
func (w *world) round(machine *float64) (base, candidate float64) {
	own := [2]float64{w.life * w.noise(), w.life*w.noise() + w.shift}
	sum := [2]float64{}
	for range w.pairs {
		first := w.rng.IntN(2)
		for _, arm := range []int{first, 1 - first} {
			*machine = 0.9**machine + w.drift*w.noise()
			sum[arm] += *machine + own[arm] + w.slot*w.noise()
		}
	}
	if w.stalls && w.rng.IntN(8) == 0 {
		sum[w.rng.IntN(2)] += 0.4 * float64(w.pairs)
	}
	n := float64(w.pairs)
	return math.Exp(sum[0] / n), math.Exp(sum[1] / n)
}

func (w *world) pairing(margin float64) stat.Pairing {
	p := stat.Pairing{Name: "p50_ms/all", Margin: margin}
	machine := 0.0
	for range w.rounds {
		b, c := w.round(&machine)
		p.Base, p.Candidate = append(p.Base, b), append(p.Candidate, c)
	}
	return p
}

func newWorld(seed uint64, heavy bool) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 5)), rounds: 12, pairs: 10, drift: 0.05, life: 0.004, slot: 0.02, heavy: heavy}
}

// worlds are the kinds of noise that error rates must hold in.
func worlds(seed uint64) map[string]*world {
	many, stalls := newWorld(seed, false), newWorld(seed, true)
	many.rounds, stalls.rounds, stalls.stalls = 24, 20, true
	return map[string]*world{"normal": newWorld(seed, false), "heavy tails": newWorld(seed, true), "many rounds": many, "stalls": stalls}
}

// look is what a comparison of at most w.rounds says at its looks, when it ends
// at the first alarm. The last answer is returned.
func look(t *testing.T, ps []stat.Pairing, alpha float64) []stat.Duel {
	t.Helper()
	shares := []float64{1. / 3, 2. / 3, 1}
	for k := range shares {
		n := len(ps[0].Base) * (k + 1) / len(shares)
		cut := make([]stat.Pairing, len(ps))
		for i, p := range ps {
			cut[i] = p
			cut[i].Base, cut[i].Candidate = p.Base[:n], p.Candidate[:n]
		}
		out, err := stat.Duels(cut, stat.Looking{Alpha: alpha, At: shares[:k+1]})
		if err != nil {
			t.Fatal(err)
		}
		if k == len(shares)-1 || slices.ContainsFunc(out, alarm) {
			return out
		}
	}
	return nil
}

func alarm(d stat.Duel) bool { return d.Outcome == stat.Slower || d.Outcome == stat.Faster }

// No margin helps here: every significant difference counts as an alarm.
func TestSameBuildsRaiseNoMoreFalseAlarmsThanPromised(t *testing.T) {
	const sims, alpha = 2000, 0.05
	for name, w := range worlds(1) {
		alarms := 0
		for range sims {
			alarms += count(alarm(look(t, []stat.Pairing{w.pairing(0)}, alpha)[0]))
		}
		t.Logf("%s: %d false alarms in %d (%.2f %%)", name, alarms, sims, float64(alarms)*100/sims)
		if float64(alarms) > alpha*sims {
			t.Errorf("%s: %d false alarms in %d comparisons; want %g %% at most", name, alarms, sims, alpha*100)
		}
	}
}

// Twenty-six figures of one comparison, half of them nearly the same figure,
// with three looks: one false alarm among all of them is one too many.
func TestFamilyOfFiguresKeepsItsErrorRate(t *testing.T) {
	const sims, figures, alpha = 2000, 26, 0.01
	for name, heavy := range map[string]bool{"normal": false, "heavy tails": true} {
		w := newWorld(2, heavy)
		w.pairs = 1
		wrong := 0
		for range sims {
			wrong += count(slices.ContainsFunc(look(t, family(w, figures), alpha), alarm))
		}
		t.Logf("%s: %d comparisons in %d with a false alarm (%.2f %%)", name, wrong, sims, float64(wrong)*100/sims)
		if float64(wrong) > alpha*sims {
			t.Errorf("%s: %d comparisons in %d had a false alarm; want %g %% at most", name, wrong, sims, alpha*100)
		}
	}
}

func family(w *world, n int) []stat.Pairing {
	ps := []stat.Pairing{w.pairing(0)}
	for i := 1; i < n; i++ {
		p := w.pairing(0)
		if i%2 == 1 { // like its neighbour
			for r := range p.Candidate {
				p.Candidate[r] = ps[0].Candidate[r] * math.Pow(p.Candidate[r]/p.Base[r], 0.1)
				p.Base[r] = ps[0].Base[r]
			}
		}
		ps = append(ps, p)
	}
	return ps
}

func TestIntervalHoldsTheTruth(t *testing.T) {
	const sims = 2000
	for name, w := range worlds(3) {
		w.shift = 0.01
		held := 0
		for range sims {
			d := look(t, []stat.Pairing{w.pairing(0.02)}, 0.05)[0]
			held += count(d.Bounded && d.Lo <= math.Exp(w.shift) && math.Exp(w.shift) <= d.Hi)
		}
		t.Logf("%s: held %d of %d (%.2f %%)", name, held, sims, float64(held)*100/sims)
		if held < sims*95/100 {
			t.Errorf("%s: the interval held the truth %d times in %d; want 95 %%", name, held, sims)
		}
	}
}

// A slowdown of the size that a comparison said it would have seen is seen as
// often as it said, give or take that its noise was an estimate.
func TestPowerIsAsPrinted(t *testing.T) {
	const sims = 2000
	for _, figures := range []int{1, 26} {
		w := newWorld(4, false)
		w.pairs = 4
		printed := 0.0
		for range 500 {
			printed += math.Log1p(duelsOf(t, sharing(w, figures))[0].Detectable) / 500
		}
		w.shift = printed
		seen := 0
		for range sims {
			seen += count(duelsOf(t, sharing(w, figures))[0].Outcome == stat.Slower)
		}
		t.Logf("%d figures: +%.2f %% seen %d times in %d (%.1f %%)", figures, math.Expm1(printed)*100, seen, sims, float64(seen)*100/sims)
		if share := float64(seen) / sims; share < 0.93 || share > 0.99 {
			t.Errorf("%d figures: a slowdown of %.2f %% was seen with %.1f %%; want 95 %%", figures, math.Expm1(printed)*100, share*100)
		}
	}
}

// sharing is one figure with the shift of w among others without.
func sharing(w *world, n int) []stat.Pairing {
	ps := []stat.Pairing{w.pairing(0.001)}
	shift := w.shift
	w.shift = 0
	for len(ps) < n {
		ps = append(ps, w.pairing(0.001))
	}
	w.shift = shift
	return ps
}

func duelsOf(t *testing.T, ps []stat.Pairing) []stat.Duel {
	t.Helper()
	out, err := stat.Duels(ps, stat.Looking{Alpha: 0.01, At: []float64{1}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A candidate that is slower by just the margin must not be called not slower
// more often than with 5 %.
func TestNoRefactorIsWavedThroughByChance(t *testing.T) {
	const sims, margin = 2000, 0.02
	for name, w := range worlds(6) {
		w.shift = math.Log1p(margin)
		wrong := 0
		for range sims {
			o := look(t, []stat.Pairing{w.pairing(margin)}, 0.01)[0].Outcome
			wrong += count(o == stat.NotSlower || o == stat.Equivalent)
		}
		t.Logf("%s: called not slower %d times in %d (%.2f %%)", name, wrong, sims, float64(wrong)*100/sims)
		if wrong > sims*5/100 {
			t.Errorf("%s: called not slower %d times in %d; want 5 %% at most", name, wrong, sims)
		}
	}
}

func TestSwappingTheArmsMirrorsTheAnswer(t *testing.T) {
	w := newWorld(7, true)
	seen := map[stat.Outcome]int{}
	for i := range 400 {
		w.shift = 0.15 * (w.rng.Float64() - 0.5)
		w.rounds = 2 + i%12
		p := w.pairing(0.03)
		back := stat.Pairing{Name: p.Name, Margin: p.Margin, Base: p.Candidate, Candidate: p.Base}
		a, b := duelsOf(t, []stat.Pairing{p})[0], duelsOf(t, []stat.Pairing{back})[0]
		if !mirrors(a, b) {
			t.Fatalf("%+v\nis not the mirror of\n%+v", a, b)
		}
		seen[a.Outcome]++
	}
	for _, o := range []stat.Outcome{stat.Slower, stat.Faster, stat.Equivalent, stat.Undecided} {
		if seen[o] == 0 {
			t.Errorf("no comparison was %v: the test would prove nothing", o)
		}
	}
}

// mirrors tells whether b says of the candidate what a says of the base.
func mirrors(a, b stat.Duel) bool {
	for _, pair := range [][2]float64{{a.Ratio, 1 / b.Ratio}, {a.Lo, 1 / b.Hi}, {a.Hi, 1 / b.Lo}, {a.P, b.P}, {a.Detectable, b.Detectable}} {
		if math.Abs(pair[0]-pair[1]) > 1e-9*math.Max(pair[0], pair[1]) {
			return false
		}
	}
	// What is not slower one way may be undecided the other.
	want := map[stat.Outcome][]stat.Outcome{
		stat.Slower: {stat.Faster}, stat.Faster: {stat.Slower}, stat.Equivalent: {stat.Equivalent},
		stat.Undecided: {stat.Undecided, stat.NotSlower}, stat.NotSlower: {stat.Undecided, stat.NotSlower},
	}
	return slices.Contains(want[a.Outcome], b.Outcome)
}

// A stall in one round moves neither the answer nor its certainty much, whichever
// arm it hits; the figures shown are of the rounds that the answer rests on.
func TestStallOfTheMachineIsNoDifference(t *testing.T) {
	w := newWorld(8, false)
	w.rounds = 20
	p := w.pairing(0.02)
	calm := duelsOf(t, []stat.Pairing{p})[0]
	for _, arm := range [][]float64{p.Base, p.Candidate} {
		was := arm[7]
		arm[7] *= 2
		d := duelsOf(t, []stat.Pairing{p})[0]
		if math.Abs(math.Log(d.Ratio/calm.Ratio)) > 0.003 || math.Log(d.Hi/d.Lo) > 1.25*math.Log(calm.Hi/calm.Lo) || d.Outcome != calm.Outcome {
			t.Errorf("with a stall %+v\nwithout %+v", d, calm)
		}
		if math.Abs(d.Candidate/d.Base/d.Ratio-1) > 1e-9 {
			t.Errorf("%g / %g is not %g", d.Candidate, d.Base, d.Ratio)
		}
		arm[7] = was
	}
}

func TestOneRecordIsHeldAgainstTheSpreadOfRuns(t *testing.T) {
	p := stat.Pairing{Name: "x", Base: []float64{1, 1, 1, 1}, Candidate: []float64{1.01, 0.99, 1.02, 1.0}, Margin: 0.02}
	paired := duelsOf(t, []stat.Pairing{p})[0]
	p.Once = true
	once := duelsOf(t, []stat.Pairing{p})[0]
	if wide, want := math.Log(once.Hi/once.Lo)/math.Log(paired.Hi/paired.Lo), math.Sqrt(5); math.Abs(wide-want) > 1e-9 {
		t.Errorf("the interval is %.3f times as wide; want √5, for the record has noise of its own", wide)
	}
}

func TestFewRoundsDecideNothing(t *testing.T) {
	d := duelsOf(t, []stat.Pairing{{Name: "x", Base: []float64{1}, Candidate: []float64{2}, Margin: 0.01}})[0]
	if d.Bounded || d.Outcome != stat.Undecided || d.Ratio != 2 || d.P != 1 {
		t.Errorf("one round gave %+v; want a ratio of 2 and nothing else", d)
	}
	// Equal to the last digit in every round: a tool of finite resolution, not certainty.
	d = duelsOf(t, []stat.Pairing{{Name: "x", Base: []float64{1, 1, 1}, Candidate: []float64{1.00001, 1.00001, 1.00001}, Margin: 0.01}})[0]
	if d.Outcome != stat.Equivalent || d.P < 0.5 {
		t.Errorf("a shift of 0.001 %% gave %+v; want equivalent, and no certainty", d)
	}
}

func TestDuelsRefuse(t *testing.T) {
	good := stat.Pairing{Name: "x", Base: []float64{1, 2}, Candidate: []float64{1, 2}, Margin: 0.01}
	with := func(change func(*stat.Pairing)) stat.Pairing {
		p := good
		change(&p)
		return p
	}
	for name, p := range map[string]stat.Pairing{
		"no rounds":  with(func(p *stat.Pairing) { p.Base, p.Candidate = nil, nil }),
		"one-sided":  with(func(p *stat.Pairing) { p.Base = p.Base[:1] }),
		"zero":       with(func(p *stat.Pairing) { p.Base = []float64{0, 1} }),
		"NaN":        with(func(p *stat.Pairing) { p.Candidate = []float64{math.NaN(), 1} }),
		"infinite":   with(func(p *stat.Pairing) { p.Candidate = []float64{math.Inf(1), 1} }),
		"bad margin": with(func(p *stat.Pairing) { p.Margin = math.NaN() }),
	} {
		if d, err := stat.Duels([]stat.Pairing{p}, stat.Looking{Alpha: 0.01, At: []float64{1}}); err == nil {
			t.Errorf("%s: Duels = %+v; want an error", name, d)
		}
	}
	for name, l := range map[string]stat.Looking{
		"no look": {Alpha: 0.01}, "falling": {Alpha: 0.01, At: []float64{0.5, 0.5}}, "beyond": {Alpha: 0.01, At: []float64{1.1}},
		"no alpha": {At: []float64{1}}, "great alpha": {Alpha: 0.5, At: []float64{1}},
	} {
		if d, err := stat.Duels([]stat.Pairing{good}, l); err == nil {
			t.Errorf("%s: Duels = %+v; want an error", name, d)
		}
	}
}
