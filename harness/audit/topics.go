package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// node is what the topic of a node is named after.
type node struct{ id, kind string }

// shortest is how many characters of a node's digest a topic name has at least
// (dagmanager.md 3.3).
const shortest = 8

func listTopics(ctx context.Context, admin *kadm.Client) ([]string, error) {
	all, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	return all.Names(), nil
}

// nodesOf lists the nodes of a stored DAG that have a topic: all but sentinels.
func nodesOf(dag pyjson.Value) []node {
	var out []node
	for _, v := range dag.Member("nodes").Elems() {
		n := node{id: strings.Clone(str(v.Member("node_id"))), kind: strings.Clone(str(v.Member("node_type")))}
		if n.id != "" && n.kind != contract.SentinelType {
			out = append(out, n)
		}
	}
	return out
}

func (b *book) intern(n node) int32 {
	i, ok := b.nodeIndex[n]
	if !ok {
		i = int32(len(b.nodes))
		b.nodes = append(b.nodes, n)
		b.nodeIndex[n] = i
	}
	return i
}

func (n node) digest() string {
	if prefix, rest, ok := strings.Cut(n.id, ":"); ok && strings.EqualFold(prefix, "blake3") && rest != "" {
		return rest
	}
	return n.id
}

// likeness is what nodes share that could bear each other's topic names.
type likeness struct{ kind, short string }

func (n node) likeness() likeness {
	d := n.digest()
	return likeness{n.kind, d[:min(len(d), shortest)]}
}

// weighTopics asks that each node has exactly one topic, or one in each
// namespace where it has any, and tells how many topics are the nodes'.
func (b *book) weighTopics(wanted []int32, topics []string) int {
	alike := map[likeness][]node{}
	for _, i := range wanted {
		n := b.nodes[i]
		alike[n.likeness()] = append(alike[n.likeness()], n)
	}
	found := map[likeness]map[string][]string{} // by namespace
	total := 0
	for _, t := range topics {
		l, namespace, ok := place(t, alike)
		if !ok {
			continue
		}
		if found[l] == nil {
			found[l] = map[string][]string{}
		}
		found[l][namespace] = append(found[l][namespace], t)
		total++
	}
	for l, ns := range alike {
		b.weighNodes(ns, found[l])
	}
	return total
}

// place finds the nodes that a topic may be of: one token of its name is the
// beginning of their digest, and the node type stands before it.
func place(topic string, alike map[likeness][]node) (l likeness, namespace string, ok bool) {
	for at, token := range tokens(topic) {
		if len(token) < shortest {
			continue
		}
		head := topic[:at]
		for _, kind := range kindsBefore(head) {
			l = likeness{kind, token[:shortest]}
			if slices.ContainsFunc(alike[l], func(n node) bool { return strings.HasPrefix(n.digest(), token) }) {
				asset := strings.TrimSuffix(head, "_"+kind+"_")
				return l, asset[:max(0, strings.LastIndexByte(asset, '.'))], true
			}
		}
	}
	return likeness{}, "", false
}

// tokens gives the parts between underscores with where each begins.
func tokens(s string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		for at := 0; at <= len(s); {
			token, _, _ := strings.Cut(s[at:], "_")
			if !yield(at, token) {
				return
			}
			at += len(token) + 1
		}
	}
}

// kindsBefore gives every node type that head, "asset_type_", may end in. A
// node type may hold underscores of its own.
func kindsBefore(head string) (kinds []string) {
	body := strings.TrimSuffix(head, "_")
	for i := len(body) - 1; i >= 0; i-- {
		if body[i] == '_' {
			kinds = append(kinds, body[i+1:])
		}
	}
	return kinds
}

// weighNodes compares nodes that share the beginning of their digest with the
// topics named after it. Almost always this is one node. A topic that was there
// before the load serves its node, but is no duplicate: a SUT that starts anew
// on old servers may have to name its topics around it.
func (b *book) weighNodes(nodes []node, byNamespace map[string][]string) {
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.id, b.id) })
	for namespace, topics := range byNamespace {
		topics = slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return b.before.topics[t] })
		if len(topics) > len(nodes) {
			slices.Sort(topics)
			b.duplicates = append(b.duplicates, finding(nodes[0].id, "%d topics%s for %d node(s): %s",
				len(topics), in(namespace), len(nodes), strings.Join(topics, ", ")))
		}
	}
	for _, n := range nodes {
		if !hasTopic(n, byNamespace) {
			b.lost = append(b.lost, finding(n.id, "node of an acknowledged submission, but no topic is named after it"))
		}
	}
}

func in(namespace string) string {
	if namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %s", namespace)
}

func hasTopic(n node, byNamespace map[string][]string) bool {
	for _, topics := range byNamespace {
		for _, t := range topics {
			for _, token := range tokens(t) {
				if len(token) >= shortest && strings.HasPrefix(n.digest(), token) {
					return true
				}
			}
		}
	}
	return false
}
