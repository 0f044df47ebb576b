package workload

import (
	"fmt"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The catalogue: families of nodes in layers, each node fed by nodes of lower
// layers of its family.
const (
	families  = 25
	perFamily = 20
	templates = families * perFamily

	fewestNodes = 5
	mostNodes   = 20
)

// layers gives the layer of each of a family's nodes.
var layers = [perFamily]int{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4}

// kinds are the node types of the layers. Their names lead to every type of
// topic (dagmanager.md 3.1).
var kinds = [...]string{"PriceStream", "IndicatorNode", "ProcessingNode", "SignalNode", "TradeSignalNode"}

var (
	assets    = [...]string{"btc", "eth", "sol", "xrp", "ada"}
	intervals = [...]int64{60, 300, 900, 3600}
)

// node is one node of a DAG, written out twice.
type node struct {
	id     string
	plain  []byte // compact
	other  []byte // another dress: members reversed, spaced, ASCII only
	inputs []int  // indexes of its inputs among the catalogue's nodes, ascending
}

// newNode writes members, which hold all but the node_id, as a node.
func newNode(inputs []int, members ...pyjson.Member) (node, error) {
	id, err := contract.NodeID(pyjson.OfObject(members...))
	if err != nil {
		return node{}, err
	}
	members = append([]pyjson.Member{{Key: "node_id", Value: pyjson.OfString(id)}}, members...)
	return dressed(id, inputs, pyjson.OfObject(members...)), nil
}

func dressed(id string, inputs []int, v pyjson.Value) node {
	return node{
		id: id, inputs: inputs,
		plain: pyjson.Append(nil, v, pyjson.Compact),
		other: pyjson.Append(nil, reversed(v), pyjson.Spaced|pyjson.ASCII),
	}
}

// reversed turns round the order of members at every depth; arrays stay.
func reversed(v pyjson.Value) pyjson.Value {
	switch v.Kind() {
	case pyjson.Object:
		ms := v.Members()
		out := make([]pyjson.Member, len(ms))
		for i, m := range ms {
			out[len(ms)-1-i] = pyjson.Member{Key: m.Key, Value: reversed(m.Value)}
		}
		return pyjson.OfObject(out...)
	case pyjson.Array:
		elems := v.Elems()
		out := make([]pyjson.Value, len(elems))
		for i, e := range elems {
			out[i] = reversed(e)
		}
		return pyjson.OfArray(out...)
	}
	return v
}

// catalogue holds the nodes that strategies share. An input always has a
// smaller index than the node it feeds.
type catalogue struct {
	nodes   [templates]node
	closure [templates][]int // each node with all that feeds it, ascending
}

func newCatalogue(seed uint64) (*catalogue, error) {
	c := &catalogue{}
	for i := range c.nodes {
		d := drawFor(seed, int64(i), forTemplate)
		inputs := drawInputs(&d, i)
		n, err := newNode(inputs, c.members(&d, i, inputs)...)
		if err != nil {
			return nil, fmt.Errorf("catalogue node %d: %w", i, err)
		}
		c.nodes[i] = n
		c.closure[i] = c.close(i)
	}
	return c, nil
}

// drawInputs picks one node of the layer below and up to two of any lower one.
func drawInputs(d *draw, i int) []int {
	at, base := i%perFamily, i-i%perFamily
	var lower, below []int
	for k, l := range layers[:at] {
		if l < layers[at] {
			lower = append(lower, base+k)
		}
		if l == layers[at]-1 {
			below = append(below, base+k)
		}
	}
	if len(below) == 0 {
		return nil
	}
	chosen := map[int]bool{below[d.below(len(below))]: true}
	for range d.below(3) {
		chosen[lower[d.below(len(lower))]] = true
	}
	var inputs []int
	for _, k := range lower {
		if chosen[k] {
			inputs = append(inputs, k)
		}
	}
	return inputs
}

// members are all of template i but its node_id.
func (c *catalogue) members(d *draw, i int, inputs []int) []pyjson.Member {
	asset, layer := assets[i/perFamily%len(assets)], layers[i%perFamily]
	params := pyjson.OfObject(
		member("window", pyjson.OfInt(int64(5+d.below(200)))),
		member("alpha", pyjson.OfFloat(float64(1+d.below(1000))/1e5)),
		member("source", pyjson.OfString([...]string{"close", "mid", "Δ-volume", "vwap"}[d.below(4)])),
		member("template", pyjson.OfInt(int64(i))),
	)
	ids := c.ids(inputs)
	return []pyjson.Member{
		member("node_type", pyjson.OfString(kinds[layer])),
		member("name", pyjson.OfString(fmt.Sprintf("%s_%s_%03d", asset, kinds[layer], i))),
		member("interval", pyjson.OfInt(intervals[d.below(len(intervals))])),
		member("period", pyjson.OfInt(int64(1+d.below(50)))),
		member("params", params),
		member("dependencies", ids),
		member("inputs", ids),
		member("tags", pyjson.OfArray(pyjson.OfString(asset), pyjson.OfString(fmt.Sprint("layer", layer)))),
		member("schema_compat_id", pyjson.OfString(kinds[layer]+"-major")),
		member("code_hash", pyjson.OfString(fmt.Sprintf("code-%016x", d.next()))),
		member("config_hash", pyjson.OfString(fmt.Sprintf("cfg-%016x", d.next()))),
		member("schema_hash", pyjson.OfString(fmt.Sprintf("sch-%016x", d.next()))),
	}
}

func (c *catalogue) ids(of []int) pyjson.Value {
	out := make([]pyjson.Value, len(of))
	for k, i := range of {
		out[k] = pyjson.OfString(c.nodes[i].id)
	}
	return pyjson.OfArray(out...)
}

// close returns i and everything that feeds it.
func (c *catalogue) close(i int) []int {
	base := i - i%perFamily
	var in [perFamily]bool
	in[i-base] = true
	for _, k := range c.nodes[i].inputs {
		for _, a := range c.closure[k] {
			in[a-base] = true
		}
	}
	var all []int
	for k, yes := range in {
		if yes {
			all = append(all, base+k)
		}
	}
	return all
}

// pick draws the catalogue nodes of one strategy, five to twenty, whole with
// what feeds them, ascending.
func (c *catalogue) pick(d *draw) []int {
	want := fewestNodes + d.below(mostNodes-fewestNodes+1)
	var in [templates]bool
	n := 0
	for tries := 0; n < want; tries++ {
		i := d.below(templates)
		if tries > 40 { // little room is left: a node that nothing feeds
			i -= i % perFamily
			i += d.below(perFamily / 4)
		}
		n += add(&in, c.closure[i], want-n)
	}
	out := make([]int, 0, n)
	for i, yes := range in {
		if yes {
			out = append(out, i)
		}
	}
	return out
}

// add puts the missing ones of set into in, if they are at most room, and
// returns how many they were.
func add(in *[templates]bool, set []int, room int) int {
	missing := 0
	for _, i := range set {
		if !in[i] {
			missing++
		}
	}
	if missing > room {
		return 0
	}
	for _, i := range set {
		in[i] = true
	}
	return missing
}

// order puts nodes into the order in which a DAG Manager walks them
// (dagmanager.md 2.2: Kahn with a first-in first-out ready list), so that its
// checksum over the ids agrees with the submitted one. inputs(k) has a bit for
// each node that feeds node k.
func order(n int, inputs func(k int) uint32) []int {
	var need [mostNodes + 1]uint32
	ready := make([]int, 0, n)
	for k := range n {
		if need[k] = inputs(k); need[k] == 0 {
			ready = append(ready, k)
		}
	}
	for at := 0; at < len(ready); at++ {
		bit := uint32(1) << ready[at]
		for k := range n {
			if need[k]&bit == 0 {
				continue
			}
			if need[k] &^= bit; need[k] == 0 {
				ready = append(ready, k)
			}
		}
	}
	return ready
}

func member(key string, v pyjson.Value) pyjson.Member { return pyjson.Member{Key: key, Value: v} }
