package pyjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

const hash = pyjson.Spaced | pyjson.Sorted | pyjson.ASCII

func parse(t testing.TB, s string) pyjson.Value {
	t.Helper()
	v, err := pyjson.ParseString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return v
}

func TestNumbersAreWrittenAsPythonWritesThem(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "0", "1": "1", "-12": "-12",
		"9223372036854775807": "9223372036854775807", "9223372036854775808": "9223372036854775808",
		"-9223372036854775809": "-9223372036854775809", "100000000000000000000": "100000000000000000000",
		"1.0": "1.0", "-0.0": "-0.0", "-0e5": "-0.0", "2.50": "2.5", "1e5": "100000.0", "1E+5": "100000.0",
		"1e15": "1000000000000000.0", "1e16": "1e+16", "9999999999999998.0": "9999999999999998.0",
		"1e-4": "0.0001", "0.00001": "1e-05", "5e-324": "5e-324", "1e-400": "0.0", "1e309": "Infinity", "-1e309": "-Infinity",
		"123456789.123456789": "123456789.12345679", "1.7976931348623157e308": "1.7976931348623157e+308",
		"NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity",
	} {
		if got := string(pyjson.Append(nil, parse(t, in), pyjson.Compact)); got != want {
			t.Errorf("%s is written %s, want %s", in, got, want)
		}
	}
}

func TestTheTwoSerialisations(t *testing.T) {
	in := `{"é":"\u007f\u2028<&>/\b\u0001\"\\😀","Z":[1, 2.0 ],"a":{ },"\uffff":null,"😀":true,"":false}`
	for style, want := range map[pyjson.Style]string{
		pyjson.Compact: "{\"é\":\"\u007f\u2028<&>/\\b\\u0001\\\"\\\\😀\",\"Z\":[1,2.0],\"a\":{},\"\uffff\":null,\"😀\":true,\"\":false}",
		hash:           `{"": false, "Z": [1, 2.0], "a": {}, "\u00e9": "\u007f\u2028<&>/\b\u0001\"\\\ud83d\ude00", "\uffff": null, "\ud83d\ude00": true}`,
	} {
		if got := string(pyjson.Append(nil, parse(t, in), style)); got != want {
			t.Errorf("style %d\n got %q\nwant %q", style, got, want)
		}
	}
}

func TestSurrogates(t *testing.T) {
	for in, want := range map[string]string{
		`"\ud83d\ude00"`: `"\ud83d\ude00"`, `"\uD83D\uDE00"`: `"\ud83d\ude00"`,
		`"\ud83d"`: `"\ud83d"`, `"\ude00\ud83d"`: `"\ude00\ud83d"`, `"\ud83dx\ude00"`: `"\ud83dx\ude00"`,
		`"\ud83d\u0041"`: `"\ud83dA"`, "\"\xed\xa0\x80\"": `"\ud800"`,
	} {
		v := parse(t, in)
		if got := string(pyjson.Append(nil, v, pyjson.ASCII)); got != want {
			t.Errorf("%s is written %s, want %s", in, got, want)
		}
	}
	s, _ := parse(t, `"a\ud800"`).Str()
	if utf8.ValidString(s) {
		t.Errorf("a lone surrogate passed for UTF-8: %q", s)
	}
}

