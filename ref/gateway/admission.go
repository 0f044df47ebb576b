package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	places     chan struct{} // a token for each submission that is worked on; senders queue in order
	waiting    *atomic.Int64
	maxWaiting int64
	limit      time.Duration
	refused    prometheus.Counter
}

func newAdmission(places, waiting int, limit time.Duration, reg prometheus.Registerer) *admission {
	a := &admission{
		places: make(chan struct{}, places), waiting: &atomic.Int64{}, maxWaiting: int64(waiting), limit: limit,
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_busy_total", Help: "Submissions answered 503 because too many were there already."}),
	}
	reg.MustRegister(a.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gateway_waiting_submissions", Help: "Submissions that wait for a place to be worked on.",
	}, func() float64 { return float64(a.waiting.Load()) }))
	return a
}

// beside gives as many places again, for others, who wait in the same number.
func (a *admission) beside() *admission {
	b := *a
	b.places = make(chan struct{}, cap(a.places))
	return &b
}

// enter waits for a place, which leave gives back. The error wraps errBusy.
func (a *admission) enter(ctx context.Context) error {
	select {
	case a.places <- struct{}{}: // never past those who wait: what gets free is theirs at once
		return nil
	default:
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > a.maxWaiting {
		return a.refuse(fmt.Errorf("%w: %d wait already", errBusy, a.maxWaiting))
	}
	limit := time.NewTimer(a.limit) // lighter than a context, of which thousands may wait
	defer limit.Stop()
	select {
	case a.places <- struct{}{}:
		return nil
	case <-limit.C:
		return a.refuse(fmt.Errorf("%w: no place within %s", errBusy, a.limit))
	case <-ctx.Done():
		return a.refuse(fmt.Errorf("%w: %w", errBusy, context.Cause(ctx)))
	}
}

func (a *admission) refuse(err error) error {
	a.refused.Inc()
	return err
}

func (a *admission) leave() { <-a.places }
