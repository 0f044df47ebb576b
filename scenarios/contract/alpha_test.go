package contract_test

import (
	"math"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestAlphaMetricsVectors(t *testing.T) {
	ran := map[string]int{}
	vectors.Run(t, "alpha_metrics", func(t *testing.T, v vectors.Vector) {
		in, out := parsed(t, string(v.Input)), parsed(t, string(v.Output))
		given := parsed(t, in.Member("json").Text())
		op := in.Member("op").Text()
		var err error
		ran[op]++
		var got pyjson.Value
		switch op {
		case "sanitize":
			a, failed := contract.ParseAlpha(given)
			got, err = alphaValue(a), failed
		case "envelope":
			e, failed := contract.ParseAlphaEnvelope(given)
			got, err = envelopeValue(e), failed
		default:
			return // performance is computed where strategies run, envelopes are built by WorldService
		}
		if _, raises := out.Get("error"); raises {
			if err == nil {
				t.Errorf("accepted as %s", sortedFloats(got))
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if g, w := sortedFloats(got), sortedFloats(out); g != w {
			t.Errorf("%s\nwant %s", g, w)
		}
	})
	if ran["sanitize"] == 0 || ran["envelope"] == 0 {
		t.Errorf("ran %v", ran)
	}
}

// sortedFloats writes every number as a float: 0 and 0.0 are one metric.
func sortedFloats(v pyjson.Value) string {
	return string(pyjson.Append(nil, floats(v), pyjson.Compact|pyjson.Sorted))
}

func floats(v pyjson.Value) pyjson.Value {
	switch v.Kind() {
	case pyjson.Int:
		n, _ := pyjson.ToFloat(v)
		return pyjson.OfFloat(n)
	case pyjson.Object:
		out := pyjson.OfObject()
		for _, m := range v.Members() {
			out = out.With(m.Key, floats(m.Value))
		}
		return out
	}
	return v
}

func parsed(t *testing.T, text string) pyjson.Value {
	t.Helper()
	v, err := pyjson.ParseString(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// alphaValue writes metrics as the vectors do: infinities as text.
func alphaValue(a contract.Alpha) pyjson.Value {
	var all []pyjson.Member
	for key, n := range a {
		v := pyjson.OfFloat(n)
		if math.IsInf(n, 0) {
			v = pyjson.OfString(strings.TrimPrefix(string(pyjson.Append(nil, v, pyjson.Compact)), "+"))
		}
		all = append(all, pyjson.Member{Key: key, Value: v})
	}
	return pyjson.OfObject(all...)
}

func envelopeValue(e contract.AlphaEnvelope) pyjson.Value {
	worlds := func(of map[string]contract.Alpha) pyjson.Value {
		v := pyjson.OfObject()
		for world, a := range of {
			v = v.With(world, alphaValue(a))
		}
		return v
	}
	strategies := pyjson.OfObject()
	for s, of := range e.PerStrategy {
		strategies = strategies.With(s, worlds(of))
	}
	return pyjson.OfObject(pyjson.Member{Key: "per_world", Value: worlds(e.PerWorld)}, pyjson.Member{Key: "per_strategy", Value: strategies})
}
