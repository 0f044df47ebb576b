package submit

import (
	"fmt"
	"time"
)

// PersistencePlan is what Redis holds of a strategy: under which keys, in which
// states, and for how long (gateway.md 2.12, 3.1). Nothing else in the gateway
// knows a key of a strategy.
//
//	dag_hash:<sha256>   the strategy id, which makes a DAG submitted once
//	strategy:<id>       hash: dag, hash, compute_*, state; while it is worked on: attempts, failure
//	strategy_queue      list of the ids of accepted strategies that nobody has taken yet, oldest first
//	lock:<id>           who works on it; expires after Lease unless renewed
//	gateway:in_work     sorted set of the ids that were taken, by when somebody else may take them, epoch ms
//	gateway:owed_diffs  sorted set of the ids whose diff is owed, by from when on, epoch ms
//
// Both keys of a registration expire after PendingTTL until it is confirmed; a
// process that dies in between leaves nothing behind. After that only the lock
// expires.
type PersistencePlan struct {
	PendingTTL time.Duration // longer than any submission takes
	Lease      time.Duration // of one worker on one strategy; renewed while it works
	Attempts   int           // at a strategy before it has failed for good
	Backoff    time.Duration // after the first failed attempt; doubles with each
}

// DefaultPlan is the plan of a gateway that was told nothing else.
func DefaultPlan() PersistencePlan {
	return PersistencePlan{PendingTTL: time.Minute, Lease: 15 * time.Second, Attempts: 5, Backoff: time.Second}
}

// Keys that several strategies share.
const (
	QueueKey  = "strategy_queue"
	OwedKey   = "gateway:owed_diffs"
	inWorkKey = "gateway:in_work"
)

const (
	strategyPrefix = "strategy:"
	lockPrefix     = "lock:"
)

func hashKey(hash string) string   { return "dag_hash:" + hash }
func strategyKey(id string) string { return strategyPrefix + id }

// backoff is the pause after a failed attempt, counted from 1.
func (p PersistencePlan) backoff(attempt int) time.Duration {
	return p.Backoff << min(max(attempt-1, 0), 6)
}

// State is where an accepted strategy stands; "" is no state.
type State string

// The states of gateway.md 2.12.
const (
	StateQueued     State = "queued"
	StateProcessing State = "processing"
	StateCompleted  State = "completed"
	StateFailed     State = "failed"
)

// Event moves a strategy from one state to the next.
type Event string

// The events of gateway.md 2.12.
const (
	EventProcess  Event = "PROCESS"
	EventComplete Event = "COMPLETE"
	EventFail     Event = "FAIL"
	EventRetry    Event = "RETRY"
)

// moves are all that may happen to a strategy; completed is the end.
var moves = map[State]map[Event]State{
	StateQueued:     {EventProcess: StateProcessing},
	StateProcessing: {EventComplete: StateCompleted, EventFail: StateFailed},
	StateFailed:     {EventRetry: StateProcessing},
	StateCompleted:  {},
}

// On gives the state after e, or says why there is none.
func (s State) On(e Event) (State, error) {
	next, ok := moves[s][e]
	if !ok {
		return s, fmt.Errorf("a strategy that is %s cannot %s", s, e)
	}
	return next, nil
}

// taken says whether a worker may begin in state s: by PROCESS or RETRY, or
// because the worker before it is gone.
func (s State) taken() bool {
	_, process := moves[s][EventProcess]
	_, retry := moves[s][EventRetry]
	return process || retry || s == StateProcessing
}
