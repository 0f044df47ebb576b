package nodestore

import (
	"container/list"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// cache remembers nodes, the least used ones go first.
type cache struct {
	most int
	age  time.Duration
	now  func() time.Time

	mu     sync.Mutex
	era    uint64 // grows when everything is forgotten
	byID   map[string]*list.Element
	recent list.List // of remembered, the last used first
}

type remembered struct {
	node *diff.Node
	till time.Time
	aged bool // somebody was told that it is to be read again
}

func newCache(most int, age time.Duration) *cache {
	return &cache{most: most, age: age, now: time.Now, byID: map[string]*list.Element{}}
}

// get returns what is remembered of each id, and the ids of the others. Of what
// will soon count no more, aging holds what was not told before: read again in
// time, what is in use is never missing.
func (c *cache) get(ids []string) (found []*diff.Node, missing, aging []string) {
	found = make([]*diff.Node, len(ids))
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for i, id := range ids {
		e := c.byID[id]
		if e == nil || now.After(e.Value.(*remembered).till) {
			missing = append(missing, id)
			continue
		}
		r := e.Value.(*remembered)
		found[i] = r.node
		c.recent.MoveToFront(e)
		if !r.aged && now.After(r.till.Add(-c.age/4)) {
			r.aged = true
			aging = append(aging, r.node.ID)
		}
	}
	return found, missing, aging
}

// begin returns the era for put, to be asked for before the database is.
func (c *cache) begin() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.era
}

// put remembers a node if it may be remembered, and if nothing was forgotten
// since the era in which it was read.
func (c *cache) put(era uint64, n *diff.Node) {
	if c.most < 1 || !lasting(n) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if era != c.era {
		return
	}
	// What was read together is not forgotten together.
	entry := &remembered{node: n, till: c.now().Add(c.age - rand.N(c.age/4+1))}
	if e := c.byID[n.ID]; e != nil {
		e.Value = entry
		c.recent.MoveToFront(e)
		return
	}
	c.byID[n.ID] = c.recent.PushFront(entry)
	if len(c.byID) > c.most {
		oldest := c.recent.Back()
		delete(c.byID, c.recent.Remove(oldest).(*remembered).node.ID)
	}
}

// lasting says whether what a node has now it will keep: all its queues come
// from diffs and are ready.
func lasting(n *diff.Node) bool {
	return n.HasQueue && ownsTopic(n) && !slices.ContainsFunc(n.Bindings, func(b diff.Binding) bool { return !b.Ready })
}

// clear forgets everything.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	clear(c.byID)
	c.recent.Init()
}

// count returns how many nodes are remembered.
func (c *cache) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID)
}
