package diff

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Result is what a diff found and did.
type Result struct {
	SentinelID string
	Version    string
	CRC32      uint32
	Queues     []Queue       // of every node, in the order of the diff
	Buffer     []Instruction // nodes whose schema changed
	// Registered are the nodes that got a queue by this very diff, whether the
	// node itself was new or not.
	Registered []Registered
	Context    dag.ComputeContext // merged
	// Inserted says that the sentinel was stored; Gap that no node was new with it.
	Inserted, Gap bool
	Weight        *contract.SentinelWeight // nil when the DAG gives none that counts
}

// Queue is one entry of the queue map.
type Queue struct {
	NodeID, Key, Topic string
	New                bool // the node was not known, or is with other code
}

// Instruction says that a node must compute its history again.
type Instruction struct {
	NodeID, NodeType, CodeHash, SchemaHash, SchemaCompatID string

	Interval    int64 // seconds
	Period, Lag int32
	Tags        []string
}

// Registered is a node that got a queue.
type Registered struct {
	NodeID   string
	Tags     []string
	Interval *int64
}

// ContextError says that a node's only queue serves another compute context.
type ContextError struct {
	NodeID    string
	Attempted dag.ComputeContext
}

func (e *ContextError) Error() string {
	c := e.Attempted
	return fmt.Sprintf("Cross-context topic reuse detected for node '%s'. "+
		"Attempted context: world=%s, domain=%s, as_of=%s, partition=%s, dataset=%s. Existing context: <unknown>.",
		e.NodeID, orUnset(c.WorldID), orUnset(c.ExecutionDomain), orUnset(c.AsOf), orUnset(c.Partition), orUnset(c.DatasetFingerprint))
}

func orUnset(s string) string {
	if s == "" {
		return "<unset>"
	}
	return s
}

// Run diffs one DAG. Everything that can be refused is refused before anything
// is made: an *InputError or a *ContextError leaves no trace. Errors of the
// ports are returned as they are; a diff that failed in the middle leaves at
// most topics that the next diff of the same nodes takes up.
func Run(ctx context.Context, x ExecutionContext, nodes Nodes, topics Topics) (*Result, error) {
	g, err := read(x)
	if err != nil {
		return nil, err
	}
	known, err := nodes.Lookup(ctx, g.ids)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(g, known)
	if err != nil {
		return nil, err
	}
	r := &registrar{graph: g, nodes: nodes, topics: topics, legacy: map[string]bool{}}
	if err := r.register(ctx, p); err != nil {
		return nil, err
	}
	res := conclude(x, g, p)
	if err := nodes.Record(ctx, findings(x, g, p, res)); err != nil {
		return nil, err
	}
	return res, nil
}

// step is what the plan does with one node.
type step struct {
	topic  string
	claim  bool // a queue must be made, or a claim of somebody else completed
	fresh  bool // the node is new
	bind   bool // the stored queue takes on this context
	buffer bool
	done   bool // the queue was registered by this diff
}

// plan has one step for each node.
type plan struct {
	steps  []step
	buffer []Instruction
}

// newPlan compares each node with what is known of it (dagmanager.md 2.5).
func newPlan(g *graph, known []*Node) (*plan, error) {
	p := &plan{steps: make([]step, len(g.nodes))}
	for i, n := range g.nodes {
		s, err := compare(g, n, known[i])
		if err != nil {
			return nil, err
		}
		p.steps[i] = s
		if !s.buffer {
			continue
		}
		instruction, err := instruct(n)
		if err != nil {
			return nil, &InputError{Reason: ReasonNode, NodeID: n.ID, Err: err}
		}
		p.buffer = append(p.buffer, instruction)
	}
	return p, nil
}

// compare decides about one node. Queues that diffs registered come first; what
// others wrote is taken only for a context that it is known to serve, or, when
// it names none, for the first that comes.
func compare(g *graph, n *node, known *Node) (step, error) {
	if known == nil {
		return step{claim: true, fresh: true}, nil
	}
	if s, found := reuse(g, n, known.Bindings); found {
		return s, nil
	}
	if !known.HasQueue || known.CodeHash != n.CodeHash || owns(known) {
		return step{claim: true, fresh: true}, nil
	}
	serves := slices.Contains(known.ComputeKeys, n.key)
	if !serves && (len(known.ComputeKeys) > 0 || len(known.Bindings) > 0) {
		return step{}, &ContextError{NodeID: n.ID, Attempted: g.merged}
	}
	return step{
		topic:  known.Topic,
		claim:  !contract.InNamespace(known.Topic, g.namespace),
		bind:   !serves,
		buffer: known.SchemaHash != n.SchemaHash,
	}, nil
}

