// Package record is what a run leaves behind: one value, one directory, one
// schema. It holds measurements and knows no threshold; judging is the work of
// package verdict, showing that of package report.
package record

import (
	"errors"
	"fmt"
	"time"

	"qmtl.internal/plumbline/bench/load"
)

// SchemaVersion is the version of run.json. A reader refuses any other.
const SchemaVersion = 1

// Run is one execution of a plan, as written to run.json.
type Run struct {
	Schema        int       `json:"schema"`
	ID            string    `json:"id"`
	Started       time.Time `json:"started"`
	Ended         time.Time `json:"ended"`
	Partial       bool      `json:"partial"` // the run was cut short; nothing may be concluded
	PartialReason string    `json:"partial_reason,omitempty"`

	Plan     Plan     `json:"plan"`
	Commit   Commit   `json:"commit"`
	Env      Env      `json:"environment"`
	Provider Provider `json:"provider"`
	SUT      SUT      `json:"sut"`

	Contract   []Outcome    `json:"contract"`             // one entry a scenario
	Fidelity   *Fidelity    `json:"fidelity,omitempty"`   // nil: the scenarios ran on one kind of backends only
	Load       *load.Result `json:"load,omitempty"`       // nil: no load was offered
	Outages    *Outages     `json:"outages,omitempty"`    // nil: no fault was planned into the load
	Audit      *Audit       `json:"audit,omitempty"`      // nil: nothing was audited
	Paired     *Comparison  `json:"paired,omitempty"`     // nil: not measured side by side with the base's commit; absent may say why
	Series     []Series     `json:"series"`               // probes over time
	Complexity *Complexity  `json:"complexity,omitempty"` // nil: not measured

	// Metrics holds every single figure that may be judged, by name. What was
	// not measured has no entry here but a reason in Absent.
	Metrics Metrics           `json:"metrics"`
	Absent  map[string]string `json:"absent"`

	Notes []string `json:"notes,omitempty"` // shown with the verdict
}

// Plan says what was asked of the run.
type Plan struct {
	// Stages that were asked for: contract, load, fidelity, complexity. All of
	// them make a gate; a stage that is not here is not judged.
	Stages   []string `json:"stages"`
	Profile  string   `json:"profile"`        // name of the load profile
	Seed     uint64   `json:"seed"`           // of the workload, the faults and every other draw
	SUT      string   `json:"sut"`            // descriptor name or URL
	Provider string   `json:"provider"`       // as asked: auto, embedded, containers, external
	HeapCap  int64    `json:"heap_cap_bytes"` // 0: none
	Rate     float64  `json:"rate_per_s"`     // offered arrivals per second
	// WarmUp and Window are the planned lengths of the load.
	WarmUp    time.Duration `json:"warm_up_ns,omitempty"`
	Window    time.Duration `json:"window_ns,omitempty"`
	Faults    []Fault       `json:"faults,omitempty"`
	Scenarios string        `json:"scenarios"` // where the scenarios came from
}

// Fault is one deliberate harm of the plan, by name and seeded rule.
type Fault struct {
	Name string `json:"name"`
	Rule string `json:"rule"`
}

// Commit is the revision that was built.
type Commit struct {
	Revision string `json:"revision"` // "" when the tree is not under git
	Dirty    bool   `json:"dirty"`
}

