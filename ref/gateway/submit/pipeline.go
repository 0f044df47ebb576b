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

// stage is one step of a submission. Its name is in errors and metrics.
type stage struct {
	name string
	run  func(*Pipeline, context.Context, *submission) error
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

	claim  Registration // sealed
	record *[]byte      // on loan; sealed: value of the commit-log record, before that any stage's room
	undo   []func(context.Context) error

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
		{"normalise", (*Pipeline).normalise},
		{"context", (*Pipeline).context},
		{"seal", (*Pipeline).seal},
		{"register", (*Pipeline).register},
	})
	if err != nil {
		return err
	}
	// each of these has a limit of its own
	return p.run(context.WithoutCancel(ctx), s, []stage{
		{"commitlog", (*Pipeline).publish},
		{"diff", (*Pipeline).diff},
		{"confirm", (*Pipeline).confirm},
		{"bind", (*Pipeline).bind},
	})
}

// DryRun checks a submission and asks what it would be bound to. Nothing is
// stored; the DAG Manager's diff is a real one.
func (p *Pipeline) DryRun(ctx context.Context, req *Request) (*Ack, error) {
	s := &submission{req: req, begun: p.Now(), record: p.buffers.get()}
	err := p.run(ctx, s, []stage{
		{"normalise", (*Pipeline).normalise},
		{"context", (*Pipeline).context},
		{"dryrun", (*Pipeline).dryRun},
	})
	p.buffers.put(s.record)
	if err != nil {
		return nil, err
	}
	return &s.ack, nil
}

// run goes through stages until one fails, then undoes what was done.
func (p *Pipeline) run(ctx context.Context, s *submission, stages []stage) error {
	for _, st := range stages {
		begun := time.Now()
		err := st.run(p, ctx, s)
		p.Metrics.stage(st.name, err, time.Since(begun))
		if err != nil {
			return p.unwind(ctx, s, fmt.Errorf("stage %s: %w", st.name, err))
		}
	}
	return nil
}

// unwindLimit is how long taking back may take.
const unwindLimit = 5 * time.Second

// unwind takes back what the stages did, newest first, and counts the loss. What
// it cannot take back expires.
func (p *Pipeline) unwind(ctx context.Context, s *submission, err error) error {
	if errors.Is(err, ErrRegistry) || errors.Is(err, ErrCommitLog) {
		p.Metrics.Lost.Inc()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwindLimit)
	defer cancel()
	for i := len(s.undo) - 1; i >= 0; i-- {
		if failed := s.undo[i](ctx); failed != nil {
			p.Log.Debug("roll back: the registration is left to expire", "strategy", s.claim.ID, "error", failed)
		}
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
