package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

const (
	// loadLead is how long before the load its start is fixed, so that k6 is
	// up by then and faults share its timeline.
	loadLead = 5 * time.Second
	// healWithin bounds the healing of one fault.
	healWithin = 2 * time.Minute
)

// plannedFault is one fault on the timeline of a load.
type plannedFault struct {
	text         string // as written
	at, lasts    time.Duration
	target, kind string
	params       backend.Params
}

func (p plannedFault) name() string { return p.target + "." + p.kind }

var faultForm = regexp.MustCompile(`^([^:]+):([a-z0-9_-]+)\.([a-z]+):([^:]+)(?::(.+))?$`)

// parseFault reads AT:TARGET.KIND:FOR, with parameters after one more colon:
// 10s:redis.latency:5s:latency=50ms+jitter=20ms.
func parseFault(text string) (plannedFault, error) {
	bad := func(why string) (plannedFault, error) {
		return plannedFault{}, fmt.Errorf("--fault-at %q: %s; write AT:TARGET.KIND:FOR such as 10s:kafka.stop:5s", text, why)
	}
	m := faultForm.FindStringSubmatch(text)
	if m == nil {
		return bad("is no fault on a timeline")
	}
	p := plannedFault{text: text, target: m[2], kind: m[3]}
	var errAt, errFor error
	p.at, errAt = time.ParseDuration(m[1])
	p.lasts, errFor = time.ParseDuration(m[4])
	if errAt != nil || errFor != nil || p.at < 0 || p.lasts < 0 {
		return bad(fmt.Sprintf("%q and %q must be times such as 10s", m[1], m[4]))
	}
	if err := p.readParams(m[5]); err != nil {
		return bad(err.Error())
	}
	return p, nil
}

func (p *plannedFault) readParams(text string) error {
	if text == "" {
		return nil
	}
	for _, pair := range strings.Split(text, "+") {
		key, value, _ := strings.Cut(pair, "=")
		var err error
		switch key {
		case "latency":
			p.params.Latency, err = time.ParseDuration(value)
		case "jitter":
			p.params.Jitter, err = time.ParseDuration(value)
		case "tail":
			p.params.Tail, err = strconv.ParseFloat(value, 64)
		case "rate":
			p.params.Rate, err = ParseBytes(value)
		default:
			err = fmt.Errorf("there is no parameter %q; have latency, jitter, tail, rate", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// timeline resolves the faults of the plan, or else those of the profile. Each
// must lie in the window with its recovery, or nothing could be said of it.
func (c *checked) timeline() error {
	if !c.asked(verdict.StageLoad) {
		return nil
	}
	texts := c.FaultAt
	if len(texts) == 0 {
		texts = c.profile.Faults
	}
	end := c.profile.WarmUp + c.profile.Window
	for _, text := range texts {
		p, err := parseFault(text)
		if err != nil {
			return err
		}
		p.params.Seed = c.Seed
		if p.at < c.profile.WarmUp || p.at+p.lasts+c.recovery() > end {
			return fmt.Errorf("--fault-at %s: must lie within the window, %v to %v, with %v to recover in after it", text, c.profile.WarmUp, end, c.recovery())
		}
		c.planned = append(c.planned, p)
	}
	slices.SortStableFunc(c.planned, func(a, b plannedFault) int { return cmp.Compare(a.at, b.at) })
	if len(c.planned) > 0 && (c.Recovery.RecoveryS <= 0 || c.Recovery.LatencyMS <= 0) {
		return errors.New("faults are planned into the load, but the policy does not say what is asked of it then; add faults.recovery_s and faults.latency_ms")
	}
	return nil
}

func (c *checked) recovery() time.Duration {
	return time.Duration(c.Recovery.RecoveryS * float64(time.Second))
}

// timeline is the faults of one load under way.
type timeline struct {
	zero time.Time

	running sync.WaitGroup
	mu      sync.Mutex
	done    []record.Outage // guarded by mu
	errs    []error         // guarded by mu
}

// harmful is a planned fault that can be done.
type harmful struct {
	plannedFault
	fault backend.Fault
	own   bool // it harms a process of the SUT
}

// faultsFor finds each planned fault among those of the backends and the SUT.
func (x *execution) faultsFor(in *sut.Instance) ([]harmful, error) {
	processes := in.Faults()
	all := append(slices.Clone(x.set.Faults()), processes...)
	var out []harmful
	for _, p := range x.planned {
		f, err := all.Get(p.target, p.kind)
		if err == nil {
			f, err = f.With(p.params)
		}
		if err != nil {
			return nil, fmt.Errorf("--fault-at %s: on %s backends: %w", p.text, x.set.Kind, err)
		}
		own := slices.ContainsFunc(processes, func(f backend.Fault) bool { return f.Server == p.target })
		out = append(out, harmful{p, f, own})
	}
	return out, nil
}

// startTimeline does every fault when it is due. Ending ctx heals what is
// harmed and does no more; wait must be called.
func startTimeline(ctx context.Context, zero time.Time, faults []harmful) *timeline {
	t := &timeline{zero: zero}
	for _, f := range faults {
		t.running.Go(func() { t.do(ctx, f) })
	}
	return t
}

// wait returns when everything is healed.
func (t *timeline) wait() ([]record.Outage, error) {
	t.running.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.done, func(a, b record.Outage) int { return cmp.Compare(a.Start, b.Start) })
	return t.done, errors.Join(t.errs...)
}

// since is the time on the load's timeline, in seconds.
func (t *timeline) since() float64 { return time.Since(t.zero).Seconds() }

func (t *timeline) do(ctx context.Context, h harmful) {
	if !pause(ctx, time.Until(t.zero.Add(h.at))) {
		return
	}
	o := record.Outage{Fault: h.name(), Rule: h.text, Start: t.since()}
	heal, err := h.fault.Apply(ctx)
	if err == nil {
		pause(ctx, time.Until(t.zero.Add(h.at+h.lasts)))
	}
	o.HealBegan = t.since()
	if heal != nil {
		healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
		err = errors.Join(err, heal(healing))
		cancel()
	}
	o.End = t.since()
	if o.Relief = o.End; h.own {
		o.Relief = o.HealBegan
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = append(t.done, o)
	if err != nil {
		t.errs = append(t.errs, fmt.Errorf("fault %s: %w", h.text, err))
	}
}

// pause waits for d; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
