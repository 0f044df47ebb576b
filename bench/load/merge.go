package load

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// sameStart is how far the starts of instances of one run may lie apart: they
// are given in whole milliseconds.
const sameStart = time.Millisecond

// MergeDirs makes one evidence of those of instances that shared a schedule,
// from their outcomes: ledgers, histograms, seconds and curve are what one
// instance would have recorded, not averages of quantiles. It refuses
// directories that are not shares of one run or that overlap. The memory it
// needs grows with the length of the run.
func MergeDirs(dirs ...string) (*Evidence, error) {
	if len(dirs) == 0 {
		return nil, errors.New("merge: no directories")
	}
	m := merger{seen: map[int64]string{}}
	for _, dir := range dirs {
		if err := m.add(dir); err != nil {
			return nil, fmt.Errorf("merge: %s: %w", dir, err)
		}
	}
	return m.evidence()
}

// Outcomes calls f for each outcome of each directory, one after the other.
func Outcomes(f func(Outcome) error, dirs ...string) error {
	for _, dir := range dirs {
		if err := EachOutcome(filepath.Join(dir, OutcomesFile), f); err != nil {
			return err
		}
	}
	return nil
}

type merger struct {
	total *Result // what is added up or common
	rec   *recorder
	seen  map[int64]string // directory of each index
}

func (m *merger) add(dir string) error {
	r, err := ReadResult(filepath.Join(dir, ResultFile))
	if err != nil {
		return err
	}
	if m.total == nil {
		m.rec = newRecorder(r.WarmUp)
		m.rec.series.keep = true
		m.total = &Result{Version: r.Version, Started: r.Started, Seed: r.Seed, Rate: r.Rate, WarmUp: r.WarmUp,
			Window: r.Window, Profile: r.Profile, Tag: r.Tag, Unexpected: map[string]int64{}, LostBy: map[string]int64{}}
	}
	if err := m.total.sameRun(r); err != nil {
		return err
	}
	m.total.absorb(r)
	return Outcomes(func(o Outcome) error { return m.outcome(dir, o) }, dir)
}

// sameRun says in what r is not a share of the run of t.
func (t *Result) sameRun(r *Result) error {
	type run struct {
		Seed           uint64
		Rate           float64
		WarmUp, Window time.Duration
		Profile, Tag   string
	}
	a, b := run{t.Seed, t.Rate, t.WarmUp, t.Window, t.Profile, t.Tag}, run{r.Seed, r.Rate, r.WarmUp, r.Window, r.Profile, r.Tag}
	if a != b {
		return fmt.Errorf("%+v is not a share of the run %+v", b, a)
	}
	if d := r.Started.Sub(t.Started); d.Abs() > sameStart {
		return fmt.Errorf("started %v apart from the others; give all instances one start (PLUMBLINE_START_AT)", d)
	}
	return nil
}

// absorb adds what cannot be had from outcomes.
func (t *Result) absorb(r *Result) {
	t.MaxInFlight += r.MaxInFlight
	t.Backlog += r.Backlog
	t.PacerCPU += r.PacerCPU
	t.Ledger.add(r.Ledger)
	t.WarmUpLedger.add(r.WarmUpLedger)
	for why, n := range r.Unexpected {
		t.Unexpected[why] += n
	}
	for why, n := range r.LostBy {
		t.LostBy[why] += n
	}
	t.Samples = append(t.Samples, r.Samples[:min(len(r.Samples), maxSamples-len(t.Samples))]...)
	if r.Aborted != "" && !strings.Contains(t.Aborted, r.Aborted) {
		t.Aborted = strings.TrimPrefix(t.Aborted+"; "+r.Aborted, "; ")
	}
}

func (l *Ledger) add(o Ledger) {
	l.Offered += o.Offered
	l.Dropped += o.Dropped
	l.Answered += o.Answered
	l.Lost += o.Lost
	l.InFlight += o.InFlight
	l.Accepted += o.Accepted
	l.Rejected += o.Rejected
	l.Unexpected += o.Unexpected
}

func (m *merger) outcome(dir string, o Outcome) error {
	if before, ok := m.seen[o.Index]; ok {
		return fmt.Errorf("request %d was offered by %s as well", o.Index, before)
	}
	if end := m.total.WarmUp + m.total.Window; o.Due < 0 || o.Due >= end {
		return fmt.Errorf("request %d was due at %v, outside the load of %v", o.Index, o.Due, end)
	}
	if o.Window != (o.Due >= m.total.WarmUp) {
		return fmt.Errorf("request %d, due at %v, is on the wrong side of the warm-up of %v", o.Index, o.Due, m.total.WarmUp)
	}
	m.seen[o.Index] = dir
	m.rec.offered(o.Due)
	m.rec.settled(o, Reply{})
	return nil
}

// evidence completes the sums by what the outcomes say.
func (m *merger) evidence() (*Evidence, error) {
	res := *m.total
	if err := m.rec.fill(&res); err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	t := m.total
	if res.Ledger != t.Ledger || res.WarmUpLedger != t.WarmUpLedger {
		return nil, fmt.Errorf("merge: the outcomes add up to %+v and %+v in the warm-up, the results to %+v and %+v",
			res.Ledger, res.WarmUpLedger, t.Ledger, t.WarmUpLedger)
	}
	res.Unexpected, res.LostBy, res.Samples = t.Unexpected, t.LostBy, t.Samples
	return &Evidence{Result: res, Timings: m.rec.timings, Ended: res.Started.Add(res.Wall)}, nil
}
