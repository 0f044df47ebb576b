package submit

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestHistoryVectors(t *testing.T) {
	ran := 0
	vectors.Run(t, "health_and_models", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		if textOf(in, "op") != "history" {
			return
		}
		ran++
		body, mistakes := model.Check(HistoryModel(), in.Member("report"))
		if locs := out.Member("locs"); !locs.IsNull() {
			wantLocations(t, locs, mistakes)
			return
		}
		if mistakes != nil {
			t.Fatalf("refused: %v", mistakes)
		}
		now, err := time.Parse(time.RFC3339Nano, textOf(in, "now"))
		if err != nil {
			t.Fatal(err)
		}
		wantReport(t, out, NewHistoryReport(textOf(in, "strategy_id"), body, now))
	})
	if ran == 0 {
		t.Error("no vector of op history")
	}
}

func wantLocations(t *testing.T, want pyjson.Value, mistakes []model.FieldError) {
	t.Helper()
	var got []pyjson.Value
	for _, m := range mistakes {
		got = append(got, pyjson.OfArray(m.Loc...))
	}
	if g, w := compact(pyjson.OfArray(got...)), compact(want); g != w {
		t.Errorf("locations %s, want %s", g, w)
	}
}

func wantReport(t *testing.T, out pyjson.Value, r HistoryReport) {
	t.Helper()
	want := pairsOf(out.Member("hash_fields"))
	want[textOf(out, "redis_field")] = textOf(out, "redis_text")
	if diff := cmp.Diff(want, pairs(r.Fields)); diff != "" {
		t.Error(diff)
	}
	forward := out.Member("forward")
	if forward.IsNull() {
		if r.World != "" {
			t.Errorf("passed on to %s", r.World)
		}
		return
	}
	if got := string(pyjson.Append(nil, r.Forward, pyjson.Spaced|pyjson.ASCII)); r.World != textOf(forward, "world_id") || got != textOf(forward, "json") {
		t.Errorf("passed on to %q %s\nwant %s", r.World, got, compact(forward))
	}
}
