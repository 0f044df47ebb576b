package k6x

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"go.k6.io/k6/errext"
	"go.k6.io/k6/lib"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
)

// offer offers the plan, or this instance's share of it, and returns the
// result, in the shape of load.json. It blocks its VU until the last answer.
// Only the first VU of a scenario offers; the others return null at once, so
// that a scenario may give every execution segment a VU. What cannot be
// measured ends the whole run.
func (in *instance) offer(p *Plan) (any, error) {
	st, ctx := in.vu.State(), in.vu.Context()
	if st == nil {
		return nil, errors.New("plumbline: offer() belongs into a function of the script, not into the init context")
	}
	if p == nil || p.target == "" {
		return nil, errors.New("plumbline: offer(): give it what plan() returned")
	}
	scenario, exec := lib.GetScenarioState(ctx), lib.GetExecutionState(ctx)
	if scenario == nil || exec == nil {
		return nil, errors.New("plumbline: offer() works within a scenario only")
	}
	if _, taken := in.root.offering.LoadOrStore(scenario.Name, true); taken {
		return nil, nil
	}
	start, offsets, _ := exec.ExecutionTuple.GetStripedOffsets()
	o := &offering{plan: p, stripe: load.Stripe{Start: start, Offsets: offsets}, log: st.Logger}
	o.feed = newFeed(in.meters, st.Samples, st.Tags.GetCurrentValues().Tags)
	transport := &http.Transport{DialContext: st.Dialer.DialContext, TLSClientConfig: st.TLSConfig.Clone()}
	defer transport.CloseIdleConnections()
	res, err := o.run(ctx, load.Tune(transport, p.profile.MaxInFlight))
	if err != nil {
		in.vu.Runtime().Interrupt(&errext.InterruptError{Reason: "plumbline: " + err.Error()})
		return nil, nil
	}
	return asJS(res)
}

// offering is one call of offer.
type offering struct {
	plan   *Plan
	stripe load.Stripe
	feed   *feed
	log    logrus.FieldLogger
}

func (o *offering) run(ctx context.Context, rt http.RoundTripper) (*load.Result, error) {
	src, tag, err := o.source(rt)
	if err != nil {
		return nil, err
	}
	keep, finish, err := o.files()
	if err != nil {
		return nil, err
	}
	c := o.plan.profile.Config()
	c.Stripe, c.StartAt = o.stripe, o.plan.startAt
	c.Observe = func(out load.Outcome) error {
		o.feed.observe(out)
		return keep(out)
	}
	p := o.plan
	o.log.Infof("plumbline: profile %s, %v/s for %s after %s of warm-up, seed %d, to %s", p.Name, p.Rate, p.Window, p.WarmUp, p.seed, p.target)
	ev, err := load.Offer(ctx, c, src)
	if ev != nil {
		r := &ev.Result
		r.Seed, r.Rate, r.Profile, r.Tag = p.seed, p.Rate, p.Name, tag
		if ctx.Err() != nil {
			r.Aborted = "k6 ended the run before the schedule was through (" + r.Aborted + ")"
		}
		o.feed.flush()
	}
	if err = errors.Join(err, finish(ev)); err != nil {
		return nil, err
	}
	return &ev.Result, nil
}

// source makes the workload of the plan, and the tag of its keys.
func (o *offering) source(rt http.RoundTripper) (load.Source, string, error) {
	tag, shared := o.plan.tag, o.shared()
	if tag == "" && shared {
		return nil, "", errors.New("tag: several instances offer one schedule, so give all of them one tag (PLUMBLINE_RUN_ID)")
	}
	if tag == "" {
		tag = strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	w, err := workload.New(workload.Options{Profile: o.plan.profile, Seed: o.plan.seed, Tag: tag, Shared: shared})
	if err != nil {
		return nil, "", err
	}
	poster, err := load.NewPoster(o.plan.target+workload.Path, rt)
	if err != nil {
		return nil, "", err
	}
	return w.Source(poster), tag, nil
}

// shared says whether other instances offer parts of the schedule.
func (o *offering) shared() bool {
	return len(o.stripe.Offsets) != 1 || o.stripe.Offsets[0] != 1
}

// files opens the directory of the results, if one is wanted.
func (o *offering) files() (keep func(load.Outcome) error, finish func(*load.Evidence) error, err error) {
	if o.plan.Out == "" {
		o.log.Warn("plumbline: no directory for the results was given (PLUMBLINE_OUT), so none are kept")
		return func(load.Outcome) error { return nil }, func(*load.Evidence) error { return nil }, nil
	}
	d, err := load.CreateDir(o.plan.Out)
	if err != nil {
		return nil, nil, err
	}
	return d.Observe, d.Close, nil
}

// asJS turns a result into plain objects for the script.
func asJS(r *load.Result) (out map[string]any, err error) {
	b, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("plumbline: result: %w", err)
	}
	return out, nil
}
