package harness

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// recoveredFor is how long everything must be well for a SUT to have recovered.
const recoveredFor = time.Second

// noteOutages tells apart, request by request, what the faults touched.
func (x *execution) noteOutages(outages []record.Outage) error {
	f, err := x.openOutcomes()
	if err != nil {
		return fmt.Errorf("outages: %w", err)
	}
	defer f.Close()
	all, err := readWindow(f)
	if err != nil {
		return fmt.Errorf("outages: %w", err)
	}
	x.run.Outages = weighOutages(outages, all, x.profile.WarmUp+x.profile.Window, x.Recovery)
	return nil
}

// readWindow reads the outcomes of the window, by due time.
func readWindow(r io.Reader) (all []load.Outcome, err error) {
	d := json.NewDecoder(bufio.NewReaderSize(r, 256<<10))
	for {
		var o load.Outcome
		if err := d.Decode(&o); err == io.EOF {
			slices.SortStableFunc(all, func(a, b load.Outcome) int { return cmp.Compare(a.Due, b.Due) })
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("outcomes.jsonl: %w", err)
		}
		if o.Window {
			all = append(all, o)
		}
	}
}

// weighOutages computes what the record says of outages. all is sorted by due
// time; end is the end of the load.
func weighOutages(outages []record.Outage, all []load.Outcome, end time.Duration, asked verdict.FaultPolicy) *record.Outages {
	out := &record.Outages{AllowanceS: asked.RecoveryS, LimitMS: asked.LatencyMS, Outages: slices.Clone(outages)}
	unanswered := map[string]bool{} // keys of touched requests whose fate nobody knows
	var calm []load.Outcome
	for _, o := range all {
		if !out.Touches(o) && !unanswered[o.Key] {
			calm = append(calm, o)
			continue
		}
		switch {
		case o.Fate == load.Lost:
			unanswered[o.Key] = true
			out.Unanswered++
		case refused(o):
			out.Refused++
		}
	}
	out.Calm = load.ClassOf(calm)
	for i := range out.Outages {
		until := end.Seconds()
		if i+1 < len(out.Outages) {
			until = out.Outages[i+1].Start
		}
		out.Outages[i].RecoveryS = recovery(out.Outages[i].Relief, until, all, asked.LatencyMS)
	}
	return out
}

// refused tells a clear refusal: the SUT says that it cannot now.
func refused(o load.Outcome) bool {
	return o.Fate == load.Unexpected && o.Status == http.StatusServiceUnavailable
}

// recovery is the time from relief until, for recoveredFor, every request was
// answered as it should within limit (ms); nil when that did not come before until.
func recovery(relief, until float64, all []load.Outcome, limit float64) *float64 {
	well := relief // since when all is well, as far as is known
	for _, o := range all {
		due := o.Due.Seconds()
		if due < relief || good(o, limit) {
			continue
		}
		if due >= well+recoveredFor.Seconds() {
			break
		}
		well = math.Nextafter(due, math.Inf(1))
	}
	if well+recoveredFor.Seconds() > until {
		return nil
	}
	took := well - relief
	return &took
}

func good(o load.Outcome, limit float64) bool {
	answered := o.Fate == load.Accepted || o.Fate == load.Rejected
	return answered && float64(o.Done-o.Due)/float64(time.Millisecond) <= limit
}
