package pyjson_test

import (
	"math"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestToFloatReadsWhatPythonReads(t *testing.T) {
	for text, want := range map[string]float64{
		`1`: 1, `true`: 1, `false`: 0, `2.5`: 2.5, `" 2 "`: 2, `"1_0.5_0"`: 10.5, `"-inf"`: math.Inf(-1), `"+Infinity"`: math.Inf(1),
		`"1e400"`: math.Inf(1), `"٣.٥"`: 3.5, `".5"`: .5, `"5."`: 5,
	} {
		v, err := pyjson.ParseString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := pyjson.ToFloat(v); !ok || got != want {
			t.Errorf("ToFloat(%s) = %v, %v; want %v", text, got, ok, want)
		}
	}
	if got, ok := pyjson.ToFloat(pyjson.OfString("-NaN")); !ok || !math.IsNaN(got) {
		t.Errorf("NaN: %v, %v", got, ok)
	}
}

func TestToFloatRefusesWhatPythonRaisesOn(t *testing.T) {
	for _, text := range []string{
		`null`, `[]`, `{}`, `""`, `"x"`, `"0x1p-2"`, `"1__0"`, `"_1"`, `"1_"`, `"1_.5"`, `"++1"`, `"++inf"`, `"in f"`, `"1 0"`, "1" + strings.Repeat("0", 400),
	} {
		v, err := pyjson.ParseString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := pyjson.ToFloat(v); ok {
			t.Errorf("ToFloat(%.40s) = %v, want a refusal", text, got)
		}
	}
}