// reuse looks for a queue that a diff registered. One in another namespace makes
// the node known, but does not serve.
func reuse(g *graph, n *node, bindings []Binding) (s step, found bool) {
	for _, b := range bindings {
		if b.ComputeKey != n.key || b.CodeHash != n.CodeHash {
			continue
		}
		s = step{topic: b.Topic, claim: true, fresh: !b.Ready, buffer: b.Ready && b.SchemaHash != n.SchemaHash}
		found = true
		if b.Serves(n.key, n.CodeHash, g.namespace) {
			s.claim = !b.Ready
			return s, true
		}
	}
	return s, found
}

// owns says whether the node's first queue was registered by a diff.
func owns(n *Node) bool {
	return slices.ContainsFunc(n.Bindings, func(b Binding) bool { return b.Topic == n.Topic })
}

// instruct makes the buffer instruction of a node as it was submitted.
func instruct(n *node) (Instruction, error) {
	interval, err := integer(n.doc, "interval", math.MinInt64, math.MaxInt64)
	if err != nil {
		return Instruction{}, err
	}
	period, err := integer(n.doc, "period", math.MinInt32, math.MaxInt32)
	if err != nil {
		return Instruction{}, err
	}
	return Instruction{
		NodeID: n.ID, NodeType: n.NodeType, CodeHash: n.CodeHash,
		SchemaHash: n.SchemaHash, SchemaCompatID: n.SchemaCompatID,
		Interval: interval, Period: int32(period), Lag: int32(period), Tags: n.Tags,
	}, nil
}

