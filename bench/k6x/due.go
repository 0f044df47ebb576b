package k6x

import (
	"errors"
	"fmt"
	"time"

	"go.k6.io/k6/lib"
	"go.k6.io/k6/lib/executor"
	"go.k6.io/k6/metrics"

	"qmtl.internal/plumbline/bench/load"
)

// Tags of the samples of begin and end: where the due time comes from.
const (
	dueScheduled = "scheduled" // our executor, which knows it
	dueEstimated = "estimated" // reckoned from k6's iteration number: right only while nothing was dropped
)

// timed is the iteration between begin and end.
type timed struct {
	scenario string
	zero     time.Time
	due      func(i int64) time.Duration
	source   string

	at    time.Time // due
	begun time.Time
	open  bool
}

// begin notes the start of an iteration and returns how many milliseconds
// after its due time it is. Call it first.
func (in *instance) begin() (lagMS float64, err error) {
	now, st := time.Now(), in.vu.State()
	ss := lib.GetScenarioState(in.vu.Context())
	if st == nil || ss == nil {
		return 0, errors.New("plumbline: begin() belongs into an iteration of a scenario")
	}
	t := &in.timed
	if t.due == nil || t.scenario != ss.Name {
		if err := t.enter(ss, st.Options.Scenarios[ss.Name]); err != nil {
			return 0, err
		}
		if t.source == dueEstimated {
			st.Logger.Warnf("plumbline: the due times of scenario %s are valid only while dropped_iterations is 0, since %s gives the number of a dropped iteration to the next; %s keeps it",
				ss.Name, ss.Executor, ArrivalRate)
		}
	}
	t.at, t.begun, t.open = t.zero.Add(t.due(int64(st.GetScenarioGlobalVUIter()))), now, true
	return metrics.D(now.Sub(t.at)), nil
}

func (t *timed) enter(ss *lib.ScenarioState, c lib.ExecutorConfig) error {
	due, source, err := dueTimes(c)
	if err != nil {
		return err
	}
	*t = timed{scenario: ss.Name, zero: ss.StartTime, due: due, source: source}
	return nil
}

// dueTimes returns when the executor of c starts iteration i.
func dueTimes(c lib.ExecutorConfig) (due func(i int64) time.Duration, source string, err error) {
	switch v := c.(type) {
	case *arrivalConfig:
		return v.schedule().Due, dueScheduled, nil
	case *executor.ConstantArrivalRateConfig:
		// k6 cuts the period to whole nanoseconds.
		period := time.Duration(int64(v.TimeUnit.TimeDuration()) / v.Rate.Int64)
		return func(i int64) time.Duration { return time.Duration(i) * period }, dueEstimated, nil
	case *executor.RampingArrivalRateConfig:
		// k6 starts iteration i when i+1 are due.
		s := ramps(v)
		return func(i int64) time.Duration { return s.Due(i + 1) }, dueEstimated, nil
	}
	return nil, "", fmt.Errorf("plumbline: begin(): the executor %s has no due times; use %s, constant-arrival-rate or ramping-arrival-rate",
		c.GetType(), ArrivalRate)
}

func ramps(c *executor.RampingArrivalRateConfig) load.Ramps {
	unit := c.TimeUnit.TimeDuration().Seconds()
	s := load.Ramps{Start: float64(c.StartRate.Int64) / unit}
	for _, stage := range c.Stages {
		s.Ramps = append(s.Ramps, load.Ramp{Rate: float64(stage.Target.Int64) / unit, For: stage.Duration.TimeDuration()})
	}
	return s
}

// end notes the end of the iteration that begin began and hands its lag,
// service time and latency to k6, tagged with class. It returns the latency in
// milliseconds.
func (in *instance) end(class string) (latencyMS float64, err error) {
	now, t := time.Now(), &in.timed
	if !t.open {
		return 0, errors.New("plumbline: end() without begin()")
	}
	t.open = false
	st := in.vu.State()
	tags := st.Tags.GetCurrentValues().Tags.With("due", t.source)
	if class != "" {
		tags = tags.With("class", class)
	}
	sample := func(m *metrics.Metric, d time.Duration) metrics.Sample {
		return metrics.Sample{TimeSeries: metrics.TimeSeries{Metric: m, Tags: tags}, Time: now, Value: metrics.D(d)}
	}
	m := in.meters
	metrics.PushIfNotDone(in.vu.Context(), st.Samples, metrics.ConnectedSamples{
		Samples: []metrics.Sample{
			sample(m.lag, t.begun.Sub(t.at)), sample(m.service, now.Sub(t.begun)), sample(m.latency, now.Sub(t.at)),
		},
		Tags: tags, Time: now,
	})
	return metrics.D(now.Sub(t.at)), nil
}
