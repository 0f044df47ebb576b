package duet

import (
	"math"
	"time"
)

// planner spends the budget where the variance is. A round costs a start of
// both arms before its load says anything, so when most of the noise lies
// within rounds, longer rounds are the better buy, and more rounds when the
// lives of processes differ. It looks at spreads only, never at differences
// between the arms, so what it decides favours no answer.
type planner struct {
	budget, slot time.Duration

	count    int
	overhead time.Duration // of one round, the newest
	within   float64       // variance of one block within a round, mean over rounds
	sum      float64       // of the rounds' means
	squares  float64       // of their squares
	length   time.Duration // of the load of the rounds so far, on average
	perBlock time.Duration
}

const (
	pilot     = 3               // rounds before the plan is changed
	shortest  = 2 * time.Second // load of a round
	longest   = 12 * time.Second
	wanted    = 14 // rounds that a budget is divided into at first
	least     = 10 // rounds that there shall be in any case: fewer bound little
	atFirst   = 2 * time.Second
	leastLoad = 600 * time.Millisecond // of a round where the budget is tiny
)

// next is how much load the next round shall take; false when the budget has no
// room for one.
func (p *planner) next(gone time.Duration) (time.Duration, bool) {
	overhead := p.overhead
	if p.count == 0 {
		overhead = atFirst
	}
	left, length := p.budget-gone, p.wish(overhead)
	if p.count > 0 && left < overhead+leastLoad || p.count >= pilot && left < overhead+length*3/4 {
		return 0, false
	}
	if left < overhead+length {
		length = max(leastLoad, left-overhead)
	}
	return p.whole(length), true
}

func (p *planner) wish(overhead time.Duration) time.Duration {
	if tiny := p.budget/(pilot+1) - overhead; tiny < shortest {
		return max(leastLoad, tiny)
	}
	most := p.clamp(p.budget/least-overhead, longest)
	if p.count < pilot {
		return p.clamp(p.budget/wanted-overhead, most)
	}
	// Of n rounds of load L and overhead c in a fixed budget, the variance
	// (own + within/L) · (L+c) is least at L = sqrt(c · within/own).
	n := float64(p.count)
	rounds := (p.squares - p.sum*p.sum/n) / (n - 1) // variance of a round's mean, its share of within included
	within := p.within * p.perBlock.Seconds()       // of one second
	own := rounds - within/p.length.Seconds()
	if own <= 0 {
		return most
	}
	best := math.Sqrt(overhead.Seconds() * within / own)
	return p.clamp(time.Duration(best*float64(time.Second)), most)
}

func (p *planner) clamp(d, most time.Duration) time.Duration {
	return min(max(d, shortest), max(most, shortest))
}

// whole makes an even number of slots of d.
func (p *planner) whole(d time.Duration) time.Duration {
	pairs := max(1, int64(math.Round(float64(d)/float64(2*p.slot))))
	return time.Duration(pairs) * 2 * p.slot
}

// took notes a round: what it lasted, the part of it that counted, and the
// log-ratio of each of its blocks.
func (p *planner) took(all, measured time.Duration, blocks []float64) {
	if len(blocks) < 2 {
		p.overhead = all - measured
		p.count++
		return
	}
	mean, square := 0.0, 0.0
	for _, x := range blocks {
		mean += x / float64(len(blocks))
	}
	for _, x := range blocks {
		square += (x - mean) * (x - mean)
	}
	n := float64(p.count)
	p.within = (p.within*n + square/float64(len(blocks)-1)) / (n + 1)
	p.length = time.Duration((float64(p.length)*n + float64(measured)) / (n + 1))
	p.perBlock = measured / time.Duration(len(blocks))
	p.sum += mean
	p.squares += mean * mean
	p.overhead = all - measured
	p.count++
}
