// Package submit takes one strategy submission through its named stages: read,
// check, register, record, diff, confirm, answer (gateway.md section 2). It
// promises that a submission that was refused or failed leaves nothing behind
// and may be repeated, and that an accepted one is registered exactly once, is
// in the commit log and in the queue. It knows nothing of HTTP but status
// numbers.
package submit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/ref/internal/tracing"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Contexts gives the compute context of a submission: what its meta says, or
// what somebody with more authority decided for the first of its worlds. It
// never fails; doubt downgrades.
type Contexts func(ctx context.Context, meta pyjson.Value, world string) dag.ComputeContext

// Bindings tells whoever keeps the worlds that an accepted strategy runs in
// them. It does its best, in a time of its own, and never fails.
type Bindings func(ctx context.Context, strategy string, worlds []string)

// Limits bound what a submission may wait for.
type Limits struct {
	Diff       time.Duration // a submission's diff
	DryRun     time.Duration // a dry run's diff in one world
	DryRunMany time.Duration // a dry run's diffs in several worlds
	Lookups    time.Duration // all tag lookups of one request
	Pending    time.Duration // for the outcome of the same DAG's other submission
}

// DefaultLimits are those of gateway.md 3.6, and bounds where it has none.
func DefaultLimits() Limits {
	return Limits{
		Diff:       100 * time.Millisecond,
		DryRun:     500 * time.Millisecond,
		DryRunMany: 5 * time.Second,
		Lookups:    time.Second,
		Pending:    5 * time.Second,
	}
}

// Pipeline takes submissions through the stages. All fields are set before
// first use and not changed after it.
type Pipeline struct {
	Contexts   Contexts
	Bindings   Bindings // nil: nobody is told
	Registry   *Registry
	CommitLog  *CommitLog // nil: no record is written
	DagManager *DagManager
	Worker     *Worker
	Metrics    *Metrics
	Traces     *tracing.Tracer // nil: none
	Limits     Limits
	Hold       func() bool // accepted strategies do not join the queue now; nil: never
	NoSentinel bool        // store the DAG without a version sentinel
	Log        *slog.Logger
	Now        func() time.Time

	buffers buffers
	silent  service.Throttle
}

// buffers lends the memory that becomes commit-log records.
type buffers struct{ pool sync.Pool }

// largestKept is the capacity up to which a buffer is worth keeping.
const largestKept = 256 << 10

func (b *buffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	return new(make([]byte, 0, 32<<10))
}

func (b *buffers) put(buf *[]byte) {
	if buf != nil && cap(*buf) <= largestKept {
		b.pool.Put(buf)
	}
}

// submission is what the stages know of one request so far.
type submission struct {
	req   *Request
	begun time.Time

	worlds  []string       // checked
	dag     pyjson.Value   // decoded
	text    string         // decoded: the DAG's JSON text
	nodes   []pyjson.Value // decoded
	crc     uint32         // identified
	context dag.ComputeContext

	claim  Registration                                        // sealed
	record *[]byte                                             // on loan; sealed: value of the commit-log record, before that any stage's room
	undo   func(*Pipeline, context.Context, *submission) error // takes back what was done; nil: nothing was

	owes bool      // diffed: the diff is to be repeated
	late *lateDiff // diffed: the diff goes on

	ack Ack
}

// room is memory for what a stage needs only while it runs.
func (s *submission) room() []byte {
	if s.record == nil {
		s.record = new([]byte)
	}
	return (*s.record)[:0]
}

// Submit takes a submission to its acceptance. The error is a *contract.Problem
// for a submission that broke a rule, else it wraps ErrRegistry, ErrCommitLog or
// ErrPending; nothing stays behind then. Once registered, a submission is
// finished even when ctx ends: its client will ask again and find it.
func (p *Pipeline) Submit(ctx context.Context, req *Request) (*Ack, error) {
	s := &submission{req: req, begun: p.Now(), record: p.buffers.get()}
	err := p.submit(ctx, s)
	if !errors.Is(err, errUnsettled) {
		p.buffers.put(s.record)
	}
	if err != nil {
		return nil, err
	}
	p.Metrics.latency.Add(p.Now().Sub(s.begun))
	return &s.ack, nil
}

func (p *Pipeline) submit(ctx context.Context, s *submission) error {
	err := p.run(ctx, s, []stage{
		{name: "normalise", run: (*Pipeline).normalise},
		{name: "context", run: (*Pipeline).context},
		{name: "seal", run: (*Pipeline).seal},
		{name: "register", run: (*Pipeline).register, again: claimAgain()},
	})
	if err != nil {
		return err
	}
	return p.run(context.WithoutCancel(ctx), s, []stage{
		{name: "commitlog", run: (*Pipeline).publish, limit: commitLogLimit}, // its client repeats by itself, without duplicates
		{name: "diff", run: (*Pipeline).diff, limit: diffLimit},              // repeated by the DAG Manager's client
		{name: "confirm", run: (*Pipeline).confirm},                          // not repeated: it would queue twice
		{name: "bind", run: (*Pipeline).bind},
	})
}

// DryRun checks a submission and asks what it would be bound to. Nothing is
// stored; the DAG Manager's diff is a real one.
func (p *Pipeline) DryRun(ctx context.Context, req *Request) (*Ack, error) {
	s := &submission{req: req, begun: p.Now(), record: p.buffers.get()}
	err := p.run(ctx, s, []stage{
		{name: "normalise", run: (*Pipeline).normalise},
		{name: "context", run: (*Pipeline).context},
		{name: "dryrun", run: (*Pipeline).dryRun, limit: dryRunLimit},
	})
	p.buffers.put(s.record)
	if err != nil {
		return nil, err
	}
	return &s.ack, nil
}

// unwindLimit is how long taking back may take.
const unwindLimit = 5 * time.Second

// unwind takes back what the stages did and counts the loss. What it cannot take
// back expires.
func (p *Pipeline) unwind(ctx context.Context, s *submission, err error) error {
	if errors.Is(err, ErrRegistry) || errors.Is(err, ErrCommitLog) {
		p.Metrics.Lost.Inc()
	}
	if s.undo == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwindLimit)
	defer cancel()
	if failed := s.undo(p, ctx, s); failed != nil {
		p.Log.Debug("roll back: the registration is left to expire", "strategy", s.claim.ID, "error", failed)
	}
	return err
}

// newID gives a strategy id, a version 4 UUID.
func newID() (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("strategy id: %w", err)
	}
	return id.String(), nil
}
