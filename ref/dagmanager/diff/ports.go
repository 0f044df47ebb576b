package diff

import (
	"context"
	"errors"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
)

// ErrGone says that a claimed queue was released before it was confirmed.
var ErrGone = errors.New("the claimed queue was released")

// Node is what a store knows of a node. A store hands out snapshots: nobody
// changes a Node that was returned.
type Node struct {
	ID             string
	NodeType       string
	CodeHash       string
	SchemaHash     string
	SchemaCompatID string
	Interval       *int64 // seconds; nil when the node has none that is an integer
	Period         *int64
	Bucket         *int64
	Tags           []string
	HasQueue       bool   // Topic is set; records that others wrote may hold ""
	Topic          string // the node's first queue
	Global         bool
	ComputeKeys    []string  // contexts that Topic is known to serve
	Bindings       []Binding // the queues that diffs registered, oldest first
}

// Binding is a node's queue in one compute context, registered by a diff.
type Binding struct {
	ComputeKey string
	CodeHash   string
	SchemaHash string
	Topic      string
	// Ready says that the topic exists. A binding that is not ready is a claim:
	// the name is fixed, and whoever meets it may create the topic and confirm it.
	Ready bool
}

// Serves says whether the binding is for that code in that context and its topic
// lies in the namespace.
func (b Binding) Serves(computeKey, codeHash, namespace string) bool {
	return b.ComputeKey == computeKey && b.CodeHash == codeHash && contract.InNamespace(b.Topic, namespace)
}

// Claim asks for the queue of a node in one compute context.
type Claim struct {
	Node       Node // what is stored when the node is not known; without bindings
	ComputeKey string
	Namespace  string
	// Choose names the topic when there is no queue yet. owned says whether a
	// name belongs to any queue of the store. It is quick and opens nothing:
	// stores may call it under a lock.
	Choose func(owned func(topic string) bool) (string, error)
}

// Claimed is the answer to a Claim, and what Confirm and Release take.
type Claimed struct {
	NodeID  string
	Binding Binding
	Won     bool // this claim made the binding
}

// Mark is a node in one compute context.
type Mark struct{ NodeID, ComputeKey string }

// Findings are what a diff found out about nodes besides their queues.
type Findings struct {
	Bound     []Mark // the node's first queue serves that context from now on
	Buffering []Mark // the node waits for its history to be computed again
	At        time.Time
	Sentinel  *Sentinel // nil when the diff brings none
}

// Sentinel marks the version that a strategy brought.
type Sentinel struct {
	ID, Version string
	NodeIDs     []string // the nodes that were new with it
	At          time.Time
}

// Nodes is all that a diff needs of a graph store. It is safe for concurrent use.
type Nodes interface {
	// Lookup returns what is known of each id, nil for an unknown one.
	Lookup(ctx context.Context, ids []string) ([]*Node, error)
	// Claim returns one queue for each claim, made when there was none: two
	// claims of one node, code, context and namespace get the same queue
	// wherever they are made, and no topic belongs to two queues. An error of
	// Choose is returned, and nothing is claimed.
	Claim(ctx context.Context, claims []Claim) ([]Claimed, error)
	// Confirm makes claimed queues ready and says for each whether this call
	// did it. A queue that was released meanwhile is ErrGone; the others are
	// confirmed all the same.
	Confirm(ctx context.Context, queues []Claimed) ([]bool, error)
	// Release forgets queues that are still not ready.
	Release(ctx context.Context, queues []Claimed) error
	// Record stores what a diff found out, at once. Nodes that do not exist are
	// not marked.
	Record(ctx context.Context, f Findings) error
}

// Kind is what a topic carries; it decides partitions and retention.
type Kind string

// The kinds of topics.
const (
	Raw       Kind = "raw"
	Indicator Kind = "indicator"
	TradeExec Kind = "trade_exec"
)

// Topic is a topic that a diff wants to exist.
type Topic struct {
	Name string
	Kind Kind
}

// Fit says how a topic of the broker goes with what a diff would create.
type Fit uint8

// The ways in which a topic fits.
const (
	Absent  Fit = iota // no such topic is known
	Same               // it has the shape that we would give it
	Foreign            // it has another shape, so it is somebody else's
)

// Topics is all that a diff needs of a broker. It is safe for concurrent use.
type Topics interface {
	// Refresh makes sure that Fit has something to go by. It asks the broker
	// when nothing is known yet, and otherwise opens nothing.
	Refresh(ctx context.Context) error
	// Fit says what is known about a topic without asking the broker.
	Fit(t Topic) Fit
	// Begins says whether the name of a known topic may begin with stem, which
	// ends contract.LegacyStem characters after an underscore: without one that
	// does it may still say so, with one it does.
	Begins(stem string) bool
	// Ensure makes sure that all topics exist, with one request for those that
	// are not known. Either all exist afterwards or the error says why not; a
	// ForeignError says that another choice of names may help.
	Ensure(ctx context.Context, topics []Topic) error
}

// ForeignError says that a topic exists and is somebody else's.
type ForeignError interface {
	error
	ForeignTopic() string
}
