package submit

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// normalise checks worlds, decodes the DAG and checks schema version and node
// identity, in this order.
func (p *Pipeline) normalise(_ context.Context, s *submission) (err error) {
	if s.worlds, err = s.req.checkWorlds(); err != nil {
		return err
	}
	if s.dag, s.text, err = decodeDAG(s.req.DAGJSON); err != nil {
		return err
	}
	if s.nodes, err = nodesOf(s.dag); err != nil {
		return err
	}
	if err = checkSchema(s.dag, s.nodes); err != nil {
		return err
	}
	s.crc, err = identify(s.nodes, s.req.CRC32, p.Metrics, s.room())
	return err
}

// context finds where and as of when the strategy computes.
func (p *Pipeline) context(ctx context.Context, s *submission) error {
	s.context = p.Contexts(ctx, s.req.Meta, s.worlds[0])
	if s.context.Downgraded {
		p.Metrics.Downgrades.With(s.context.DowngradeReason).Inc()
	}
	return nil
}

// NoWorldService is the Contexts of a gateway without a WorldService: what the
// submission's meta says is final (gateway.md 2.5).
func NoWorldService(_ context.Context, meta pyjson.Value, world string) dag.ComputeContext {
	return dag.FromMeta(meta).ForWorld(world)
}

// seal names the strategy and writes down what will be stored of it, so that
// nothing can be refused any more once it is registered.
func (p *Pipeline) seal(_ context.Context, s *submission) (err error) {
	if s.claim.ID, err = newID(); err != nil {
		return err
	}
	e, err := p.entry(s, p.Now())
	if err != nil {
		return err
	}
	var dag64 []byte
	*s.record, dag64 = appendRecord(s.room(), e)
	s.claim.Hash = e.Hash
	s.claim.DAG = unsafe.String(unsafe.SliceData(dag64), len(dag64)) // lives as long as the record
	if p.CommitLog != nil && !p.CommitLog.Fits(*s.record) {
		return model.TooLarge("the commit-log record of this DAG", int64(p.CommitLog.maxBytes))
	}
	return nil
}

// entry gathers what the commit log says of a submission taken in at now.
func (p *Pipeline) entry(s *submission, now time.Time) (*entry, error) {
	keep := s.dag
	if !p.NoSentinel {
		var err error
		keep, err = contract.StoredDAG(s.dag, s.claim.ID, contract.SentinelVersion(s.req.Meta))
		if err != nil {
			return nil, schemaInvalid(err.Error(), pyjson.OfString("nodes"))
		}
	}
	var hash string
	hash, *s.record = contract.DAGHashIn(s.room(), s.dag)
	return &entry{
		ID: s.claim.ID, Hash: hash, DAG: keep, CRC32: s.req.CRC32, Sentinel: !p.NoSentinel,
		Context: s.context.Value(), Worlds: s.worlds, Meta: s.req.Meta, At: now, SubmittedAt: now,
	}, nil
}

// register claims the DAG. Somebody else's claim that is settled is a duplicate;
// one that is not is ErrPending.
func (p *Pipeline) register(ctx context.Context, s *submission) error {
	holder, err := p.Registry.Claim(ctx, s.claim)
	switch {
	case err != nil || holder.ID == s.claim.ID:
		s.undo = (*Pipeline).release // the claim may have been heard although the answer was not
		return err
	case holder.Settled:
		return contract.Duplicate(holder.ID)
	default:
		return fmt.Errorf("%w: strategy %s", ErrPending, holder.ID)
	}
}

// release takes the registration back.
func (p *Pipeline) release(ctx context.Context, s *submission) error {
	return p.Registry.Release(ctx, s.claim)
}

// publish writes the commit-log record.
func (p *Pipeline) publish(ctx context.Context, s *submission) error {
	if p.CommitLog == nil {
		return nil
	}
	return p.CommitLog.Publish(ctx, s.claim.ID, *s.record)
}

// diff lets the DAG Manager register the nodes and looks up tag queries, both
// at once. Whatever goes wrong only changes the answer (gateway.md 2.9), and
// what is owed then is written down with the acceptance.
func (p *Pipeline) diff(ctx context.Context, s *submission) error {
	s.ack = s.newAck(s.claim.ID, contract.SentinelID(s.claim.ID))
	d := p.beginDiff(ctx, s)
	s.ack.QueueMap = p.lookups(context.WithoutCancel(ctx), s)
	end := p.awaitDiff(ctx, s, d)
	p.observeDiff(s.claim.ID, s.worlds[0], end.err)
	if end.err == nil && end.reply.SentinelID != "" {
		s.ack.SentinelID = end.reply.SentinelID
	}
	s.owes = owes(end.err)
	return nil
}

