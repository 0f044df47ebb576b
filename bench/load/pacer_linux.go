package load

import (
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// spin is how long before an instant the pacer stops sleeping and looks at the
// clock instead: about what the kernel takes to wake a thread.
const spin = 40 * time.Microsecond

// threadPacer sleeps to absolute instants on a thread of its own whose timer
// slack is 1 ns (the default of 50 µs is most of what a sleep is late), and
// spins the last stretch.
type threadPacer struct {
	zero  time.Time
	mono  int64 // CLOCK_MONOTONIC at zero, in ns
	start time.Time
	used  time.Duration // CPU time of the thread at start
}

func newPacer() pacer { return &threadPacer{} }

func (p *threadPacer) begin(zero time.Time) {
	runtime.LockOSThread() // never unlocked: the thread and its slack end with the goroutine
	// Where the slack cannot be set the lag shows it.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	now, mono := clocks()
	p.zero, p.mono = zero, mono+int64(zero.Sub(now))
	p.start, p.used = time.Now(), threadCPU()
}

// clocks reads Go's clock and CLOCK_MONOTONIC at one instant, as nearly as the
// best of a few tries allows. Reading the former is cheap; only the latter can
// be slept on.
func clocks() (now time.Time, mono int64) {
	gap := time.Duration(math.MaxInt64)
	for range 8 {
		var ts unix.Timespec
		a := time.Now()
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
			continue
		}
		if g := time.Since(a); g < gap {
			gap, now, mono = g, a, ts.Nano()-int64(g)/2
		}
	}
	return now, mono
}

func (p *threadPacer) sleep(to time.Duration) {
	if to-time.Since(p.zero) > spin {
		ts := unix.NsecToTimespec(p.mono + int64(to-spin))
		// An interrupted sleep ends early, and the loop below or the caller
		// goes on waiting.
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil)
	}
	for left := to - time.Since(p.zero); left > 0 && left <= spin; {
		left = to - time.Since(p.zero)
	}
}

func (p *threadPacer) cores() float64 {
	wall := time.Since(p.start)
	if wall <= 0 {
		return 0
	}
	return float64(threadCPU()-p.used) / float64(wall)
}

func threadCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
