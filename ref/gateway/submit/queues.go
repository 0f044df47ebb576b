package submit

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// QueueMap is the queue_map of an answer: queues by node, in the order in which
// the nodes first appeared.
type QueueMap []NodeQueues

// NodeQueues are the queues of one node, each name once.
type NodeQueues struct {
	NodeID string
	Queues []contract.QueueRef
}

// at gives the entry of a node, a new one when there is none.
func (q *QueueMap) at(nodeID string) *NodeQueues {
	for i := range *q {
		if (*q)[i].NodeID == nodeID {
			return &(*q)[i]
		}
	}
	*q = append(*q, NodeQueues{NodeID: nodeID})
	return &(*q)[len(*q)-1]
}

// add appends queues whose name is not there yet.
func (n *NodeQueues) add(queues ...contract.QueueRef) {
	for _, q := range queues {
		if !slices.ContainsFunc(n.Queues, func(have contract.QueueRef) bool { return have.Queue == q.Queue }) {
			n.Queues = append(n.Queues, q)
		}
	}
}

func (q QueueMap) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for i, n := range q {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(pyjson.Append(dst, pyjson.OfString(n.NodeID), pyjson.Compact), ':')
		dst = AppendQueues(dst, n.Queues)
	}
	return append(dst, '}')
}

// AppendQueues writes queues as a JSON array of {"queue":…,"global":…}.
func AppendQueues(dst []byte, queues []contract.QueueRef) []byte {
	dst = append(dst, '[')
	for i, q := range queues {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"queue":`...)
		dst = pyjson.Append(dst, pyjson.OfString(q.Queue), pyjson.Compact)
		dst = append(dst, `,"global":`...)
		dst = append(strconv.AppendBool(dst, q.Global), '}')
	}
	return append(dst, ']')
}

// lookup answers one tag query for one world.
type lookup func(ctx context.Context, q contract.TagQuery, world, domain string) ([]contract.QueueRef, error)

// maxLookups bounds how many lookups of one submission run at once.
const maxLookups = 16

// resolve looks up the queues of every TagQuery node in every world, at once
// and within limit (gateway.md 2.10). A failed lookup contributes nothing; its
// node is there all the same.
func resolve(ctx context.Context, limit time.Duration, nodes []pyjson.Value, worlds []string, domain string, ask lookup) QueueMap {
	type found struct {
		node   string
		queues []contract.QueueRef
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxLookups)
	var results []*found
	for _, n := range nodes {
		q, ok := query(n)
		if !ok {
			continue
		}
		id, _ := n.Member("node_id").Str()
		for _, world := range worlds {
			f := &found{node: id}
			results = append(results, f)
			group.Go(func() error {
				f.queues, _ = ask(ctx, q, world, domain) // no answer is an empty one
				return nil
			})
		}
	}
	_ = group.Wait() // the lookups give no errors
	var all QueueMap
	for _, f := range results {
		all.at(f.node).add(f.queues...)
	}
	return all
}

// query gives the tag query of a node that can be looked up.
func query(n pyjson.Value) (contract.TagQuery, bool) {
	if kind, _ := n.Member("node_type").Str(); kind != contract.TagQueryType {
		return contract.TagQuery{}, false
	}
	if id, _ := n.Member("node_id").Str(); id == "" {
		return contract.TagQuery{}, false
	}
	q, err := contract.TagQueryOf(n)
	return q, err == nil && len(q.Missing()) == 0
}

// fromDiff gives the queues that a diff of one world bound: topics by node, in
// the order of their keys, under the namespace of the reply.
func fromDiff(reply *DiffReply, namespace string, into *QueueMap) {
	for _, key := range slices.Sorted(maps.Keys(reply.QueueMap)) {
		topic := contract.EnsureNamespace(reply.QueueMap[key], namespace)
		into.at(contract.NodeIDOfPartitionKey(key)).add(contract.QueueRef{Queue: topic})
	}
}
