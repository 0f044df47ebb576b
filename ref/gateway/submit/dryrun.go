package submit

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/scenarios/contract"
)

// dryRunID stands for the strategy id of a dry run.
const dryRunID = "dryrun"

// dryRun asks for the diff and answers with its queues; which fallback applies
// depends on how the diff failed and on the number of worlds (gateway.md 2.9).
func (p *Pipeline) dryRun(ctx context.Context, s *submission) error {
	s.ack = s.newAck(dryRunID, "")
	if len(s.worlds) == 1 {
		p.dryRunOne(ctx, s)
	} else {
		p.dryRunMany(ctx, s)
	}
	return nil
}

func (p *Pipeline) dryRunOne(ctx context.Context, s *submission) {
	world := s.worlds[0]
	reply, err := p.askWithin(ctx, p.Limits.DryRun, s, world)
	if err != nil {
		p.fallBack(ctx, s, err)
		return
	}
	s.ack.SentinelID = reply.SentinelID
	fromDiff(reply, contract.ReplyNamespace(s.dag, world, s.context.ExecutionDomain), &s.ack.QueueMap)
}

// askWithin runs a dry run's diff in one world within limit.
func (p *Pipeline) askWithin(ctx context.Context, limit time.Duration, s *submission, world string) (*DiffReply, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reply, err := p.ask(ctx, p.DagManager.Diff, s, dryRunID, world)
	p.observeDiff(dryRunID, world, err)
	return reply, err
}

// fallBack answers with tag lookups; without any reply the sentinel stays
// empty, after a late or a wrong one it is made of the CRC.
func (p *Pipeline) fallBack(ctx context.Context, s *submission, err error) {
	if !errors.Is(err, ErrNoReply) {
		s.ack.SentinelID = contract.DryRunSentinel(s.crc)
	}
	s.ack.QueueMap = p.lookups(ctx, s)
}

// maxDiffs bounds how many diffs of one dry run are under way.
const maxDiffs = 8

// dryRunMany unites the diffs of all worlds; worlds without a reply are left
// out, a wrong CRC or the time limit in any world spoils the whole.
func (p *Pipeline) dryRunMany(ctx context.Context, s *submission) {
	replies := make([]*DiffReply, len(s.worlds))
	group, diffs := errgroup.WithContext(ctx)
	group.SetLimit(maxDiffs)
	for i, world := range s.worlds {
		group.Go(func() (err error) {
			replies[i], err = p.askWithin(diffs, p.Limits.DryRunMany, s, world)
			if errors.Is(err, ErrNoReply) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		p.fallBack(ctx, s, err)
		return
	}
	for i, reply := range replies {
		if reply == nil {
			continue
		}
		if s.ack.SentinelID == "" {
			s.ack.SentinelID = reply.SentinelID
		}
		fromDiff(reply, contract.ReplyNamespace(s.dag, s.worlds[i], s.context.ExecutionDomain), &s.ack.QueueMap)
	}
}
