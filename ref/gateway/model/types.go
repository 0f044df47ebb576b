package model

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// A Type says which values a field takes. It gives a value as the model keeps
// it, and tells f what is wrong with it.
type Type func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value

type findings struct{ errs []FieldError }

func (f *findings) add(errType string, input pyjson.Value, loc []pyjson.Value) pyjson.Value {
	return f.file(FieldError{Type: errType, Loc: loc, Input: input})
}

func (f *findings) file(e FieldError) pyjson.Value {
	f.errs = AppendError(f.errs, e)
	return pyjson.Value{}
}

// MaxNamed is how many mistakes of one kind an answer names.
const MaxNamed = 1000

// AppendError adds a mistake, unless there are MaxNamed already.
func AppendError(errs []FieldError, e FieldError) []FieldError {
	if len(errs) >= MaxNamed {
		return errs
	}
	return append(errs, e)
}

// Check gives v as a model of type t keeps it, or every mistake in it.
func Check(t Type, v pyjson.Value) (pyjson.Value, []FieldError) {
	var f findings
	kept := t(&f, v, nil)
	if f.errs != nil {
		return pyjson.Value{}, f.errs
	}
	return kept, nil
}

// below gives loc and one step more, in memory of its own.
func below(loc []pyjson.Value, step pyjson.Value) []pyjson.Value {
	return append(loc[:len(loc):len(loc)], step)
}

// A Field is one member of an Object.
type Field struct {
	Key      string
	Type     Type
	Optional bool // it may be absent, and is kept absent
}

// Object is a model: its fields in their order, others dropped.
func Object(fields ...Field) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		if v.Kind() != pyjson.Object {
			return f.add("model_attributes_type", v, loc)
		}
		kept := make([]pyjson.Member, 0, len(fields))
		for _, one := range fields {
			given, there := v.Get(one.Key)
			at := below(loc, pyjson.OfString(one.Key))
			switch {
			case there:
				kept = append(kept, pyjson.Member{Key: one.Key, Value: one.Type(f, given, at)})
			case !one.Optional:
				f.add("missing", v, at)
			}
		}
		return pyjson.OfObject(kept...)
	}
}

// Nullable takes null too.
func Nullable(t Type) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		if v.IsNull() {
			return v
		}
		return t(f, v, loc)
	}
}

// MapOf takes an object whose members are all of t.
func MapOf(t Type) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		if v.Kind() != pyjson.Object {
			return f.add("dict_type", v, loc)
		}
		kept := make([]pyjson.Member, len(v.Members()))
		for i, m := range v.Members() {
			kept[i] = pyjson.Member{Key: m.Key, Value: t(f, m.Value, below(loc, pyjson.OfString(m.Key)))}
		}
		return pyjson.OfObject(kept...)
	}
}

// ListOf takes an array whose elements are all of t.
func ListOf(t Type) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		if v.Kind() != pyjson.Array {
			return f.add("list_type", v, loc)
		}
		return pyjson.OfArray(elements(f, t, v, loc)...)
	}
}

func elements(f *findings, t Type, v pyjson.Value, loc []pyjson.Value) []pyjson.Value {
	kept := make([]pyjson.Value, len(v.Elems()))
	for i, e := range v.Elems() {
		kept[i] = t(f, e, below(loc, pyjson.OfInt(int64(i))))
	}
	return kept
}

// PairOf takes an array of two elements of t.
func PairOf(t Type) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		n := len(v.Elems())
		switch {
		case v.Kind() != pyjson.Array:
			return f.add("tuple_type", v, loc)
		case n > 2:
			return f.file(FieldError{
				Type: "too_long", Loc: loc, Input: v,
				Msg: fmt.Sprintf("Tuple should have at most 2 items after validation, not %d", n),
				Ctx: []pyjson.Member{
					{Key: "field_type", Value: pyjson.OfString("Tuple")},
					{Key: "max_length", Value: pyjson.OfInt(2)}, {Key: "actual_length", Value: pyjson.OfInt(int64(n))},
				},
			})
		}
		kept := elements(f, t, v, loc)
		for i := n; i < 2; i++ {
			f.add("missing", v, below(loc, pyjson.OfInt(int64(i))))
		}
		return pyjson.OfArray(kept...)
	}
}

// Dict takes any object and leaves it as it is.
func Dict(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	if v.Kind() != pyjson.Object {
		return f.add("dict_type", v, loc)
	}
	return v
}

// Text takes a string of Unicode characters.
func Text(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	s, ok := v.Str()
	switch {
	case !ok:
		return f.add("string_type", v, loc)
	case !utf8.ValidString(s):
		return f.add("string_unicode", v, loc)
	}
	return v
}

// Integer takes whatever LaxInt does.
func Integer(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	digits, errType := LaxInt(v)
	if errType != "" {
		return f.add(errType, v, loc)
	}
	n, err := pyjson.ParseString(digits)
	if err != nil {
		return f.add("int_parsing", v, loc)
	}
	return n
}

// StrictInteger takes an integer as JSON writes it.
func StrictInteger(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	if v.Kind() != pyjson.Int {
		return f.add("int_type", v, loc)
	}
	return v
}

// AtLeast takes what t does and is not below least.
func AtLeast(least int64, t Type) Type {
	return func(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
		before := len(f.errs)
		kept := t(f, v, loc)
		if len(f.errs) > before || !isBelow(kept, least) {
			return kept
		}
		return f.file(FieldError{
			Type: "greater_than_equal", Loc: loc, Input: v,
			Msg: "Input should be greater than or equal to " + strconv.FormatInt(least, 10),
			Ctx: []pyjson.Member{{Key: "ge", Value: pyjson.OfInt(least)}},
		})
	}
}

func isBelow(v pyjson.Value, least int64) bool {
	if n, ok := v.Int64(); ok {
		return n < least
	}
	return strings.HasPrefix(v.Text(), "-") // an integer of any length
}

// Number takes a number, a boolean or the text of a number, and keeps a float.
func Number(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	switch v.Kind() {
	case pyjson.Null, pyjson.Array, pyjson.Object:
		return f.add("float_type", v, loc)
	}
	n, ok := pyjson.ToFloat(v)
	if !ok {
		return f.add("float_parsing", v, loc)
	}
	return pyjson.OfFloat(n)
}

// StrictNumber takes a number as JSON writes it, and keeps a float.
func StrictNumber(f *findings, v pyjson.Value, loc []pyjson.Value) pyjson.Value {
	if v.Kind() != pyjson.Int && v.Kind() != pyjson.Float {
		return f.add("float_type", v, loc)
	}
	n, ok := pyjson.ToFloat(v)
	if !ok { // an integer beyond every float
		return f.add("float_type", v, loc)
	}
	return pyjson.OfFloat(n)
}

// FloatOf gives the float that Number or StrictNumber kept; NaN for anything
// else.
func FloatOf(v pyjson.Value) float64 {
	if n, ok := v.Float64(); ok {
		return n
	}
	return math.NaN()
}
