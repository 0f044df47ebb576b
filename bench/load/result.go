// Package load offers requests by an open model: arrival times are fixed before
// the run and never wait for answers, latency counts from the time a request
// was due, and a ledger that must balance says what became of each one.
package load

import (
	"fmt"
	"time"
)

// Ledger counts requests by what became of them. The identity
// Offered = Dropped + Answered + Lost + InFlight holds at any time;
// InFlight is zero after the drain.
type Ledger struct {
	Offered  int64 `json:"offered"`   // due in the period
	Dropped  int64 `json:"dropped"`   // never left: the generator's limit
	Answered int64 `json:"answered"`  // got a terminal answer of any kind
	Lost     int64 `json:"lost"`      // left, no terminal answer in time
	InFlight int64 `json:"in_flight"` // neither yet

	// Answered = Accepted + Rejected + Unexpected.
	Accepted   int64 `json:"accepted"`   // the answer a good request must get (202)
	Rejected   int64 `json:"rejected"`   // a refusal that the workload asked for (409 of a deliberate duplicate)
	Unexpected int64 `json:"unexpected"` // any other answer
}

// Check returns an error when the ledger does not balance.
func (l Ledger) Check() error {
	if sum := l.Dropped + l.Answered + l.Lost + l.InFlight; sum != l.Offered {
		return fmt.Errorf("ledger: offered %d, but dropped %d + answered %d + lost %d + in flight %d = %d",
			l.Offered, l.Dropped, l.Answered, l.Lost, l.InFlight, sum)
	}
	if sum := l.Accepted + l.Rejected + l.Unexpected; sum != l.Answered {
		return fmt.Errorf("ledger: answered %d, but accepted %d + rejected %d + unexpected %d = %d",
			l.Answered, l.Accepted, l.Rejected, l.Unexpected, sum)
	}
	return nil
}

// ResultVersion is the version of Result's JSON shape (load.json).
const ResultVersion = 1

// Result is what one offering of a schedule leaves behind (load.json). Times
// are offsets from Started. Only the window is judged; the warm-up is counted
// apart.
type Result struct {
	Version     int           `json:"version"`
	Started     time.Time     `json:"started"` // wall time of offset zero
	Seed        uint64        `json:"seed"`
	Rate        float64       `json:"rate_per_s"`
	WarmUp      time.Duration `json:"warm_up_ns"`
	Window      time.Duration `json:"window_ns"`
	Wall        time.Duration `json:"wall_ns"` // until the last answer
	MaxInFlight int           `json:"max_in_flight"`
	Backlog     int           `json:"backlog"` // due requests that may wait for a sender
	Aborted     string        `json:"aborted,omitempty"`
	PacerCPU    float64       `json:"pacer_cpu_cores"`
	LateShare   float64       `json:"late_share"` // of the requests of the window that left: those with a generator lag over 1 ms
	Waited      int64         `json:"waited"`     // requests of the window that left only after a wait for a free sender
	Profile     string        `json:"profile,omitempty"`
	Tag         string        `json:"tag,omitempty"` // of the workload's keys: <tag>-<seed>-<index>

	Ledger       Ledger           `json:"ledger"` // of the window
	WarmUpLedger Ledger           `json:"warm_up_ledger"`
	Classes      map[string]Class `json:"classes"` // by request class; "all" is the union
	Seconds      []Second         `json:"seconds"` // one entry a second of the window
	Curve        []CurvePoint     `json:"curve"`   // latency percentile curve of "all"

	// Generator is the lateness that is the generator's own: Lag of "all"
	// without the time for which requests waited because MaxInFlight were
	// unanswered, for which the SUT is to blame. It tells a starved generator
	// from a slow SUT.
	Generator Quantiles `json:"generator_lag"`

	Unexpected map[string]int64  `json:"unexpected,omitempty"` // count by "status code" or error class
	LostBy     map[string]int64  `json:"lost_by,omitempty"`    // count of the lost by why no answer came
	Samples    []UnexpectedReply `json:"unexpected_samples,omitempty"`
}

// Class is the timing of one class of requests in the window. N observations
// stand behind each; a class without observations is absent.
type Class struct {
	N       int64     `json:"n"`
	Lag     Quantiles `json:"lag"`     // sent − due, the wait for a free sender included; see Result.Generator
	Service Quantiles `json:"service"` // done − sent: for diagnosis only
	Latency Quantiles `json:"latency"` // done − due: what is judged
}

// Quantiles in milliseconds.
type Quantiles struct {
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P95  float64 `json:"p95_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
	Mean float64 `json:"mean_ms"`
}

// Second is one second of the window, by due time.
type Second struct {
	At       float64 `json:"at_s"` // start, seconds since Started
	Offered  int64   `json:"offered"`
	Answered int64   `json:"answered"`
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// CurvePoint is one point of a percentile curve: Percentile in 0..100.
type CurvePoint struct {
	Percentile float64 `json:"percentile"`
	MS         float64 `json:"ms"`
}

// UnexpectedReply keeps a few unexpected answers whole enough to understand.
type UnexpectedReply struct {
	Index  int64  `json:"index"`
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Outcome is one request of the workload, a line of outcomes.jsonl. Key is the
// workload's name of the submitted DAG: two requests with one Key carry the
// same DAG, so at most one of them may be accepted. The submitted DAG carries it
// as its root member KeyField.
type Outcome struct {
	Index  int64         `json:"i"`
	Class  string        `json:"class"`
	Key    string        `json:"key"`
	Window bool          `json:"window"` // false: warm-up
	Fate   Fate          `json:"fate"`
	Status int           `json:"status,omitempty"`
	ID     string        `json:"id,omitempty"` // strategy_id of the answer
	Due    time.Duration `json:"due_ns"`
	Sent   time.Duration `json:"sent_ns,omitempty"`
	Wait   time.Duration `json:"wait_ns,omitempty"` // part of Sent − Due in which every sender was busy
	Done   time.Duration `json:"done_ns,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// KeyField is the root member of a workload DAG that carries Outcome.Key.
const KeyField = "plumbline_key"

// Fate is what became of one request.
type Fate string

// The fates of Ledger. The zero Fate is none of them.
const (
	Accepted   Fate = "accepted"
	Rejected   Fate = "rejected"
	Unexpected Fate = "unexpected"
	Lost       Fate = "lost"
	Dropped    Fate = "dropped"
)
