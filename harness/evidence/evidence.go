// Package evidence holds the record of a run against the files of its
// directory: the ledger, the histograms and the seconds are counted anew from
// what is on file for every single request.
package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// Folder of a run directory that holds what the load generator left.
const Folder = "load"

// maxAgainst bounds how many contradictions are listed.
const maxAgainst = 10

// Of reads the files of a run directory and says what they have against r. A
// record without a load has none: nil.
func Of(dir string, r *record.Run) *verdict.Evidence {
	if r.Load == nil {
		return nil
	}
	e := &verdict.Evidence{}
	for _, err := range recount(filepath.Join(dir, Folder), r.Load, e) {
		if err != nil {
			e.Against = append(e.Against, err.Error())
		}
	}
	e.Against = e.Against[:min(len(e.Against), maxAgainst)]
	return e
}

func recount(dir string, told *load.Result, e *verdict.Evidence) []error {
	return []error{sameResult(dir, told), sameHistograms(dir, told), sameRequests(dir, told, e)}
}

// sameResult asks that the generator's own report says what the record says.
func sameResult(dir string, told *load.Result) error {
	filed, err := load.ReadResult(filepath.Join(dir, load.ResultFile))
	if err != nil {
		return named(dir, err)
	}
	a, errA := json.Marshal(filed)
	b, errB := json.Marshal(told)
	if string(a) != string(b) {
		return errors.Join(errA, errB, fmt.Errorf("%s says something else about the load than the record", load.ResultFile))
	}
	return errors.Join(errA, errB)
}

// sameHistograms asks that the quantiles are those of the histograms on file.
func sameHistograms(dir string, told *load.Result) error {
	f, err := os.Open(filepath.Join(dir, load.TimingsFile))
	if err != nil {
		return named(dir, err)
	}
	defer f.Close()
	ts := load.Timings{}
	if err := load.ReadTimings(f, ts); err != nil {
		return fmt.Errorf("%s: %w", load.TimingsFile, err)
	}
	all, err := ts.Union()
	if err != nil {
		return fmt.Errorf("%s: %w", load.TimingsFile, err)
	}
	classes := map[string]load.Class{}
	for name, t := range ts {
		classes[name] = t.Class()
	}
	if len(ts) > 0 {
		classes[load.All] = all.Class()
	}
	return sameClasses(load.TimingsFile, classes, told.Classes)
}

// sameRequests counts every request on file anew.
func sameRequests(dir string, told *load.Result, e *verdict.Evidence) error {
	again, err := load.MergeDirs(dir)
	if err != nil {
		return named(dir, err)
	}
	e.Requests = again.Result.Ledger.Offered + again.Result.WarmUpLedger.Offered
	var errs []error
	if again.Result.Ledger != told.Ledger || again.Result.WarmUpLedger != told.WarmUpLedger {
		errs = append(errs, fmt.Errorf("%s adds up to %+v and %+v in the warm-up, the record says %+v and %+v",
			load.OutcomesFile, again.Result.Ledger, again.Result.WarmUpLedger, told.Ledger, told.WarmUpLedger))
	}
	if !slices.Equal(again.Result.Seconds, told.Seconds) {
		errs = append(errs, fmt.Errorf("%s makes other seconds of the window than the record has", load.OutcomesFile))
	}
	if again.Result.Generator != told.Generator {
		errs = append(errs, fmt.Errorf("%s makes another lateness of the generator than the record has", load.OutcomesFile))
	}
	errs = append(errs, sameClasses(load.OutcomesFile, again.Result.Classes, told.Classes), plausible(dir))
	return errors.Join(errs...)
}

// sameClasses compares the timing of each class. A mean is a float that was
// added up in another order.
func sameClasses(file string, filed, told map[string]load.Class) error {
	var errs []error
	names := slices.Sorted(maps.Keys(told))
	for name := range filed {
		if _, ok := told[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		a, b := filed[name], told[name]
		for _, q := range []*load.Quantiles{&a.Lag, &a.Service, &a.Latency, &b.Lag, &b.Service, &b.Latency} {
			q.Mean = 0
		}
		if a != b {
			errs = append(errs, fmt.Errorf("%s makes of class %s: n %d, p50 %g, p99 %g ms; the record says n %d, p50 %g, p99 %g ms",
				file, name, a.N, a.Latency.P50, a.Latency.P99, b.N, b.Latency.P50, b.Latency.P99))
		}
	}
	return errors.Join(errs...)
}

// plausible asks that each fate agrees with what else is on file about its
// request: a lost one cannot be booked as answered, nor a refusal as accepted.
func plausible(dir string) error {
	return named(dir, load.EachOutcome(filepath.Join(dir, load.OutcomesFile), func(o load.Outcome) error {
		if why := implausible(o); why != "" {
			return fmt.Errorf("request %d, %s: %s", o.Index, o.Fate, why)
		}
		return nil
	}))
}

func implausible(o load.Outcome) string {
	has := o.Fate == load.Accepted || o.Fate == load.Rejected || o.Fate == load.Unexpected
	switch {
	case has && (o.Status == 0 || o.Done <= o.Sent || o.Sent < o.Due):
		return fmt.Sprintf("booked as answered with status %d, due %v, sent %v, done %v", o.Status, o.Due, o.Sent, o.Done)
	case !has && o.Status != 0:
		return fmt.Sprintf("has status %d", o.Status)
	default:
		return contradicted(o)
	}
}

// contradicted says in what the status belies the fate.
func contradicted(o load.Outcome) string {
	switch class := o.Status / 100; {
	case o.Fate == load.Accepted && (class != 2 || o.ID == ""):
		return fmt.Sprintf("status %d and strategy %q are no acknowledgement", o.Status, o.ID)
	case o.Fate == load.Rejected && class != 4:
		return fmt.Sprintf("status %d is no refusal", o.Status)
	default:
		return ""
	}
}

// named tells a file by its name alone, wherever the run lies.
func named(dir string, err error) error {
	if err == nil {
		return nil
	}
	short := strings.NewReplacer(dir+string(filepath.Separator), "", dir+": ", "", dir, Folder)
	return errors.New(short.Replace(err.Error()))
}
