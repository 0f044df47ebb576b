package record

import (
	"fmt"
	"maps"
	"math"

	"qmtl.internal/plumbline/bench/load"
)

// Names of the metrics that every run has or gives a reason for. All but
// fidelity are the numeric keys of summary.json too.
const (
	ContractPassed  = "contract_passed"
	ContractFailed  = "contract_failed"
	ContractSkipped = "contract_skipped"
	Offered         = "offered"
	Answered        = "answered"
	Rejected        = "rejected"
	Dropped         = "dropped"
	Lost            = "lost"
	Duplicates      = "duplicates"
	Orphans         = "orphans"
	P50             = "p50_ms"
	P95             = "p95_ms"
	P99             = "p99_ms"
	P999            = "p999_ms"
	GeneratorLagP99 = "generator_lag_p99_ms"
	Throughput      = "throughput_per_s"
	HeapPeak        = "heap_peak_bytes"
	HeapCap         = "heap_cap_bytes"
	RSSPeak         = "rss_peak_bytes"
	ComplexityMax   = "complexity_max"
	ComplexityOver  = "complexity_over_limit"
	FidelityShare   = "fidelity" // of the scenarios that ran on both kinds of backends, those that agree
	allRequests     = "all"      // the class that is the union
)

// Derived lists the names that Derive gives a value or a reason for.
func Derived() []string {
	return []string{
		ContractPassed, ContractFailed, ContractSkipped, Offered, Answered, Rejected, Dropped, Lost, Duplicates, Orphans,
		P50, P95, P99, P999, GeneratorLagP99, Throughput, HeapPeak, HeapCap, RSSPeak, ComplexityMax, ComplexityOver,
		FidelityShare,
	}
}

// Derive computes the metrics of r from its parts, and the reason for each that
// cannot be computed. It reads neither r.Metrics nor, but for the reasons of
// whole parts, r.Absent; so it also proves that a record is of one piece.
//
// Counts cover the window. lost adds the window's requests that got no answer to
// what the audit found missing; what it found of the warm-up is judged, but not
// counted.
func Derive(r *Run) (Metrics, map[string]string) {
	d := deriver{Metrics{}, map[string]string{}}
	d.contract(r)
	d.load(r)
	d.audit(r)
	d.outages(r)
	d.memory(r)
	d.strain(r)
	d.complexity(r)
	d.fidelity(r)
	return d.have, d.absent
}

// SetDerived puts the derived metrics and reasons into r.
func SetDerived(r *Run) {
	m, why := Derive(r)
	if r.Metrics == nil {
		r.Metrics = Metrics{}
	}
	if r.Absent == nil {
		r.Absent = map[string]string{}
	}
	maps.Copy(r.Metrics, m)
	for k, reason := range why {
		if r.Absent[k] == "" {
			r.Absent[k] = reason
		}
	}
}

type deriver struct {
	have   Metrics
	absent map[string]string
}

// put records a value; one that is no number becomes a reason.
func (d deriver) put(name string, v float64, u Unit, n int64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		d.absent[name] = fmt.Sprintf("came out as %v", v)
		return
	}
	d.have[name] = Measure{Value: v, Unit: u, N: n}
}

func (d deriver) missing(reason string, names ...string) {
	for _, n := range names {
		d.absent[n] = reason
	}
}

func (d deriver) contract(r *Run) {
	if len(r.Contract) == 0 {
		d.missing(reasonFor(r, "contract", "no scenario ran"), ContractPassed, ContractFailed, ContractSkipped)
		return
	}
	count := map[Status]int{}
	for _, o := range r.Contract {
		count[o.Status]++
	}
	n := int64(len(r.Contract))
	d.put(ContractPassed, float64(count[Passed]), Count, n)
	d.put(ContractSkipped, float64(count[Skipped]), Count, n)
	// What is neither passed nor skipped failed, whatever it calls itself.
	d.put(ContractFailed, float64(len(r.Contract)-count[Passed]-count[Skipped]), Count, n)
}

// reasonFor prefers what the run said about a whole part.
func reasonFor(r *Run, part, otherwise string) string {
	if why := r.Absent[part]; why != "" {
		return why
	}
	return otherwise
}

