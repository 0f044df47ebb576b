package contract_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func node(t testing.TB, s string) pyjson.Value {
	t.Helper()
	v, err := pyjson.ParseString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return v
}

func TestPreimageRules(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                                  `|0|0|null|||`,
		`{"node_type":null,"code_hash":null}`: `None|0|0|null|||None`,
		`{"params":{"Env":1,"ENV_x":1,"enviro":1,"a":{"SEED":1}}}`:     `|0|0|{"a":{},"enviro":1}|||`,
		`{"params":{"time\u017ftamp":1,"DOMAIN\u212a":2,"en":3}}`:      "|0|0|{\"DOMAIN\u212a\":2,\"en\":3,\"time\u017ftamp\":1}|||",
		`{"params":["x",{"b":1,"a":1,"env":0}]}`:                       `|0|0|["x",{"a":1,"b":1}]|||`,
		`{"inputs":["b",null,"",5,1.0,true,false,0,{"a":1},["x"]]}`:    `|0|0|null|0,1.0,5,False,True,['x'],b,{'a': 1}||`,
		`{"inputs":false,"dependencies":{"z":1,"a":2}}`:                `|0|0|null|a,z||`,
		`{"inputs":"é😀a"}`:                                             `|0|0|null|a,é,😀||`,
		`{"inputs":0,"dependencies":0.0}`:                              `|0|0|null|||`,
		`{"interval":"\u00a06_0\n","period":-1.9}`:                     `|60|-1|null|||`,
		`{"interval":{},"period":1e30}`:                                `|0|1000000000000000019884624838656|null|||`,
		`{"schema_compat_id":[],"schema_id":[1]}`:                      `|0|0|null||[1]|`,
		`{"schema_compat_id":"a\u001f","schema_id":"a"}`:               `|0|0|null||a|`,
		`{"node_type":"TagQueryNode","params":{"query_tags":"b,a,b"}}`: `TagQueryNode|0|0|{"interval":null,"match_mode":"any","query_tags":["a","b"]}|||`,
		`{"node_type":"TagQueryNode","params":{"tags":null},"tags":"x","match_mode":"ALL","interval":"99999999999999999999"}`: `TagQueryNode|99999999999999999999|0|{"interval":99999999999999999999,"match_mode":"all","query_tags":["x"]}|||`,
		`{"node_type":"TagQueryNode","params":{"match_mode":""},"match_mode":"all","tags":["<",">"]}`:                         `TagQueryNode|0|0|{"interval":null,"match_mode":"any","query_tags":["<",">"]}|||`,
	} {
		got, err := contract.NodePreimage(node(t, in))
		if err != nil || string(got) != want {
			t.Errorf("%s\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
}

func TestWhatNoIDCanBeMadeOf(t *testing.T) {
	for in, says := range map[string]string{
		`{"interval":"1m"}`: "interval", `{"period":[1]}`: "period", `{"interval":1e999}`: "interval", `{"inputs":5}`: "inputs",
		`{"inputs":true}`: "inputs", `{"dependencies":1.5}`: "inputs", `{"params":"\ud800"}`: "surrogate", `{"node_type":"\udc00"}`: "surrogate",
		`{"node_type":"TagQueryNode","tags":7}`: "tags", `{"node_type":"TagQueryNode","match_mode":1}`: "match_mode",
		`{"node_type":"TagQueryNode","params":{"match_mode":["all"]}}`: "match_mode",
	} {
		_, err := contract.NodeID(node(t, in))
		if !errors.Is(err, contract.ErrNode) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error about %s", in, err, says)
		}
	}
	var conflict *contract.SchemaConflict
	_, err := contract.NodeID(node(t, `{"schema_compat_id":" a","schema_id":5}`))
	if !errors.As(err, &conflict) || *conflict != (contract.SchemaConflict{SchemaCompatID: " a", SchemaID: "5"}) {
		t.Errorf("got %v", err)
	}
}

func TestBase64OfADAGIsReadAsLenientlyAsPythonReadsIt(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":1}`: `{"a":1}`, "eyJhIjoxfQ==": `{"a":1}`, "eyJh\nIjox\tfQ==": `{"a":1}`, "{eyJhIjoxfQ==": `{"a":1}`, "eyJhIjoxfQ==junk": `{"a":1}`,
		"eyJhIjoxfQ=!=": `{"a":1}`, "=eyJhIjoxfQ==": `{"a":1}`, "eyJhIjoxfQ": "", "eyJhIjoxfQ=": "", "eyJhIjoxfQ==é": "", "bnVsbA==": "", "/////w==": "",
		"": "", "[]": "", "eyJhIjoi7aCAIn0=": "", `{"a":"` + "\xed\xa0\x80" + `"}`: `{"a":"\ud800"}`,
	} {
		dag, err := contract.DecodeDAG(in)
		if got := string(pyjson.Append(nil, dag, pyjson.ASCII)); err == nil && got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
		if (err != nil) != (want == "") || err != nil && !errors.Is(err, contract.ErrDAG) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestQueueFilters(t *testing.T) {
	for in, want := range map[string]contract.QueueFilter{
		"tag;interval=60": {Interval: 60}, "tag=a;tag=b;interval=1;interval=2": {Tags: []string{"b"}, Interval: 2},
		"interval=x;interval=5;tag=a": {Tags: []string{"a"}, Interval: 5}, "tag=a;interval=٦٠": {Tags: []string{"a"}, Interval: 60},
		"tag=a;interval=1H": {Tags: []string{"a"}, Interval: 3600}, "tag=a;interval=-5": {}, "tag=a;interval=²": {}, "tag =a": {},
	} {
		if got := contract.ParseQueueFilter(in); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

func FuzzNodeID(f *testing.F) {
	for _, seed := range []string{
		`{"node_type":"N","interval":60,"params":{"a":1.0,"seed":1},"inputs":["b","a"],"code_hash":"c"}`,
		`{"node_type":"TagQueryNode","params":{"tags":"b, a","match_mode":"ALL","interval":" 6_0 "}}`,
		`{"schema_compat_id":" s\u001c","schema_id":"s","inputs":"ba","config":[1e16,-0]}`, `{"params":"\ud800"}`, `[]`, `7`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := pyjson.ParseString(s)
		if err != nil {
			return
		}
		id, err := contract.NodeID(v)
		if err != nil {
			return
		}
		preimage, err := contract.NodePreimage(v)
		if err != nil || !utf8.Valid(preimage) || contract.HashID(preimage) != id {
			t.Fatalf("%q: id %s, pre-image %q, %v", s, id, preimage, err)
		}
		if other := redressed(t, v); other != id && !containers(v) {
			t.Fatalf("%q: id %s, in another dress %s", s, id, other)
		}
	})
}

// redressed gives the id of v after it was written another way.
func redressed(t *testing.T, v pyjson.Value) string {
	again, err := pyjson.Parse(pyjson.Append(nil, v, pyjson.Spaced|pyjson.Sorted|pyjson.ASCII))
	if err != nil {
		t.Fatal(err)
	}
	id, err := contract.NodeID(again)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// containers says whether an object stands where its text, and so the order of
// its members, is part of the id.
func containers(v pyjson.Value) bool {
	for _, key := range []string{"node_type", "code_hash", "schema_compat_id", "schema_id", "inputs", "dependencies", "tags", "params"} {
		if k := v.Member(key).Kind(); k == pyjson.Array || k == pyjson.Object {
			return true
		}
	}
	return false
}

// sampleDAG is a DAG of n nodes, about 600 bytes a node, as an SDK writes it.
func sampleDAG(t testing.TB, n int) []byte {
	nodes := make([]pyjson.Value, n)
	inputs := "[]"
	for i := range nodes {
		raw := fmt.Sprintf(`{"node_id":"","node_type":"IndicatorNode","interval":60,"period":%d,"params":{"window":%d,"alpha":0.%d5,"mode":"ema","levels":[0.5,1.0,2.0],"label":"지표 %d","nested":{"k":%d,"seed":7}},"inputs":%s,"code_hash":"%064x","config_hash":"%064x","schema_hash":"%032x","schema_compat_id":"ind-major","tags":["price","btc","t%d"],"name":"node_%d","bucket":null}`,
			i+1, i, i+1, i, i, inputs, i, i+1, i+2, i, i)
		v := node(t, raw)
		id, err := contract.NodeID(v)
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = v.With("node_id", pyjson.OfString(id))
		inputs = `["` + id + `"]`
	}
	dag := pyjson.OfObject(pyjson.Member{Key: "schema_version", Value: pyjson.OfString("v1")}, pyjson.Member{Key: "nodes", Value: pyjson.OfArray(nodes...)})
	return pyjson.Append(nil, dag, pyjson.Spaced|pyjson.ASCII)
}

// BenchmarkIdentity is what the Gateway computes for each submission: decode
// the DAG, name its nodes, checksum the names, hash the DAG.
func BenchmarkIdentity(b *testing.B) {
	body := sampleDAG(b, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		dag, err := pyjson.Parse(body)
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, 0, 12)
		for _, n := range dag.Member("nodes").Elems() {
			id, err := contract.NodeID(n)
			if err != nil || id != n.Member("node_id").Text() {
				b.Fatal(id, err)
			}
			ids = append(ids, id)
		}
		if contract.CRC32(ids) == 0 || len(contract.DAGHash(dag)) != 64 {
			b.Fatal("no checksum or hash")
		}
	}
}

func BenchmarkParse(b *testing.B) {
	body := sampleDAG(b, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pyjson.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDAGHash(b *testing.B) {
	dag := node(b, string(sampleDAG(b, 12)))
	b.ReportAllocs()
	for b.Loop() {
		_ = contract.DAGHash(dag)
	}
}

func BenchmarkNodeID(b *testing.B) {
	n := node(b, string(sampleDAG(b, 12))).Member("nodes").Elems()[5]
	b.ReportAllocs()
	for b.Loop() {
		_, _ = contract.NodeID(n)
	}
}