// Env describes the machine. Numbers of two runs compare only within one Class.
type Env struct {
	Class    string `json:"class"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	MemBytes int64  `json:"mem_bytes"`
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
}

// Provider tells which backends served the run and why those.
type Provider struct {
	Kind     string            `json:"kind"` // embedded, containers, external
	Reason   string            `json:"reason"`
	Versions map[string]string `json:"versions,omitempty"`
}

// SUT describes the system under test as it ran.
type SUT struct {
	Name      string       `json:"name"`
	Classes   []string     `json:"classes,omitempty"` // of scenarios that were asked of it; none: all
	Processes []SUTProcess `json:"processes"`
}

// SUTProcess is one process of the SUT. Limit says what kept it under HeapCap
// ("cgroup-v1", "cgroup-v2", "gomemlimit+watchdog", "none").
type SUTProcess struct {
	Name     string `json:"name"`
	PID      int    `json:"pid,omitempty"`
	HeapCap  int64  `json:"heap_cap_bytes,omitempty"`
	Limit    string `json:"limit,omitempty"`
	ExitCode *int   `json:"exit_code,omitempty"` // nil: ended by us, cleanly
	Died     string `json:"died,omitempty"`      // why it ended on its own
}

// Status of one scenario.
type Status string

// The zero Status is none of these and never counts as passed.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Outcome is what became of one scenario.
type Outcome struct {
	ID         string        `json:"id"`
	Title      string        `json:"title"`
	Class      string        `json:"class"` // strict, lenient, reference
	Clause     string        `json:"clause"`
	File       string        `json:"file"`
	Status     Status        `json:"status"`
	Reason     string        `json:"reason,omitempty"` // of a failure or a skip
	Steps      []StepOutcome `json:"steps,omitempty"`
	DurationMS float64       `json:"duration_ms"`
}

// StepOutcome is one step that did not hold, with what was seen.
type StepOutcome struct {
	Index    int    `json:"index"` // from 0
	Line     int    `json:"line"`  // in File
	Action   string `json:"action"`
	Problems string `json:"problems,omitempty"`
	Observed string `json:"observed,omitempty"` // shortened
}

// Audit compares what was acknowledged with what is stored. Lost, Duplicates
// and Orphans name the offending ids with what is wrong with each.
type Audit struct {
	Accepted   int       `json:"accepted"`   // acknowledged submissions examined
	Records    int       `json:"records"`    // commit-log records of the workload
	Registered int       `json:"registered"` // registrations of the workload
	Nodes      int       `json:"nodes"`      // distinct nodes of accepted submissions
	Topics     int       `json:"topics"`     // topics that belong to them
	Lost       []Finding `json:"lost"`       // acknowledged, but not (wholly) stored
	Duplicates []Finding `json:"duplicates"` // one submission or node with two effects
	Orphans    []Finding `json:"orphans"`    // stored, but never acknowledged nor lost
}

// Finding is one offending thing.
type Finding struct {
	ID     string `json:"id"`
	What   string `json:"what"`
	WarmUp bool   `json:"warm_up,omitempty"` // about requests of the warm-up only: it fails a run, but counts cover the window
}

// Series is one probed value over time.
type Series struct {
	Name    string       `json:"name"`    // e.g. heap_objects_bytes, rss_bytes
	Process string       `json:"process"` // of the SUT
	Unit    Unit         `json:"unit"`
	Points  [][2]float64 `json:"points"` // seconds since Run.Started, value
}

// Complexity is the snapshot of every function of the measured tree.
type Complexity struct {
	Limit int    `json:"limit"` // largest allowed cyclomatic complexity
	Funcs []Func `json:"functions"`
	// Unparsed names the files that could not be measured, and why. Their
	// functions are missing from Funcs.
	Unparsed []Finding `json:"unparsed,omitempty"`
}

// Func is one function with its complexities.
type Func struct {
	Lang      string `json:"lang"` // go, python
	File      string `json:"file"` // slash path within the tree
	Line      int    `json:"line"`
	EndLine   int    `json:"end_line"`
	Col       int    `json:"col,omitempty"` // from 0, in bytes
	Name      string `json:"name"`          // Name or Recv.Name; a closure is Outer.<locals>.Name
	Class     string `json:"class"`         // receiver or class; "" for functions
	CC        int    `json:"cc"`
	Cognitive int    `json:"cognitive,omitempty"` // 0: not measured for Python
	Test      bool   `json:"test,omitempty"`      // in a test file
	Shape     string `json:"shape,omitempty"`     // hash of signature and body without the name; "" when unknown (Python)
}

// Measure is one number with what is needed to trust it.
type Measure struct {
	Value    float64  `json:"value"`
	Unit     Unit     `json:"unit"`
	N        int64    `json:"n"`                  // observations behind Value
	Warnings []string `json:"warnings,omitempty"` // shown wherever Value is shown
}

// Unit of a Measure.
type Unit string

// Units in use. A rate is per second.
const (
	Milliseconds Unit = "ms"
	Seconds      Unit = "s"
	Bytes        Unit = "B"
	Count        Unit = "1"
	PerSecond    Unit = "1/s"
	Ratio        Unit = "ratio"

	BytesPerSecond Unit = "B/s"
)

// Metrics holds what was measured. What was not measured has no entry.
type Metrics map[string]Measure

// ErrAbsent is in the chain of every error of Get.
var ErrAbsent = errors.New("was not measured")

// Get tells "was zero" from "was not measured".
func (m Metrics) Get(name string) (Measure, error) {
	v, ok := m[name]
	if !ok {
		return Measure{}, fmt.Errorf("metric %q %w", name, ErrAbsent)
	}
	return v, nil
}
