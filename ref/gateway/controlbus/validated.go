package controlbus

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The messages of sentinel_weight and rebalancing_planned are checked strictly:
// no text for a number, no number for a text. Unknown members are left out.

// A reader collects what is wrong with an object while its members are read.
type reader struct {
	from pyjson.Value
	path string
	errs *[]error
}

func read(from pyjson.Value) reader { return reader{from: from, errs: new([]error)} }

func (r reader) err() error { return errors.Join(*r.errs...) }

func (r reader) wrong(key, want string) {
	kind := "absent"
	if v, ok := r.from.Get(key); ok {
		kind = "a JSON " + v.Kind().String()
	}
	*r.errs = append(*r.errs, fmt.Errorf("%s%s is %s, want %s", r.path, key, kind, want))
}

func (r reader) text(key string) pyjson.Value {
	v := r.from.Member(key)
	if v.Kind() != pyjson.String {
		r.wrong(key, "a string")
	}
	return v
}

// optional reads a member that may be absent or null, else has kind.
func (r reader) optional(key string, kind pyjson.Kind) pyjson.Value {
	v := r.from.Member(key)
	if k := v.Kind(); k != pyjson.Null && k != kind {
		r.wrong(key, "a JSON "+kind.String()+" or null")
	}
	return v
}

func (r reader) integer(key string) pyjson.Value {
	v := r.from.Member(key)
	if v.Kind() != pyjson.Int {
		r.wrong(key, "an integer")
	}
	return v
}

// float reads a number and gives it as a float.
func (r reader) float(key string) pyjson.Value {
	v := r.from.Member(key)
	if v.Kind() == pyjson.Int {
		n, _ := new(big.Int).SetString(v.Text(), 10)
		f, _ := new(big.Float).SetInt(n).Float64()
		return pyjson.OfFloat(f)
	}
	if v.Kind() != pyjson.Float {
		r.wrong(key, "a number")
	}
	return v
}

// object reads a member that is an object; elements reads one that is an array
// of objects, each by read.
func (r reader) object(key string) reader {
	v := r.from.Member(key)
	if v.Kind() != pyjson.Object {
		r.wrong(key, "an object")
	}
	return reader{from: v, path: r.path + key + ".", errs: r.errs}
}

func (r reader) elements(key string, read func(reader) pyjson.Value) pyjson.Value {
	v := r.from.Member(key)
	if v.Kind() != pyjson.Array {
		r.wrong(key, "an array")
	}
	var out []pyjson.Value
	for i, e := range v.Elems() {
		if e.Kind() != pyjson.Object {
			*r.errs = append(*r.errs, fmt.Errorf("%s%s[%d] is a JSON %s, want an object", r.path, key, i, e.Kind()))
			continue
		}
		out = append(out, read(reader{from: e, path: fmt.Sprintf("%s%s[%d].", r.path, key, i), errs: r.errs}))
	}
	return pyjson.OfArray(out...)
}

func member(key string, v pyjson.Value) pyjson.Member { return pyjson.Member{Key: key, Value: v} }

// checkWeight makes the frame of a SentinelWeightUpdated (controlbus.md 2.6).
func checkWeight(m *message) error {
	r := read(m.data)
	m.frame = pyjson.OfObject(
		member("sentinel_id", r.text("sentinel_id")), member("weight", r.float("weight")), versionOne())
	r.integer("version")
	r.optional("sentinel_version", pyjson.String)
	r.optional("world_id", pyjson.String)
	return r.err()
}

func relayWeight(_ context.Context, p *processor, m *message) error {
	id := p.metrics.sentinels.Of(m.frame.Member("sentinel_id").Text())
	weight, _ := m.frame.Member("weight").Float64()
	p.metrics.ratio.WithLabelValues(id...).Set(weight)
	p.metrics.skew.WithLabelValues(id...).Set(0) // it is applied as it is received
	p.publish("activation", "sentinel_weight", m.frame)
	return nil
}

// checkPlan makes the frame of a RebalancingPlanned (controlbus.md 2.7).
func checkPlan(m *message) error {
	r := read(m.data)
	plan := r.object("plan")
	frame := []pyjson.Member{
		member("world_id", r.text("world_id")),
		member("plan", pyjson.OfObject(
			member("scale_world", plan.float("scale_world")),
			member("scale_by_strategy", scales(plan.object("scale_by_strategy"))),
			member("deltas", plan.elements("deltas", delta)))),
		member("version", r.integer("version")),
	}
	for _, o := range [...]struct {
		key  string
		kind pyjson.Kind
	}{
		{"policy", pyjson.String}, {"run_id", pyjson.String}, {"schema_version", pyjson.Int},
		{"alpha_metrics", pyjson.Object}, {"rebalance_intent", pyjson.Object},
	} {
		v := r.optional(o.key, o.kind)
		if v.Truthy() || v.Kind() == pyjson.Int {
			frame = append(frame, member(o.key, v))
		}
	}
	m.frame = pyjson.OfObject(frame...)
	return r.err()
}

func scales(r reader) pyjson.Value {
	var out []pyjson.Member
	for _, s := range r.from.Members() {
		out = append(out, member(s.Key, r.float(s.Key)))
	}
	return pyjson.OfObject(out...)
}

func delta(r reader) pyjson.Value {
	return pyjson.OfObject(
		member("symbol", r.text("symbol")), member("delta_qty", r.float("delta_qty")),
		member("venue", r.optional("venue", pyjson.String)))
}

func relayPlan(_ context.Context, p *processor, m *message) error {
	world := p.metrics.worlds.Of(m.frame.Member("world_id").Text())
	p.metrics.plans.WithLabelValues(world...).Inc()
	p.metrics.deltas.WithLabelValues(world...).Set(float64(len(m.frame.Member("plan").Member("deltas").Elems())))
	p.publish("rebalancing", "rebalancing.planned", m.frame)
	return nil
}
