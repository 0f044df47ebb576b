// Package nodestore keeps what the DAG Manager knows of nodes, their queues,
// sentinels and buffering marks.
package nodestore

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Memory is a store in memory (dagmanager.md 5.3 and 5.4). It is safe for
// concurrent use; what it holds is gone with the process.
type Memory struct {
	mu      sync.RWMutex
	entries map[string]*entry
	order   []*entry          // oldest first; forgotten entries stay until they are many
	owner   map[string]*entry // by topic
	byTag   map[tagKey][]*entry
	byTime  map[int64][]*entry // by interval
}

// entry is one vertex of the graph. Its node is replaced, never changed, so
// that snapshots can be handed out without copies.
type entry struct {
	id       string
	seq      int
	node     *diff.Node // nil for what is only a sentinel
	sentinel *diff.Sentinel
	marks    *marks
	indexed  bool
}

// marks are the times in Unix milliseconds since when an entry buffers.
type marks struct {
	plain *int64
	byKey map[string]int64
}

type tagKey struct {
	interval int64
	tag      string
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		entries: map[string]*entry{},
		owner:   map[string]*entry{},
		byTag:   map[tagKey][]*entry{},
		byTime:  map[int64][]*entry{},
	}
}

// Put stores a node as it is, over what was known of it; marks stay. It is for
// nodes that others wrote; diffs register theirs with Claim.
func (m *Memory) Put(_ context.Context, n diff.Node) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(n.ID)
	m.unindex(e)
	if e.node != nil {
		m.disown(e, e.node)
	}
	e.node = keep(n)
	m.index(e)
	return nil
}

// Lookup returns what is known of each id, nil for an unknown one.
func (m *Memory) Lookup(_ context.Context, ids []string) ([]*diff.Node, error) {
	out := make([]*diff.Node, len(ids))
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i, id := range ids {
		if e := m.entries[id]; e != nil {
			out[i] = e.node
		}
	}
	return out, nil
}

// Claim implements diff.Nodes.
func (m *Memory) Claim(_ context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]diff.Claimed, 0, len(claims))
	for _, c := range claims {
		got, err := m.claim(c)
		if err != nil {
			m.release(out)
			return nil, err
		}
		out = append(out, got)
	}
	return out, nil
}

func (m *Memory) claim(c diff.Claim) (diff.Claimed, error) {
	if e := m.entries[c.Node.ID]; e != nil && e.node != nil {
		for _, b := range e.node.Bindings {
			if b.Serves(c.ComputeKey, c.Node.CodeHash, c.Namespace) {
				return diff.Claimed{NodeID: e.id, Binding: b}, nil
			}
		}
	}
	topic, err := c.Choose(func(topic string) bool { return m.owner[topic] != nil })
	if err != nil {
		return diff.Claimed{}, err
	}
	e := m.entry(c.Node.ID)
	if e.node == nil {
		e.node = keep(c.Node)
	}
	b := diff.Binding{
		ComputeKey: strings.Clone(c.ComputeKey),
		CodeHash:   shared(c.Node.CodeHash, e.node.CodeHash),
		SchemaHash: shared(c.Node.SchemaHash, e.node.SchemaHash),
		Topic:      strings.Clone(topic),
	}
	m.change(e, func(n *diff.Node) { n.Bindings = append(slices.Clip(n.Bindings), b) })
	m.owner[b.Topic] = e
	return diff.Claimed{NodeID: e.id, Binding: b, Won: true}, nil
}

// Confirm implements diff.Nodes.
func (m *Memory) Confirm(_ context.Context, queues []diff.Claimed) ([]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := make([]bool, len(queues))
	var err error
	for i, q := range queues {
		e, at := m.find(q)
		switch {
		case at < 0:
			err = diff.ErrGone
		case !e.node.Bindings[at].Ready:
			m.confirm(e, at)
			fresh[i] = true
		}
	}
	return fresh, err
}

// confirm makes a queue visible. The node's first queue is also its Topic.
func (m *Memory) confirm(e *entry, at int) {
	m.change(e, func(n *diff.Node) {
		n.Bindings = slices.Clone(n.Bindings)
		n.Bindings[at].Ready = true
		b := n.Bindings[at]
		if !n.HasQueue {
			n.Topic, n.HasQueue = b.Topic, true
		}
		if n.Topic == b.Topic && !slices.Contains(n.ComputeKeys, b.ComputeKey) {
			n.ComputeKeys = append(slices.Clip(n.ComputeKeys), b.ComputeKey)
		}
	})
	m.index(e)
}

