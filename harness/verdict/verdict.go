// Package verdict turns a record, and a base to hold it against, into an
// answer. It is pure: the same records and policy give the same verdict.
package verdict

import (
	"fmt"
)

// Verdict is the answer to "may this ship?". The zero value is deliberately not
// Pass: what nobody looked at is never green.
type Verdict uint8

// The verdicts of design section 2, in no order of severity.
const (
	Unjudged     Verdict = iota // nobody looked
	Pass                        // measured, and within bounds
	Fail                        // measured, and out of bounds
	Inconclusive                // measured, but too noisy or too few to tell
	Invalid                     // the measurement broke; no number may be read from it
	NoBaseline                  // nothing to compare with yet
)

var names = [...]string{"unjudged", "pass", "fail", "inconclusive", "invalid", "no-baseline"}

func (v Verdict) String() string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// MarshalText writes the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) {
	if int(v) >= len(names) {
		return nil, fmt.Errorf("verdict %d has no name", uint8(v))
	}
	return []byte(names[v]), nil
}

// UnmarshalText reads a verdict's name and refuses any other text.
func (v *Verdict) UnmarshalText(b []byte) error {
	for i, n := range names {
		if n == string(b) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("no verdict is named %q", b)
}

// severity orders verdicts for rolling up: an invalid measurement is worse than
// a failed check, because nothing may be read from it.
var severity = [...]int{Pass: 0, NoBaseline: 1, Inconclusive: 2, Unjudged: 3, Fail: 4, Invalid: 5}

// Worst rolls parts up: a whole is as bad as its worst part. No parts at all
// prove nothing and are Unjudged.
func Worst(vs ...Verdict) Verdict {
	if len(vs) == 0 {
		return Unjudged
	}
	w := vs[0]
	for _, v := range vs[1:] {
		if severity[v] > severity[w] {
			w = v
		}
	}
	return w
}

// Exit codes are part of the contract with CI and never renumbered.
const (
	ExitPass   = 0 // judged, and within bounds
	ExitFail   = 1 // judged, and out of bounds
	ExitUsage  = 2 // the person asked for something impossible
	ExitBroken = 3 // the measurement broke; nothing may be concluded
)

// Judged is the answer about one record with every reason for it.
type Judged struct {
	Schema   int     `json:"schema"` // 1
	Run      string  `json:"run"`
	Base     string  `json:"base,omitempty"` // id of the record held against; "": none
	Verdict  Verdict `json:"verdict"`
	ExitCode int     `json:"exit_code"`
	Summary  string  `json:"summary"` // one line: why
	Checks   []Check `json:"checks"`
}

// Check is one question put to the record. Value and Limit are absent when the
// question is not about a number; they are text already when they are.
type Check struct {
	Name    string   `json:"name"`  // e.g. load.p99, contract, complexity.limit
	Group   string   `json:"group"` // measurement, contract, fidelity, loss, latency, memory, complexity, baseline, policy
	Verdict Verdict  `json:"verdict"`
	Value   string   `json:"value,omitempty"`
	Limit   string   `json:"limit,omitempty"`
	Base    string   `json:"base,omitempty"` // the base's value, where one was compared
	Reason  string   `json:"reason"`         // one sentence, what was seen against what was asked
	Waived  string   `json:"waived,omitempty"`
	Details []string `json:"details,omitempty"` // offending ids, functions, scenarios
	File    string   `json:"file,omitempty"`    // what an annotation may point at
	Line    int      `json:"line,omitempty"`
}
