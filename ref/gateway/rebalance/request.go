// Package rebalance turns the rebalancing plans of a WorldService into orders
// and writes them to the commit log: POST /rebalancing/execute (gateway.md 1.12,
// controlbus.md section 5). The arithmetic takes values and gives values.
package rebalance

import (
	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Model is a MultiWorldRebalanceRequest of either version.
func Model() model.Type {
	numbers := model.MapOf(model.Number)
	byStrategy := model.MapOf(numbers)
	optional := func(key string, t model.Type) model.Field {
		return model.Field{Key: key, Type: model.Nullable(t), Optional: true}
	}
	return model.Object(
		model.Field{Key: "total_equity", Type: model.Number},
		model.Field{Key: "world_alloc_before", Type: numbers},
		model.Field{Key: "world_alloc_after", Type: numbers},
		model.Field{Key: "positions", Type: model.ListOf(model.Object(
			model.Field{Key: "world_id", Type: model.Text}, model.Field{Key: "strategy_id", Type: model.Text},
			model.Field{Key: "symbol", Type: model.Text}, model.Field{Key: "qty", Type: model.Number}, model.Field{Key: "mark", Type: model.Number},
			optional("venue", model.Text),
		))},
		optional("strategy_alloc_before_total", byStrategy),
		optional("strategy_alloc_after_total", byStrategy),
		optional("min_trade_notional", model.Number),
		optional("lot_size_by_symbol", numbers),
		optional("mode", model.Text),
		optional("overlay", model.Object(
			optional("instrument_by_world", model.MapOf(model.Text)),
			optional("price_by_symbol", numbers),
			optional("min_order_notional", model.Number),
		)),
		optional("schema_version", model.AtLeast(1, model.Integer)),
		optional("rebalance_intent", model.Object(optional("meta", model.Dict))),
		optional("realized_returns_by_world", model.Dict),
		optional("stress_by_world", model.Dict),
	)
}

// A position of one strategy in one symbol.
type position struct {
	world, strategy, symbol string
	venue                   *string
	qty, mark               float64
}

func positionsOf(v pyjson.Value) []position {
	all := make([]position, len(v.Elems()))
	for i, p := range v.Elems() {
		all[i] = position{
			world: textOf(p, "world_id"), strategy: textOf(p, "strategy_id"), symbol: textOf(p, "symbol"),
			venue: optionalText(p.Member("venue")), qty: number(p.Member("qty")), mark: number(p.Member("mark")),
		}
	}
	return all
}

func textOf(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

func optionalText(v pyjson.Value) *string {
	if v.IsNull() {
		return nil
	}
	s := v.Text()
	return &s
}

// number gives zero for what is none.
func number(v pyjson.Value) float64 {
	n, _ := pyjson.ToFloat(v)
	return n
}

// numbers gives the members of an object.
func numbers(v pyjson.Value) map[string]float64 {
	all := make(map[string]float64, len(v.Members()))
	for _, m := range v.Members() {
		all[m.Key] = number(m.Value)
	}
	return all
}

// Mode gives the mode that a request names, "scaling" when it names none.
func Mode(v pyjson.Value) string {
	s, _ := v.Str()
	if s = pyjson.Lower(pyjson.Strip(s)); s == "" {
		return "scaling"
	}
	return s
}
