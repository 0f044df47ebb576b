package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// PolicyVersion is the version of the policy's JSON shape. A reader refuses any
// other.
const PolicyVersion = 1

// Policy says what is asked of a record: every threshold, every tolerance and
// every waiver, in writing. It lives in baselines/policy.json and is reviewed
// like code.
type Policy struct {
	Schema      int               `json:"schema"`
	Measurement MeasurementPolicy `json:"measurement"`
	Contract    ContractPolicy    `json:"contract"`
	Fidelity    FidelityPolicy    `json:"fidelity"`
	Latency     []LatencyLimit    `json:"latency"`
	Memory      MemoryPolicy      `json:"memory"`
	Faults      FaultPolicy       `json:"faults"`
	Complexity  ComplexityPolicy  `json:"complexity"`
	Comparison  ComparisonPolicy  `json:"comparison"`
	// Green lists the verdicts that end with exit code 0 besides pass:
	// no-baseline, inconclusive or neither.
	Green   []Verdict `json:"green"`
	Waivers []Waiver  `json:"waivers"`
	// RequireStages lists stages that a record must have been asked for to be
	// judged at all; none: any will do.
	RequireStages []string `json:"require_stages,omitempty"`
}

// MeasurementPolicy says when the measurement itself may be trusted.
type MeasurementPolicy struct {
	// GeneratorLagP99 is how late (ms, p99) the generator may be before the run
	// is no longer the load that was asked for.
	GeneratorLagP99 float64 `json:"generator_lag_p99_ms"`
}

// ContractPolicy says what the contract scenarios must show.
type ContractPolicy struct {
	MinPassed int `json:"min_passed"`
	// AllowedSkips fixes, by kind of backends, the scenarios that may be
	// skipped. A skip outside it fails.
	AllowedSkips map[string][]string `json:"allowed_skips"`
}

// LatencyLimit is an absolute limit, from due time, in ms. Profile and Provider
// narrow it; "" holds everywhere. A quantile without a limit is null.
type LatencyLimit struct {
	Why      string   `json:"why"` // where the figure comes from
	Profile  string   `json:"profile"`
	Provider string   `json:"provider"`
	P50      *float64 `json:"p50_ms,omitempty"`
	P95      *float64 `json:"p95_ms,omitempty"`
	P99      *float64 `json:"p99_ms,omitempty"`
	P999     *float64 `json:"p999_ms,omitempty"`
}

// MemoryPolicy says how a process must live with its heap cap. A zero is not
// judged; the figure is shown all the same.
type MemoryPolicy struct {
	MinHeadroom float64 `json:"min_headroom,omitempty"` // share of the cap that the live heap must leave free
	MaxGCShare  float64 `json:"max_gc_share,omitempty"` // of the CPU time that may go into collections
	// MaxLeak is how fast the live heap may grow over the window, in bytes a
	// second. It fails only when the whole interval of the slope lies above.
	MaxLeak float64 `json:"max_leak_bytes_per_s,omitempty"`
}

// FaultPolicy says what is asked of a load into which faults were planned.
// Latency is not judged during a fault and for RecoveryS after its relief; by
// then every request must be answered as it should within LatencyMS again.
// The zero value holds for runs without faults only.
type FaultPolicy struct {
	RecoveryS float64 `json:"recovery_s"`
	LatencyMS float64 `json:"latency_ms"`
}

// ComplexityPolicy bounds the complexity of functions.
type ComplexityPolicy struct {
	Limit int `json:"limit"` // largest allowed cyclomatic complexity
	// GrowthLimit is what a function may grow to without failing the comparison
	// with the accepted snapshot; growth below it is only shown.
	GrowthLimit int `json:"growth_limit"`
	// MinKept is the share of the accepted snapshot's functions that must be
	// found again: below it another tree, or hardly any, was measured. Above 0
	// it also asks that there is a snapshot.
	MinKept float64 `json:"min_kept,omitempty"`
}

