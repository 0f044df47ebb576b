package k6x

import (
	"errors"
	"time"

	"go.k6.io/k6/metrics"

	"qmtl.internal/plumbline/bench/load"
)

// meters are the k6 metrics of the module. They cover the window only; the
// trends are tagged with the class of the request.
type meters struct {
	lag, generator, service, latency *metrics.Metric // trends of time

	offered, answered, dropped, lost, accepted, rejected, unexpected *metrics.Metric // counters
}

func newMeters(r *metrics.Registry) (*meters, error) {
	var errs []error
	metric := func(name string, typ metrics.MetricType, t ...metrics.ValueType) *metrics.Metric {
		m, err := r.NewMetric("plumbline_"+name, typ, t...)
		errs = append(errs, err)
		return m
	}
	trend := func(name string) *metrics.Metric { return metric(name, metrics.Trend, metrics.Time) }
	counter := func(name string) *metrics.Metric { return metric(name, metrics.Counter) }
	m := &meters{
		lag: trend("lag"), generator: trend("generator_lag"), service: trend("service"), latency: trend("latency"),
		offered: counter("offered"), answered: counter("answered"), dropped: counter("dropped"), lost: counter("lost"),
		accepted: counter("accepted"), rejected: counter("rejected"), unexpected: counter("unexpected"),
	}
	return m, errors.Join(errs...)
}

// flushEvery is how long samples wait to be handed to k6 together.
const flushEvery = 200 * time.Millisecond

// feed hands outcomes to k6 as samples. One goroutine uses it at a time.
type feed struct {
	m       *meters
	out     chan<- metrics.SampleContainer
	tags    *metrics.TagSet
	classes map[string]*metrics.TagSet
	samples metrics.Samples
	counts  load.Ledger
	flushed time.Time
}

func newFeed(m *meters, out chan<- metrics.SampleContainer, tags *metrics.TagSet) *feed {
	return &feed{m: m, out: out, tags: tags, classes: map[string]*metrics.TagSet{}, flushed: time.Now()}
}

// observe takes one outcome.
func (f *feed) observe(o load.Outcome) {
	now := time.Now()
	if o.Window {
		f.count(o.Fate)
		f.time(now, o)
	}
	if now.Sub(f.flushed) >= flushEvery {
		f.flush()
	}
}

func (f *feed) count(fate load.Fate) {
	f.counts.Offered++
	switch fate {
	case load.Dropped:
		f.counts.Dropped++
		return
	case load.Lost:
		f.counts.Lost++
		return
	case load.Accepted:
		f.counts.Accepted++
	case load.Rejected:
		f.counts.Rejected++
	default:
		f.counts.Unexpected++
	}
	f.counts.Answered++
}

func (f *feed) time(now time.Time, o load.Outcome) {
	if o.Fate == load.Dropped {
		return
	}
	tags := f.classes[o.Class]
	if tags == nil {
		tags = f.tags.With("class", o.Class)
		f.classes[o.Class] = tags
	}
	add := func(m *metrics.Metric, d time.Duration) {
		f.samples = append(f.samples, metrics.Sample{TimeSeries: metrics.TimeSeries{Metric: m, Tags: tags}, Time: now, Value: metrics.D(d)})
	}
	add(f.m.lag, o.Sent-o.Due)
	add(f.m.generator, o.Sent-o.Due-o.Wait)
	if o.Fate != load.Lost {
		add(f.m.service, o.Done-o.Sent)
		add(f.m.latency, o.Done-o.Due)
	}
}

// flush hands over what has gathered. Counters come with a zero too, so that a
// threshold on one always has something to look at. The channel stays open
// until the iteration ends, after an abort as well, so nothing is thrown away.
func (f *feed) flush() {
	now, c := time.Now(), f.counts
	for _, x := range []struct {
		m *metrics.Metric
		n int64
	}{
		{f.m.offered, c.Offered}, {f.m.answered, c.Answered}, {f.m.dropped, c.Dropped}, {f.m.lost, c.Lost},
		{f.m.accepted, c.Accepted}, {f.m.rejected, c.Rejected}, {f.m.unexpected, c.Unexpected},
	} {
		f.samples = append(f.samples, metrics.Sample{TimeSeries: metrics.TimeSeries{Metric: x.m, Tags: f.tags}, Time: now, Value: float64(x.n)})
	}
	f.out <- f.samples
	f.samples, f.counts, f.flushed = nil, load.Ledger{}, now
}
