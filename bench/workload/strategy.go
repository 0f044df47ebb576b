package workload

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// sampleSingle and sampleWorlds are the nodes of the sample payloads of
// gateway.md 6.1 and 6.2.
const (
	sampleSingle = `[{"node_id":"blake3:d40ad59b9297cbcc27c78932fb1dbad40eca3eabf4e5cf36b178c11417f4be5c","node_type":"IndicatorNode","interval":60,"period":5,"params":{"window":5},"dependencies":[],"schema_compat_id":"ind-major","code_hash":"code-ind","config_hash":"cfg-ind","schema_hash":"sch-ind"}]`
	sampleWorlds = `[{"node_id":"blake3:46d729dc5b96bcedde0488249cea44ce6e27a1a4f794e1f42b3e807adf51af9e","node_type":"TagQueryNode","interval":60,"period":0,"params":{"query_tags":["btc","price"],"match_mode":"any","interval":60},"dependencies":[],"inputs":[],"tags":["btc","price"],"match_mode":"any","schema_compat_id":"tag-major","schema_hash":"tag-s","code_hash":"tag-c","config_hash":"tag-cfg"},` +
		`{"node_id":"blake3:67c0ba59bbec1fa544dac0a1b827691d7bc319e7282a6ad83800f6a5b0a6384b","node_type":"IndicatorNode","interval":60,"period":5,"params":{"window":5},"dependencies":["blake3:46d729dc5b96bcedde0488249cea44ce6e27a1a4f794e1f42b3e807adf51af9e"],"inputs":["blake3:46d729dc5b96bcedde0488249cea44ce6e27a1a4f794e1f42b3e807adf51af9e"],"schema_compat_id":"ind-major","schema_hash":"ind-s","code_hash":"ind-c","config_hash":"ind-cfg","tags":[]}]`
)

// sample is a fixed list of nodes.
type sample struct {
	nodes   []*node
	queries []string // ids of its TagQuery nodes
}

func newSample(text string) (sample, error) {
	v, err := pyjson.ParseString(text)
	if err != nil {
		return sample{}, fmt.Errorf("sample: %w", err)
	}
	var s sample
	for _, e := range v.Elems() {
		id, err := contract.NodeID(e)
		if err != nil {
			return sample{}, fmt.Errorf("sample: %w", err)
		}
		n := dressed(id, nil, e)
		s.nodes = append(s.nodes, &n)
		if t, ok := e.Get("node_type"); ok && t.Text() == contract.TagQueryType {
			s.queries = append(s.queries, id)
		}
	}
	return s, nil
}

// nodesOf returns the nodes of the strategy that index i is the first to
// submit, in the order in which a DAG Manager walks them.
func (w *Workload) nodesOf(i int64, class string) ([]*node, error) {
	switch class {
	case Single:
		return w.single.nodes, nil
	case Worlds:
		return w.worlds.nodes, nil
	}
	d := drawFor(w.seed, i, forStrategy)
	picked := w.catalogue.pick(&d)
	var private *node
	if d.share() < w.private {
		// The last node feeds none of the others, so it can make room.
		picked = picked[:min(len(picked), mostNodes-1)]
		n, err := w.privateNode(i, picked[d.below(len(picked))])
		if err != nil {
			return nil, err
		}
		private = &n
	}
	return w.arrange(picked, private), nil
}

// privateNode is a node that only the strategy of index i has.
func (w *Workload) privateNode(i int64, input int) (node, error) {
	inputs := w.catalogue.ids([]int{input})
	key := w.key(i)
	return newNode([]int{input},
		member("node_type", pyjson.OfString("CustomNode")),
		member("name", pyjson.OfString("custom_"+key)),
		member("interval", pyjson.OfInt(60)),
		member("period", pyjson.OfInt(1)),
		member("params", pyjson.OfObject(member("owner", pyjson.OfString(key)), member("scale", pyjson.OfFloat(1e-05)))),
		member("dependencies", inputs),
		member("inputs", inputs),
		member("tags", pyjson.OfArray(pyjson.OfString("custom"))),
		member("schema_compat_id", pyjson.OfString("custom-major")),
		member("code_hash", pyjson.OfString("code-"+key)),
		member("config_hash", pyjson.OfString("cfg-custom")),
		member("schema_hash", pyjson.OfString("sch-custom")),
	)
}

// arrange returns the picked nodes and the private one, if any, in order.
func (w *Workload) arrange(picked []int, private *node) []*node {
	all := make([]*node, len(picked), len(picked)+1)
	for k, at := range picked {
		all[k] = &w.catalogue.nodes[at]
	}
	if private != nil {
		all = append(all, private)
	}
	out := make([]*node, len(all))
	for k, at := range order(len(all), func(k int) uint32 { return among(picked, all[k].inputs) }) {
		out[k] = all[at]
	}
	return out
}

// among has a bit for the place of each of inputs in picked; both ascend.
func among(picked, inputs []int) (bits uint32) {
	k := 0
	for _, in := range inputs {
		for picked[k] != in {
			k++
		}
		bits |= 1 << k
	}
	return bits
}

// appendDAG writes the DAG of nodes under key. In the other dress it is the
// same DAG by gateway.md 2.6, though hardly a byte is the same.
func appendDAG(dst []byte, key string, nodes []*node, other bool) []byte {
	if !other {
		dst = append(dst, `{"schema_version":"v1","`+load.KeyField+`":"`...)
		dst = append(dst, key...)
		dst = append(dst, `","nodes":[`...)
		for k, n := range nodes {
			if k > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, n.plain...)
		}
		return append(dst, `]}`...)
	}
	dst = append(dst, `{ "nodes": [`...)
	for k, n := range nodes {
		if k > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, n.other...)
	}
	dst = append(dst, `], "`+load.KeyField+`": "`...)
	dst = append(dst, key...)
	return append(dst, `", "schema_version": "v1" }`...)
}

// appendBase64 writes text as a JSON string of its base64.
func appendBase64(dst, text []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, text)
	return append(dst, '"')
}

// appendText writes text, which is JSON and so has no control characters
// outside of escapes, as a JSON string.
func appendText(dst, text []byte) []byte {
	dst = append(dst, '"')
	for len(text) > 0 {
		k := bytes.IndexAny(text, `"\`)
		if k < 0 {
			dst = append(dst, text...)
			break
		}
		dst = append(dst, text[:k]...)
		dst = append(dst, '\\', text[k])
		text = text[k+1:]
	}
	return append(dst, '"')
}
