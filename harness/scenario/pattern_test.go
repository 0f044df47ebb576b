package scenario

import (
	"strings"
	"testing"
)

// Every matcher has a value that it takes and values that it must refuse.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern string // YAML
		takes   []string
		refuses []string // JSON; "-" is no value at all
	}{
		{`5`, []string{`5`, `5.0`, `5e0`}, []string{`6`, `"5"`, `null`, `-`, `true`}},
		{`1.5`, []string{`1.5`, `15e-1`}, []string{`1`, `2`}},
		{`"5"`, []string{`"5"`}, []string{`5`, `"5 "`}},
		{`true`, []string{`true`}, []string{`false`, `"true"`, `1`}},
		{`null`, []string{`null`}, []string{`0`, `""`, `-`}},
		{`{ a: 1 }`, []string{`{"a":1}`, `{"a":1,"b":2}`}, []string{`{}`, `{"a":2}`, `[1]`, `-`, `{"b":1}`}},
		{`{}`, []string{`{}`, `{"x":1}`}, []string{`[]`, `null`}},
		{`[1, { match: any }]`, []string{`[1,2]`, `[1,null]`}, []string{`[1]`, `[1,2,3]`, `[2,1]`, `{}`}},
		{`[]`, []string{`[]`}, []string{`[1]`, `null`}},
		{`{ match: any }`, []string{`1`, `null`, `{}`}, []string{`-`}},
		{`{ a: { match: absent } }`, []string{`{}`, `{"b":1}`}, []string{`{"a":null}`, `{"a":1}`}},
		{`{ match: "null" }`, []string{`null`}, []string{`-`, `0`}},
		{`{ match: string }`, []string{`""`, `"x"`}, []string{`1`, `null`}},
		{`{ match: bool }`, []string{`false`}, []string{`0`, `"true"`}},
		{`{ match: number }`, []string{`1`, `1.5`}, []string{`"1"`, `true`}},
		{`{ match: int }`, []string{`1`, `-3`}, []string{`1.0`, `1e3`, `"1"`}},
		{`{ match: array }`, []string{`[]`}, []string{`{}`, `""`}},
		{`{ match: object }`, []string{`{}`}, []string{`[]`, `null`}},
		{`{ match: non_empty }`, []string{`"x"`, `[0]`, `{"a":1}`}, []string{`""`, `[]`, `{}`, `1`, `-`}},
		{`{ match: uuid4 }`, []string{`"5b0c0a52-0d3e-4b0e-9a52-4d2f7f1f8a10"`}, []string{`"5b0c0a52-0d3e-1b0e-9a52-4d2f7f1f8a10"`, `"5B0C0A52-0D3E-4B0E-9A52-4D2F7F1F8A10"`, `"x5b0c0a52-0d3e-4b0e-9a52-4d2f7f1f8a10"`, `1`}},
		{`{ match: node_id }`, []string{`"blake3:` + strings.Repeat("a1", 32) + `"`}, []string{`"blake3:"`, `"blake3:` + strings.Repeat("G1", 32) + `"`}},
		{`{ match: sha256 }`, []string{`"` + strings.Repeat("0f", 32) + `"`}, []string{`"` + strings.Repeat("0f", 31) + `"`}},
		{`{ match: iso_time }`, []string{`"2025-01-01T00:00:00Z"`, `"2025-01-01T00:00:00.123456+00:00"`}, []string{`"2025-01-01"`, `"2025-01-01T00:00:00"`, `5`}},
		{`{ match: { regex: "^a+$" } }`, []string{`"aa"`}, []string{`"ab"`, `5`}},
		{`{ match: { range: { min: 1, max: 2.5 } } }`, []string{`1`, `2.5`}, []string{`0.99`, `2.51`, `"2"`, `null`}},
		{`{ match: { range: { min: 1 } } }`, []string{`1e9`}, []string{`0`}},
		{`{ match: { len: 2 } }`, []string{`[1,2]`, `"äb"`, `{"a":1,"b":2}`}, []string{`[1]`, `2`}},
		{`{ match: { len: { min: 1 } } }`, []string{`[1]`}, []string{`[]`}},
		{`{ match: { len: { match: { one_of: [1, 3] } } } }`, []string{`[1]`, `"abc"`}, []string{`[1,2]`}},
		{`{ match: { contains: x } }`, []string{`"axb"`, `["x"]`}, []string{`"ab"`, `["ax"]`, `{"x":1}`}},
		{`{ match: { contains: [{ a: 1 }, 2] } }`, []string{`[2,3,{"a":1,"b":2}]`}, []string{`[2]`, `[{"a":1}]`, `"2"`}},
		{`{ match: { set: [1, { match: int }, x] } }`, []string{`["x",1,7]`, `[7,"x",1]`}, []string{`[1,"x"]`, `[1,"x","y"]`, `[1,1,1]`, `{}`}},
		{`{ match: { one_of: [a, { match: int }] } }`, []string{`"a"`, `5`}, []string{`"b"`, `-`}},
		{`{ match: { nullable: { match: int } } }`, []string{`null`, `5`}, []string{`"x"`, `-`}},
		{`{ a: { match: { optional: 1 } } }`, []string{`{}`, `{"a":1}`}, []string{`{"a":2}`, `{"a":null}`}},
		{`{ match: { exact: { a: { b: [1] } } } }`, []string{`{"a":{"b":[1.0]}}`}, []string{`{"a":{"b":[1]},"c":1}`, `{"a":{"b":[1],"c":1}}`, `{}`}},
		{`{ match: { exact: { match: any } } }`, []string{`{"match":"any"}`}, []string{`5`}},
		{`{ match: { not: 5 } }`, []string{`6`, `"5"`}, []string{`5`, `5.0`}},
		{`{ match: { each: { a: 1 } } }`, []string{`[{"a":1},{"a":1,"b":2}]`, `{"x":{"a":1}}`}, []string{`[]`, `{}`, `[{"a":1},{"a":2}]`, `1`}},
		{`{ match: { all: [{ match: int }, { match: { range: { max: 3 } } }] } }`, []string{`3`}, []string{`4`, `1.5`}},
		{`{ match: { keys: [b, a] } }`, []string{`{"a":1,"b":2}`}, []string{`{"a":1}`, `{"a":1,"b":2,"c":3}`, `[]`}},
		{`{ match: { json: { a: 1 } } }`, []string{`"{\"a\":1}"`}, []string{`"{\"a\":2}"`, `"{"`, `{"a":1}`}},
		{`{ match: { base64_json: [1] } }`, []string{`"WzFd"`}, []string{`"WzJd"`, `"%"`, `"WzE="`}},
	} {
		d := readYAML("p", []byte(c.pattern))
		p := compile(d.value, "", func(at, what, mend string) { t.Errorf("compile(%s): %s: %s; %s", c.pattern, at, what, mend) })
		for _, v := range c.takes {
			if got := problemsOf(t, p, v); len(got) > 0 {
				t.Errorf("%s refuses %s: %v", c.pattern, v, got)
			}
		}
		for _, v := range c.refuses {
			if got := problemsOf(t, p, v); len(got) == 0 {
				t.Errorf("%s takes %s", c.pattern, v)
			}
		}
	}
}