func (d deriver) load(r *Run) {
	if r.Load == nil {
		d.missing(reasonFor(r, "load", "no load was offered"),
			Offered, Answered, Rejected, Dropped, P50, P95, P99, P999, GeneratorLagP99, Throughput)
		return
	}
	l := r.Load.Ledger
	for name, n := range map[string]int64{Offered: l.Offered, Answered: l.Answered, Rejected: l.Rejected, Dropped: l.Dropped} {
		d.put(name, float64(n), Count, l.Offered)
	}
	if s := r.Load.Window.Seconds(); s > 0 {
		d.put(Throughput, float64(l.Answered)/s, PerSecond, l.Answered)
	} else {
		d.missing("the window has no length", Throughput)
	}
	d.timing(judgedTiming(r), r.Load.Generator)
}

func (d deriver) timing(all load.Class, generator load.Quantiles) {
	if all.N == 0 {
		d.missing("no request was answered in the window", P50, P95, P99, P999, GeneratorLagP99)
		return
	}
	q := all.Latency
	for name, v := range map[string]float64{P50: q.P50, P95: q.P95, P99: q.P99, P999: q.P999, GeneratorLagP99: generator.P99} {
		d.put(name, v, Milliseconds, all.N)
	}
	d.warnFew(all.N)
}

// warnFew marks quantiles that too few observations stand behind: ten must lie
// beyond the quantile.
func (d deriver) warnFew(n int64) {
	for name, need := range map[string]int64{P95: 200, P99: 1000, P999: 10000} {
		if m, ok := d.have[name]; ok && n < need {
			m.Warnings = []string{fmt.Sprintf("%d observations, %d are needed for this quantile", n, need)}
			d.have[name] = m
		}
	}
}

func (d deriver) audit(r *Run) {
	if r.Audit == nil {
		d.missing(reasonFor(r, "audit", "nothing was audited"), Lost, Duplicates, Orphans)
		return
	}
	a := r.Audit
	var unanswered int64
	if r.Load != nil {
		unanswered = r.Load.Ledger.Lost - explained(r)
	}
	n := int64(a.Accepted)
	d.put(Lost, float64(unanswered)+inWindow(a.Lost), Count, n)
	d.put(Duplicates, inWindow(a.Duplicates), Count, n)
	d.put(Orphans, inWindow(a.Orphans), Count, n)
}

func inWindow(found []Finding) (n float64) {
	for _, f := range found {
		if !f.WarmUp {
			n++
		}
	}
	return n
}

func (d deriver) memory(r *Run) {
	if r.Plan.HeapCap > 0 {
		d.put(HeapCap, float64(r.Plan.HeapCap), Bytes, 1)
	} else {
		d.missing("the run has no heap cap", HeapCap)
	}
	d.peak(r, HeapPeak, "heap_live_bytes")
	// The kernel's high-water mark misses nothing between two samples.
	d.peak(r, RSSPeak, "rss_peak_bytes", "rss_bytes")
}

// peak is the largest value of the first of the series that has any, among the
// processes under the cap, or among all where none is.
func (d deriver) peak(r *Run, name string, series ...string) {
	for _, s := range series {
		if top, n := highest(r, s); n > 0 {
			d.put(name, top, Bytes, n)
			return
		}
	}
	d.missing(reasonFor(r, "series", "no process of the SUT told its "+series[len(series)-1]), name)
}

func highest(r *Run, series string) (top float64, n int64) {
	capped := cappedProcesses(r)
	for _, s := range r.Series {
		if s.Name != series || (len(capped) > 0 && !capped[s.Process]) {
			continue
		}
		for _, p := range s.Points {
			top, n = math.Max(top, p[1]), n+1
		}
	}
	return top, n
}

func cappedProcesses(r *Run) map[string]bool {
	capped := map[string]bool{}
	for _, p := range r.SUT.Processes {
		if p.HeapCap > 0 {
			capped[p.Name] = true
		}
	}
	return capped
}

func (d deriver) complexity(r *Run) {
	c := r.Complexity
	if c == nil || len(c.Funcs) == 0 {
		d.missing(reasonFor(r, "complexity", "no function was measured"), ComplexityMax, ComplexityOver)
		return
	}
	top, over := 0, 0
	for _, f := range c.Funcs {
		top = max(top, f.CC)
		if f.CC > c.Limit {
			over++
		}
	}
	n := int64(len(c.Funcs))
	d.put(ComplexityMax, float64(top), Count, n)
	d.put(ComplexityOver, float64(over), Count, n)
}
