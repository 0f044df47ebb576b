package pyjson

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsSpace says whether Python calls r whitespace: U+001C to U+001F are, the
// zero-width space and the byte order mark are not.
func IsSpace(r rune) bool {
	if r < 0x100 {
		return r >= '\t' && r <= '\r' || r >= 0x1c && r <= ' ' || r == 0x85 || r == 0xa0
	}
	return r >= 0x2000 && r <= 0x200a || strings.ContainsRune("\u1680\u2028\u2029\u202f\u205f\u3000", r)
}

// Strip is Python's str.strip().
func Strip(s string) string { return strings.TrimFunc(s, IsSpace) }

// Text is Python's str(v): strings as they are, True, False, None, 1.0, and
// containers as Python literals.
func (v Value) Text() string {
	if v.kind == String {
		return v.str
	}
	return string(appendRepr(nil, v))
}

// appendRepr writes Python's repr(v).
func appendRepr(dst []byte, v Value) []byte {
	switch v.kind {
	case Null:
		return append(dst, "None"...)
	case Bool:
		if v.num == 1 {
			return append(dst, "True"...)
		}
		return append(dst, "False"...)
	case Int:
		return appendInt(dst, v)
	case Float:
		return appendFloat(dst, math.Float64frombits(v.num), textSpecials)
	case String:
		return appendStringRepr(dst, v.str)
	default:
		return appendContainerRepr(dst, v)
	}
}

func appendContainerRepr(dst []byte, v Value) []byte {
	if v.kind == Array {
		dst = append(dst, '[')
		for i, e := range v.box.elems {
			dst = appendRepr(separate(dst, i), e)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for i, m := range v.box.members {
		dst = append(appendStringRepr(separate(dst, i), m.Key), ": "...)
		dst = appendRepr(dst, m.Value)
	}
	return append(dst, '}')
}

func separate(dst []byte, i int) []byte {
	if i == 0 {
		return dst
	}
	return append(dst, ", "...)
}

// appendStringRepr quotes s with single quotes, with double ones when it holds
// single but no double quotes.
func appendStringRepr(dst []byte, s string) []byte {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	dst = append(dst, quote)
	for len(s) > 0 {
		r, n := decode(s)
		if n == 0 {
			r, n = utf8.RuneError, 1
		}
		dst = appendRuneRepr(dst, r, rune(quote))
		s = s[n:]
	}
	return append(dst, quote)
}

func appendRuneRepr(dst []byte, r, quote rune) []byte {
	switch {
	case r == quote || r == '\\':
		return append(dst, '\\', byte(r))
	case r == '\n':
		return append(dst, `\n`...)
	case r == '\r':
		return append(dst, `\r`...)
	case r == '\t':
		return append(dst, `\t`...)
	case unicode.IsPrint(r):
		return utf8.AppendRune(dst, r)
	case r < 0x100:
		return fmt.Appendf(dst, `\x%02x`, r)
	case r < 0x10000:
		return fmt.Appendf(dst, `\u%04x`, r)
	default:
		return fmt.Appendf(dst, `\U%08x`, r)
	}
}

// ErrNotInteger is wrapped by every error of ToInteger and ToInt.
var ErrNotInteger = errors.New("not an integer")

// ToInteger is Python's int(v) as a Value of kind Int, of any size: true is 1,
// a float is cut toward zero, a string may have spaces around it, a sign, any
// decimal digits of Unicode and single underscores between them.
func ToInteger(v Value) (Value, error) {
	switch v.kind {
	case Bool:
		return OfInt(int64(v.num)), nil
	case Int:
		return v, nil
	case Float:
		return truncate(math.Float64frombits(v.num))
	case String:
		return parseInteger(v.str)
	default:
		return Value{}, fmt.Errorf("%w: %s", ErrNotInteger, v.kind)
	}
}

// ToInt is ToInteger for callers whose integers have 64 bits; a larger one is
// an error.
func ToInt(v Value) (int64, error) {
	whole, err := ToInteger(v)
	if err != nil {
		return 0, err
	}
	i, ok := whole.Int64()
	if !ok {
		return 0, fmt.Errorf("%w of 64 bits: %.40s", ErrNotInteger, whole.str)
	}
	return i, nil
}

func truncate(f float64) (Value, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}, fmt.Errorf("%w: %v", ErrNotInteger, f)
	}
	if math.Abs(f) < 1<<62 {
		return OfInt(int64(f)), nil
	}
	whole, _ := big.NewFloat(f).Int(nil)
	return ofDigits(whole.String()), nil
}

