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
	recall   func(ids []string) []*diff.Node
	claims   *batch.Group[wish, *claimJob]
	confirms *batch.Group[string, *confirmJob]
}

// Gather writes together what callers claim and confirm in nodes. Where nodes
// have a method Recall, which says what they remember of ids, nil for those that
// they do not, a claim that waited until its queue was made asks for nothing.
func Gather(nodes diff.Nodes) *Gathered {
	g := &Gathered{Nodes: nodes, recall: func(ids []string) []*diff.Node { return make([]*diff.Node, len(ids)) }}
	if r, recalls := nodes.(interface {
		Recall(ids []string) []*diff.Node
	}); recalls {
		g.recall = r.Recall
	}
	g.claims = batch.New(mostWrites, (*claimJob).wish, g.claim)
	g.confirms = batch.New(mostWrites, func(j *confirmJob) string { return j.queue.Binding.Topic }, g.confirm)
	return g
}

// asking is the call of one caller, whose jobs may go with several transactions.
type asking struct{ err error }

type claimJob struct {
	of    *asking
	claim diff.Claim
	got   diff.Claimed
}

// wish is what a claim asks for. Claims with the same wish get the same queue.
type wish struct{ node, key, code, namespace string }

func (j *claimJob) wish() wish {
	c := &j.claim
	return wish{c.Node.ID, c.ComputeKey, c.Node.CodeHash, c.Namespace}
}

type confirmJob struct {
	of    *asking
	queue diff.Claimed
	fresh bool
}

// Claim implements diff.Nodes. When ctx ends before anything was begun, nothing
// is; what was begun is brought to an end, since others may go with it, within
// the store's own time limit.
func (g *Gathered) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	a := &asking{}
	jobs := make([]*claimJob, len(claims))
	for i, c := range claims {
		jobs[i] = &claimJob{of: a, claim: c}
	}
	if err := g.claims.Do(ctx, jobs); err != nil {
		return nil, err
	}
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

// claim claims what is wished for once, for the first who does: the others meet
// its queue.
func (g *Gathered) claim(jobs []*claimJob) {
	jobs = g.unmet(jobs)
	if len(jobs) == 0 {
		return
	}
	together(jobs, func(j *claimJob) *asking { return j.of }, func(jobs []*claimJob) error {
		var claims []diff.Claim
		at := make(map[wish]int, len(jobs))
		for _, j := range jobs {
			if _, wished := at[j.wish()]; !wished {
				at[j.wish()] = len(claims)
				claims = append(claims, j.claim)
			}
		}
		got, err := g.Nodes.Claim(context.Background(), claims)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			answer := &got[at[j.wish()]]
			j.got = *answer
			answer.Won = false
		}
		return nil
	})
}

// unmet answers claims whose queue others made ready meanwhile, and returns the
// others.
func (g *Gathered) unmet(jobs []*claimJob) []*claimJob {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.claim.Node.ID
	}
	rest := jobs[:0]
	for i, n := range g.recall(ids) {
		if !jobs[i].meets(n) {
			rest = append(rest, jobs[i])
		}
	}
	return rest
}

// meets takes the queue of a node that is remembered.
func (j *claimJob) meets(n *diff.Node) bool {
	if n == nil {
		return false
	}
	for _, b := range n.Bindings {
		if b.Ready && b.Serves(j.claim.ComputeKey, j.claim.Node.CodeHash, j.claim.Namespace) {
			j.got = diff.Claimed{NodeID: n.ID, Binding: b}
			return true
		}
	}
	return false
}

// Confirm implements diff.Nodes. It ends with ctx as Claim does.
func (g *Gathered) Confirm(ctx context.Context, queues []diff.Claimed) ([]bool, error) {
	a := &asking{}
	jobs := make([]*confirmJob, len(queues))
	for i, q := range queues {
		jobs[i] = &confirmJob{of: a, queue: q}
	}
	if err := g.confirms.Do(ctx, jobs); err != nil {
		return nil, err
	}
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
// whether it is fresh. Of several that confirm it, the first one did.
func (g *Gathered) confirm(jobs []*confirmJob) {
	together(jobs, func(j *confirmJob) *asking { return j.of }, func(jobs []*confirmJob) error {
		var queues []diff.Claimed
		at := make(map[string]int, len(jobs))
		for _, j := range jobs {
			if _, given := at[j.queue.Binding.Topic]; !given {
				at[j.queue.Binding.Topic] = len(queues)
				queues = append(queues, j.queue)
			}
		}
		fresh, err := g.Nodes.Confirm(context.Background(), queues)
		if err != nil && !errors.Is(err, diff.ErrGone) {
			return err
		}
		for _, j := range jobs {
			of := &fresh[at[j.queue.Binding.Topic]]
			j.fresh = j.fresh || *of
			*of = false
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
