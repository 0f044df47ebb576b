package rebalance

import (
	"math"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// A delta is how much of a symbol a plan wants more, or less.
type delta struct {
	symbol string
	qty    float64
	venue  *string // nil: none
}

// An Order is one order to a broker (controlbus.md 5.7).
type Order struct {
	Symbol     string
	Quantity   float64 // negative: sell
	Venue      *string // nil: none
	ReduceOnly bool
}

// Value is the order as answers and records have it.
func (o Order) Value() pyjson.Value {
	side := "buy"
	if o.Quantity < 0 {
		side = "sell"
	}
	members := []pyjson.Member{
		{Key: "symbol", Value: pyjson.OfString(o.Symbol)}, {Key: "quantity", Value: pyjson.OfFloat(o.Quantity)},
		{Key: "side", Value: pyjson.OfString(side)}, {Key: "time_in_force", Value: pyjson.OfString("GTC")},
	}
	if o.Venue != nil {
		members = append(members, pyjson.Member{Key: "venue", Value: pyjson.OfString(*o.Venue)})
	}
	if o.ReduceOnly {
		members = append(members, pyjson.Member{Key: "reduce_only", Value: pyjson.OfBool(true)})
	}
	return pyjson.OfObject(members...)
}

func values(orders []Order) pyjson.Value {
	all := make([]pyjson.Value, len(orders))
	for i, o := range orders {
		all[i] = o.Value()
	}
	return pyjson.OfArray(all...)
}

// place is a symbol at a venue; at "" with anywhere it is the symbol at any.
type place struct {
	venue    string
	anywhere bool
	symbol   string
}

func at(venue *string, symbol string) place {
	if venue == nil {
		return place{anywhere: true, symbol: symbol}
	}
	return place{venue: *venue, symbol: symbol}
}

// marks are the prices to value a symbol with.
type marks map[place]float64

// known gives the places to look for a mark in, the best first.
func known(venue *string, symbol string) []place {
	anywhere := place{anywhere: true, symbol: symbol}
	if venue == nil || *venue == "" {
		return []place{anywhere}
	}
	return []place{{venue: *venue, symbol: symbol}, {venue: pyjson.Lower(*venue), symbol: symbol}, anywhere}
}

// first gives the mark of the best place that has one.
func (m marks) first(venue *string, symbol string) float64 {
	for _, p := range known(venue, symbol) {
		if mark, ok := m[p]; ok {
			return mark
		}
	}
	return 0
}

// positive gives the mark of the best place that has one above zero.
func (m marks) positive(venue *string, symbol string) (float64, bool) {
	for _, p := range known(venue, symbol) {
		if mark := m[p]; mark > 0 {
			return mark, true
		}
	}
	return 0, false
}

// limits are what keeps small orders back.
type limits struct {
	lots        map[string]float64 // by symbol
	minNotional float64
}

// slack forgives what floating point loses.
const slack = 1e-12

// order makes the order of a delta; false when it is too small, or cannot be
// valued though it must be.
func (l limits) order(d delta, m marks) (Order, bool) {
	qty := l.wholeLots(d.symbol, d.qty)
	if qty == 0 || !l.large(qty, d, m) {
		return Order{}, false
	}
	return Order{Symbol: d.symbol, Quantity: qty, Venue: d.venue, ReduceOnly: qty < 0}, true
}

func (l limits) wholeLots(symbol string, qty float64) float64 {
	lot := l.lots[symbol]
	if lot <= 0 || qty == 0 {
		return qty
	}
	return math.Copysign(math.Floor(math.Abs(qty)/lot+slack)*lot, qty)
}

func (l limits) large(qty float64, d delta, m marks) bool {
	if l.minNotional <= 0 {
		return true
	}
	mark := m.first(d.venue, d.symbol)
	return mark > 0 && math.Abs(qty)*mark+slack >= l.minNotional
}

func (l limits) orders(deltas []delta, m marks) []Order {
	all := []Order{}
	for _, d := range deltas {
		if o, ok := l.order(d, m); ok {
			all = append(all, o)
		}
	}
	return all
}

// snapshot gives the mean mark of every symbol, at its venue and at any, for each
// world and for all together. A position without venue counts twice at any, as
// in the original (gateway.md section 9).
func snapshot(positions []position) (byWorld map[string]marks, all marks) {
	worlds, global := map[string]means{}, means{}
	for _, p := range positions {
		if !(p.mark > 0) {
			continue
		}
		if worlds[p.world] == nil {
			worlds[p.world] = means{}
		}
		for _, into := range []means{worlds[p.world], global} {
			into.add(at(p.venue, p.symbol), p.mark)
			into.add(at(nil, p.symbol), p.mark)
		}
	}
	byWorld = map[string]marks{}
	for world, m := range worlds {
		byWorld[world] = m.marks()
	}
	return byWorld, global.marks()
}

type mean struct {
	sum float64
	n   int
}

type means map[place]*mean

func (m means) add(p place, mark float64) {
	if m[p] == nil {
		m[p] = &mean{}
	}
	m[p].sum += mark
	m[p].n++
}

func (m means) marks() marks {
	all := make(marks, len(m))
	for p, one := range m {
		all[p] = one.sum / float64(one.n)
	}
	return all
}

// A share is what a strategy has of a delta.
type share struct {
	strategy string
	delta    delta
}

// allocate splits the deltas of a world among its strategies by what they hold;
// what nobody holds is bought in the proportions of fallback, if there is any.
func allocate(world string, deltas []delta, positions []position, fallback pyjson.Value) []share {
	held := map[place]*weights{}
	for _, p := range positions {
		if p.world != world {
			continue
		}
		key := at(p.venue, p.symbol)
		if held[key] == nil {
			held[key] = &weights{}
		}
		held[key].add(p.strategy, math.Abs(p.qty*p.mark))
	}
	var all []share
	for _, d := range deltas {
		w := held[at(d.venue, d.symbol)]
		if w == nil || w.total() <= 0 {
			w = desired(d, fallback)
		}
		all = append(all, w.split(d)...)
	}
	return all
}

// desired are the weights to open a position with.
func desired(d delta, fallback pyjson.Value) *weights {
	w := &weights{}
	if d.qty > 0 {
		for _, m := range fallback.Members() {
			w.add(m.Key, max(0, number(m.Value)))
		}
	}
	return w
}

// weights of strategies, in the order in which they came.
type weights struct {
	order []string
	of    map[string]float64
}

func (w *weights) add(strategy string, weight float64) {
	if w.of == nil {
		w.of = map[string]float64{}
	}
	if _, again := w.of[strategy]; !again {
		w.order = append(w.order, strategy)
	}
	w.of[strategy] += weight
}

func (w *weights) total() (sum float64) {
	for _, strategy := range w.order {
		sum += w.of[strategy]
	}
	return sum
}

func (w *weights) split(d delta) (all []share) {
	total := w.total()
	if total <= 0 {
		return nil
	}
	for _, strategy := range w.order {
		if qty := d.qty * (w.of[strategy] / total); qty != 0 {
			all = append(all, share{strategy, delta{d.symbol, qty, d.venue}})
		}
	}
	return all
}
