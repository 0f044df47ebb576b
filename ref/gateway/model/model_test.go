package model

import (
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestLaxIntegers(t *testing.T) {
	for sent, want := range map[string]string{
		"0": "0", "-0": "0", "+5": "5", " 12 ": "12", "1_000": "1000", "007": "7", "-3": "-3", "12.0": "12", "12.": "12", "12.00": "12",
		"123456789012345678901234567890": "123456789012345678901234567890",
		"":                               "int_parsing", "x": "int_parsing", "0x1f": "int_parsing", "1__0": "int_parsing", "_1": "int_parsing", "1_": "int_parsing",
		"1.5": "int_parsing", "+-1": "int_parsing", "1e3": "int_parsing", "٣": "int_parsing", strings.Repeat("9", 4301): "int_parsing_size",
	} {
		digits, errType := LaxIntText(sent)
		if digits+errType != want {
			t.Errorf("LaxIntText(%.40q) = %q, %q; want %q", sent, digits, errType, want)
		}
	}
}

// probe has one field of each type.
var probe = Object(
	Field{Key: "text", Type: Text, Optional: true},
	Field{Key: "int", Type: Integer, Optional: true},
	Field{Key: "strict_int", Type: StrictInteger, Optional: true},
	Field{Key: "number", Type: Number, Optional: true},
	Field{Key: "strict_number", Type: StrictNumber, Optional: true},
	Field{Key: "version", Type: Nullable(AtLeast(1, Integer)), Optional: true},
	Field{Key: "map", Type: MapOf(Number), Optional: true},
	Field{Key: "list", Type: ListOf(Object(Field{Key: "a", Type: Text})), Optional: true},
	Field{Key: "pair", Type: PairOf(Integer), Optional: true},
	Field{Key: "dict", Type: Dict, Optional: true},
)

func TestTypesKeepWhatTheModelKeeps(t *testing.T) {
	for sent, want := range map[string]string{
		`{"text":"x","unknown":1}`:                    `{"text":"x"}`,
		`{"number":1,"int":"2"}`:                      `{"int":2,"number":1.0}`,
		`{"number":true}`:                             `{"number":1.0}`,
		`{"number":" 1_0.5 "}`:                        `{"number":10.5}`,
		`{"strict_number":3,"version":null}`:          `{"strict_number":3.0,"version":null}`,
		`{"map":{"b":1,"a":"2"},"pair":[1.0,true]}`:   `{"map":{"b":1.0,"a":2.0},"pair":[1,1]}`,
		`{"list":[{"a":"x","b":1}],"dict":{"k":[1]}}`: `{"list":[{"a":"x"}],"dict":{"k":[1]}}`,
	} {
		got, err := Read("application/json", []byte(sent), probe)
		if text := string(pyjson.Append(nil, got, pyjson.Compact)); err != nil || text != want {
			t.Errorf("%s: %s, %v; want %s", sent, text, err, want)
		}
	}
}

func TestTypesRefuseWhatTheFrameworkRefuses(t *testing.T) {
	for sent, want := range map[string]string{
		`[]`:                            `[[["body"],"model_attributes_type"]]`,
		`{"text":1}`:                    `[[["body","text"],"string_type"]]`,
		`{"int":1.5,"strict_int":true}`: `[[["body","int"],"int_from_float"],[["body","strict_int"],"int_type"]]`,
		`{"number":"x","map":{"w":[]}}`: `[[["body","number"],"float_parsing"],[["body","map","w"],"float_type"]]`,
		`{"number":null}`:               `[[["body","number"],"float_type"]]`,
		`{"strict_number":"1"}`:         `[[["body","strict_number"],"float_type"]]`,
		`{"strict_number":true}`:        `[[["body","strict_number"],"float_type"]]`,
		`{"version":0}`:                 `[[["body","version"],"greater_than_equal"]]`,
		`{"version":-1` + strings.Repeat("0", 30) + `}`: `[[["body","version"],"greater_than_equal"]]`,
		`{"version":"x"}`:            `[[["body","version"],"int_parsing"]]`,
		`{"list":[{}, 5],"map":[]}`:  `[[["body","map"],"dict_type"],[["body","list",0,"a"],"missing"],[["body","list",1],"model_attributes_type"]]`,
		`{"pair":[1]}`:               `[[["body","pair",1],"missing"]]`,
		`{"pair":[1,2,3],"list":{}}`: `[[["body","list"],"list_type"],[["body","pair"],"too_long"]]`,
		`{"pair":5,"dict":[]}`:       `[[["body","pair"],"tuple_type"],[["body","dict"],"dict_type"]]`,
		`{`:                          `[[["body",1],"json_invalid"]]`,
		``:                           `[[["body"],"missing"]]`,
		`{"text":"\ud800"}`:          `[[["body","text"],"string_unicode"]]`,
	} {
		_, err := Read("application/json", []byte(sent), probe)
		if got := locations(t, err); got != want {
			t.Errorf("%s: %s, want %s", sent, got, want)
		}
	}
}

// locations gives loc and type of every item of a 422 answer.
func locations(t *testing.T, err error) string {
	t.Helper()
	problem, ok := err.(*contract.Problem)
	if !ok || problem.Status != 422 {
		t.Fatalf("error %v, want 422", err)
	}
	var items []pyjson.Value
	for _, e := range problem.Detail.Elems() {
		items = append(items, pyjson.OfArray(e.Member("loc"), e.Member("type")))
	}
	return string(pyjson.Append(nil, pyjson.OfArray(items...), pyjson.Compact))
}

func TestAnItemSaysWhatTheFrameworkSays(t *testing.T) {
	_, err := Read("application/json", []byte(`{"pair":[1,2,3],"version":0}`), probe)
	want := `{"detail":[{"type":"greater_than_equal","loc":["body","version"],"msg":"Input should be greater than or equal to 1","input":0,"ctx":{"ge":1}},` +
		`{"type":"too_long","loc":["body","pair"],"msg":"Tuple should have at most 2 items after validation, not 3","input":[1,2,3],"ctx":{"field_type":"Tuple","max_length":2,"actual_length":3}}]}`
	if got := err.Error(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestOtherContentIsNoObject(t *testing.T) {
	_, err := Read("text/plain", []byte(`{"text":"x"}`), probe)
	if got := locations(t, err); got != `[[["body"],"model_attributes_type"]]` {
		t.Error(got)
	}
	if _, err := Read("application/json", []byte("\xff\xfe"), probe); err == nil || err.Error() != `{"detail":"There was an error parsing the body"}` {
		t.Error(err)
	}
}
