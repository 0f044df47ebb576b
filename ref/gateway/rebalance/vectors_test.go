package rebalance

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, raw json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func compact(v pyjson.Value) string { return string(pyjson.Append(nil, floats(v), pyjson.Compact)) }

// floats makes every integer a float: orders are built of floats only.
func floats(v pyjson.Value) pyjson.Value {
	switch v.Kind() {
	case pyjson.Int:
		return pyjson.OfFloat(number(v))
	case pyjson.Array:
		var all []pyjson.Value
		for _, e := range v.Elems() {
			all = append(all, floats(e))
		}
		return pyjson.OfArray(all...)
	case pyjson.Object:
		var all []pyjson.Member
		for _, m := range v.Members() {
			all = append(all, pyjson.Member{Key: m.Key, Value: floats(m.Value)})
		}
		return pyjson.OfObject(all...)
	default:
		return v
	}
}

func equal(t *testing.T, got, want pyjson.Value) {
	t.Helper()
	if g, w := compact(got), compact(want); g != w {
		t.Errorf("%s\nwant %s", g, w)
	}
}

// ops run one step of rebalancing each, as the family rebalance_orders names it.
var ops = map[string]func(t *testing.T, in, out pyjson.Value){
	"orders":         runOrders,
	"allocate":       runAllocate,
	"overlay_orders": runOverlay,
	"mark_snapshot":  runSnapshot,
	"shared_account": runAccount,
	"mode": func(t *testing.T, in, out pyjson.Value) {
		equal(t, pyjson.OfString(Mode(in.Member("value"))), out.Member("mode"))
	},
	"parse_bool":       runFlag,
	"payload_variants": elsewhere,
	"retry_on_status":  elsewhere,
}

// elsewhere: the negotiation is in ref/gateway/world.
func elsewhere(*testing.T, pyjson.Value, pyjson.Value) {}

func TestRebalanceOrdersVectors(t *testing.T) {
	vectors.Run(t, "rebalance_orders", func(t *testing.T, v vectors.Vector) {
		in := parse(t, v.Input)
		run, ok := ops[textOf(in, "op")]
		if !ok {
			t.Fatalf("unknown op %q", textOf(in, "op"))
		}
		run(t, in, parse(t, v.Output))
	})
}

func deltasOf(v pyjson.Value) []delta {
	var all []delta
	for _, d := range v.Elems() {
		e := d.Elems()
		all = append(all, delta{e[0].Text(), number(e[1]), optionalText(e[2])})
	}
	return all
}

func marksOf(v pyjson.Value) marks {
	m := marks{}
	for _, one := range v.Elems() {
		e := one.Elems()
		m[at(optionalText(e[0]), e[1].Text())] = number(e[2])
	}
	return m
}

func limitsIn(in pyjson.Value) limits {
	return limits{numbers(in.Member("lot_size_by_symbol")), number(in.Member("min_trade_notional"))}
}

func runOrders(t *testing.T, in, out pyjson.Value) {
	equal(t, values(limitsIn(in).orders(deltasOf(in.Member("deltas")), marksOf(in.Member("marks")))), out.Member("orders"))
}

func runAllocate(t *testing.T, in, out pyjson.Value) {
	var got []pyjson.Value
	for _, s := range allocate(textOf(in, "world_id"), deltasOf(in.Member("deltas")), positionsOf(in.Member("positions")), in.Member("fallback_weights")) {
		got = append(got, pyjson.OfArray(pyjson.OfString(s.strategy), pyjson.OfString(s.delta.symbol), pyjson.OfFloat(s.delta.qty), venueOf(s.delta.venue)))
	}
	equal(t, pyjson.OfArray(got...), out.Member("deltas"))
}

func runOverlay(t *testing.T, in, out pyjson.Value) {
	got, err := overlayOrders(in.Member("overlay"), in.Member("overlay_deltas"), limitsIn(in))
	if status, refused := out.Member("status").Int64(); refused {
		problem, ok := err.(*contract.Problem)
		if !ok || int64(problem.Status) != status {
			t.Fatalf("error %v, want %d", err, status)
		}
		equal(t, problem.Detail, out.Member("detail"))
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got.perWorld(), out.Member("orders_per_world"))
	equal(t, got.overlay, out.Member("overlay_deltas"))
}

