package nodestore

import (
	"cmp"
	"context"
	"errors"

	"qmtl.internal/plumbline/ref/dagmanager/batch"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// mostWrites is how many claims, or confirmations, one transaction holds: enough
// to carry many diffs, and little enough that a large one does not keep others
// from the database for long.
const mostWrites = 250

// Gathered are nodes whose claims and confirmations are written together with
// those of other diffs: what comes while one transaction is on its way goes with
// the next. A database takes hardly longer for a transaction of fifty claims
// than for one of one.
type Gathered struct {
	diff.Nodes
	claims   *batch.Group[*claimJob]
	confirms *batch.Group[*confirmJob]
}

// Gather writes together what callers claim and confirm in nodes.
func Gather(nodes diff.Nodes) *Gathered {
	g := &Gathered{Nodes: nodes}
	g.claims = batch.New(mostWrites, g.claim)
	g.confirms = batch.New(mostWrites, g.confirm)
	return g
}

// asking is the call of one caller, whose jobs may go with several transactions.
type asking struct{ err error }

type claimJob struct {
	of    *asking
	claim diff.Claim
	got   diff.Claimed
}

type confirmJob struct {
	of    *asking
	queue diff.Claimed
	fresh bool
}

// Claim implements diff.Nodes. It does not end with ctx, since others may go
// with it; the store's own time limit holds.
func (g *Gathered) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	a := &asking{}
	jobs := make([]*claimJob, len(claims))
	for i, c := range claims {
		jobs[i] = &claimJob{of: a, claim: c}
	}
	g.claims.Do(jobs)
	got := make([]diff.Claimed, len(jobs))
	var won []diff.Claimed
	for i, j := range jobs {
		if got[i] = j.got; j.got.Won {
			won = append(won, j.got)
		}
	}
	switch {
	case a.err == nil:
		return got, nil
	case len(won) > 0: // by another transaction than the one that failed
		return nil, errors.Join(a.err, g.Nodes.Release(context.WithoutCancel(ctx), won))
	default:
		return nil, a.err
	}
}

func (g *Gathered) claim(jobs []*claimJob) {
	together(jobs, func(j *claimJob) *asking { return j.of }, func(jobs []*claimJob) error {
		claims := make([]diff.Claim, len(jobs))
		for i, j := range jobs {
			claims[i] = j.claim
		}
		got, err := g.Nodes.Claim(context.Background(), claims)
		for i := range got {
			jobs[i].got = got[i]
		}
		return err
	})
}

// Confirm implements diff.Nodes. Like Claim, it does not end with ctx.
func (g *Gathered) Confirm(_ context.Context, queues []diff.Claimed) ([]bool, error) {
	a := &asking{}
	jobs := make([]*confirmJob, len(queues))
	for i, q := range queues {
		jobs[i] = &confirmJob{of: a, queue: q}
	}
	g.confirms.Do(jobs)
	if a.err != nil && !errors.Is(a.err, diff.ErrGone) {
		return nil, a.err
	}
	fresh := make([]bool, len(jobs))
	for i, j := range jobs {
		fresh[i] = j.fresh
	}
	return fresh, a.err
}

// confirm may confirm a queue twice, to learn whose is gone; the first time tells
// whether it is fresh.
func (g *Gathered) confirm(jobs []*confirmJob) {
	together(jobs, func(j *confirmJob) *asking { return j.of }, func(jobs []*confirmJob) error {
		queues := make([]diff.Claimed, len(jobs))
		for i, j := range jobs {
			queues[i] = j.queue
		}
		fresh, err := g.Nodes.Confirm(context.Background(), queues)
		for i := range fresh {
			jobs[i].fresh = jobs[i].fresh || fresh[i]
		}
		return err
	})
}

// together does all jobs at once. When that fails for a reason that need not be
// everybody's, those of each caller are done apart, so that nobody is told the
// errors of others.
func together[J any](jobs []J, of func(J) *asking, do func([]J) error) {
	err := do(jobs)
	if err == nil {
		return
	}
	var callers []*asking
	own := map[*asking][]J{}
	for _, j := range jobs {
		if own[of(j)] == nil {
			callers = append(callers, of(j))
		}
		own[of(j)] = append(own[of(j)], j)
	}
	for _, a := range callers {
		failed := err
		if len(callers) > 1 && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRefused) {
			failed = do(own[a])
		}
		a.err = cmp.Or(a.err, failed)
	}
}