// beginDiff runs the submission's diff beside it; it may outlast ctx, the stage's.
func (p *Pipeline) beginDiff(ctx context.Context, s *submission) *lateDiff {
	ctx, cancel := context.WithCancel(p.Traces.Under(p.Worker.life, ctx))
	ended := make(chan diffEnd, 1)
	go func() { // ends with ctx; whoever holds the lateDiff sees to that
		reply, err := p.ask(ctx, p.DagManager.Register, s, s.claim.ID, s.worlds[0])
		ended <- diffEnd{reply, err}
	}()
	return &lateDiff{ended: ended, cancel: cancel}
}

// awaitDiff waits for the diff while ctx lasts. A late one goes on where there is
// place for it, else it is ended.
func (p *Pipeline) awaitDiff(ctx context.Context, s *submission, d *lateDiff) diffEnd {
	select {
	case end := <-d.ended:
		d.cancel()
		return end
	case <-ctx.Done():
	}
	if p.Worker.keep(len(s.text)) {
		s.late = d
	} else {
		d.cancel()
		<-d.ended
	}
	return diffEnd{err: fmt.Errorf("diff: %w", context.DeadlineExceeded)}
}

func (p *Pipeline) lookups(ctx context.Context, s *submission) QueueMap {
	return resolve(ctx, p.Limits.Lookups, s.nodes, s.worlds, s.context.ExecutionDomain, p.DagManager.Queues)
}

// errCRC: the DAG Manager's view of the DAG is not ours.
var errCRC = errors.New("crc32 of the diff differs")

// diffCall is DagManager.Diff or Register.
type diffCall func(context.Context, *pb.DiffRequest) (*DiffReply, error)

// ask runs one diff while ctx lasts and checks that its CRC is that of the
// submission.
func (p *Pipeline) ask(ctx context.Context, diff diffCall, s *submission, id, world string) (*DiffReply, error) {
	reply, err := diff(ctx, &pb.DiffRequest{
		StrategyId: id, DagJson: s.text, WorldId: world,
		ExecutionDomain: s.context.ExecutionDomain, AsOf: s.context.AsOf,
		Partition: s.context.Partition, DatasetFingerprint: s.context.DatasetFingerprint,
	})
	if err == nil && reply.CRC32 != s.crc {
		err = fmt.Errorf("%w: %08x, submitted %08x", errCRC, reply.CRC32, s.crc)
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// observeDiff counts how a diff ended, since the answer may not show it.
func (p *Pipeline) observeDiff(id, world string, err error) {
	p.Metrics.diffs.WithLabelValues(diffOutcome(err)).Inc()
	if err == nil {
		return
	}
	if unsaid, ok := p.silent.Pass(time.Now()); ok {
		p.Log.Warn("diff without effect", "strategy", id, "world", world, "error", err, "more_unsaid", unsaid)
	}
}

// diffOutcome is the label of a diff in metrics.
func diffOutcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, errCRC):
		return "crc_differs"
	case final(err):
		return "refused"
	case errors.Is(err, ErrNoReply):
		return "no_reply"
	default:
		return "late"
	}
}

// confirm makes the registration last, with what it owes.
func (p *Pipeline) confirm(ctx context.Context, s *submission) error {
	due := time.Time{}
	if s.owes && !s.endedSince() {
		due = time.Now()
		if s.late != nil {
			due = due.Add(lateLimit + bookLimit) // by then it has said how it ended
		}
	}
	err := p.Registry.Confirm(ctx, s.claim, due, p.Hold != nil && p.Hold(), s.context.RedisFields()...)
	switch {
	case s.late == nil:
	case err != nil || due.IsZero():
		p.Worker.abandon(s.late)
	default:
		p.Worker.follow(s.claim.ID, s.late)
	}
	return err
}

// bind comes after the acceptance, which it cannot change any more.
func (p *Pipeline) bind(ctx context.Context, s *submission) error {
	if p.Bindings != nil {
		p.Bindings(ctx, s.claim.ID, s.worlds)
	}
	return nil
}

// endedSince looks whether a late diff has ended so that nothing is owed.
func (s *submission) endedSince() bool {
	if s.late == nil {
		return false
	}
	select {
	case end := <-s.late.ended:
		s.late.ended <- end
		return !owes(end.err)
	default:
		return false
	}
}
