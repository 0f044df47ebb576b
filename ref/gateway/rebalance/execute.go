package rebalance

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"

	"qmtl.internal/plumbline/ref/gateway/world"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The codes of refusals (gateway.md 1.14).
const (
	codeMode      = "E_REBALANCE_MODE_UNSUPPORTED"
	codeAmbiguous = "E_OVERLAY_EXECUTION_AMBIGUOUS"
	codeUnmapped  = "E_OVERLAY_EXECUTION_UNMAPPED"
	codeDisabled  = "E_SHARED_ACCOUNT_DISABLED"
	codePolicy    = "E_SHARED_ACCOUNT_POLICY"
	codeShadow    = "E_SHADOW_ORDERS_BLOCKED"
)

func refuse(status int, code, message string, more ...pyjson.Member) error {
	return &contract.Problem{Status: status, Detail: pyjson.OfObject(append([]pyjson.Member{
		{Key: "code", Value: pyjson.OfString(code)}, {Key: "message", Value: pyjson.OfString(message)},
	}, more...)...)}
}

// errPlan: the WorldService answered with what is no plan.
var errPlan = &contract.Problem{Status: http.StatusBadGateway, Detail: pyjson.OfString("WorldService's answer is no rebalancing plan")}

// Options are what the query of a request asks for.
type Options struct {
	Submit, SharedAccount, PerStrategy bool
}

// Executor makes orders of plans. All fields are set before first use.
type Executor struct {
	Worlds  *world.Client
	Log     Log // nil: orders cannot be submitted
	Account Account
	Version int64 // schema version to ask for
	Alpha   bool  // this gateway understands alpha metrics
	Metrics *Metrics
}

// Execute asks for the plan of request, a value of Model, and gives the answer.
// The error is a *contract.Problem, or one of the WorldService's client.
func (e *Executor) Execute(ctx context.Context, request pyjson.Value, o Options) (pyjson.Value, error) {
	mode := Mode(request.Member("mode"))
	plan, err := e.Worlds.Plan(ctx, e.Version, request, nil)
	if err != nil {
		return pyjson.Value{}, err
	}
	if plan.Body.Kind() != pyjson.Object {
		return pyjson.Value{}, errPlan
	}
	made, err := e.make(request, plan.Body, mode, o)
	if err != nil {
		return pyjson.Value{}, err
	}
	submitted := false
	if o.Submit {
		if submitted, err = e.submit(ctx, made, o.SharedAccount); err != nil {
			return pyjson.Value{}, err
		}
	}
	return e.answer(made, plan, submitted), nil
}

func (e *Executor) answer(made *orders, plan world.Plan, submitted bool) pyjson.Value {
	capable := e.Alpha && plan.Version >= 2 && plan.Body.Member("alpha_metrics").Truthy()
	members := []pyjson.Member{{Key: "orders_per_world", Value: made.perWorld()}}
	if !made.overlay.IsNull() {
		members = append(members, pyjson.Member{Key: "overlay_deltas", Value: made.overlay})
	}
	if made.global != nil {
		members = append(members, pyjson.Member{Key: "orders_global", Value: values(made.global)})
	}
	if made.shares != nil {
		members = append(members, pyjson.Member{Key: "orders_per_strategy", Value: entries(made.shares)})
	}
	return pyjson.OfObject(append(members,
		pyjson.Member{Key: "submitted", Value: pyjson.OfBool(submitted)},
		pyjson.Member{Key: "rebalance_schema_version", Value: pyjson.OfInt(plan.Version)},
		pyjson.Member{Key: "alpha_metrics_capable", Value: pyjson.OfBool(capable)})...)
}

// orders are what a plan comes to.
type orders struct {
	worlds  []string // in the order of the plan
	of      map[string][]Order
	overlay pyjson.Value    // the overlay's deltas; null without overlay
	global  []Order         // nil: not asked for
	shares  []strategyOrder // nil: not asked for
}

// strategyOrder is an order on behalf of one strategy.
type strategyOrder struct {
	world, strategy string
	order           Order
}