func TestDuplicateKeysKeepTheFirstPlaceAndTheLastValue(t *testing.T) {
	var many strings.Builder
	for i := range 40 {
		fmt.Fprintf(&many, `"k%d":%d,`, i%20, i)
	}
	long := parse(t, "{"+many.String()+`"z":0}`)
	if m := long.Members(); len(m) != 21 || m[0].Key != "k0" || m[0].Value.Text() != "20" {
		t.Errorf("of 40 members %d are left, the first %s = %s", len(m), m[0].Key, m[0].Value.Text())
	}
	if got := string(pyjson.Append(nil, parse(t, `{"a":1,"b":2,"a":3}`), pyjson.Compact)); got != `{"a":3,"b":2}` {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsNotJSONIsRefusedWithItsPlace(t *testing.T) {
	deep := strings.Repeat("[", pyjson.MaxDepth+1)
	for in, at := range map[string]int{
		"": 0, " ": 1, "[": 1, "[1": 2, "[1,]": 3, "[1 2]": 3, "{": 1, `{"a"}`: 4, `{"a":1,}`: 7, `{a:1}`: 1, `{1:1}`: 1,
		"nul": 0, "True": 0, "'a'": 0, "01": 1, "1.": 1, ".5": 0, "1e": 1, "+1": 0, "-": 0, "--1": 0, "-Inf": 0, "1 2": 2,
		`"`: 0, `"a`: 0, `"\`: 1, `"\x"`: 1, `"\u12"`: 1, `"\u12g4"`: 1, "\"a\tb\"": 2, "\"\x00\"": 1,
		"\ufeff{}": 0, "\u00a01": 0, "\x0b1": 0, "\"\xff\"": 1, "\"\xc3\"": 1, "[1]x": 3, "\x001": 0,
		deep: pyjson.MaxDepth, strings.Repeat("7", pyjson.MaxDigits+1): 0,
	} {
		_, err := pyjson.ParseString(in)
		var syntax *pyjson.SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset != at || syntax.Reason == "" {
			t.Errorf("%.40q: %v, want a syntax error at offset %d", in, err, at)
		}
	}
	parse(t, strings.Repeat("[", pyjson.MaxDepth)+strings.Repeat("]", pyjson.MaxDepth))
	parse(t, "-"+strings.Repeat("7", pyjson.MaxDigits))
	parse(t, "\"\x7f\u0085\ufeff\"")
}

func TestTextIsPythonsStr(t *testing.T) {
	for in, want := range map[string]string{
		`"a'b"`: "a'b", "null": "None", "true": "True", "false": "False", "1.0": "1.0", "1e16": "1e+16", "NaN": "nan",
		"-Infinity": "-inf", "100000000000000000000": "100000000000000000000", "[]": "[]", "{}": "{}",
		`["x", 1, null, ["y"], {"a": 1.50}]`:                       "['x', 1, None, ['y'], {'a': 1.5}]",
		`["it's", "\"", "'\""]`:                                    `["it's", '"', '\'"']`,
		`["\\\n\r\t\u0000\u007f\u00a0\u0301\u2028\ud800\u200b😀é"]`: `['\\\n\r\t\x00\x7f\xa0` + "\u0301" + `\u2028\ud800\u200b😀é']`,
	} {
		if got := parse(t, in).Text(); got != want {
			t.Errorf("str(%s) is %s, want %s", in, got, want)
		}
	}
}

func TestTruth(t *testing.T) {
	for in, want := range map[string]bool{
		"null": false, "false": false, "true": true, "0": false, "-0": false, "1": true, "0.0": false, "-0.0": false,
		"NaN": true, "1e-400": false, `""`: false, `" "`: true, "[]": false, "[0]": true, "{}": false, `{"":0}`: true,
		"100000000000000000000": true,
	} {
		if got := parse(t, in).Truthy(); got != want {
			t.Errorf("%s is %t", in, got)
		}
	}
}

func TestIntegersAreReadAsPythonsIntReadsThem(t *testing.T) {
	for in, want := range map[string]string{
		"60": "60", "60.9": "60", "-60.9": "-60", "true": "1", "false": "0", "1e22": "10000000000000000000000",
		`"60"`: "60", `"6_0"`: "60", `"+60"`: "60", `" 60 "`: "60", `"-0"`: "0", `"007"`: "7", `"٦٠"`: "60", `"\u200960\u3000"`: "60",
		`"10000000000000000000000000"`: "10000000000000000000000000", `"𝟗᠐"`: "90",
		`""`: "", `" "`: "", `"6__0"`: "", `"_60"`: "", `"60_"`: "", `"+ 60"`: "", `"0x10"`: "", `"60.0"`: "", `"²"`: "",
		`"\u001c60"`: "", `"\u200b60"`: "", "null": "", "[]": "", "{}": "", "NaN": "", "1e999": "",
		`"` + strings.Repeat("1", pyjson.MaxDigits+1) + `"`: "",
	} {
		got, err := pyjson.ToInteger(parse(t, in))
		if (err != nil) != (want == "") || err == nil && got.Text() != want {
			t.Errorf("int(%.40s) is %s, %v, want %q", in, got.Text(), err, want)
		}
		if err != nil && !errors.Is(err, pyjson.ErrNotInteger) {
			t.Errorf("int(%.40s): %v does not wrap ErrNotInteger", in, err)
		}
	}
	if _, err := pyjson.ToInt(parse(t, "9223372036854775808")); !errors.Is(err, pyjson.ErrNotInteger) {
		t.Errorf("2^63 became an int64: %v", err)
	}
	if n, err := pyjson.ToInt(parse(t, `"9223372036854775807"`)); n != math.MaxInt64 || err != nil {
		t.Errorf("2^63-1 is %d, %v", n, err)
	}
}

func TestStripAndLower(t *testing.T) {
	for in, want := range map[string]string{
		" a\t\n\v\f\r": "a", "\x1c\x1d\x1e\x1fa\x1f": "a", "\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000a": "a",
		"\u200ba\ufeff": "\u200ba\ufeff", "\u180ea": "\u180ea", "": "", " \xed\xa0\x80 ": "\xed\xa0\x80",
	} {
		if got := pyjson.Strip(in); got != want {
			t.Errorf("strip(%q) is %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"ABC": "abc", "É": "é", "İ": "i\u0307", "ẞ": "ß", "Σ": "σ", "AΣ": "aς", "AΣB": "aσb", "AΣ.": "aς.", "A.Σ": "a.ς", "ΣA": "σa",
		"\u212a": "k", "İ\xed\xa0\x80Ａ": "i\u0307\xed\xa0\x80ａ",
	} {
		if got := pyjson.Lower(in); got != want {
			t.Errorf("lower(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestMembersAreFoundReplacedAndLeftOut(t *testing.T) {
	v := parse(t, `{"a":{"seed":1,"b":[{"seed":2}]},"seed":3}`)
	w := v.With("a", pyjson.OfInt(1)).With("new", pyjson.Value{})
	if got := string(pyjson.Append(nil, w, pyjson.Compact)); got != `{"a":1,"seed":3,"new":null}` {
		t.Errorf("got %s", got)
	}
	isSeed := func(key string) bool { return key == "seed" }
	if got := string(pyjson.AppendWithout(nil, v, pyjson.Compact, isSeed)); got != `{"a":{"b":[{}]}}` {
		t.Errorf("got %s", got)
	}
	if got := string(pyjson.Append(nil, v.Without("a").Without("x"), pyjson.Compact)); got != `{"seed":3}` {
		t.Errorf("got %s", got)
	}
	if _, ok := v.Get("b"); ok {
		t.Error("found a member of a member")
	}
	if _, ok := pyjson.OfArray(v).Get("a"); ok {
		t.Error("found a member of an array")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,1.0,-0,-0.0,1e16,NaN,Infinity],"a":"\ud800\ud83d\ude00\u007f"}`, `[[[]],{"":{}}]`, `"\u2028` + "\u2028" + `"`,
		`123456789012345678901234567890`, ` [ 1 , true , null ] `, `{"k":1,"k":2}`, "\"\xed\xa0\x80\"", "1e400", `"\`, "[1,]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := pyjson.Parse(b)
		if err != nil {
			var syntax *pyjson.SyntaxError
			if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(b) {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		for _, style := range []pyjson.Style{pyjson.Compact, pyjson.Spaced | pyjson.ASCII, hash} {
			once := pyjson.Append(nil, v, style)
			again, err := pyjson.Parse(once)
			if err != nil {
				t.Fatalf("%q was written %q, which is refused: %v", b, once, err)
			}
			if twice := pyjson.Append(nil, again, style); string(twice) != string(once) {
				t.Fatalf("%q was written %q, then %q", b, once, twice)
			}
		}
		_, _ = v.Text(), v.Truthy()
		_, _ = pyjson.ToInteger(v)
	})
}

// Strings full of escapes read as encoding/json reads them.
func FuzzEscapes(f *testing.F) {
	for _, s := range []string{`a`, `\\`, `\"`, `\\\"`, `x\\`, `\u0041\\`, `\ud83d\ude00`, `\n\"\\"`, `\`, `a\"`, `\\","b\\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, inside string) {
		for _, text := range []string{`"` + inside + `"`, `["` + inside + `","` + inside + `",{"` + inside + `":1}]`} {
			var want any
			if json.Unmarshal([]byte(text), &want) != nil || strings.Contains(text, `\u`) || !utf8.ValidString(text) {
				continue // surrogates differ on purpose
			}
			v, err := pyjson.ParseString(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			var got any
			if err := json.Unmarshal(pyjson.Append(nil, v, pyjson.Compact), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v (%v)", text, got, want, err)
			}
		}
	})
}

func TestValuesCanBeCounted(t *testing.T) {
	for text, most := range map[string]int{`[0,0,0]`: 2, `{"a":[1,{}],"b":[[],"x,y,z"]}`: 3, `"a,b"`: 0, `[[[[]]]]`: 0} {
		if _, err := pyjson.ParseAtMost(text, most); err != nil {
			t.Errorf("%s, at most %d: %v", text, most, err)
		}
		if _, err := pyjson.ParseAtMost(text, most-1); most > 0 && !errors.Is(err, pyjson.ErrTooMany) {
			t.Errorf("%s, at most %d: %v", text, most-1, err)
		}
	}
}
