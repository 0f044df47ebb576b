package record

// Summary is summary.json: one flat object for shells and dashboards. A value
// that was not measured is null, and run.json says why under "absent" by the
// same key. Counts cover the measured window; lost, duplicates and orphans
// include what the audit found of it (see Derive).
type Summary struct {
	Verdict          string `json:"verdict"`   // pass fail inconclusive invalid no-baseline unjudged
	ExitCode         int    `json:"exit_code"` // 0 pass, 1 out of bounds, 2 usage, 3 the measurement broke
	Provider         string `json:"provider"`  // embedded, containers, external
	EnvironmentClass string `json:"environment_class"`
	Commit           string `json:"commit"` // revision, "-dirty" appended where the tree was changed; "" without git

	ContractPassed  *int64 `json:"contract_passed"` // scenarios
	ContractFailed  *int64 `json:"contract_failed"`
	ContractSkipped *int64 `json:"contract_skipped"`

	Offered    *int64 `json:"offered"`    // requests due in the window
	Answered   *int64 `json:"answered"`   // of those: got any terminal answer
	Rejected   *int64 `json:"rejected"`   // of those: the refusal the workload asked for
	Dropped    *int64 `json:"dropped"`    // never left the generator
	Lost       *int64 `json:"lost"`       // no answer, or acknowledged and not stored
	Duplicates *int64 `json:"duplicates"` // one submission or node with two effects
	Orphans    *int64 `json:"orphans"`    // stored, but never acknowledged nor lost

	P50  *float64 `json:"p50_ms"` // latency from the due time
	P95  *float64 `json:"p95_ms"`
	P99  *float64 `json:"p99_ms"`
	P999 *float64 `json:"p999_ms"`

	GeneratorLagP99 *float64 `json:"generator_lag_p99_ms"` // how late requests left through the generator's own fault
	Throughput      *float64 `json:"throughput_per_s"`     // answered a second of the window
	HeapPeak        *int64   `json:"heap_peak_bytes"`      // largest live heap of the capped process
	HeapCap         *int64   `json:"heap_cap_bytes"`
	RSSPeak         *int64   `json:"rss_peak_bytes"`

	ComplexityMax  *int64 `json:"complexity_max"`        // largest cyclomatic complexity
	ComplexityOver *int64 `json:"complexity_over_limit"` // functions above the limit

	Base *string `json:"base"` // id of the record compared with
}

// Answer is what a judge said of a run, as far as the summary tells it.
type Answer struct {
	Verdict  string
	ExitCode int
	Base     string // "": none
}

// Summarize flattens a record and the answer about it.
func Summarize(r *Run, a Answer) Summary {
	count := func(name string) *int64 {
		m, err := r.Metrics.Get(name)
		if err != nil {
			return nil
		}
		n := int64(m.Value)
		return &n
	}
	value := func(name string) *float64 {
		m, err := r.Metrics.Get(name)
		if err != nil {
			return nil
		}
		return &m.Value
	}
	s := Summary{
		Verdict: a.Verdict, ExitCode: a.ExitCode, Provider: r.Provider.Kind, EnvironmentClass: r.Env.Class, Commit: r.Commit.String(),
		ContractPassed: count(ContractPassed), ContractFailed: count(ContractFailed), ContractSkipped: count(ContractSkipped),
		Offered: count(Offered), Answered: count(Answered), Rejected: count(Rejected), Dropped: count(Dropped),
		Lost: count(Lost), Duplicates: count(Duplicates), Orphans: count(Orphans),
		P50: value(P50), P95: value(P95), P99: value(P99), P999: value(P999),
		GeneratorLagP99: value(GeneratorLagP99), Throughput: value(Throughput),
		HeapPeak: count(HeapPeak), HeapCap: count(HeapCap), RSSPeak: count(RSSPeak),
		ComplexityMax: count(ComplexityMax), ComplexityOver: count(ComplexityOver),
	}
	if a.Base != "" {
		s.Base = &a.Base
	}
	return s
}

// String is the revision, marked when the tree was changed.
func (c Commit) String() string {
	if c.Dirty {
		return c.Revision + "-dirty"
	}
	return c.Revision
}
