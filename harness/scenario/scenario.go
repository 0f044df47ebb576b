// Package scenario reads contract scenarios and runs them against a control
// plane through its real protocols: HTTP, gRPC, Kafka, Redis and WebSocket.
//
// A scenario file is strict YAML; its shape is the published JSON Schema
// scenarios/scenario.schema.json. Load reports every mistake of every file at
// once, each with its place and how to mend it. Run gives one record.Outcome a
// scenario and one an invariant over the whole history. A scenario counts as
// passed only when at least one expectation was evaluated and all of them held.
//
// The package knows nothing about how the control plane was started; it talks
// to the addresses of Env.
package scenario

import (
	"time"
)

// Class says of whom a scenario may be asked.
type Class string

// The classes of scenarios.
const (
	Strict    Class = "strict"    // any SUT
	Lenient   Class = "lenient"   // any SUT; a set of answers is accepted
	Reference Class = "reference" // only the reference promises it
	Original  Class = "original"  // a defect of the original, which no other SUT shall have
)

// DefaultTimeout bounds a scenario that names no timeout of its own.
const DefaultTimeout = 30 * time.Second

// A Scenario is one named contract check, as read from one file. It is
// immutable once loaded and may be run many times, also side by side.
type Scenario struct {
	ID         string
	Title      string
	Class      Class
	Clause     string // clause of the contract that is tested
	File       string // slash path within the file system given to Load
	Needs      []string
	Serial     bool // never beside another scenario
	Timeout    time.Duration
	Invariants []string
	Steps      []Step

	own     map[string]any // of the service that it has to itself, names in ${…} not yet replaced; nil: none
	ownKey  string         // gateway or dagmanager, what it is
	ownLine int
}

// A Step is one action and what is expected of it.
type Step struct {
	Index  int    // from 0 within its list
	Line   int    // of the step, in the scenario's file
	Name   string // as written, may be empty
	Action string // key of the action: submit, http, diff, …

	args   any            // the action's value, names in ${…} not yet replaced
	expect map[string]any // nil: nothing is expected
	save   map[string]string
	cel    []celCheck
	lists  [][]Step // nested steps of eventually (one list), for_each (one), parallel (many)
}
