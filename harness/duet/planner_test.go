package duet

import (
	"math/rand/v2"
	"testing"
	"time"
)

// spend plays a comparison in which a round costs overhead beside its load.
func spend(budget, overhead time.Duration, blocks func(measured time.Duration) []float64) (lengths []time.Duration, gone time.Duration) {
	p := planner{budget: budget, slot: DefaultSlot}
	for {
		length, ok := p.next(gone)
		if !ok {
			return lengths, gone
		}
		gone += length + overhead
		lengths = append(lengths, length)
		p.took(length+overhead, length, blocks(length))
	}
}

// noise gives blocks of a second with a spread of their own around what a life
// of the processes is by itself.
func noise(rng *rand.Rand, life, own float64) func(time.Duration) []float64 {
	return func(measured time.Duration) (out []float64) {
		middle := life * rng.NormFloat64()
		for range max(2, int(measured.Seconds())) {
			out = append(out, middle+own*rng.NormFloat64())
		}
		return out
	}
}

func TestBudgetIsKeptAndUsed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, budget := range []time.Duration{8 * time.Second, 20 * time.Second, 90 * time.Second, 5 * time.Minute, time.Hour} {
		lengths, gone := spend(budget, 1500*time.Millisecond, noise(rng, 0.01, 0.01))
		if gone > budget+2*time.Second || gone < budget*3/4 {
			t.Errorf("budget %v: %v were used by %d rounds", budget, gone, len(lengths))
		}
		if want := min(10, int(budget/(4*time.Second))); len(lengths) < want || len(lengths) < 3 {
			t.Errorf("budget %v: %d rounds; want %d at least", budget, len(lengths), max(3, want))
		}
		for _, l := range lengths {
			if l%(2*DefaultSlot) != 0 || l <= 0 {
				t.Errorf("budget %v: a round of %v is no even number of slots", budget, l)
			}
		}
	}
}

// Where the lives of processes differ more rounds are the better buy, where the
// noise is within rounds longer ones are.
func TestBudgetGoesWhereTheVarianceIs(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const budget, overhead = 5 * time.Minute, 1500 * time.Millisecond
	between, _ := spend(budget, overhead, noise(rng, 0.05, 0.005))
	within, _ := spend(budget, overhead, noise(rng, 0.0005, 0.05))
	if len(between) < 2*len(within) {
		t.Errorf("%d rounds where lives differ, %d where they do not; want twice as many", len(between), len(within))
	}
}
