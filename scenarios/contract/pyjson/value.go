// Package pyjson reads and writes JSON as Python's json module does, because
// the identity of a node and of a strategy is a hash over what Python writes.
//
// What encoding/json would lose is kept: the difference between 1 and 1.0,
// integers of any size, the order of members, NaN and the infinities, lone
// surrogates. A duplicate key keeps its first place and takes its last value.
// The package also has the few Python text rules that the contract leans on:
// str(), truth, int(), str.strip() and str.lower().
package pyjson

import (
	"math"
	"strconv"
)

// Kind says what a Value is.
type Kind uint8

// The kinds of JSON values; a number without fraction and exponent is an Int.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	Array
	Object
)

// String names the kind as JSON speaks of it.
func (k Kind) String() string {
	return [...]string{"null", "boolean", "integer", "float", "string", "array", "object"}[k]
}

// Value is one JSON value. It is immutable; the zero Value is null. Strings of
// a parsed Value share the memory of the text they were parsed from. A lone
// surrogate lives in a string as its three generalised UTF-8 bytes, so
// utf8.ValidString tells whether a string can leave as UTF-8.
type Value struct {
	kind Kind
	num  uint64 // Bool: 0 or 1; Int: two's complement unless str is set; Float: bits
	str  string // String: text; Int: digits when outside int64
	box  *box   // Array, Object
}

type box struct {
	elems   []Value
	members []Member
}

// Member is one key and value of an object.
type Member struct {
	Key   string
	Value Value
}

// OfBool gives the JSON value of b.
func OfBool(b bool) Value {
	v := Value{kind: Bool}
	if b {
		v.num = 1
	}
	return v
}

// OfInt gives the JSON integer i.
func OfInt(i int64) Value { return Value{kind: Int, num: uint64(i)} }

// OfFloat gives the JSON float f.
func OfFloat(f float64) Value { return Value{kind: Float, num: math.Float64bits(f)} }

// OfString gives the JSON string s.
func OfString(s string) Value { return Value{kind: String, str: s} }

// OfArray gives the JSON array of elems, which it takes over.
func OfArray(elems ...Value) Value { return Value{kind: Array, box: &box{elems: elems}} }

// OfObject gives the JSON object of members in that order, which it takes over;
// of equal keys the first place and the last value stay.
func OfObject(members ...Member) Value {
	return Value{kind: Object, box: &box{members: dedupe(members)}}
}

// ofDigits gives the integer written as digits, a JSON integer literal.
func ofDigits(digits string) Value {
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return OfInt(i)
	}
	return Value{kind: Int, str: digits}
}

// Kind says what v is.
func (v Value) Kind() Kind { return v.kind }

// IsNull says whether v is null.
func (v Value) IsNull() bool { return v.kind == Null }

// Get finds the member called key. It is false for an absent key and for
// anything but an object.
func (v Value) Get(key string) (Value, bool) {
	if v.kind != Object {
		return Value{}, false
	}
	for i := range v.box.members {
		if v.box.members[i].Key == key {
			return v.box.members[i].Value, true
		}
	}
	return Value{}, false
}

// Member is Get with null for what is absent, as Python's dict.get.
func (v Value) Member(key string) Value {
	m, _ := v.Get(key)
	return m
}

// Elems gives the elements of an array, nil otherwise. The caller does not
// change them.
func (v Value) Elems() []Value {
	if v.kind != Array {
		return nil
	}
	return v.box.elems
}

// Members gives the members of an object in document order, nil otherwise. The
// caller does not change them.
func (v Value) Members() []Member {
	if v.kind != Object {
		return nil
	}
	return v.box.members
}

// Str gives the text of a string; false for any other kind.
func (v Value) Str() (string, bool) { return v.str, v.kind == String }

// Int64 gives an integer that fits; false for a larger one and any other kind.
func (v Value) Int64() (int64, bool) { return int64(v.num), v.kind == Int && v.str == "" }

// Float64 gives the number of a float; false for any other kind.
func (v Value) Float64() (float64, bool) { return math.Float64frombits(v.num), v.kind == Float }

// IsTrue says whether v is the literal true.
func (v Value) IsTrue() bool { return v.kind == Bool && v.num == 1 }

// Truthy is Python's truth value: null, false, zero, the empty string and empty
// containers are false, all else (NaN too) is true.
func (v Value) Truthy() bool {
	switch v.kind {
	case Bool:
		return v.num == 1
	case Int:
		return v.num != 0 || v.str != ""
	case Float:
		return math.Float64frombits(v.num) != 0
	case String:
		return v.str != ""
	case Array:
		return len(v.box.elems) > 0
	case Object:
		return len(v.box.members) > 0
	default:
		return false
	}
}

// Or gives v when it is truthy, else other: Python's or.
func (v Value) Or(other Value) Value {
	if v.Truthy() {
		return v
	}
	return other
}

// With gives a copy of the object v in which key has value; a new key comes
// last. On anything but an object it starts a new one.
func (v Value) With(key string, value Value) Value {
	old := v.Members()
	members := make([]Member, len(old), len(old)+1)
	copy(members, old)
	for i := range members {
		if members[i].Key == key {
			members[i].Value = value
			return Value{kind: Object, box: &box{members: members}}
		}
	}
	return Value{kind: Object, box: &box{members: append(members, Member{key, value})}}
}

// Without gives a copy of the object v that lacks key.
func (v Value) Without(key string) Value {
	var members []Member
	for _, m := range v.Members() {
		if m.Key != key {
			members = append(members, m)
		}
	}
	return Value{kind: Object, box: &box{members: members}}
}

// few is the number of members up to which comparing all pairs beats a map.
const few = 16

// dedupe removes duplicate keys in place: the first place, the last value.
func dedupe(ms []Member) []Member {
	if len(ms) > few {
		return dedupeMany(ms)
	}
	n := 0
	for i := range ms {
		if at := find(ms[:n], ms[i].Key); at >= 0 {
			ms[at].Value = ms[i].Value
			continue
		}
		ms[n] = ms[i]
		n++
	}
	return ms[:n]
}

func find(ms []Member, key string) int {
	for i := range ms {
		if ms[i].Key == key {
			return i
		}
	}
	return -1
}

func dedupeMany(ms []Member) []Member {
	place := make(map[string]int, len(ms))
	n := 0
	for i := range ms {
		if at, seen := place[ms[i].Key]; seen {
			ms[at].Value = ms[i].Value
			continue
		}
		place[ms[i].Key] = n
		ms[n] = ms[i]
		n++
	}
	return ms[:n]
}