// Release implements diff.Nodes.
func (m *Memory) Release(_ context.Context, queues []diff.Claimed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(queues)
	return nil
}

func (m *Memory) release(queues []diff.Claimed) {
	for _, q := range queues {
		e, at := m.find(q)
		if at < 0 || e.node.Bindings[at].Ready {
			continue
		}
		delete(m.owner, q.Binding.Topic)
		m.change(e, func(n *diff.Node) { n.Bindings = slices.Delete(slices.Clone(n.Bindings), at, at+1) })
		m.forgetEmpty(e)
	}
}

// forgetEmpty drops a node that a claim made and that no queue came of.
func (m *Memory) forgetEmpty(e *entry) {
	if e.node.HasQueue || len(e.node.Bindings) > 0 || len(e.node.ComputeKeys) > 0 {
		return
	}
	e.node = nil
	if e.sentinel != nil || e.marks != nil {
		return
	}
	delete(m.entries, e.id)
	if at, found := slices.BinarySearchFunc(m.order, e.seq, bySeq); found {
		m.order = slices.Delete(m.order, at, at+1)
	}
}

func bySeq(e *entry, seq int) int { return cmp.Compare(e.seq, seq) }

// find gives the entry of a queue and the place of its binding, -1 when gone.
func (m *Memory) find(q diff.Claimed) (*entry, int) {
	e := m.owner[q.Binding.Topic]
	if e == nil || e.id != q.NodeID || e.node == nil {
		return nil, -1
	}
	return e, slices.IndexFunc(e.node.Bindings, func(b diff.Binding) bool { return b.Topic == q.Binding.Topic })
}

// Record implements diff.Nodes.
func (m *Memory) Record(ctx context.Context, f diff.Findings) error {
	for _, b := range f.Bound {
		if err := m.Bind(ctx, b.NodeID, b.ComputeKey); err != nil {
			return err
		}
	}
	if err := m.MarkBuffering(ctx, f.Buffering, f.At); err != nil || f.Sentinel == nil {
		return err
	}
	return m.InsertSentinel(ctx, *f.Sentinel)
}

// Bind adds a compute key to what the node's first queue serves. An unknown
// node becomes a stub without a queue; an empty key changes nothing.
func (m *Memory) Bind(_ context.Context, nodeID, computeKey string) error {
	if computeKey == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(nodeID)
	if e.node == nil {
		e.node = &diff.Node{ID: e.id}
	}
	if !slices.Contains(e.node.ComputeKeys, computeKey) {
		m.change(e, func(n *diff.Node) {
			n.ComputeKeys = append(slices.Clip(n.ComputeKeys), strings.Clone(computeKey))
		})
	}
	return nil
}

// InsertSentinel stores or overwrites a sentinel.
func (m *Memory) InsertSentinel(_ context.Context, s diff.Sentinel) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.ID, s.Version, s.NodeIDs = strings.Clone(s.ID), strings.Clone(s.Version), cloneAll(s.NodeIDs)
	m.entry(s.ID).sentinel = &s
	return nil
}

// Sentinel returns the sentinel of that id; false when there is none.
func (m *Memory) Sentinel(id string) (diff.Sentinel, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e := m.entries[id]; e != nil && e.sentinel != nil {
		return *e.sentinel, true
	}
	return diff.Sentinel{}, false
}

// MarkBuffering marks nodes that exist; others are ignored. A mark with a compute key replaces the
// one that this key had; one without stands beside them.
func (m *Memory) MarkBuffering(_ context.Context, nodes []diff.Mark, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range nodes {
		if e := m.entries[n.NodeID]; e != nil {
			e.mark(n.ComputeKey, at.UnixMilli())
		}
	}
	return nil
}

func (e *entry) mark(computeKey string, since int64) {
	if e.marks == nil {
		e.marks = &marks{}
	}
	if computeKey == "" {
		e.marks.plain = &since
		return
	}
	if e.marks.byKey == nil {
		e.marks.byKey = map[string]int64{}
	}
	e.marks.byKey[strings.Clone(computeKey)] = since
}

