package pyjson

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Style is how a Value is written; the flags combine with |.
type Style uint8

// Compact writes "," and ":", members in document order, non-ASCII characters
// as they are.
const Compact Style = 0

// The flags of a Style.
const (
	Spaced Style = 1 << iota // ", " and ": "
	Sorted                   // members by code point of their keys, at every depth
	ASCII                    // everything outside U+0020..U+007E as \uxxxx
)

// Append writes v to dst as json.dumps does and gives the longer slice. Without
// ASCII a lone surrogate leaves bytes that are not UTF-8: see utf8.Valid.
func Append(dst []byte, v Value, s Style) []byte {
	return AppendWithout(dst, v, s, nil)
}

// AppendWithout is Append that leaves out, at every depth, members whose key
// drop names. A nil drop names none.
func AppendWithout(dst []byte, v Value, s Style, drop func(key string) bool) []byte {
	w := writer{style: s, drop: drop, comma: ",", colon: ":"}
	if s&Spaced != 0 {
		w.comma, w.colon = ", ", ": "
	}
	return w.value(dst, v)
}

type writer struct {
	style        Style
	comma, colon string
	drop         func(string) bool
}

func (w *writer) value(dst []byte, v Value) []byte {
	switch v.kind {
	case Null:
		return append(dst, "null"...)
	case Bool:
		return strconv.AppendBool(dst, v.num == 1)
	case Int:
		return appendInt(dst, v)
	case Float:
		return appendFloat(dst, math.Float64frombits(v.num), jsonSpecials)
	case String:
		return appendQuoted(dst, v.str, w.style&ASCII != 0)
	case Array:
		return w.array(dst, v.box.elems)
	default:
		return w.object(dst, v.box.members)
	}
}

func (w *writer) array(dst []byte, elems []Value) []byte {
	dst = append(dst, '[')
	for i := range elems {
		if i > 0 {
			dst = append(dst, w.comma...)
		}
		dst = w.value(dst, elems[i])
	}
	return append(dst, ']')
}

func (w *writer) object(dst []byte, members []Member) []byte {
	var room [32]int32
	order := w.order(room[:0], members)
	dst = append(dst, '{')
	first := true
	for _, i := range order {
		m := &members[i]
		if w.drop != nil && w.drop(m.Key) {
			continue
		}
		if !first {
			dst = append(dst, w.comma...)
		}
		first = false
		dst = appendQuoted(dst, m.Key, w.style&ASCII != 0)
		dst = append(dst, w.colon...)
		dst = w.value(dst, m.Value)
	}
	return append(dst, '}')
}

// order appends the places of members in the order of writing.
func (w *writer) order(to []int32, members []Member) []int32 {
	for i := range members {
		to = append(to, int32(i))
	}
	if w.style&Sorted != 0 {
		// UTF-8 compares as its code points do, lone surrogates included.
		slices.SortFunc(to, func(a, b int32) int { return strings.Compare(members[a].Key, members[b].Key) })
	}
	return to
}

func appendInt(dst []byte, v Value) []byte {
	if v.str != "" {
		return append(dst, v.str...)
	}
	return strconv.AppendInt(dst, int64(v.num), 10)
}

// specials are the words for NaN, infinity and minus infinity.
type specials [3]string

var (
	jsonSpecials = specials{"NaN", "Infinity", "-Infinity"}
	textSpecials = specials{"nan", "inf", "-inf"}
)

// appendFloat writes f as Python's repr does: the shortest digits that read
// back, positional between 1e-4 and 1e16, always with a point or an exponent.
func appendFloat(dst []byte, f float64, words specials) []byte {
	switch {
	case f != f:
		return append(dst, words[0]...)
	case math.IsInf(f, 1):
		return append(dst, words[1]...)
	case math.IsInf(f, -1):
		return append(dst, words[2]...)
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	if !slices.Contains(dst[start:], '.') {
		dst = append(dst, '.', '0')
	}
	return dst
}

// AppendQuoted writes s as a JSON string, with ASCII escapes when ascii is set.
func AppendQuoted(dst []byte, s string, ascii bool) []byte { return appendQuoted(dst, s, ascii) }

func appendQuoted(dst []byte, s string, ascii bool) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ascii) {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		n := 1
		if c < utf8.RuneSelf {
			dst = appendEscape(dst, c)
		} else {
			dst, n = appendWide(dst, s[i:])
		}
		i += n
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	if at := strings.IndexByte("\"\\\b\f\n\r\t", c); at >= 0 {
		return append(dst, '\\', `"\bfnrt`[at])
	}
	return appendHex(dst, rune(c))
}

// appendWide escapes the code point that s starts with and says how many bytes
// of s it took. A byte that is no character becomes U+FFFD.
func appendWide(dst []byte, s string) ([]byte, int) {
	r, n := decode(s)
	if n == 0 {
		r, n = utf8.RuneError, 1
	}
	if r < 0x10000 {
		return appendHex(dst, r), n
	}
	r -= 0x10000
	return appendHex(appendHex(dst, 0xd800|r>>10), 0xdc00|r&0x3ff), n
}

func appendHex(dst []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