func problemsOf(t *testing.T, p pattern, v string) []string {
	t.Helper()
	var got any = absent{}
	if v != "-" {
		var err error
		if got, err = parseJSON([]byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	r := &report{}
	p.check(got, "v", r)
	return r.problems
}

// Each difference names its path, what was wanted and what was seen.
func TestPatternProblemsNameThePlace(t *testing.T) {
	d := readYAML("p", []byte(`{ a: { b: [1, { c: { match: uuid4 } }] }, z: 1 }`))
	p := compile(d.value, "", func(string, string, string) {})
	got := strings.Join(problemsOf(t, p, `{"a":{"b":[2,{"c":"x"}]}}`), "\n")
	want := `v.a.b.0: want 1, got 2
v.a.b.1.c: want a UUIDv4, got "x"
v.z: want 1, got nothing`
	if got != want {
		t.Errorf("problems =\n%s\nwant\n%s", got, want)
	}
}

// YAML numbers keep their text, so that an int stays an int on the wire.
func TestYAMLNumbersKeepTheirKind(t *testing.T) {
	d := readYAML("n", []byte("[1, 1.0, 1e16, 1e-05, -0.0, 0x10, 1_000, 123456789012345678901234567890, .5, \"1e5\", 2025-01-01]"))
	if len(d.found) > 0 {
		t.Fatal(d.found)
	}
	got := string(appendJSON(nil, d.value, dressing{}, 0))
	want := `[1,1.0,1e16,1e-05,-0.0,16,1000,123456789012345678901234567890,0.5,"1e5","2025-01-01"]`
	if got != want {
		t.Errorf("numbers = %s; want %s", got, want)
	}
}

func TestDressingNeverChangesTheMeaning(t *testing.T) {
	spec := dagSpec{DAG: "two-worlds-tagquery", Edit: []edit{{Set: map[string]any{"note": "é\u2028\U0001F600\"\\\n", "f": map[string]any{"z": []any{}, "a": nil}}}}}
	plain, err := spec.build("u", dressing{})
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{plain.text: true}
	for _, d := range []dressing{
		{KeyOrder: "reversed"}, {KeyOrder: "sorted"}, {Whitespace: "spaced"}, {Whitespace: "indented"}, {Escape: "ascii"},
		{KeyOrder: "reversed", Whitespace: "indented", Escape: "ascii"},
	} {
		got, err := spec.build("u", d)
		if err != nil {
			t.Fatal(err)
		}
		if texts[got.text] {
			t.Errorf("dressing %+v gives a text that another one gives", d)
		}
		texts[got.text] = true
		if got.hash != plain.hash || got.crc != plain.crc {
			t.Errorf("dressing %+v changes hash or CRC", d)
		}
	}
}

func TestFreshDAGs(t *testing.T) {
	one := built(t, dagSpec{DAG: "chain-3"}, "a")
	if got := built(t, dagSpec{DAG: "chain-3"}, "a"); got.hash != one.hash {
		t.Error("the same token gives another DAG")
	}
	if got := built(t, dagSpec{DAG: "chain-3"}, "b"); got.hash == one.hash || got.ids[0] == one.ids[0] {
		t.Error("another token gives the same nodes")
	}
	if got := built(t, dagSpec{DAG: "chain-3", Variant: "v"}, "a"); got.ids[2] == one.ids[2] {
		t.Error("another variant gives the same nodes")
	}
	root, none := built(t, dagSpec{DAG: "chain-3", Fresh: "root"}, "a"), built(t, dagSpec{DAG: "chain-3", Fresh: "none"}, "a")
	if root.ids[0] != none.ids[0] || root.hash == none.hash {
		t.Error("fresh root must keep node ids and change the hash")
	}
}

// The named DAGs of the contract have the contract's golden ids and sums.
func TestGoldenDAGs(t *testing.T) {
	one := built(t, dagSpec{DAG: "one-node", Fresh: "none"}, "a")
	if one.ids[0] != "blake3:d40ad59b9297cbcc27c78932fb1dbad40eca3eabf4e5cf36b178c11417f4be5c" || one.crc != 1023661098 {
		t.Errorf("one-node is %s, CRC %d; want the contract's node A", one.ids[0], one.crc)
	}
	if two := built(t, dagSpec{DAG: "two-worlds-tagquery", Fresh: "none"}, "a"); two.crc != 3362672896 {
		t.Errorf("two-worlds-tagquery has CRC %d; want the contract's 3362672896", two.crc)
	}
}

func built(t *testing.T, s dagSpec, uniq string) builtDAG {
	t.Helper()
	b, err := s.build(uniq, dressing{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
