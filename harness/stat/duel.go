package stat

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// Power is the probability with which an effect of the size that a Duel calls
// Detectable would have been seen.
const Power = 0.95

// resolution is the least spread that is ever assumed between rounds, on the
// log scale: no instrument here tells finer, and a spread of nothing would make
// any difference beyond chance.
const resolution = 1e-4

// Pairing is one metric of two builds that were measured in rounds, base and
// candidate in each of them. More is worse. Both were started anew for every
// round and by chance in this order or that, so the rounds are independent and
// without a difference between the builds swapping them changes nothing; within
// a round no such thing is assumed, for the requests of one life of a process
// have much in common.
type Pairing struct {
	Name      string
	Base      []float64 // one value a round, > 0
	Candidate []float64 // of the same rounds
	Margin    float64   // least care: 0.02 is two per cent
	// Once says that the base was measured once only, long ago: every round has
	// the same value of it, and its own noise is that of one more round.
	Once bool
}

// Looking says how often the comparison is looked at, which costs certainty:
// who may stop whenever it looks good enough is wrong more often.
type Looking struct {
	// Alpha is the chance accepted of even one false alarm among all pairings
	// and all looks.
	Alpha float64
	// At are the looks so far, the present one last: shares of the planned
	// budget, rising, the last possible one 1.
	At []float64
}

// Duel is the answer about one pairing. Ratio, Lo, Hi and Upper are candidate /
// base: 1.03 is three per cent more.
type Duel struct {
	Name    string
	Rounds  int
	Bounded bool // false: fewer than two rounds, so nothing but Ratio is known
	// Base, Candidate and their Ratio are geometric means over the rounds, without
	// those of the outermost tenth of ratios on each side.
	Base, Candidate, Ratio float64
	Lo, Hi                 float64 // holds the truth with Confidence, all looks taken together
	P                      float64 // two-sided, of no difference
	Holm                   float64 // P after Holm's correction over all pairings
	// Upper is the one-sided bound: the truth is below with Confidence.
	Upper float64
	// Detectable is the least change for the worse (0.03: three per cent) that
	// would have been called Slower with probability Power.
	Detectable float64
	// Missing is how many more rounds of the same noise would tell; 0 when
	// decided, or when no number of rounds would.
	Missing int
	Outcome Outcome
}

// Outcome says what a Duel came to.
type Outcome int

// There is no default: the zero Outcome is none of these.
const (
	Undecided  Outcome = iota + 1 // too noisy, or too few rounds, to tell
	Slower                        // more beyond chance, and by the best estimate more than the margin
	Faster                        // less beyond chance, and by more than the margin
	Equivalent                    // two one-sided tests: neither more nor less than the margin
	NotSlower                     // one of them: not more than the margin
)

func (o Outcome) String() string {
	return [...]string{"none", "undecided", "slower", "faster", "equivalent", "not slower"}[o]
}

// Duels answers all pairings of one comparison together. The order is kept.
// Swapping base and candidate everywhere turns every ratio into its inverse and
// Slower into Faster.
func Duels(ps []Pairing, l Looking) ([]Duel, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	out := make([]Duel, len(ps))
	all := make([]float64, len(ps))
	samples := make([]sample, len(ps))
	for i, p := range ps {
		s, err := p.sample()
		if err != nil {
			return nil, err
		}
		samples[i], all[i] = s, s.p()
	}
	corrected, err := Holm(all)
	if err != nil {
		return nil, err
	}
	for i, p := range ps {
		out[i] = samples[i].duel(p, l, len(ps), corrected[i])
	}
	return out, nil
}

func (l Looking) check() error {
	if !(l.Alpha > 0 && l.Alpha < 0.5) {
		return fmt.Errorf("stat: Alpha %g is not between 0 and 0.5", l.Alpha)
	}
	if len(l.At) == 0 {
		return errors.New("stat: a comparison that is looked at has a look")
	}
	last := 0.0
	for _, t := range l.At {
		if !(t > last && t <= 1) {
			return fmt.Errorf("stat: looks at %v of the budget do not rise to 1 at most", l.At)
		}
		last = t
	}
	return nil
}

// share is what the present look may spend of a chance of error: after all
// looks together no more than that was spent, however the looks depend on each
// other. Early looks get little (O'Brien and Fleming's shape in Lan and DeMets'
// spending), so that looking costs the last one next to nothing.
func (l Looking) share(alpha float64) float64 {
	n := len(l.At)
	before := 0.0
	if n > 1 {
		before = spent(alpha, l.At[n-2])
	}
	return spent(alpha, l.At[n-1]) - before
}

func spent(alpha, t float64) float64 {
	if t >= 1 {
		return alpha
	}
	return 2 * distuv.UnitNormal.Survival(distuv.UnitNormal.Quantile(1-alpha/2)/math.Sqrt(t))
}

// sample is what the rounds say of one pairing, on the log scale.
type sample struct {
	kept []int   // the rounds that the estimate keeps
	n    int     // their number
	all  int     // rounds
	mean float64 // of those kept
	sd   float64 // of one round, as far as the error of mean goes
	se   float64 // of mean; +Inf with fewer than two rounds
}

