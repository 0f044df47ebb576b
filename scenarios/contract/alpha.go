package contract

import (
	"errors"
	"math"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// alphaKeys are the alpha metrics of a plan in schema version 2 (controlbus.md
// 5.4), in the order of answers.
var alphaKeys = []string{
	"alpha_performance.sharpe", "alpha_performance.max_drawdown", "alpha_performance.win_ratio",
	"alpha_performance.profit_factor", "alpha_performance.car_mdd", "alpha_performance.rar_mdd",
}

// Alpha are the values of alphaKeys.
type Alpha map[string]float64

// AlphaEnvelope are the alpha metrics of a plan: by world, and by strategy and
// world.
type AlphaEnvelope struct {
	PerWorld    map[string]Alpha
	PerStrategy map[string]map[string]Alpha
}

// ErrAlpha: metrics in a shape that has no meaning at all.
var ErrAlpha = errors.New("alpha metrics")

// ParseAlpha reads one set of metrics: known names only, all of them with 0 for
// what is missing or no number; NaN is none, an infinity is one.
func ParseAlpha(v pyjson.Value) (Alpha, error) {
	if v.Kind() != pyjson.Object {
		return nil, errors.Join(ErrAlpha, errors.New("want an object"))
	}
	a := make(Alpha, len(alphaKeys))
	for _, key := range alphaKeys {
		given := v.Member(key)
		n, ok := pyjson.ToFloat(given)
		if given.Kind() == pyjson.Int && !ok {
			return nil, errors.Join(ErrAlpha, errors.New(key+" is beyond every float"))
		}
		if math.IsNaN(n) {
			n = 0
		}
		a[key] = n
	}
	return a, nil
}

// ParseAlphaEnvelope reads the alpha metrics of a plan; levels that are no
// objects are skipped, and a strategy without a world with them.
func ParseAlphaEnvelope(v pyjson.Value) (AlphaEnvelope, error) {
	e := AlphaEnvelope{PerWorld: map[string]Alpha{}, PerStrategy: map[string]map[string]Alpha{}}
	if !v.Truthy() {
		return e, nil
	}
	if v.Kind() != pyjson.Object {
		return e, errors.Join(ErrAlpha, errors.New("want an object"))
	}
	worlds, err := parseWorlds(v.Member("per_world"))
	if err != nil {
		return e, err
	}
	e.PerWorld = worlds
	for _, s := range v.Member("per_strategy").Members() {
		worlds, err := parseWorlds(s.Value)
		if err != nil {
			return e, err
		}
		if len(worlds) > 0 {
			e.PerStrategy[s.Key] = worlds
		}
	}
	return e, nil
}

func parseWorlds(v pyjson.Value) (map[string]Alpha, error) {
	all := map[string]Alpha{}
	for _, m := range v.Members() {
		if m.Value.Kind() != pyjson.Object {
			continue
		}
		a, err := ParseAlpha(m.Value)
		if err != nil {
			return nil, err
		}
		all[m.Key] = a
	}
	return all, nil
}
