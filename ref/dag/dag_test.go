package dag_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func raw(t *testing.T, b json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(b)
	if err != nil {
		t.Fatalf("%v in %.200s", err, b)
	}
	return v
}

func text(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

// optional is null for "".
func optional(s string) pyjson.Value {
	if s == "" {
		return pyjson.Value{}
	}
	return pyjson.OfString(s)
}

func canonical(v pyjson.Value) string { return string(pyjson.Append(nil, v, pyjson.Sorted)) }

func fields(c dag.ComputeContext) pyjson.Value {
	return pyjson.OfObject(
		pyjson.Member{Key: "world_id", Value: pyjson.OfString(c.WorldID)},
		pyjson.Member{Key: "execution_domain", Value: pyjson.OfString(c.ExecutionDomain)},
		pyjson.Member{Key: "as_of", Value: optional(c.AsOf)},
		pyjson.Member{Key: "partition", Value: optional(c.Partition)},
		pyjson.Member{Key: "dataset_fingerprint", Value: optional(c.DatasetFingerprint)},
		pyjson.Member{Key: "downgraded", Value: pyjson.OfBool(c.Downgraded)},
		pyjson.Member{Key: "downgrade_reason", Value: optional(c.DowngradeReason)},
		pyjson.Member{Key: "safe_mode", Value: pyjson.OfBool(c.SafeMode)})
}

func whole(c dag.ComputeContext) pyjson.Value {
	return pyjson.OfObject(pyjson.Member{Key: "fields", Value: fields(c)},
		pyjson.Member{Key: "dict_json", Value: pyjson.OfString(string(pyjson.Append(nil, c.Value(), pyjson.Spaced|pyjson.ASCII)))})
}

func overrides(v pyjson.Value) dag.Overrides {
	field := func(key string) *string {
		if v.Member(key).IsNull() {
			return nil
		}
		s := dag.NormalizeValue(v.Member(key))
		return &s
	}
	return dag.Overrides{
		ExecutionDomain: field("execution_domain"), AsOf: field("as_of"),
		Partition: field("partition"), DatasetFingerprint: field("dataset_fingerprint"),
	}
}

func safeMode(in pyjson.Value) pyjson.Value {
	m := dag.EvaluateSafeMode(text(in, "execution_domain"), text(in, "as_of"))
	return pyjson.OfObject(
		pyjson.Member{Key: "execution_domain", Value: pyjson.OfString(m.Domain)},
		pyjson.Member{Key: "downgraded", Value: pyjson.OfBool(m.Downgraded)},
		pyjson.Member{Key: "reason", Value: optional(m.Reason)},
		pyjson.Member{Key: "safe_mode", Value: pyjson.OfBool(m.Downgraded)})
}

func decision(in pyjson.Value) pyjson.Value {
	effective := in.Member("payload").Member("effective_mode")
	mode, known := dag.WorldMode(effective)
	alias := pyjson.Value{}
	if known {
		alias = pyjson.OfString(mode)
	}
	return whole(dag.FromDecision(text(in, "world_id"), in.Member("payload"))).
		With("mode", pyjson.OfString(mode)).With("alias", alias)
}

func resolved(in pyjson.Value) pyjson.Value {
	s, ok := in.Member("value").Str()
	if !ok {
		return pyjson.OfObject(pyjson.Member{Key: "domain"})
	}
	return pyjson.OfObject(pyjson.Member{Key: "domain", Value: pyjson.OfString(dag.ResolveDomain(s))})
}

var contextOps = map[string]func(in pyjson.Value) pyjson.Value{
	"normalize_value": func(in pyjson.Value) pyjson.Value {
		return pyjson.OfObject(pyjson.Member{Key: "value", Value: optional(dag.NormalizeValue(in.Member("value")))})
	},
	"resolve_domain":     resolved,
	"evaluate_safe_mode": safeMode,
	"coerce":             func(in pyjson.Value) pyjson.Value { return whole(dag.Coerce(in.Member("payload"))) },
	"strategy_meta":      func(in pyjson.Value) pyjson.Value { return whole(dag.FromMeta(in.Member("meta"))) },
	"worldservice":       decision,
	"with_overrides": func(in pyjson.Value) pyjson.Value {
		return whole(dag.Coerce(in.Member("base")).WithOverrides(overrides(in.Member("overrides"))))
	},
}

func TestComputeContextVectors(t *testing.T) {
	vectors.Run(t, "compute_context", func(t *testing.T, v vectors.Vector) {
		in, want := raw(t, v.Input), raw(t, v.Output)
		op, known := contextOps[text(in, "op")]
		if !known {
			t.Fatalf("op %q is not covered", text(in, "op"))
		}
		got := op(in)
		for _, m := range want.Members() {
			if g, ok := got.Get(m.Key); !ok || canonical(g) != canonical(m.Value) {
				t.Errorf("%s\n got %s\nwant %s", m.Key, canonical(g), canonical(m.Value))
			}
		}
		if len(want.Members()) == 0 {
			t.Error("the vector says nothing")
		}
	})
}

func TestComputeKeyVectors(t *testing.T) {
	vectors.Run(t, "compute_key", func(t *testing.T, v vectors.Vector) {
		in := raw(t, v.Input)
		if got, want := dag.ComputeKey(text(in, "node_id"), dag.Coerce(in)), text(raw(t, v.Output), "compute_key"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestDowngradeKeepsTheContextAndItsOwnReason(t *testing.T) {
	c := dag.FromMeta(raw(t, json.RawMessage(`{"execution_domain":"paper","as_of":"t","partition":"p"}`))).ForWorld(" w ")
	got := c.Downgrade(dag.DryRun, dag.DecisionUnavailable)
	want := dag.ComputeContext{
		WorldID: "w", ExecutionDomain: dag.DryRun, AsOf: "t", Partition: "p",
		Downgraded: true, DowngradeReason: dag.DecisionUnavailable, SafeMode: true,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	wantFields := []any{
		"compute_execution_domain", "dryrun", "compute_as_of", "t", "compute_partition", "p", "compute_world_id", "w",
		"compute_downgrade_reason", "decision_unavailable",
	}
	if got := got.RedisFields(); !slices.Equal(got, wantFields) {
		t.Errorf("Redis fields %q, want %q", got, wantFields)
	}
	stale := dag.FromDecision("w", raw(t, json.RawMessage(`{"effective_mode":"live"}`))).Downgrade(dag.Backtest, dag.StaleDecision)
	if stale.ExecutionDomain != dag.Backtest || stale.DowngradeReason != dag.StaleDecision {
		t.Errorf("got %+v", stale)
	}
}

// plainOrder is dagmanager.md 2.2 word for word, quadratic.
func plainOrder(ids []string, inputs [][]string) []int {
	rest := make([]map[string]bool, len(ids))
	var ready, order []int
	for i := range ids {
		rest[i] = map[string]bool{}
		for _, in := range inputs[i] {
			rest[i][in] = true
		}
		if len(rest[i]) == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		popped := ready[0]
		ready, order = ready[1:], append(order, popped)
		for i := range ids {
			if rest[i][ids[popped]] {
				if delete(rest[i], ids[popped]); len(rest[i]) == 0 {
					ready = append(ready, i)
				}
			}
		}
	}
	if len(order) < len(ids) {
		order = nil
		for i := range ids {
			order = append(order, i)
		}
	}
	return order
}

func randomGraph(r *rand.Rand) (ids []string, inputs [][]string) {
	n := r.IntN(9)
	for i := range n {
		ids = append(ids, "n"+strconv.Itoa(i))
	}
	r.Shuffle(n, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	stray := r.IntN(4) == 0 // now and then an unknown input, a circle, a node that reads itself
	for i := range n {
		var in []string
		for range r.IntN(4) {
			from := r.IntN(n)
			if stray || ids[from] < ids[i] {
				in = append(in, ids[from])
			}
		}
		if stray && r.IntN(12) == 0 {
			in = append(in, "unknown")
		}
		inputs = append(inputs, in)
	}
	return ids, inputs
}

func TestOrderIsThatOfTheContract(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	moved := 0
	for range 20_000 {
		ids, inputs := randomGraph(r)
		got := dag.Order(ids, func(i int) []string { return inputs[i] })
		want := plainOrder(ids, inputs)
		if !slices.Equal(got, want) {
			t.Fatalf("ids %q inputs %q\n got %v\nwant %v", ids, inputs, got, want)
		}
		if !slices.IsSorted(got) {
			moved++
		}
	}
	if moved == 0 {
		t.Error("no graph had an order of its own")
	}
}

func TestOrderFallsBackToTheDocument(t *testing.T) {
	for name, inputs := range map[string][][]string{
		"circle": {{"b"}, {"a"}, nil}, "itself": {{"c"}, {"b"}, nil}, "unknown": {{"c"}, {"x"}, nil},
	} {
		got := dag.Order([]string{"a", "b", "c"}, func(i int) []string { return inputs[i] })
		if !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func BenchmarkOrder(b *testing.B) {
	const n = 10_000
	ids := make([]string, n)
	for i := range ids {
		ids[i] = strconv.Itoa(n - i)
	}
	b.ReportAllocs()
	for b.Loop() {
		dag.Order(ids, func(i int) []string {
			if i == n-1 {
				return nil
			}
			return ids[i+1 : i+2]
		})
	}
}

func FuzzResolveDomain(f *testing.F) {
	for _, seed := range []string{"live", "eu/prod", "Paper-Trading", "a:b:sim", "İlive", "", "default", "/", "\xed\xa0\x80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		domain := dag.ResolveDomain(name)
		if again := dag.ResolveDomain(domain); again != domain {
			t.Errorf("%q resolves to %q, then to %q", name, domain, again)
		}
	})
}

func TestAugmentVectors(t *testing.T) {
	ran := map[string]int{}
	vectors.Run(t, "world_payload_augment", func(t *testing.T, v vectors.Vector) {
		in := raw(t, v.Input)
		op := text(in, "op")
		ran[op]++
		var got pyjson.Value
		switch op {
		case "activation":
			got, _ = dag.AugmentActivation(in.Member("payload"))
		case "decision":
			got, _ = dag.AugmentDecision(text(in, "world_id"), in.Member("payload"))
		default:
			return // caches belong to ref/gateway/world
		}
		if g, want := string(pyjson.Append(nil, got, pyjson.Spaced|pyjson.ASCII)), text(raw(t, v.Output), "json"); g != want {
			t.Errorf("\n got %s\nwant %s", g, want)
		}
	})
	if ran["activation"] == 0 || ran["decision"] == 0 {
		t.Errorf("ran %v", ran)
	}
}