func (p Pairing) sample() (sample, error) {
	n := len(p.Base)
	if n != len(p.Candidate) {
		return sample{}, fmt.Errorf("stat: %s has %d rounds of the base and %d of the candidate", p.Name, n, len(p.Candidate))
	}
	if n == 0 || !(p.Margin >= 0) || math.IsInf(p.Margin, 0) {
		return sample{}, fmt.Errorf("stat: %s: %d rounds, margin %g: want at least one round and a finite margin", p.Name, n, p.Margin)
	}
	logs := make([]float64, n)
	for i := range logs {
		b, c := p.Base[i], p.Candidate[i]
		if !(b > 0 && c > 0) || math.IsInf(b, 0) || math.IsInf(c, 0) {
			return sample{}, fmt.Errorf("stat: %s, round %d: %g and %g have no ratio", p.Name, i, b, c)
		}
		logs[i] = math.Log(c) - math.Log(b)
	}
	return p.summed(logs), nil
}

// trim is the share of rounds on each side that the estimate leaves out: a round
// in which the machine stalled for one arm tells nothing about the builds. By
// chance it is on this side or that, so leaving out as many on both favours none.
const trim = 0.1

// summed gives the trimmed mean, with Yuen's estimate of its error: the spread
// of all rounds, the outermost drawn in to the next that is kept.
func (p Pairing) summed(logs []float64) sample {
	n, cut := len(logs), int(trim*float64(len(logs)))
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(logs[i], logs[j]) })
	s := sample{kept: order[cut : n-cut], n: n - 2*cut, all: n, se: math.Inf(1)}
	for _, i := range s.kept {
		s.mean += logs[i] / float64(s.n)
	}
	if s.n < 2 {
		return s
	}
	drawn := make([]float64, n)
	for k := range drawn {
		drawn[k] = logs[order[min(max(k, cut), n-1-cut)]]
	}
	s.sd = max(spread(drawn), resolution) * float64(n) / float64(s.n)
	s.se = s.sd / math.Sqrt(float64(n))
	if p.Once {
		s.se = s.sd * math.Sqrt(1+1/float64(n))
	}
	return s
}

// spread is the standard deviation.
func spread(xs []float64) float64 {
	n, mean, square := float64(len(xs)), 0.0, 0.0
	for _, x := range xs {
		mean += x / n
	}
	for _, x := range xs {
		square += (x - mean) * (x - mean)
	}
	return math.Sqrt(square / (n - 1))
}

// geometric is the geometric mean of the kept of xs.
func geometric(xs []float64, kept []int) float64 {
	sum := 0.0
	for _, i := range kept {
		sum += math.Log(xs[i]) / float64(len(kept))
	}
	return math.Exp(sum)
}

func (s sample) t() distuv.StudentsT {
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(max(1, s.n-1))}
}

// beyond is how many standard errors bound the truth on one side with the given
// chance of being wrong.
func (s sample) beyond(chance float64) float64 { return -s.t().Quantile(chance) }

func (s sample) p() float64 {
	if s.n < 2 {
		return 1
	}
	return min(1, 2*s.t().Survival(math.Abs(s.mean)/s.se))
}

func (s sample) duel(p Pairing, l Looking, family int, holm float64) Duel {
	d := Duel{
		Name: p.Name, Rounds: s.all, P: s.p(), Holm: holm, Outcome: Undecided,
		Base: geometric(p.Base, s.kept), Candidate: geometric(p.Candidate, s.kept), Ratio: math.Exp(s.mean),
	}
	if s.n < 2 {
		return d
	}
	d.Bounded = true
	care, alpha := math.Log1p(p.Margin), l.share(l.Alpha)
	both, one := s.beyond(l.share(1-Confidence)/2)*s.se, s.beyond(l.share(1-Confidence))*s.se
	d.Lo, d.Hi, d.Upper = math.Exp(s.mean-both), math.Exp(s.mean+both), math.Exp(s.mean+one)
	alarm := s.beyond(alpha / 2 / float64(family))
	d.Detectable = math.Expm1(s.detectable(alarm, care))
	switch {
	case holm <= alpha && s.mean > care:
		d.Outcome = Slower
	case holm <= alpha && s.mean < -care:
		d.Outcome = Faster
	case math.Abs(s.mean)+one < care:
		d.Outcome = Equivalent
	case s.mean+one < care:
		d.Outcome = NotSlower
	default:
		d.Missing = s.missing(care, alarm, s.beyond(l.share(1-Confidence)))
	}
	return d
}

// detectable is the shift that is beyond alarm standard errors and beyond care
// with probability Power. That the standard error is itself an estimate counts
// twice: it is a little small on average, and where it comes out large by chance
// the alarm is missed (the normal approximation of the noncentral t).
func (s sample) detectable(alarm, care float64) float64 {
	df, z := float64(s.n-1), distuv.UnitNormal.Quantile(Power)
	short := 1 - 1/(4*df)
	sigma := s.se / short
	return max((alarm*short+z*math.Sqrt(1+alarm*alarm/(2*df)))*sigma, care+z*sigma)
}

// missing is how many more rounds would make the present estimate an answer.
func (s sample) missing(care, alarm, one float64) int {
	gap, beyond := care-s.mean, one
	if gap <= 0 {
		gap, beyond = s.mean, alarm
	}
	need := math.Pow(beyond*s.sd/gap, 2)
	if !(need < 1e6) {
		return 0
	}
	return max(1, int(math.Ceil(need))-s.all)
}
