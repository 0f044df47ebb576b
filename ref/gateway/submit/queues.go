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
// the nodes first appeared. The zero value is empty.
type QueueMap struct {
	nodes []nodeQueues
	place map[string]int // of a node in nodes
}

// nodeQueues are the queues of one node, each name once.
type nodeQueues struct {
	id     string
	queues []contract.QueueRef
}

// at gives the entry of a node, a new one when there is none. It is valid until
// the next call.
func (q *QueueMap) at(nodeID string) *nodeQueues {
	i, ok := q.place[nodeID]
	if !ok {
		if q.place == nil {
			q.place = map[string]int{}
		}
		i = len(q.nodes)
		q.place[nodeID] = i
		q.nodes = append(q.nodes, nodeQueues{id: nodeID})
	}
	return &q.nodes[i]
}

// add appends queues whose name is not there yet.
func (n *nodeQueues) add(queues ...contract.QueueRef) {
	for _, q := range queues {
		if !slices.ContainsFunc(n.queues, func(have contract.QueueRef) bool { return have.Queue == q.Queue }) {
			n.queues = append(n.queues, q)
		}
	}
}

func (q QueueMap) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for i, n := range q.nodes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(pyjson.Append(dst, pyjson.OfString(n.id), pyjson.Compact), ':')
		dst = AppendQueues(dst, n.queues)
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
	var asked []*found
	for _, n := range nodes {
		if q, ok := query(n); ok {
			id, _ := n.Member("node_id").Str()
			for _, world := range worlds {
				asked = append(asked, &found{node: id, query: q, world: world})
			}
		}
	}
	var all QueueMap
	if asked == nil {
		return all
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxLookups)
	for _, f := range asked {
		group.Go(func() error {
			f.queues, _ = ask(ctx, f.query, f.world, domain) // no answer is an empty one
			return nil
		})
	}
	_ = group.Wait() // the lookups give no errors
	for _, f := range asked {
		all.at(f.node).add(f.queues...)
	}
	return all
}

// found is one lookup and its answer.
type found struct {
	node   string
	query  contract.TagQuery
	world  string
	queues []contract.QueueRef
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
