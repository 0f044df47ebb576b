package dag

// Order gives the places of nodes in the order in which a diff walks them: a
// node behind all of its inputs, those that become ready first first, in
// document order where several do at once. inputs gives the ids that node i
// reads, repeated ones count once. When an input is no node of the DAG, or
// nodes read in a circle, the document order stands for all (dagmanager.md 2.2).
//
// The ids are in document order and unique. The time is linear in nodes and
// inputs.
func Order(ids []string, inputs func(i int) []string) []int {
	g, ok := newGraph(ids, inputs)
	order := make([]int, 0, len(ids))
	for i, n := range g.waiting {
		if n == 0 {
			order = append(order, i)
		}
	}
	for next := 0; next < len(order); next++ {
		for _, child := range g.children[order[next]] {
			if g.waiting[child]--; g.waiting[child] == 0 {
				order = append(order, child)
			}
		}
	}
	if !ok || len(order) < len(ids) {
		order = order[:0]
		for i := range ids {
			order = append(order, i)
		}
	}
	return order
}

type graph struct {
	waiting  []int   // by node: how many inputs are not walked yet
	children [][]int // by node: who reads it, in document order
}

// newGraph is not ok when an input is no node.
func newGraph(ids []string, inputs func(i int) []string) (g graph, ok bool) {
	place := make(map[string]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	g = graph{make([]int, len(ids)), make([][]int, len(ids))}
	seen := make([]int, len(ids)) // by node: the last reader, counted from 1
	ok = true
	for i := range ids {
		for _, id := range inputs(i) {
			from, known := place[id]
			if !known {
				ok = false
				continue
			}
			if seen[from] == i+1 {
				continue
			}
			seen[from] = i + 1
			g.waiting[i]++
			g.children[from] = append(g.children[from], i)
		}
	}
	return g, ok
}
