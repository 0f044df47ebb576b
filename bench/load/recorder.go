package load

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	lateAfter  = time.Millisecond // a generator lag beyond counts as late
	maxSamples = 20               // unexpected answers kept
	maxBody    = 2048             // bytes kept of each
)

// recorder books what becomes of each request, in constant memory but for one
// small entry a second.
type recorder struct {
	warmUp time.Duration

	mu         sync.Mutex
	window     Ledger // the rest is guarded by mu
	warm       Ledger
	timings    Timings
	series     series
	generator  *hdrhistogram.Histogram // lateness of the generator itself
	left       int64
	late       int64
	waited     int64
	unexpected map[string]int64
	lostBy     map[string]int64
	samples    []UnexpectedReply
	last       time.Duration // done of the latest answer
}

func newRecorder(warmUp time.Duration) *recorder {
	return &recorder{warmUp: warmUp, timings: Timings{}, unexpected: map[string]int64{}, lostBy: map[string]int64{},
		generator: newHistogram(),
		series:    series{open: map[int64]*openSecond{}}}
}

// offered books a request that came due.
func (r *recorder) offered(due time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.ledger(due)
	l.Offered++
	l.InFlight++
	if due >= r.warmUp {
		r.series.offered(second(due - r.warmUp))
	}
}

// settled books the end of an offered request. reply is only looked at when
// the request got an answer or was lost.
func (r *recorder) settled(o Outcome, reply Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.ledger(o.Due)
	l.settle(o.Fate)
	r.last = max(r.last, o.Done)
	if !o.Window {
		return
	}
	if o.Fate == Dropped {
		r.series.settled(second(o.Due-r.warmUp), -1)
		return
	}
	r.timed(o)
	r.explain(o, reply)
}

func (r *recorder) ledger(due time.Duration) *Ledger {
	if due < r.warmUp {
		return &r.warm
	}
	return &r.window
}

func (r *recorder) timed(o Outcome) {
	t := r.timings.of(o.Class)
	put(t.Lag, o.Sent-o.Due)
	r.own(o)
	latency := time.Duration(-1)
	if o.Fate != Lost {
		latency = o.Done - o.Due
		put(t.Service, o.Done-o.Sent)
		put(t.Latency, latency)
	}
	r.series.settled(second(o.Due-r.warmUp), latency)
}

// own books the lateness that is the generator's own.
func (r *recorder) own(o Outcome) {
	lag := o.Sent - o.Due - o.Wait
	put(r.generator, lag)
	r.left++
	if lag > lateAfter {
		r.late++
	}
	if o.Wait > 0 {
		r.waited++
	}
}

func (r *recorder) explain(o Outcome, reply Reply) {
	switch o.Fate {
	case Lost:
		r.lostBy[reply.Why]++
	case Unexpected:
		r.unexpected[reply.Why]++
		if len(r.samples) < maxSamples {
			body := reply.Body[:min(len(reply.Body), maxBody)]
			r.samples = append(r.samples, UnexpectedReply{Index: o.Index, Status: o.Status, Body: string(body), Error: o.Error})
		}
	}
}

// Book counts one request by its fate.
func (l *Ledger) Book(f Fate) {
	l.Offered++
	l.InFlight++
	l.settle(f)
}

// settle moves one request from InFlight to its fate.
func (l *Ledger) settle(f Fate) {
	l.InFlight--
	switch f {
	case Dropped:
		l.Dropped++
	case Lost:
		l.Lost++
	case Accepted:
		l.Answered++
		l.Accepted++
	case Rejected:
		l.Answered++
		l.Rejected++
	default: // an answer that nobody could place is not good news
		l.Answered++
		l.Unexpected++
	}
}

// fill writes what was booked into res. It must come last.
func (r *recorder) fill(res *Result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.timings.Union()
	if err != nil {
		return err
	}
	res.Ledger, res.WarmUpLedger = r.window, r.warm
	res.Classes = map[string]Class{}
	for class, t := range r.timings {
		res.Classes[class] = t.Class()
	}
	if len(r.timings) > 0 {
		res.Classes[All] = all.Class()
	}
	res.Curve = curve(all.Latency)
	res.Seconds = r.series.finish(r.warmUp)
	res.Unexpected, res.LostBy, res.Samples = maps.Clone(r.unexpected), maps.Clone(r.lostBy), slices.Clone(r.samples)
	res.Wall = r.last
	res.Generator, res.Waited = quantiles(r.generator), r.waited
	if r.left > 0 {
		res.LateShare = float64(r.late) / float64(r.left)
	}
	return nil
}
