// Package model reads request bodies as the framework does that the original
// runs on (gateway.md 1.0): which values a field takes, how they are kept, and
// one item for each mistake. It takes values and gives values.
package model

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// A FieldError is one item of a 422 answer in the shape of the framework that
// the original runs on (gateway.md 1.0).
type FieldError struct {
	Type  string         // e.g. "missing", "string_type"
	Loc   []pyjson.Value // below "body" or "query"
	Input pyjson.Value
	Msg   string          // "": the usual one of Type
	Ctx   []pyjson.Member // what some types add
}

// messages are for people; clients look at the type.
var messages = map[string]string{
	"missing":               "Field required",
	"string_type":           "Input should be a valid string",
	"string_unicode":        "Input should be a valid string, unable to parse raw data as a unicode string",
	"int_type":              "Input should be a valid integer",
	"int_parsing":           "Input should be a valid integer, unable to parse string as an integer",
	"int_parsing_size":      "Unable to parse input string as an integer, exceeded maximum size",
	"int_from_float":        "Input should be a valid integer, got a number with a fractional part",
	"finite_number":         "Input should be a finite number",
	"float_type":            "Input should be a valid number",
	"float_parsing":         "Input should be a valid number, unable to parse string as a number",
	"tuple_type":            "Input should be a valid tuple",
	"list_type":             "Input should be a valid list",
	"dict_type":             "Input should be a valid dictionary",
	"model_attributes_type": "Input should be a valid dictionary or object to extract fields from",
	"json_invalid":          "JSON decode error",
}

// Unprocessable is the 422 answer for mistakes in one part of a request: "body",
// "query" or "path".
func Unprocessable(part string, errs ...FieldError) *contract.Problem {
	return &contract.Problem{Status: http.StatusUnprocessableEntity, Detail: Items(errs, pyjson.OfString(part))}
}

// Items lists mistakes as an answer does, with every location behind part.
func Items(errs []FieldError, part ...pyjson.Value) pyjson.Value {
	items := make([]pyjson.Value, len(errs))
	for i, e := range errs {
		items[i] = e.item(part)
	}
	return pyjson.OfArray(items...)
}

func (e FieldError) item(part []pyjson.Value) pyjson.Value {
	msg := e.Msg
	if msg == "" {
		msg = messages[e.Type]
	}
	members := []pyjson.Member{
		{Key: "type", Value: pyjson.OfString(e.Type)}, {Key: "loc", Value: pyjson.OfArray(slices.Concat(part, e.Loc)...)},
		{Key: "msg", Value: pyjson.OfString(msg)}, {Key: "input", Value: echo(e.Input)},
	}
	if len(e.Ctx) > 0 {
		members = append(members, pyjson.Member{Key: "ctx", Value: pyjson.OfObject(e.Ctx...)})
	}
	return pyjson.OfObject(members...)
}

// echoLimit bounds how much of a bad input the answer repeats.
const echoLimit = 64 << 10

// echo gives the input back as long as it is small and can be said in JSON.
func echo(v pyjson.Value) pyjson.Value {
	b := pyjson.Append(nil, v, pyjson.Compact)
	if len(b) > echoLimit || !utf8.Valid(b) || !finite(v) {
		return pyjson.Value{}
	}
	return v
}

func finite(v pyjson.Value) bool {
	if f, ok := v.Float64(); ok {
		return !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	for _, e := range v.Elems() {
		if !finite(e) {
			return false
		}
	}
	for _, m := range v.Members() {
		if !finite(m.Value) {
			return false
		}
	}
	return true
}

// LaxInt reads an integer as loosely as the original's body model: a float
// without fraction, a numeric string and a boolean will do. It gives decimal
// digits of any length, or the type of the field error.
func LaxInt(v pyjson.Value) (digits, errType string) {
	switch v.Kind() {
	case pyjson.Int:
		return v.Text(), ""
	case pyjson.Bool:
		if v.IsTrue() {
			return "1", ""
		}
		return "0", ""
	case pyjson.Float:
		f, _ := v.Float64()
		return laxFloat(f)
	case pyjson.String:
		s, _ := v.Str()
		return LaxIntText(s)
	default:
		return "", "int_type"
	}
}

func laxFloat(f float64) (digits, errType string) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return "", "finite_number"
	case f != math.Trunc(f):
		return "", "int_from_float"
	case f <= math.MinInt64 || f >= math.MaxInt64:
		return "", "int_parsing"
	default:
		return strconv.FormatInt(int64(f), 10), ""
	}
}

// LaxIntText reads an integer from text: surrounding space, a sign, single
// underscores between digits and a fraction of zeros are allowed. It gives
// decimal digits of any length, or the type of the field error.
func LaxIntText(s string) (digits, errType string) {
	s = strings.TrimSpace(s)
	if len(s) > pyjson.MaxDigits {
		return "", "int_parsing_size"
	}
	if d, ok := plainInt(s); ok {
		return d, ""
	}
	whole, fraction, dotted := strings.Cut(s, ".")
	if d, ok := plainInt(whole); ok && dotted && strings.Trim(fraction, "0") == "" {
		return d, ""
	}
	return "", "int_parsing"
}

// plainInt normalises sign, underscores and leading zeros.
func plainInt(s string) (string, bool) {
	sign := ""
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = strings.TrimPrefix(s[:1], "+"), s[1:]
	}
	if s == "" || s[0] == '_' || s[len(s)-1] == '_' || strings.Contains(s, "__") {
		return "", false
	}
	s = strings.ReplaceAll(s, "_", "")
	if strings.Trim(s, "0123456789") != "" {
		return "", false
	}
	s = strings.TrimLeft(s, "0")
	if s == "" {
		return "0", true
	}
	return sign + s, true
}
