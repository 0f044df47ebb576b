package load

import (
	"context"
	"time"
)

// cut bounds how long a pacer sleeps without looking whether it was cancelled.
const cut = 50 * time.Millisecond

// A pacer waits for instants of one run. It belongs to the goroutine that
// called begin.
type pacer interface {
	// begin prepares the calling goroutine. The zero of all offsets is zero.
	begin(zero time.Time)
	// sleep returns at offset to, or earlier, never much later.
	sleep(to time.Duration)
	// cores is the CPU time that the pacing took since begin, per wall time;
	// 0 where the system does not tell.
	cores() float64
}

// waitUntil returns at offset due, or false when ctx ended before.
func waitUntil(ctx context.Context, p pacer, zero time.Time, due time.Duration) bool {
	for {
		if ctx.Err() != nil {
			return false
		}
		left := due - time.Since(zero)
		if left <= 0 {
			return true
		}
		p.sleep(due - left + min(left, cut))
	}
}

// Pace calls each for every index of s that belongs to stripe when it is due,
// counted from zero, on one precisely paced goroutine, and returns when there
// is none left or ctx has ended. each must not block.
func Pace(ctx context.Context, zero time.Time, s Schedule, stripe Stripe, each func(i int64)) {
	paced(newPacer(), zero, func(p pacer) {
		for i := range stripe.Indexes(s.N()) {
			if !waitUntil(ctx, p, zero, s.Due(i)) {
				return
			}
			each(i)
		}
	})
}

// paced runs f on a goroutine of its own, since a pacer may keep its thread,
// and returns the CPU time per wall time that pacing took.
func paced(p pacer, zero time.Time, f func(pacer)) (cores float64) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.begin(zero)
		f(p)
		cores = p.cores()
	}()
	<-done
	return cores
}

// timerPacer paces with Go's timers: about half a millisecond late, but
// portable, and it obeys virtual time.
type timerPacer struct{ zero time.Time }

func (p *timerPacer) begin(zero time.Time)   { p.zero = zero }
func (p *timerPacer) sleep(to time.Duration) { time.Sleep(to - time.Since(p.zero)) }
func (p *timerPacer) cores() float64         { return 0 }
