package record

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"qmtl.internal/plumbline/bench/load"
)

// CompareFile is the comparison in its directory.
const CompareFile = "compare.json"

// CompareVersion is the version of compare.json. A reader refuses any other.
const CompareVersion = 1

// Ways to compare.
const (
	Paired   = "paired"   // both lived at once and took turns, round by round
	Unpaired = "unpaired" // the base is a record of another time
)

// Compared is compare.json: what was measured of two builds, and the answer.
type Compared struct {
	Schema   int        `json:"schema"`
	Measured Comparison `json:"measured"`
	Judged   Effects    `json:"judged"`
}

// Comparison is what was measured of two builds. It holds no threshold.
type Comparison struct {
	ID            string    `json:"id"`
	Started       time.Time `json:"started"`
	Ended         time.Time `json:"ended"`
	Partial       bool      `json:"partial"` // cut short; nothing may be concluded
	PartialReason string    `json:"partial_reason,omitempty"`
	Method        string    `json:"method"` // paired, unpaired

	Base      Arm            `json:"base"`
	Candidate Arm            `json:"candidate"`
	Plan      ComparisonPlan `json:"plan"`
	Env       Env            `json:"environment"`
	Provider  Provider       `json:"provider"`

	Rounds []Round `json:"rounds"`
	// Looks are the shares of the budget at which the answer was looked at, for
	// a comparison that is clear ends early; looking costs certainty.
	Looks []float64 `json:"looks"`
	// Absent says, by metric/of, why a figure has no value in any round.
	Absent map[string]string `json:"absent"`
	Notes  []string          `json:"notes,omitempty"`
}

// Arm is one side: what was built, and how it answered.
type Arm struct {
	Given    string           `json:"given"`    // as asked: revision, folder, record
	Revision string           `json:"revision"` // commit; "" when there is none
	Tree     string           `json:"tree"`     // git's hash of what was built; "" when it was not under git
	Dirty    bool             `json:"dirty"`    // not all of it is committed
	Faults   []string         `json:"faults,omitempty"`
	Ledger   load.Ledger      `json:"ledger"` // of all rounds
	Reasons  map[string]int64 `json:"reasons,omitempty"`
	Died     string           `json:"died,omitempty"` // why a process of it ended on its own
}

// Name is how a reader knows the arm again.
func (a Arm) Name() string {
	rev := a.Revision[:min(len(a.Revision), 12)]
	if a.Dirty {
		rev += "-dirty"
	}
	if rev == "" || rev == a.Given {
		return a.Given
	}
	return a.Given + " (" + rev + ")"
}

// ComparisonPlan is what was asked of a comparison.
type ComparisonPlan struct {
	Budget  time.Duration `json:"budget_ns"`
	Slot    time.Duration `json:"slot_ns"` // length of one turn; 0: no turns were taken
	Profile string        `json:"profile"`
	Rate    float64       `json:"rate_per_s"`
	HeapCap int64         `json:"heap_cap_bytes"`
	Seed    uint64        `json:"seed"`
	SUT     string        `json:"sut"`
}

// Round is one life of both arms: started anew, measured, stopped.
type Round struct {
	First     string             `json:"first"`     // which arm was started first: base, candidate; of an unpaired one ""
	Measured  time.Duration      `json:"loaded_ns"` // of load, both arms together
	Generator load.Quantiles     `json:"generator_lag"`
	Base      map[string]float64 `json:"base"` // by metric/of, e.g. p50_ms/all
	Candidate map[string]float64 `json:"candidate"`
}

// Effects is the answer about a comparison, with every reason for it.
type Effects struct {
	Verdict  string   `json:"verdict"`
	ExitCode int      `json:"exit_code"`
	Summary  string   `json:"summary"`
	Alpha    float64  `json:"alpha"` // of even one false alarm among all effects and looks
	Effects  []Effect `json:"effects"`
	Checks   []string `json:"checks,omitempty"` // what is wrong beside the effects
}

