package record

import (
	"fmt"

	"qmtl.internal/plumbline/bench/load"
)

// Names of the metrics that only a run with outages has.
const (
	RecoveryS        = "recovery_s"        // the longest of all outages
	OutageUnanswered = "outage_unanswered" // requests without an answer that an outage explains
	OutageRefused    = "outage_refused"    // clear refusals that an outage explains
)

// Outages tells what the faults that were planned into the load did to it.
// Times are seconds since Load.Started.
//
// A request is touched by an outage when it was due or under way between the
// beginning of the harm and the end of the allowance that follows its relief;
// so is a later one for the same DAG as a touched request that got no answer.
// Of the touched requests no latency is judged, and no answer or a clear
// refusal (status 503) is explained. What was acknowledged is not excused:
// the audit looks for it, and for what nobody was told of, as ever.
type Outages struct {
	AllowanceS float64    `json:"allowance_s"` // after each relief
	LimitMS    float64    `json:"limit_ms"`    // latency of a recovered SUT
	Outages    []Outage   `json:"outages"`     // in the order of their begin
	Calm       load.Class `json:"calm"`        // timing of the untouched requests of the window
	Unanswered int64      `json:"unanswered"`  // touched requests of the window without an answer
	Refused    int64      `json:"refused"`     // touched requests of the window that were clearly refused
}

// Outage is one fault as it really was.
type Outage struct {
	Fault string `json:"fault"` // target.kind
	Rule  string `json:"rule"`  // as planned
	// Start and End bound the harm; HealBegan is when healing was begun. The
	// relief, from which recovery counts, is End, when the server works again;
	// for a process of the SUT it is HealBegan, since its boot is its own.
	Start     float64 `json:"start_s"`
	HealBegan float64 `json:"heal_began_s"`
	End       float64 `json:"end_s"`
	Relief    float64 `json:"relief_s"`
	// RecoveryS is the time from the relief until all requests due within one
	// second were answered as they should within the limit; nil: never within
	// the load, or the next outage came first.
	RecoveryS *float64 `json:"recovery_s,omitempty"`
}

// Touches tells whether an outage was there while a request was due or under
// way. A request without an answer was under way until it was given up.
func (o *Outages) Touches(r load.Outcome) bool {
	for _, one := range o.Outages {
		if r.Due.Seconds() < one.Relief+o.AllowanceS && max(r.Due, r.Done).Seconds() > one.Start {
			return true
		}
	}
	return false
}

// outages puts the figures of outages. What an outage explains is no loss.
func (d deriver) outages(r *Run) {
	o := r.Outages
	if o == nil {
		return
	}
	n := int64(len(o.Outages))
	d.put(OutageUnanswered, float64(o.Unanswered), Count, n)
	d.put(OutageRefused, float64(o.Refused), Count, n)
	longest := 0.0
	for _, one := range o.Outages {
		if one.RecoveryS == nil {
			d.missing(fmt.Sprintf("the SUT did not recover from %s", one.Fault), RecoveryS)
			return
		}
		longest = max(longest, *one.RecoveryS)
	}
	d.put(RecoveryS, longest, Seconds, n)
}

// explained is how many of the unanswered requests an outage explains.
func explained(r *Run) int64 {
	if r.Outages == nil {
		return 0
	}
	return r.Outages.Unanswered
}

// judgedTiming is the timing that is judged: without what outages touched.
func judgedTiming(r *Run) load.Class {
	if r.Outages != nil {
		return r.Outages.Calm
	}
	return r.Load.Classes[allRequests]
}