// ComparisonPolicy says when a difference from the accepted record counts. A
// metric regressed when its shift is beyond chance (Alpha, after Holm's
// correction over all metrics) and wholly beyond the least care.
type ComparisonPolicy struct {
	Alpha   float64              `json:"alpha"`
	Metrics map[string]LeastCare `json:"metrics"` // p50_ms, p95_ms, p99_ms
	Heap    LeastCare            `json:"heap_peak_bytes"`
	// MaxAgeDays is how old an accepted record may be; 0: any age.
	MaxAgeDays int `json:"max_age_days,omitempty"`
	// Paired is about builds measured side by side; nil: as defaultPaired says.
	Paired *PairedPolicy `json:"paired,omitempty"`
}

// LeastCare is the smallest effect worth a person's time: the larger of a share
// of the base and an absolute amount in the metric's unit.
type LeastCare struct {
	Ratio    float64 `json:"ratio"`
	Absolute float64 `json:"absolute"`
}

// of is the least care in the metric's unit, for a base of the given size.
func (c LeastCare) of(base float64) float64 { return max(c.Ratio*base, c.Absolute) }

// Date is a calendar day, written 2026-01-31.
type Date struct{ time.Time }

// UnmarshalText reads a day and refuses any other text.
func (d *Date) UnmarshalText(b []byte) error {
	t, err := time.Parse(time.DateOnly, string(b))
	if err != nil {
		return fmt.Errorf("%q is not a day like 2026-01-31", b)
	}
	d.Time = t
	return nil
}

// UnmarshalJSON reads a day; that of the embedded time reads no days.
func (d *Date) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s is not a day like \"2026-01-31\"", b)
	}
	return d.UnmarshalText([]byte(s))
}

// MarshalJSON writes the day.
func (d Date) MarshalJSON() ([]byte, error) { return json.Marshal(d.Format(time.DateOnly)) }

// MarshalText writes the day.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.Format(time.DateOnly)), nil }

// Waiver is dated, reasoned leave for one check to fail. Only, when not empty,
// narrows it to findings that contain it (a scenario's id, a function's name).
// A waiver that is expired, matches no check or is no longer needed fails.
type Waiver struct {
	Check  string `json:"check"`
	Only   string `json:"only"`
	Reason string `json:"reason"`
	Until  Date   `json:"until"` // last day
}