func runSnapshot(t *testing.T, in, out pyjson.Value) {
	byWorld, all := snapshot(positionsOf(in.Member("positions")))
	want := map[string]marks{}
	for _, m := range out.Member("by_world").Members() {
		want[m.Key] = marksOf(m.Value)
	}
	if diff := cmp.Diff(want, byWorld, cmp.AllowUnexported(place{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(marksOf(out.Member("global")), all, cmp.AllowUnexported(place{})); diff != "" {
		t.Error(diff)
	}
}

func runAccount(t *testing.T, in, out pyjson.Value) {
	limit := func(key string) *float64 {
		if v := in.Member("config").Member(key); !v.IsNull() {
			return new(number(v))
		}
		return nil
	}
	var orders []Order
	for _, o := range in.Member("orders").Elems() {
		if qty, ok := pyjson.ToFloat(o.Member("quantity")); ok {
			orders = append(orders, Order{Symbol: textOf(o, "symbol"), Quantity: qty, Venue: optionalText(o.Member("venue"))})
		}
	}
	var current *float64
	if v := in.Member("current_net_notional"); !v.IsNull() {
		current = new(number(v))
	}
	e := expose(orders, marksOf(in.Member("marks")), number(in.Member("total_equity")), current)
	reason := Account{MaxGross: limit("max_gross_notional"), MaxNet: limit("max_net_notional"), MinHeadroom: limit("min_margin_headroom")}.refuse(e)
	if want := textOf(out, "reason"); reason != want || (reason == "") != out.Member("allowed").IsTrue() {
		t.Errorf("reason %q, want %q", reason, want)
	}
	if got, want := string(pyjson.Append(nil, e.context(), pyjson.Spaced|pyjson.ASCII)), textOf(out, "context_json"); got != want {
		t.Errorf("context %s\nwant    %s", got, want)
	}
}

func runFlag(t *testing.T, in, out pyjson.Value) {
	value, _ := in.Member("value").Str()
	if got, want := truthy(value), out.Member("value").IsTrue(); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCommitLogBatchVectors(t *testing.T) {
	ran := 0
	vectors.Run(t, "commit_log", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		if textOf(in, "op") != "rebalance_batch" {
			return
		}
		ran++
		b := batch{world: textOf(in, "world_id"), scope: textOf(in, "scope"), mode: textOf(in, "mode"), shared: in.Member("shared_account").IsTrue()}
		for _, o := range in.Member("orders").Elems() {
			b.orders = append(b.orders, Order{
				Symbol: textOf(o, "symbol"), Quantity: number(o.Member("quantity")), Venue: optionalText(o.Member("venue")), ReduceOnly: o.Member("reduce_only").IsTrue(),
			})
		}
		if status, refused := out.Member("status").Int64(); refused {
			err := blocked(worldMode{mode: b.mode, domain: textOf(in, "execution_domain")})
			problem, ok := err.(*contract.Problem)
			if !ok || int64(problem.Status) != status {
				t.Fatalf("error %v, want %d", err, status)
			}
			equal(t, problem.Detail, out.Member("detail"))
			return
		}
		wantBatch(t, in, out, b)
	})
	if ran == 0 {
		t.Error("no vector of op rebalance_batch")
	}
}

func wantBatch(t *testing.T, in, out pyjson.Value, b batch) {
	t.Helper()
	if !out.Member("published").IsTrue() {
		if len(b.orders) != 0 {
			t.Error("not published, with orders")
		}
		return
	}
	now, err := time.Parse(time.RFC3339Nano, textOf(in, "now"))
	if err != nil {
		t.Fatal(err)
	}
	ms, _ := in.Member("timestamp_ms").Int64()
	key, value := b.record(textOf(in, "uuid_hex"), time.UnixMilli(ms), now)
	record := out.Member("records").Elems()[0]
	if want := textOf(record, "value"); string(value) != want {
		t.Errorf("value %s\nwant  %s", value, want)
	}
	if !slices.Equal([]byte(key), vectors.Decode[[]byte](t, json.RawMessage(`"`+textOf(record, "key_b64")+`"`))) {
		t.Errorf("key %s", key)
	}
}

func TestModelReadsBothVersions(t *testing.T) {
	const v1 = `{"total_equity":1000,"world_alloc_before":{"w":"0.5"},"world_alloc_after":{"w":1},"positions":[{"world_id":"w","strategy_id":"s","symbol":"B","qty":1,"mark":2,"x":1}]`
	for given, want := range map[string]string{
		v1 + `,"mode":"zzz"}`: `{"total_equity":1000.0,"world_alloc_before":{"w":0.5},"world_alloc_after":{"w":1.0},"positions":[{"world_id":"w","strategy_id":"s","symbol":"B","qty":1.0,"mark":2.0}],"mode":"zzz"}`,
		v1 + `,"schema_version":"2","rebalance_intent":{"meta":{"a":[1]}}}`: `{"total_equity":1000.0,"world_alloc_before":{"w":0.5},"world_alloc_after":{"w":1.0},"positions":[{"world_id":"w","strategy_id":"s","symbol":"B","qty":1.0,"mark":2.0}],"schema_version":2,"rebalance_intent":{"meta":{"a":[1]}}}`,
	} {
		got, err := model.Read("application/json", []byte(given), Model())
		if text := string(pyjson.Append(nil, got, pyjson.Compact)); err != nil || text != want {
			t.Errorf("%s, %v\nwant %s", text, err, want)
		}
	}
}