func (s strategyOrder) value() pyjson.Value {
	return pyjson.OfObject(
		pyjson.Member{Key: "world_id", Value: pyjson.OfString(s.world)},
		pyjson.Member{Key: "strategy_id", Value: pyjson.OfString(s.strategy)},
		pyjson.Member{Key: "order", Value: s.order.Value()})
}

func entries(all []strategyOrder) pyjson.Value {
	list := make([]pyjson.Value, len(all))
	for i, s := range all {
		list[i] = s.value()
	}
	return pyjson.OfArray(list...)
}

func (o *orders) perWorld() pyjson.Value {
	members := make([]pyjson.Member, len(o.worlds))
	for i, w := range o.worlds {
		members[i] = pyjson.Member{Key: w, Value: values(o.of[w])}
	}
	return pyjson.OfObject(members...)
}

// put sets the orders of a world, which keeps its first place.
func (o *orders) put(world string, all []Order) {
	if o.of == nil {
		o.of = map[string][]Order{}
	}
	if _, again := o.of[world]; !again {
		o.worlds = append(o.worlds, world)
	}
	o.of[world] = all
}

// make turns a plan into orders (gateway.md 1.12).
func (e *Executor) make(request, plan pyjson.Value, mode string, o Options) (*orders, error) {
	positions := positionsOf(request.Member("positions"))
	byWorld, all := snapshot(positions)
	keep := limits{numbers(request.Member("lot_size_by_symbol")), number(request.Member("min_trade_notional"))}
	made, err := worldOrders(plan.Member("per_world"), keep, byWorld)
	if err != nil {
		return nil, err
	}
	if mode == "overlay" {
		if made, err = overlayOrders(request.Member("overlay"), plan.Member("overlay_deltas"), keep); err != nil {
			return nil, err
		}
	}
	switch {
	case o.SharedAccount:
		made.global, err = e.shared(request, plan, positions, keep, all)
	case o.PerStrategy:
		made.shares, err = strategyOrders(request, plan, positions, keep, byWorld)
	}
	return made, err
}

// planDeltas reads the deltas of a plan.
func planDeltas(v pyjson.Value) ([]delta, error) {
	var all []delta
	for _, d := range v.Elems() {
		if d.Kind() != pyjson.Object {
			continue
		}
		qty := 0.0
		if given, there := d.Get("delta_qty"); there {
			n, ok := pyjson.ToFloat(given)
			if !ok {
				return nil, errPlan
			}
			qty = n
		}
		all = append(all, delta{d.Member("symbol").Text(), qty, optionalText(d.Member("venue"))})
	}
	return all, nil
}

func worldOrders(perWorld pyjson.Value, keep limits, byWorld map[string]marks) (*orders, error) {
	made := &orders{}
	for _, m := range perWorld.Members() {
		deltas, err := planDeltas(m.Value.Member("deltas"))
		if err != nil {
			return nil, err
		}
		made.put(m.Key, keep.orders(deltas, byWorld[m.Key]))
	}
	return made, nil
}

// overlayOrders gives the deltas of an overlay back to the worlds whose
// instruments they are of.
func overlayOrders(overlay, deltas pyjson.Value, keep limits) (*orders, error) {
	if overlay.Kind() != pyjson.Object {
		return nil, &contract.Problem{Status: http.StatusUnprocessableEntity, Detail: pyjson.OfString("overlay config is required when mode='overlay'")}
	}
	worlds, err := instruments(overlay.Member("instrument_by_world"))
	if err != nil {
		return nil, err
	}
	all, err := planDeltas(deltas)
	if err != nil {
		return nil, err
	}
	prices := marks{}
	for symbol, price := range numbers(overlay.Member("price_by_symbol")) {
		prices[at(nil, symbol)] = price
	}
	made := &orders{}
	said := make([]pyjson.Value, len(all))
	for i, d := range all {
		said[i] = d.value()
		owner, known := worlds[d.symbol]
		if !known {
			return nil, refuse(http.StatusUnprocessableEntity, codeUnmapped, "Gateway could not map an overlay delta back to a world",
				pyjson.Member{Key: "symbol", Value: pyjson.OfString(d.symbol)})
		}
		if o, ok := keep.order(d, prices); ok {
			made.put(owner, append(made.of[owner], o))
		}
	}
	made.overlay = pyjson.OfArray(said...)
	return made, nil
}