// ClearBuffering takes away the mark of that key; without a key, all marks.
func (m *Memory) ClearBuffering(_ context.Context, nodeID, computeKey string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[nodeID]
	switch {
	case e == nil || e.marks == nil:
	case computeKey == "":
		e.marks = nil
	default:
		delete(e.marks.byKey, computeKey)
	}
	return nil
}

// BufferingNodes returns the ids, oldest node first, of those that buffer since
// before olderThan; with a compute key only marks of that key count.
func (m *Memory) BufferingNodes(_ context.Context, olderThan time.Time, computeKey string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	buffers := bufferingBy(computeKey, olderThan.UnixMilli())
	var ids []string
	for _, e := range m.order {
		if e.marks != nil && buffers(e.marks) {
			ids = append(ids, e.id)
		}
	}
	return ids, nil
}

// bufferingBy gives the predicate of a query.
func bufferingBy(computeKey string, cutoff int64) func(*marks) bool {
	if computeKey != "" {
		return func(k *marks) bool { since, ok := k.byKey[computeKey]; return ok && since < cutoff }
	}
	return func(k *marks) bool {
		if k.plain != nil && *k.plain < cutoff {
			return true
		}
		for _, since := range k.byKey {
			if since < cutoff {
				return true
			}
		}
		return false
	}
}

// Queues returns the queues of nodes with that interval and any (or, with mode
// "all", all) of the tags, in the order in which the nodes came; without tags
// those of every node with that interval.
func (m *Memory) Queues(_ context.Context, tags []string, interval int64, mode string) ([]contract.QueueRef, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []contract.QueueRef
	for _, e := range m.tagged(tags, interval, mode == contract.MatchAll) {
		out = appendQueues(out, e.node)
	}
	return out, nil
}

