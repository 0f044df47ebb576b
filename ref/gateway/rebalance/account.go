package rebalance

import (
	"fmt"
	"math"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Account is the policy for orders that several worlds share an account for;
// nil limits nothing.
type Account struct {
	Enabled     bool
	MaxGross    *float64 // notional
	MaxNet      *float64 // notional
	MinHeadroom *float64 // share of the equity that is not at risk
}

// exposure is what orders would do to an account.
type exposure struct {
	equity   float64
	current  *float64 // net notional before; nil: not known
	gross    float64
	delta    float64 // net notional of the orders
	unvalued []Order
}

// expose values orders.
func expose(orders []Order, m marks, equity float64, current *float64) exposure {
	e := exposure{equity: equity, current: current}
	for _, o := range orders {
		mark, ok := m.positive(o.Venue, o.Symbol)
		switch {
		case o.Quantity == 0:
		case !ok:
			e.unvalued = append(e.unvalued, o)
		default:
			e.gross += math.Abs(o.Quantity) * mark
			e.delta += o.Quantity * mark
		}
	}
	return e
}

func (e exposure) net() float64 {
	if e.current == nil {
		return math.Abs(e.delta)
	}
	return math.Abs(*e.current + e.delta)
}

func (e exposure) headroom() float64 {
	if e.equity <= 0 {
		return 0
	}
	return max(0, 1-e.net()/e.equity)
}

// context tells the figures behind a decision.
func (e exposure) context() pyjson.Value {
	members := []pyjson.Member{{Key: "total_equity", Value: pyjson.OfFloat(e.equity)}}
	if e.current != nil {
		members = append(members, pyjson.Member{Key: "current_net_notional", Value: pyjson.OfFloat(math.Abs(*e.current))})
	}
	members = append(members,
		pyjson.Member{Key: "gross_notional", Value: pyjson.OfFloat(e.gross)},
		pyjson.Member{Key: "net_notional_delta", Value: pyjson.OfFloat(math.Abs(e.delta))},
		pyjson.Member{Key: "net_notional", Value: pyjson.OfFloat(e.net())},
		pyjson.Member{Key: "margin_headroom", Value: pyjson.OfFloat(e.headroom())})
	if len(e.unvalued) > 0 {
		var missing []pyjson.Value
		for _, o := range e.unvalued {
			missing = append(missing, pyjson.OfObject(
				pyjson.Member{Key: "symbol", Value: nullable(o.Symbol)}, pyjson.Member{Key: "venue", Value: venueOf(o.Venue)}))
		}
		members = append(members, pyjson.Member{Key: "missing_marks", Value: pyjson.OfArray(missing...)})
	}
	return pyjson.OfObject(members...)
}

func nullable(s string) pyjson.Value {
	if s == "" {
		return pyjson.Value{}
	}
	return pyjson.OfString(s)
}

func venueOf(v *string) pyjson.Value {
	if v == nil {
		return pyjson.Value{}
	}
	return pyjson.OfString(*v)
}

// tolerance is by how much a limit may be missed.
const tolerance = 1e-9

// refuse says why e is too much, "" when it is not.
func (a Account) refuse(e exposure) string {
	switch net := e.net(); {
	case len(e.unvalued) > 0:
		return "missing mark data for shared-account exposure evaluation"
	case exceeds(e.gross, a.MaxGross):
		return fmt.Sprintf("gross notional %.2f exceeds limit %.2f", e.gross, *a.MaxGross)
	case exceeds(net, a.MaxNet):
		return fmt.Sprintf("net notional %.2f exceeds limit %.2f", net, *a.MaxNet)
	case a.MinHeadroom == nil:
		return ""
	case e.equity <= 0:
		return "margin headroom check requires positive total_equity"
	case e.headroom()+tolerance < *a.MinHeadroom:
		return fmt.Sprintf("margin headroom %.4f below minimum %.4f", e.headroom(), *a.MinHeadroom)
	default:
		return ""
	}
}

func exceeds(value float64, limit *float64) bool { return limit != nil && value-*limit > tolerance }
