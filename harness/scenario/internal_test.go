package scenario

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/record"
)

type panics struct{}

func (panics) do(context.Context, *execution, *Step) (observation, error) {
	var none []int
	return observation{"status": none[len(none)]}, nil
}

// A panic in a step is a failure with its stack, not the end of the run.
func TestPanicIsAFailure(t *testing.T) {
	r := newRunner(t.Context(), Env{})
	defer r.close()
	r.kinds["http"] = actionKind{read: func(any) (action, error) { return panics{}, nil }}
	o := r.one(t.Context(), &Scenario{ID: "A-1", Timeout: DefaultTimeout, Steps: []Step{{Line: 3, Action: "http", expect: map[string]any{"status": nil}}}})
	if o.Status != record.Failed || !strings.Contains(o.Reason, "panic: runtime error: index out of range") || !strings.Contains(o.Steps[0].Observed, "internal_test.go") {
		t.Errorf("outcome %s %q, steps %+v; want a failure with panic and stack", o.Status, o.Reason, o.Steps)
	}
}

// A scenario that looked at nothing has not passed, however it came to that.
func TestNothingEvaluatedIsNoPass(t *testing.T) {
	r := newRunner(t.Context(), Env{})
	defer r.close()
	o := r.one(t.Context(), &Scenario{ID: "A-1", Timeout: DefaultTimeout})
	if o.Status != record.Failed || o.Reason != "no expectation was evaluated" {
		t.Errorf("outcome %s %q; want failed: no expectation was evaluated", o.Status, o.Reason)
	}
}

// The schema and the code name the same actions and the same parts.
func TestSchemaAndActionsAgree(t *testing.T) {
	s, err := loadShape()
	if err != nil {
		t.Fatal(err)
	}
	keys := s.knownKeys("#/$defs/step")
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "name" || k == "expect" })
	slices.Sort(keys)
	if want := slices.Sorted(maps.Keys(actionKinds())); !slices.Equal(keys, want) {
		t.Errorf("schema has actions %v; the code has %v", keys, want)
	}
	parts := s.knownKeys("#/$defs/expect")
	parts = slices.DeleteFunc(parts, func(k string) bool { return k == "cel" || k == "save" })
	slices.Sort(parts)
	if want := observedParts(); !slices.Equal(parts, want) {
		t.Errorf("schema expects %v; the actions show %v", parts, want)
	}
	names := s.raw.(map[string]any)["$defs"].(map[string]any)["scenario"].(map[string]any)["properties"].(map[string]any)["invariants"].(map[string]any)["items"].(map[string]any)["enum"].([]any)
	var have []string
	for _, inv := range invariants() {
		have = append(have, inv.name)
	}
	if got := texts(names); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(have))) {
		t.Errorf("schema has invariants %v; the code has %v", got, have)
	}
}

// Every key that the schema gives an action is one that its struct reads.
func TestSchemaKeysAreRead(t *testing.T) {
	s, err := loadShape()
	if err != nil {
		t.Fatal(err)
	}
	sample := map[string]any{"object": map[string]any{}, "array": []any{}, "string": "1s", "integer": float64(1), "boolean": true}
	for _, name := range []string{"submit", "http", "diff", "grpc", "produce", "consume", "topics", "redis", "ws", "metrics"} {
		defs := s.raw.(map[string]any)["$defs"].(map[string]any)
		for key, v := range defs[name].(map[string]any)["properties"].(map[string]any) {
			args := map[string]any{key: sampleOf(v.(map[string]any), defs, sample)}
			if _, err := actionKinds()[name].read(args); err != nil && strings.Contains(err.Error(), "unknown field") {
				t.Errorf("%s.%s is in the schema, but the action does not read it: %v", name, key, err)
			}
		}
	}
}

// sampleOf gives some value of the type that a schema asks for.
func sampleOf(schema, defs, sample map[string]any) any {
	if ref, ok := schema["$ref"].(string); ok {
		schema = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	switch kind := schema["type"].(type) {
	case string:
		return sample[kind]
	case []any:
		return sample[kind[0].(string)]
	}
	return "each"
}

func TestOrderInvariant(t *testing.T) {
	r := newRunner(t.Context(), Env{})
	defer r.close()
	early, late := submissionAt("a", 0), submissionAt("b", 10)
	p := past{submissions: []submission{early, late}, records: []commitRecord{{0, 5, "b", "hb"}, {0, 6, "a", "ha"}}}
	if got := orderKept(p); len(got) != 1 || !strings.Contains(got[0], "strategy a was answered before b was sent") {
		t.Errorf("orderKept = %v; want one finding about a and b", got)
	}
	p.records[1].partition = 1
	if got := orderKept(p); len(got) != 0 {
		t.Errorf("orderKept over two partitions = %v; want nothing", got)
	}
	p.records[1].partition = 0
	p.submissions[1].began = early.began // overlapping: any order is right
	if got := orderKept(p); len(got) != 0 {
		t.Errorf("orderKept of overlapping submissions = %v; want nothing", got)
	}
}

func submissionAt(id string, second int) submission {
	at := time.Unix(1_700_000_000, 0).Add(time.Duration(second) * time.Second)
	return submission{scenario: "S", id: id, status: "202", answered: true, began: at, ended: at.Add(time.Second)}
}

func TestLongerTopicNames(t *testing.T) {
	q := []queueSeen{{"blake3:aabbccddeeff00:60:0#ck=x", "c", "asset_N_aabbccdd_v1"}, {"other:60:0#ck=x", "c", "asset_N_aabbccddee_v1"}}
	if got := longerNames(past{queues: q, topics: []string{"asset_N_aabbccdd_v1", "asset_N_aabbccddee_v1", "asset_N_aabbccddff_v1", "asset_N_aabbccddee_v2", "asset_M_aabbccddee_v1"}}); len(got) != 0 {
		t.Errorf("longerNames = %v; want nothing: each topic has its own node, version or type", got)
	}
	if got := longerNames(past{queues: q[:1], topics: []string{"asset_N_aabbccddee_v1"}}); len(got) != 1 {
		t.Errorf("longerNames = %v; want the longer name of the same node", got)
	}
}

// Other code under the same node id is another queue.
func TestOneTopicKnowsCode(t *testing.T) {
	q := []queueSeen{{"n:60:0#ck=x", "c1", "asset_N_n_v1"}, {"n:60:0#ck=x", "c2", "asset_N_n_v1-1"}}
	if got := oneTopic(past{queues: q}); len(got) != 0 {
		t.Errorf("oneTopic = %v; want nothing", got)
	}
	q[1].code = "c1"
	if got := oneTopic(past{queues: q}); len(got) != 1 {
		t.Errorf("oneTopic = %v; want one finding", got)
	}
}