func (m *Memory) tagged(tags []string, interval int64, all bool) []*entry {
	if len(tags) == 0 {
		return m.byTime[interval]
	}
	if all {
		return m.taggedAll(tags, interval)
	}
	var found []*entry
	for i, tag := range tags {
		if !slices.Contains(tags[:i], tag) {
			found = append(found, m.byTag[tagKey{interval, tag}]...)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	return slices.Compact(found)
}

func (m *Memory) taggedAll(tags []string, interval int64) []*entry {
	least := m.byTag[tagKey{interval, tags[0]}]
	for _, tag := range tags[1:] {
		if list := m.byTag[tagKey{interval, tag}]; len(list) < len(least) {
			least = list
		}
	}
	var found []*entry
	for _, e := range least {
		if containsAll(e.node.Tags, tags) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	return found
}

func containsAll(have, want []string) bool {
	for _, tag := range want {
		if !slices.Contains(have, tag) {
			return false
		}
	}
	return true
}

func appendQueues(out []contract.QueueRef, n *diff.Node) []contract.QueueRef {
	if !ownsTopic(n) { // written by others
		out = append(out, contract.QueueRef{Queue: n.Topic, Global: n.Global})
	}
	for _, b := range n.Bindings {
		if b.Ready {
			out = append(out, contract.QueueRef{Queue: b.Topic, Global: n.Global})
		}
	}
	return out
}

// ownsTopic says whether the node's first queue was registered by a diff.
func ownsTopic(n *diff.Node) bool {
	return slices.ContainsFunc(n.Bindings, func(b diff.Binding) bool { return b.Topic == n.Topic })
}

// NodeByQueue returns the node that feeds a queue, nil when none does.
func (m *Memory) NodeByQueue(_ context.Context, topic string) (*diff.Node, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e := m.owner[topic]; e != nil {
		return e.node, nil
	}
	return nil, nil
}

// Owned says of each topic whether a queue of the store has it, ready or not.
func (m *Memory) Owned(_ context.Context, topics []string) ([]bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	owned := make([]bool, len(topics))
	for i, topic := range topics {
		owned[i] = m.owner[topic] != nil
	}
	return owned, nil
}

// OpenClaims returns queues that are claimed and not ready, at most most.
func (m *Memory) OpenClaims(_ context.Context, most int) ([]diff.Claimed, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []diff.Claimed
	for topic, e := range m.owner {
		for _, b := range e.node.Bindings {
			if b.Topic == topic && !b.Ready && len(out) < most {
				out = append(out, diff.Claimed{NodeID: e.id, Binding: b})
			}
		}
	}
	slices.SortFunc(out, func(a, b diff.Claimed) int { return cmp.Compare(a.Binding.Topic, b.Binding.Topic) })
	return out, nil
}

// Size returns how many nodes and queues are registered; open claims do not
// count.
func (m *Memory) Size() (nodes, queues int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, e := range m.order {
		if e.node != nil && !claimedOnly(e.node) {
			nodes++
		}
	}
	for topic, e := range m.owner {
		if !slices.ContainsFunc(e.node.Bindings, func(b diff.Binding) bool { return b.Topic == topic && !b.Ready }) {
			queues++
		}
	}
	return nodes, queues
}

func claimedOnly(n *diff.Node) bool { return !n.HasQueue && len(n.Bindings) > 0 }

// Ping says that the store works.
func (m *Memory) Ping(context.Context) error { return nil }

// entry gives the vertex of that id, made when there is none.
func (m *Memory) entry(id string) *entry {
	e := m.entries[id]
	if e == nil {
		seq := 0
		if n := len(m.order); n > 0 {
			seq = m.order[n-1].seq + 1
		}
		e = &entry{id: strings.Clone(id), seq: seq}
		m.entries[e.id] = e
		m.order = append(m.order, e)
	}
	return e
}

// change replaces the node of e by a changed copy.
func (m *Memory) change(e *entry, edit func(*diff.Node)) {
	n := *e.node
	edit(&n)
	e.node = &n
}

// index makes the queues of e visible to tag queries.
func (m *Memory) index(e *entry) {
	n := e.node
	if n.Topic != "" {
		m.owner[n.Topic] = e
	}
	if e.indexed || n.Interval == nil || !n.HasQueue {
		return
	}
	e.indexed = true
	m.byTime[*n.Interval] = insert(m.byTime[*n.Interval], e)
	for _, key := range tagKeys(n) {
		m.byTag[key] = insert(m.byTag[key], e)
	}
}

// insert keeps a list in the order of nodes; a new node nearly always comes last.
func insert(list []*entry, e *entry) []*entry {
	at, _ := slices.BinarySearchFunc(list, e.seq, bySeq)
	return slices.Insert(list, at, e)
}

func (m *Memory) unindex(e *entry) {
	if !e.indexed {
		return
	}
	e.indexed = false
	same := func(other *entry) bool { return other == e }
	m.byTime[*e.node.Interval] = slices.DeleteFunc(m.byTime[*e.node.Interval], same)
	for _, key := range tagKeys(e.node) {
		m.byTag[key] = slices.DeleteFunc(m.byTag[key], same)
	}
}

func (m *Memory) disown(e *entry, n *diff.Node) {
	if m.owner[n.Topic] == e {
		delete(m.owner, n.Topic)
	}
	for _, b := range n.Bindings {
		if m.owner[b.Topic] == e {
			delete(m.owner, b.Topic)
		}
	}
}

// tagKeys gives each tag of the node once.
func tagKeys(n *diff.Node) []tagKey {
	keys := make([]tagKey, 0, len(n.Tags))
	for i, tag := range n.Tags {
		if !slices.Contains(n.Tags[:i], tag) {
			keys = append(keys, tagKey{*n.Interval, tag})
		}
	}
	return keys
}

// keep copies a node with all its strings: those of a submission share the
// memory of its whole text.
func keep(n diff.Node) *diff.Node {
	n.ID, n.NodeType = strings.Clone(n.ID), strings.Clone(n.NodeType)
	n.CodeHash, n.SchemaHash = strings.Clone(n.CodeHash), strings.Clone(n.SchemaHash)
	n.SchemaCompatID, n.Topic = strings.Clone(n.SchemaCompatID), strings.Clone(n.Topic)
	n.Tags, n.ComputeKeys = cloneAll(n.Tags), cloneAll(n.ComputeKeys)
	n.Bindings = slices.Clone(n.Bindings)
	return &n
}

// shared is s in the memory of kept when they are equal, else a copy.
func shared(s, kept string) string {
	if s == kept {
		return kept
	}
	return strings.Clone(s)
}

func cloneAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.Clone(s)
	}
	return out
}