func (d delta) value() pyjson.Value {
	return pyjson.OfObject(
		pyjson.Member{Key: "symbol", Value: pyjson.OfString(d.symbol)},
		pyjson.Member{Key: "delta_qty", Value: pyjson.OfFloat(d.qty)}, pyjson.Member{Key: "venue", Value: venueOf(d.venue)})
}

// instruments gives the world of every instrument, which must be one.
func instruments(byWorld pyjson.Value) (map[string]string, error) {
	worlds := map[string][]string{}
	var order []string
	for _, m := range byWorld.Members() {
		symbol := m.Value.Text()
		if worlds[symbol] == nil {
			order = append(order, symbol)
		}
		worlds[symbol] = append(worlds[symbol], m.Key)
	}
	owner := make(map[string]string, len(worlds))
	for _, symbol := range order {
		if of := worlds[symbol]; len(of) > 1 {
			slices.Sort(of)
			list := make([]pyjson.Value, len(of))
			for i, w := range of {
				list[i] = pyjson.OfString(w)
			}
			return nil, refuse(http.StatusUnprocessableEntity, codeAmbiguous, "overlay.instrument_by_world must map each execution symbol to a single world",
				pyjson.Member{Key: "symbol", Value: pyjson.OfString(symbol)}, pyjson.Member{Key: "world_ids", Value: pyjson.OfArray(list...)})
		}
		owner[symbol] = worlds[symbol][0]
	}
	return owner, nil
}

// shared nets the worlds into one account, as far as its policy lets them.
func (e *Executor) shared(request, plan pyjson.Value, positions []position, keep limits, all marks) ([]Order, error) {
	if !e.Account.Enabled {
		return nil, refuse(http.StatusForbidden, codeDisabled, "shared-account execution is disabled")
	}
	deltas, err := planDeltas(plan.Member("global_deltas"))
	if err != nil {
		return nil, err
	}
	net := 0.0
	for _, p := range positions {
		net += p.qty * p.mark
	}
	global := keep.orders(deltas, all)
	would := expose(global, all, number(request.Member("total_equity")), &net)
	if reason := e.Account.refuse(would); reason != "" {
		return nil, refuse(http.StatusUnprocessableEntity, codePolicy, reason, pyjson.Member{Key: "context", Value: would.context()})
	}
	return global, nil
}

// strategyOrders splits the deltas of every world among its strategies. Each
// order stays with the strategy whose delta it is of, also where another one was
// too small.
func strategyOrders(request, plan pyjson.Value, positions []position, keep limits, byWorld map[string]marks) ([]strategyOrder, error) {
	all := []strategyOrder{}
	for _, m := range plan.Member("per_world").Members() {
		deltas, err := planDeltas(m.Value.Member("deltas"))
		if err != nil {
			return nil, err
		}
		for _, s := range allocate(m.Key, deltas, positions, request.Member("strategy_alloc_after_total").Member(m.Key)) {
			if o, ok := keep.order(s.delta, byWorld[m.Key]); ok {
				all = append(all, strategyOrder{m.Key, s.strategy, o})
			}
		}
	}
	return all, nil
}

// worldMode is what a world says about trading.
type worldMode struct{ mode, domain string }

// blocked refuses orders of a world that only watches.
func blocked(m worldMode) error {
	if m.mode == "shadow" || pyjson.Lower(m.domain) == "shadow" {
		return refuse(http.StatusUnprocessableEntity, codeShadow, "shadow execution_domain blocks order submission")
	}
	return nil
}

// involved are the worlds that orders are for, sorted.
func (o *orders) involved() []string {
	set := map[string]bool{}
	for _, w := range o.worlds {
		set[w] = w != ""
	}
	for _, s := range o.shares {
		set[s.world] = s.world != ""
	}
	maps.DeleteFunc(set, func(_ string, named bool) bool { return !named })
	return slices.Sorted(maps.Keys(set))
}

// unavailable: the commit log did not take a batch.
func unavailable(err error) error {
	return errors.Join(contract.CommitLogUnavailable(), err)
}