// integer reads a field that must be an integer; null and absent are 0.
func integer(doc pyjson.Value, field string, least, most int64) (int64, error) {
	v := doc.Member(field)
	switch v.Kind() {
	case pyjson.Null:
		return 0, nil
	case pyjson.Int, pyjson.Bool:
		if i, err := pyjson.ToInt(v); err == nil && i >= least && i <= most {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s is %.40s; want an integer from %d to %d, since the node buffers", field, v.Text(), least, most)
}

// findings are what is stored of a diff besides queues: about known nodes, and
// the sentinel of a version that may run.
func findings(x ExecutionContext, g *graph, p *plan, res *Result) Findings {
	f := Findings{At: x.Now}
	for i, s := range p.steps {
		mark := Mark{g.ids[i], g.nodes[i].key}
		if s.bind {
			f.Bound = append(f.Bound, mark)
		}
		if s.buffer {
			f.Buffering = append(f.Buffering, mark)
		}
	}
	if !res.Inserted {
		return f
	}
	var fresh []string
	for _, q := range res.Queues {
		if q.New {
			fresh = append(fresh, q.NodeID)
		}
	}
	f.Sentinel = &Sentinel{ID: res.SentinelID, Version: res.Version, NodeIDs: fresh, At: x.Now}
	return f
}

// conclude makes the result.
func conclude(x ExecutionContext, g *graph, p *plan) *Result {
	r := &Result{
		SentinelID: contract.SentinelID(x.StrategyID),
		Version:    g.version.Label,
		CRC32:      contract.CRC32(g.ids),
		Queues:     make([]Queue, len(g.nodes)),
		Buffer:     p.buffer,
		Context:    g.merged,
	}
	gap := true
	for i, s := range p.steps {
		n := g.nodes[i]
		r.Queues[i] = Queue{n.ID, contract.PartitionKey(n.ID, n.interval, n.bucket, n.key), s.topic, s.fresh}
		gap = gap && !s.fresh
		if s.done {
			r.Registered = append(r.Registered, Registered{n.ID, n.Tags, n.Interval})
		}
	}
	if !g.version.Sentinel || g.merged.SafeMode {
		return r
	}
	r.Inserted, r.Gap = true, gap
	if w := g.version.Weight; w != nil {
		r.Weight = &contract.SentinelWeight{
			SentinelID: r.SentinelID, Weight: *w, SentinelVersion: r.Version, WorldID: g.merged.WorldID,
		}
	}
	return r
}

// registrar gives nodes their queues: it claims a name for each in the store,
// makes the topics, and confirms. Whoever meets a claim that is not confirmed
// completes it, so that a diff that dies in between harms nobody, and two diffs
// of one node end at one topic, whichever process they run in.
type registrar struct {
	*graph
	nodes  Nodes
	topics Topics
	legacy map[string]bool // topics that were chosen because they are named after code
}

// attempts bounds how often a diff begins anew because a claim that it was
// completing was given up, or a name turned out to be somebody else's.
const attempts = 8

func (r *registrar) register(ctx context.Context, p *plan) error {
	var open []int
	for i, s := range p.steps {
		if s.claim {
			open = append(open, i)
		}
	}
	if len(open) == 0 {
		return nil
	}
	if err := r.topics.Refresh(ctx); err != nil {
		return err
	}
	for range attempts {
		err := r.try(ctx, p, open)
		if r.again(err) {
			continue
		}
		for _, at := range open { // what another diff completed is not new by this one
			p.steps[at].fresh = p.steps[at].fresh && p.steps[at].done
		}
		return err
	}
	return fmt.Errorf("nodes of this DAG changed %d times while they were registered: %w", attempts, ErrGone)
}

// again says whether another choice of names may help.
func (r *registrar) again(err error) bool {
	var foreign ForeignError
	return errors.Is(err, ErrGone) || errors.As(err, &foreign) && !r.legacy[foreign.ForeignTopic()]
}

func (r *registrar) try(ctx context.Context, p *plan, open []int) error {
	claims := make([]Claim, len(open))
	for i, at := range open {
		claims[i] = r.claim(r.graph.nodes[at])
	}
	got, err := r.nodes.Claim(ctx, claims)
	if err != nil {
		return err
	}
	// What was begun is brought to an end: a client that leaves must not keep
	// others from the nodes that it shares with them.
	ctx = context.WithoutCancel(ctx)
	if err := r.ensure(ctx, open, got); err != nil {
		return errors.Join(err, r.nodes.Release(ctx, won(got)))
	}
	done, err := r.confirm(ctx, got)
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	for i, at := range open {
		s := &p.steps[at]
		s.topic = got[i].Binding.Topic
		s.done = s.done || done[i]
	}
	return err
}

// confirm makes queues ready that are not, and says of each whether this call
// did it.
func (r *registrar) confirm(ctx context.Context, got []Claimed) ([]bool, error) {
	var claims []Claimed
	var at []int
	for i, c := range got {
		if !c.Binding.Ready {
			claims, at = append(claims, c), append(at, i)
		}
	}
	done := make([]bool, len(got))
	if len(claims) == 0 {
		return done, nil
	}
	fresh, err := r.nodes.Confirm(ctx, claims)
	for i, f := range fresh {
		done[at[i]] = f
	}
	return done, err
}

// ensure makes the topics of queues that are not ready.
func (r *registrar) ensure(ctx context.Context, open []int, got []Claimed) error {
	var wanted []Topic
	for i, c := range got {
		if !c.Binding.Ready {
			wanted = append(wanted, Topic{c.Binding.Topic, KindOf(r.graph.nodes[open[i]].NodeType)})
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return r.topics.Ensure(ctx, wanted)
}

func won(got []Claimed) []Claimed {
	return slices.DeleteFunc(slices.Clone(got), func(c Claimed) bool { return !c.Won })
}

func (r *registrar) claim(n *node) Claim {
	spec := contract.TopicSpec{
		Asset:     contract.AssetOf(n.tags),
		NodeType:  n.NodeType,
		NodeID:    n.ID,
		Version:   r.version.Label,
		CodeHash:  n.CodeHash,
		Namespace: r.namespace,
	}
	kind := KindOf(n.NodeType)
	return Claim{
		Node:       n.Node,
		ComputeKey: n.key,
		Namespace:  r.namespace,
		Choose: func(owned func(string) bool) (string, error) {
			return r.choose(spec, owned, func(name string) Fit { return r.topics.Fit(Topic{name, kind}) })
		},
	}
}

// legacyNames are those of the spec, none when no topic begins like one of them:
// there are dozens of names, and hardly ever such a topic.
func (r *registrar) legacyNames(spec contract.TopicSpec) iter.Seq[string] {
	if namespaced, plain, ok := spec.LegacyStems(); ok && !r.topics.Begins(namespaced) && !r.topics.Begins(plain) {
		return func(func(string) bool) {}
	}
	return spec.LegacyNames()
}

// choose names a topic: one that was named after the code of the node and that
// no node owns, else the shortest name that no node owns. A topic that exists
// under that name, in our shape and owned by nobody, is the one that an earlier
// life of this node left behind; in another shape it is somebody else's.
func (r *registrar) choose(spec contract.TopicSpec, owned func(string) bool, fit func(string) Fit) (string, error) {
	for name := range r.legacyNames(spec) {
		if fit(name) != Absent && !owned(name) {
			r.legacy[name] = true
			return name, nil
		}
	}
	for name := range spec.Names() {
		if !owned(name) && fit(name) != Foreign {
			return name, nil
		}
	}
	return "", &InputError{Reason: ReasonNoTopicName, NodeID: spec.NodeID, Err: contract.ErrNoTopicName}
}
