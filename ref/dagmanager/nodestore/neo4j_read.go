package nodestore

import (
	"cmp"
	"slices"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// vertex is a ComputeNode with its queues, as the database has it.
type vertex struct {
	node    *diff.Node
	queues  []queue // in the order of node.Bindings
	emits   int64   // ordinal of the next queue that becomes ready
	ordinal int64   // of the next binding
	missing params  // what is stored of the node when it is made; nil for one that is there
}

// queue is what the database keeps of a binding besides the binding.
type queue struct {
	diff.Binding
	ordinal     int64
	emitted     int64  // place among the node's ready queues
	claimedBy   string // token of the call that made it
	confirmedBy string // token of the call that made it ready
}

// readVertex reads a row of lookupQuery. Others may have written it: what is not
// of the type that we expect counts as absent.
func readVertex(r row) *vertex {
	props, _ := r["node"].(row)
	n := &diff.Node{
		ID:             textOf(props, "node_id"),
		NodeType:       textOf(props, "node_type"),
		CodeHash:       textOf(props, "code_hash"),
		SchemaHash:     textOf(props, "schema_hash"),
		SchemaCompatID: textOf(props, "schema_compat_id"),
		Interval:       numberOf(props, "interval"),
		Period:         numberOf(props, "period"),
		Bucket:         numberOf(props, "bucket"),
		Tags:           textsOf(props, "tags"),
		ComputeKeys:    textsOf(props, "compute_keys"),
	}
	if n.SchemaCompatID == "" {
		n.SchemaCompatID = textOf(props, "schema_id")
	}
	n.Global, _ = props["global"].(bool)
	v := &vertex{node: n}
	list, _ := r["queues"].([]any)
	for _, item := range list {
		q, _ := item.(row)
		v.read(q)
	}
	v.order()
	return v
}

// read takes one queue. Those without a compute key are not ours; the last one
// is the node's queue, as it is for other readers of the graph.
func (v *vertex) read(r row) {
	claim, _ := r["claim"].(bool)
	if _, ours := r["compute_key"].(string); ours {
		v.queues = append(v.queues, queue{
			Binding: diff.Binding{
				ComputeKey: textOf(r, "compute_key"), CodeHash: textOf(r, "code_hash"), SchemaHash: textOf(r, "schema_hash"),
				Topic: textOf(r, "topic"), Ready: !claim,
			},
			ordinal: integerOf(r, "ordinal"), emitted: integerOf(r, "emitted"),
			claimedBy: textOf(r, "claimed_by"), confirmedBy: textOf(r, "confirmed_by"),
		})
		return
	}
	if topic, named := r["topic"].(string); named && !claim {
		v.node.Topic, v.node.HasQueue = topic, true
		if interval := numberOf(r, "interval"); interval != nil {
			v.node.Interval = interval
		}
	}
}

// order puts the bindings in order and finds the node's first queue: what others
// wrote was there before a diff came by, then the one that was ready first.
func (v *vertex) order() {
	slices.SortFunc(v.queues, func(a, b queue) int { return cmp.Compare(a.ordinal, b.ordinal) })
	var first *queue
	for i := range v.queues {
		q := &v.queues[i]
		v.ordinal = max(v.ordinal, q.ordinal+1)
		v.node.Bindings = append(v.node.Bindings, q.Binding)
		if !q.Ready {
			continue
		}
		v.emits = max(v.emits, q.emitted+1)
		if first == nil || q.emitted < first.emitted {
			first = q
		}
	}
	if !v.node.HasQueue && first != nil {
		v.node.Topic, v.node.HasQueue = first.Topic, true
	}
}

func (v *vertex) find(topic string) *queue {
	if v == nil {
		return nil
	}
	for i := range v.queues {
		if v.queues[i].Topic == topic {
			return &v.queues[i]
		}
	}
	return nil
}

func textOf(r row, key string) string {
	s, _ := r[key].(string)
	return s
}

func integerOf(r row, key string) int64 {
	i, _ := r[key].(int64)
	return i
}

func numberOf(r row, key string) *int64 {
	if i, ok := r[key].(int64); ok {
		return &i
	}
	return nil
}

func textsOf(r row, key string) []string {
	list, _ := r[key].([]any)
	out := make([]string, 0, len(list))
	for _, item := range list {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