func parseInteger(s string) (Value, error) {
	digits, ok := integerDigits(strings.TrimFunc(s, aroundInteger))
	if !ok || len(strings.TrimLeft(digits, "+-")) > MaxDigits {
		return Value{}, fmt.Errorf("%w: %.40q", ErrNotInteger, s)
	}
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return OfInt(i), nil
	}
	whole, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return Value{}, fmt.Errorf("%w: %.40q", ErrNotInteger, s)
	}
	return ofDigits(whole.String()), nil
}

// aroundInteger: int() takes Unicode's spaces, and of ASCII C's alone.
func aroundInteger(r rune) bool { return IsSpace(r) && (r < 0x1c || r > 0x1f) }

// integerDigits rewrites the text of a Python integer as sign and ASCII digits.
func integerDigits(s string) (string, bool) {
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	out := []byte(sign)
	digit := false // the last character was a digit
	for _, r := range s {
		d, ok := decimal(r)
		if !ok && (r != '_' || !digit) {
			return "", false
		}
		if digit = ok; ok {
			out = append(out, '0'+d)
		}
	}
	return string(out), digit
}

// Decimal gives the value of a decimal digit of any script (category Nd).
func Decimal(r rune) (int, bool) {
	d, ok := decimal(r)
	return int(d), ok
}

// decimal: every range of category Nd starts at a zero and is a multiple of ten
// long.
func decimal(r rune) (byte, bool) {
	if r < utf8.RuneSelf {
		return byte(r - '0'), r >= '0' && r <= '9'
	}
	for _, g := range unicode.Nd.R16 {
		if rune(g.Lo) <= r && r <= rune(g.Hi) {
			return byte((r - rune(g.Lo)) % 10), true
		}
	}
	for _, g := range unicode.Nd.R32 {
		if rune(g.Lo) <= r && r <= rune(g.Hi) {
			return byte((r - rune(g.Lo)) % 10), true
		}
	}
	return 0, false
}

// Lower is Python's str.lower(): Go's save for the dotted capital I, which
// becomes two characters, and the capital sigma that ends a word. Lone
// surrogates stay.
func Lower(s string) string {
	if utf8.ValidString(s) && !strings.ContainsAny(s, "İΣ") {
		return strings.ToLower(s)
	}
	var out []byte
	for i, n := 0, 0; i < len(s); i += n {
		var r rune
		if r, n = decode(s[i:]); n == 0 {
			r, n = utf8.RuneError, 1
		}
		switch {
		case r == 'İ':
			out = append(out, "i\u0307"...)
		case r == 'Σ' && finalSigma(s[:i], s[i+n:]):
			out = append(out, "ς"...)
		default:
			out = appendRune(out, unicode.ToLower(r))
		}
	}
	return string(out)
}

// finalSigma: a cased letter before, none after, ignorable characters between.
func finalSigma(before, after string) bool {
	before = strings.TrimRightFunc(before, caseIgnorable)
	after = strings.TrimLeftFunc(after, caseIgnorable)
	last, _ := utf8.DecodeLastRuneInString(before)
	next, _ := utf8.DecodeRuneInString(after)
	return before != "" && cased(last) && (after == "" || !cased(next))
}

func cased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase, unicode.Other_Uppercase)
}

func caseIgnorable(r rune) bool {
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) ||
		strings.ContainsRune("'.:^`\u00b7\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a", r)
}
