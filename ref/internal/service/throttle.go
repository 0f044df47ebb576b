package service

import (
	"sync"
	"time"
)

// Throttle lets one event a second pass and counts the others, so that an
// outage under load does not flood the log. The zero value is ready; it is safe
// for concurrent use.
type Throttle struct {
	mu     sync.Mutex
	last   time.Time
	unsaid int
}

// Pass says whether an event at now passes, and how many did not since the last
// one that did.
func (t *Throttle) Pass(now time.Time) (unsaid int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) < time.Second {
		t.unsaid++
		return 0, false
	}
	unsaid, t.unsaid, t.last = t.unsaid, 0, now
	return unsaid, true
}
