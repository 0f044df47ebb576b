package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// errBusy: there is no place for another submission now.
var errBusy = errors.New("too many submissions at once")

// retryAfter is how many seconds a client that finds no place should stay away.
const retryAfter = "1"

// admission bounds the submissions that are worked on, and so connections,
// buffers and calls to everything behind. The others wait for a place in the
// order in which they came, their bodies unread; how many may wait, and how
// long, is bounded too.
type admission struct {
	places     *semaphore.Weighted
	waiting    atomic.Int64
	maxWaiting int64
	limit      time.Duration
	refused    prometheus.Counter
}

func newAdmission(places, waiting int, limit time.Duration, reg prometheus.Registerer) *admission {
	a := &admission{
		places: semaphore.NewWeighted(int64(places)), maxWaiting: int64(waiting), limit: limit,
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_busy_total", Help: "Submissions answered 503 because too many were there already."}),
	}
	reg.MustRegister(a.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gateway_waiting_submissions", Help: "Submissions that wait for a place to be worked on.",
	}, func() float64 { return float64(a.waiting.Load()) }))
	return a
}

// enter waits for a place, which leave gives back. The error wraps errBusy.
func (a *admission) enter(ctx context.Context) error {
	if a.places.TryAcquire(1) { // never past those who wait
		return nil
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > a.maxWaiting {
		a.refused.Inc()
		return fmt.Errorf("%w: %d wait already", errBusy, a.maxWaiting)
	}
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	if err := a.places.Acquire(ctx, 1); err != nil {
		a.refused.Inc()
		return fmt.Errorf("%w: no place: %w", errBusy, err)
	}
	return nil
}

func (a *admission) leave() { a.places.Release(1) }