// Effect is one metric of one endpoint or process. Ratio, Lo, Hi and Upper are
// candidate / base. Bounds are absent when there were too few rounds for any.
type Effect struct {
	Metric     string   `json:"metric"`    // p50_ms, mean_ms, cpu_us_per_request, …
	Of         string   `json:"of"`        // class of requests, or process; all: every one
	Base       float64  `json:"base"`      // geometric mean over the rounds
	Candidate  float64  `json:"candidate"` // same
	Rounds     int      `json:"rounds"`
	Ratio      float64  `json:"ratio"`
	Lo         *float64 `json:"lo,omitempty"` // holds the truth with 95 %
	Hi         *float64 `json:"hi,omitempty"`
	Upper      *float64 `json:"upper,omitempty"` // the truth is below with 95 %
	P          float64  `json:"p"`
	Holm       float64  `json:"p_holm"`               // over all effects
	Detectable *float64 `json:"detectable,omitempty"` // 0.03: a slowdown of 3 % would have been found with 95 %
	Margin     float64  `json:"margin"`               // least care
	Required   bool     `json:"required"`             // must be shown not to be slower
	Missing    int      `json:"missing_rounds,omitempty"`
	Outcome    string   `json:"outcome"` // undecided, slower, faster, equivalent, not slower
	Verdict    string   `json:"verdict"`
	Reason     string   `json:"reason"`
}

//go:embed compare.schema.json
var compareSchema []byte

// CompareSchema is the published JSON Schema (draft 2020-12) of compare.json.
func CompareSchema() []byte { return slices.Clone(compareSchema) }

// EncodeCompared gives the bytes of compare.json. The same value gives the same
// bytes.
func EncodeCompared(c *Compared) ([]byte, error) {
	c.Schema = CompareVersion
	if err := settle(c); err != nil {
		return nil, err
	}
	return indent(c)
}

// ReadCompared reads the compare.json at path or in that directory, strictly.
// A path that does not exist gives fs.ErrNotExist; all else that is wrong gives
// ErrBroken.
func ReadCompared(path string) (*Compared, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, CompareFile)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var c *Compared
	if err == nil {
		c, err = decodeCompared(b)
	}
	if err != nil {
		return nil, fmt.Errorf("comparison %s: %w: %w", path, err, ErrBroken)
	}
	return c, nil
}

func decodeCompared(b []byte) (*Compared, error) {
	if err := syntax(b); err != nil {
		return nil, err
	}
	var c Compared
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	if c.Schema != CompareVersion {
		return nil, fmt.Errorf("schema %d, this plumbline reads %d", c.Schema, CompareVersion)
	}
	if c.Measured.ID == "" || c.Measured.Method == "" {
		return nil, errors.New("it has no id or no method")
	}
	return &c, nil
}

// Words says the effect in one sentence, with what could have been seen.
func (e Effect) Words() string {
	s := fmt.Sprintf("%s of %s: %s, %s", e.Metric, e.Of, Change(e.Ratio), e.Outcome)
	if e.Outcome == "not slower" || e.Outcome == "equivalent" {
		s += fmt.Sprintf(" by %.3g %%", e.Margin*100)
	}
	if e.Lo == nil || e.Hi == nil {
		return s + fmt.Sprintf("; %d rounds bound nothing", e.Rounds)
	}
	s += fmt.Sprintf(" (95 %%: %s to %s, %d rounds", Change(*e.Lo), Change(*e.Hi), e.Rounds)
	if e.Detectable != nil {
		s += fmt.Sprintf("; would have seen %s with 95 %%", Change(1+*e.Detectable))
	}
	if e.Missing > 0 {
		s += fmt.Sprintf("; some %d rounds more would tell", e.Missing)
	}
	return s + ")"
}

// Change words a ratio: +3.1 %.
func Change(ratio float64) string {
	pct := (ratio - 1) * 100
	if a := max(pct, -pct); a >= 10 {
		return fmt.Sprintf("%+.0f %%", pct)
	}
	return fmt.Sprintf("%+.2f %%", pct)
}
