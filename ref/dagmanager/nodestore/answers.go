package nodestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/scenarios/contract"
)

// answers keeps answers to tag queries for a moment: the graph has no index that
// finds a tag among a node's tags, so that each question reads all queues of its
// interval. Who asks what is being asked waits for that answer.
type answers struct {
	age time.Duration
	now func() time.Time

	mu    sync.Mutex
	byKey map[string]*tagAnswer
}

// mostAnswers bounds what is kept; with more, all are dropped.
const mostAnswers = 1000

// question is a tag query.
type question struct {
	tags     []string
	interval int64
	all      bool
}

// key tells questions apart; the order of tags does not matter.
func (q question) key() string {
	tags := slices.Clone(q.tags)
	slices.Sort(tags)
	return fmt.Sprintf("%t %d %q", q.all, q.interval, tags)
}

// finds says whether the node is one that the question asks for.
func (q question) finds(n *diff.Node) bool {
	if n.Interval == nil || *n.Interval != q.interval {
		return false
	}
	if q.all {
		return containsAll(n.Tags, q.tags)
	}
	return slices.ContainsFunc(q.tags, func(tag string) bool { return slices.Contains(n.Tags, tag) })
}

// tagAnswer is an answer that is there once done is closed. It is not changed
// any more then.
type tagAnswer struct {
	question
	till   time.Time
	done   chan struct{}
	queues []contract.QueueRef
	err    error
}

func newAnswers(age time.Duration) *answers {
	return &answers{age: age, now: time.Now, byKey: map[string]*tagAnswer{}}
}

// get answers a question, by find when there is no answer yet. Errors are not
// kept, and the end of another caller's context is not this one's.
func (c *answers) get(ctx context.Context, q question, find func() ([]contract.QueueRef, error)) ([]contract.QueueRef, error) {
	key := q.key()
	for {
		a, mine := c.take(key, q)
		if mine {
			return c.find(key, a, find)
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !left(a.err) {
			return a.queues, a.err
		}
	}
}

// left says whether an answer failed because its caller did not wait for it.
func left(err error) bool {
	return (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) && !errors.Is(err, ErrUnavailable)
}

func (c *answers) find(key string, a *tagAnswer, find func() ([]contract.QueueRef, error)) ([]contract.QueueRef, error) {
	a.err = context.Canceled // for those who wait, should find panic
	defer c.finish(key, a)
	a.queues, a.err = find()
	return a.queues, a.err
}

// take gives the answer of that key; mine says that the caller must find it.
func (c *answers) take(key string, q question) (a *tagAnswer, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a = c.byKey[key]; a != nil && c.now().Before(a.till) {
		return a, false
	}
	if len(c.byKey) >= mostAnswers {
		clear(c.byKey)
	}
	q.tags = slices.Clone(q.tags)
	a = &tagAnswer{question: q, till: c.now().Add(c.age), done: make(chan struct{})}
	c.byKey[key] = a
	return a, true
}

func (c *answers) finish(key string, a *tagAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.err != nil && c.byKey[key] == a {
		delete(c.byKey, key)
	}
	close(a.done)
}

// add tells the answers of queues that a node got. Answers that are being looked
// for, in which they may be missing, are dropped.
func (c *answers) add(n *diff.Node, topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, a := range c.byKey {
		if !a.finds(n) {
			continue
		}
		select {
		case <-a.done:
			c.byKey[key] = a.with(n, topics)
		default:
			delete(c.byKey, key)
		}
	}
}

// with is a finished answer with those queues of n that it lacks.
func (a *tagAnswer) with(n *diff.Node, topics []string) *tagAnswer {
	more := *a
	more.queues = slices.Clip(a.queues) // others read the old one
	for _, topic := range topics {
		if ref := (contract.QueueRef{Queue: topic, Global: n.Global}); !slices.Contains(a.queues, ref) {
			more.queues = append(more.queues, ref)
		}
	}
	return &more
}