// ReadPolicy reads a policy strictly: unknown keys, missing figures and
// impossible values are errors, all of them at once.
func ReadPolicy(r io.Reader) (Policy, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return Policy{}, fmt.Errorf("policy: %w", err)
	}
	var p Policy
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("policy: %s: %w", place(b, d.InputOffset(), err), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Policy{}, errors.New("policy: there is more than one JSON value")
	}
	if err := p.Check(); err != nil {
		return Policy{}, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

func place(b []byte, at int64, err error) string {
	var se *json.SyntaxError
	var te *json.UnmarshalTypeError
	switch {
	case errors.As(err, &se):
		at = se.Offset
	case errors.As(err, &te):
		at = te.Offset
	}
	return fmt.Sprintf("line %d", 1+bytes.Count(b[:min(at, int64(len(b)))], []byte("\n")))
}

// Check returns every mistake of the policy.
func (p Policy) Check() error {
	var errs []error
	bad := func(when bool, format string, args ...any) {
		if when {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(p.Schema != PolicyVersion, "schema is %d, this plumbline reads %d", p.Schema, PolicyVersion)
	bad(p.Measurement.GeneratorLagP99 <= 0, "measurement.generator_lag_p99_ms must be above 0")
	bad(p.Contract.MinPassed < 1, "contract.min_passed must be at least 1: an empty contract proves nothing")
	bad(p.Faults.RecoveryS < 0 || p.Faults.LatencyMS < 0, "faults.recovery_s and faults.latency_ms must not be negative")
	bad(p.Complexity.Limit < 1, "complexity.limit must be at least 1")
	bad(p.Complexity.GrowthLimit < 1, "complexity.growth_limit must be at least 1")
	bad(p.Comparison.Alpha <= 0 || p.Comparison.Alpha >= 0.5, "comparison.alpha must lie between 0 and 0.5")
	bad(len(p.Latency) == 0, "latency has no limit: the published targets are judged always")
	for i, l := range p.Latency {
		bad(l.Why == "", "latency[%d].why is empty: say where the limit comes from", i)
		bad(len(l.limits()) == 0, "latency[%d] limits nothing", i)
	}
	bad(len(p.Comparison.Metrics) == 0, "comparison.metrics is empty: then no timing is compared")
	for _, s := range p.RequireStages {
		bad(!slices.Contains(Stages(), s), "require_stages: no stage is named %q", s)
	}
	for _, v := range p.Green {
		bad(v != NoBaseline && v != Inconclusive, "green may not hold %s", v)
	}
	errs = append(errs, p.checkWidth()...)
	return errors.Join(append(errs, p.checkDetails()...)...)
}

// Beyond these a limit limits nothing.
const (
	widestMS         = 60_000
	widestLagMS      = 1_000
	widestComplexity = 50
	widestRecoveryS  = 600
	widestRatio      = 10
	widestBytes      = 1 << 30
)

// checkWidth refuses limits so wide that no run could cross them.
func (p Policy) checkWidth() (errs []error) {
	within := func(what string, v, most float64) {
		if v < 0 || v > most {
			errs = append(errs, fmt.Errorf("%s is %g; beyond 0 to %g it limits nothing", what, v, most))
		}
	}
	within("measurement.generator_lag_p99_ms", p.Measurement.GeneratorLagP99, widestLagMS)
	within("memory.min_headroom", p.Memory.MinHeadroom, 1)
	within("memory.max_gc_share", p.Memory.MaxGCShare, 1)
	within("memory.max_leak_bytes_per_s", p.Memory.MaxLeak, widestBytes)
	within("complexity.limit", float64(p.Complexity.Limit), widestComplexity)
	within("complexity.growth_limit", float64(p.Complexity.GrowthLimit), widestComplexity)
	within("complexity.min_kept", p.Complexity.MinKept, 1)
	within("faults.recovery_s", p.Faults.RecoveryS, widestRecoveryS)
	within("faults.latency_ms", p.Faults.LatencyMS, widestMS)
	for i, l := range p.Latency {
		for name, v := range l.limits() {
			within(fmt.Sprintf("latency[%d].%s", i, name), v, widestMS)
		}
	}
	for name, c := range p.Comparison.Metrics {
		within("comparison.metrics."+name+".ratio", c.Ratio, widestRatio)
		within("comparison.metrics."+name+".absolute", c.Absolute, widestMS)
	}
	within("comparison.heap_peak_bytes.ratio", p.Comparison.Heap.Ratio, widestRatio)
	within("comparison.heap_peak_bytes.absolute", p.Comparison.Heap.Absolute, widestBytes)
	within("comparison.max_age_days", float64(p.Comparison.MaxAgeDays), 3660)
	return errs
}

func (p Policy) checkDetails() (errs []error) {
	for name, c := range p.Comparison.Metrics {
		if _, ok := sampled[name]; !ok {
			errs = append(errs, fmt.Errorf("comparison.metrics: %s is not compared; have p50_ms, p95_ms, p99_ms", name))
		}
		if c.Absolute <= 0 && c.Ratio <= 0 {
			errs = append(errs, fmt.Errorf("comparison.metrics.%s: the least care is nothing", name))
		}
	}
	for i, w := range p.Waivers {
		if w.Check == "" || strings.TrimSpace(w.Reason) == "" || w.Until.IsZero() {
			errs = append(errs, fmt.Errorf("waivers[%d] needs check, reason and until", i))
		}
	}
	return slices.Concat(errs, p.Comparison.Paired.check(), p.Fidelity.check(p.Waivers))
}

// limits lists the limits by metric name.
func (l LatencyLimit) limits() map[string]float64 {
	out := map[string]float64{}
	for name, v := range map[string]*float64{"p50_ms": l.P50, "p95_ms": l.P95, "p99_ms": l.P99, "p999_ms": l.P999} {
		if v != nil {
			out[name] = *v
		}
	}
	return out
}

// holdsFor tells whether the limit applies to a profile on a kind of backends.
func (l LatencyLimit) holdsFor(profile, provider string) bool {
	return (l.Profile == "" || l.Profile == profile) && (l.Provider == "" || l.Provider == provider)
}
