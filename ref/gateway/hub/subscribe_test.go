package hub

import (
	"testing"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestSubscriptionVectors(t *testing.T) {
	ran := 0
	vectors.Run(t, "health_and_models", func(t *testing.T, v vectors.Vector) {
		in, out := parsed(t, v.Input), parsed(t, v.Output)
		if in.Member("model").Text() != "EventSubscribeRequest" {
			return
		}
		ran++
		body, err := pyjson.ParseString(in.Member("json").Text())
		if err != nil {
			t.Fatal(err)
		}
		got, mistakes := model.Check(subscriptionModel, body)
		if accepted, ok := out.Member("accepted_json").Str(); ok {
			wantAccepted(t, got, mistakes, accepted)
			return
		}
		var locs, types []pyjson.Value
		for _, m := range mistakes {
			locs, types = append(locs, pyjson.OfArray(m.Loc...)), append(types, pyjson.OfString(m.Type))
		}
		for _, c := range []struct {
			got  []pyjson.Value
			want pyjson.Value
		}{{locs, out.Member("locs")}, {types, out.Member("types")}} {
			if g, w := written(pyjson.OfArray(c.got...)), written(c.want); g != w {
				t.Errorf("%s, want %s", g, w)
			}
		}
	})
	if ran == 0 {
		t.Error("no vector of EventSubscribeRequest")
	}
}

func wantAccepted(t *testing.T, got pyjson.Value, mistakes []model.FieldError, accepted string) {
	t.Helper()
	if _, there := got.Get("topics"); !there {
		got = got.With("topics", pyjson.OfArray())
	}
	if g := string(pyjson.Append(nil, got, pyjson.Spaced|pyjson.ASCII)); mistakes != nil || g != accepted {
		t.Errorf("%s, %v; want %s", g, mistakes, accepted)
	}
}

func written(v pyjson.Value) string { return string(pyjson.Append(nil, v, pyjson.Compact)) }
