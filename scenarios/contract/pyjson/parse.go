package pyjson

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

const (
	// MaxDepth is how deep containers may nest. Python gives up near its
	// recursion limit, 1000 less the stack it already stands on.
	MaxDepth = 1000
	// MaxDigits is how many digits an integer may have, as in Python.
	MaxDigits = 4300
)

// SyntaxError says why a text is not JSON, and where.
type SyntaxError struct {
	Offset int    // bytes from the start of the text
	Reason string // what was wrong there
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("json: offset %d: %s", e.Offset, e.Reason)
}

// Parse reads one JSON text as json.loads reads a str: NaN, Infinity and
// -Infinity are values, control characters inside strings and a byte order mark
// are not. The text is UTF-8, in which encoded lone surrogates pass. The error
// is a *SyntaxError. b is not kept.
func Parse(b []byte) (Value, error) { return ParseString(string(b)) }

// ParseString is Parse on a string, which the Value shares.
func ParseString(s string) (Value, error) { return ParseAtMost(s, math.MaxInt) }

// ErrTooMany is the error of ParseAtMost for a text with too many values.
var ErrTooMany = errors.New("json: too many values")

// ParseAtMost is ParseString for a text of which nobody knows where it is from:
// a value takes up to sixty times the memory of its two bytes "0,", so the error
// is ErrTooMany where more than most values follow a comma.
func ParseAtMost(s string, most int) (Value, error) {
	p := parser{src: s, most: most}
	p.elems, p.members = p.someElems[:0], p.someMembers[:0]
	p.space()
	v, err := p.value()
	if err != nil {
		return Value{}, err
	}
	p.space()
	if p.i != len(s) {
		return Value{}, p.fail(p.i, "extra data after the value")
	}
	return v, nil
}

// A parser walks the text once. Elements and members gather on two stacks and
// move into slabs when their container ends, so that a document of n values
// costs a few large allocations.
type parser struct {
	src     string
	i       int
	depth   int
	most    int // values that may still follow a comma
	elems   []Value
	members []Member
	values  slab[Value]  // elements of arrays
	pairs   slab[Member] // members of objects
	boxes   slab[box]

	someElems   [16]Value // where the stacks begin
	someMembers [24]Member
}

func (p *parser) fail(at int, reason string) error {
	return &SyntaxError{Offset: at, Reason: reason}
}

func (p *parser) space() {
	for p.i < len(p.src) {
		switch p.src[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// peek gives the next byte, 0 at the end (which no JSON token starts with).
func (p *parser) peek() byte {
	if p.i < len(p.src) {
		return p.src[p.i]
	}
	return 0
}

func (p *parser) value() (Value, error) {
	switch c := p.peek(); c {
	case '"':
		s, err := p.text()
		return Value{kind: String, str: s}, err
	case '{':
		return p.nested((*parser).object)
	case '[':
		return p.nested((*parser).array)
	case 't', 'f', 'n', 'N', 'I':
		return p.literal()
	default:
		if c == '-' || isDigit(c) {
			return p.number()
		}
		return Value{}, p.fail(p.i, "expected a value")
	}
}

func (p *parser) literal() (Value, error) {
	rest := p.src[p.i:]
	for _, l := range [...]struct {
		text  string
		value Value
	}{
		{"true", OfBool(true)}, {"false", OfBool(false)}, {"null", Value{}},
		{"NaN", OfFloat(math.NaN())}, {"Infinity", OfFloat(math.Inf(1))}, {"-Infinity", OfFloat(math.Inf(-1))},
	} {
		if strings.HasPrefix(rest, l.text) {
			p.i += len(l.text)
			return l.value, nil
		}
	}
	return Value{}, p.fail(p.i, "expected a value")
}

func (p *parser) nested(read func(*parser) (Value, error)) (Value, error) {
	if p.depth == MaxDepth {
		return Value{}, p.fail(p.i, fmt.Sprintf("nested deeper than %d", MaxDepth))
	}
	p.depth++
	p.i++
	v, err := read(p)
	p.depth--
	return v, err
}

func (p *parser) array() (Value, error) {
	base := len(p.elems)
	for p.space(); p.peek() != ']' || len(p.elems) > base; p.space() {
		v, err := p.value()
		if err != nil {
			return Value{}, err
		}
		p.elems = append(p.elems, v)
		if more, err := p.comma(']'); err != nil {
			return Value{}, err
		} else if !more {
			break
		}
	}
	p.i++
	elems := p.values.copy(p.elems[base:], p.left())
	p.elems = p.elems[:base]
	return Value{kind: Array, box: p.boxes.one(box{elems: elems}, p.left())}, nil
}

func (p *parser) object() (Value, error) {
	base := len(p.members)
	for p.space(); p.peek() != '}' || len(p.members) > base; p.space() {
		m, err := p.member()
		if err != nil {
			return Value{}, err
		}
		p.members = append(p.members, m)
		if more, err := p.comma('}'); err != nil {
			return Value{}, err
		} else if !more {
			break
		}
	}
	p.i++
	members := p.pairs.copy(dedupe(p.members[base:]), p.left())
	p.members = p.members[:base]
	return Value{kind: Object, box: p.boxes.one(box{members: members}, p.left())}, nil
}

// left is how much text is still to come, as a multiple of what was read.
func (p *parser) left() float64 { return float64(len(p.src)-p.i) / float64(p.i) }

func (p *parser) member() (Member, error) {
	if p.peek() != '"' {
		return Member{}, p.fail(p.i, "expected a member name in double quotes")
	}
	key, err := p.text()
	if err != nil {
		return Member{}, err
	}
	p.space()
	if p.peek() != ':' {
		return Member{}, p.fail(p.i, "expected ':' after the member name")
	}
	p.i++
	p.space()
	v, err := p.value()
	return Member{key, v}, err
}

// comma passes a comma (more follows) or stops before the closing bracket.
func (p *parser) comma(end byte) (more bool, err error) {
	p.space()
	switch p.peek() {
	case ',':
		p.i++
		if p.most--; p.most < 0 {
			return false, ErrTooMany
		}
		return true, nil
	case end:
		return false, nil
	default:
		return false, p.fail(p.i, fmt.Sprintf("expected ',' or '%c'", end))
	}
}

func isDigit(c byte) bool { return c-'0' <= 9 }

func (p *parser) digits() int {
	start := p.i
	for p.i < len(p.src) && isDigit(p.src[p.i]) {
		p.i++
	}
	return p.i - start
}

func (p *parser) number() (Value, error) {
	start := p.i
	if p.src[p.i] == '-' {
		if strings.HasPrefix(p.src[p.i:], "-I") {
			return p.literal()
		}
		p.i++
	}
	whole := 1
	if p.peek() == '0' {
		p.i++
	} else {
		whole = p.digits()
	}
	if whole == 0 {
		return Value{}, p.fail(start, "expected digits")
	}
	if p.fraction() {
		// ParseFloat gives an infinity beside its range error, as Python does.
		f, _ := strconv.ParseFloat(p.src[start:p.i], 64)
		return OfFloat(f), nil
	}
	if whole > MaxDigits {
		return Value{}, p.fail(start, fmt.Sprintf("integer of more than %d digits", MaxDigits))
	}
	return ofDigits(p.src[start:p.i]), nil
}

// fraction passes the fraction and the exponent of a number, if any. A point or
// an e without digits is left to be found as extra data.
func (p *parser) fraction() bool {
	found := p.afterMark('.', 1)
	next := p.i + 1
	skip := 1
	if next < len(p.src) && (p.src[next] == '+' || p.src[next] == '-') {
		skip = 2
	}
	return p.afterMark('e', skip) || p.afterMark('E', skip) || found
}

// afterMark passes mark, skip bytes from its place, and the digits behind; it
// stays where it was without either.
func (p *parser) afterMark(mark byte, skip int) bool {
	if p.peek() != mark {
		return false
	}
	start := p.i
	p.i += skip
	if p.digits() == 0 {
		p.i = start
		return false
	}
	return true
}

// text reads a string; the next byte is its opening quote.
func (p *parser) text() (string, error) {
	open := p.i
	p.i++
	start := p.i
	if err := p.plain(open); err != nil {
		return "", err
	}
	if p.src[p.i] == '"' {
		s := p.src[start:p.i]
		p.i++
		return s, nil
	}
	return p.unescaped(open, start)
}

// unescaped reads on from the first escape of the string that begins at start.
func (p *parser) unescaped(open, start int) (string, error) {
	buf := make([]byte, 0, closing(p.src, p.i)-start) // nothing is longer without its escapes
	buf = append(buf, p.src[start:p.i]...)
	for p.src[p.i] != '"' {
		var err error
		if buf, err = p.escape(buf); err != nil {
			return "", err
		}
		start = p.i
		if err := p.plain(open); err != nil {
			return "", err
		}
		buf = append(buf, p.src[start:p.i]...)
	}
	p.i++
	return unsafe.String(unsafe.SliceData(buf), len(buf)), nil // buf is never written again
}

// closing finds the quote that ends the string in which s[i] is a backslash or a
// plain character, else the end of s.
func closing(s string, i int) int {
	for {
		quote := strings.IndexByte(s[i:], '"')
		if quote < 0 {
			return len(s)
		}
		plain := strings.TrimRight(s[i:i+quote], `\`)
		if (quote-len(plain))%2 == 0 {
			return i + quote
		}
		i += quote + 1
	}
}

// plain passes characters up to a quote or a backslash.
func (p *parser) plain(open int) error {
	src := p.src
	for i := skipPlain(src, p.i); i < len(src); i = skipPlain(src, i) {
		c := src[i]
		p.i = i
		switch {
		case c == '"' || c == '\\':
			return nil
		case c < 0x20:
			return p.fail(i, fmt.Sprintf("control character U+%04X inside a string", c))
		}
		_, n := decode(src[i:])
		if n == 0 {
			return p.fail(i, "invalid UTF-8")
		}
		i += n
	}
	return p.fail(open, "unterminated string")
}

// skipPlain gives the place of the first byte from i on that is not plain.
func skipPlain(s string, i int) int {
	for i+8 <= len(s) && allPlain(s[i:i+8]) {
		i += 8
	}
	for i < len(s) && s[i] >= 0x20 && s[i] < utf8.RuneSelf && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}

// allPlain says whether none of eight bytes is a quote, a backslash, a control
// character or outside ASCII. It looks at all of them at once: a byte below 0x80
// has its high bit set after n was taken from it only where it was smaller than n.
func allPlain(s string) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	quote, slash := w^each*'"', w^each*'\\'
	return (w|(w-each*0x20)|(quote-each)|(slash-each))&high == 0
}

// escape reads one escape, or a pair of them, and appends what it stands for.
func (p *parser) escape(buf []byte) ([]byte, error) {
	if p.i+1 >= len(p.src) {
		return nil, p.fail(p.i, "unterminated string")
	}
	if at := strings.IndexByte(`"\/bfnrt`, p.src[p.i+1]); at >= 0 {
		p.i += 2
		return append(buf, "\"\\/\b\f\n\r\t"[at]), nil
	}
	r, ok := p.hex(p.i)
	if !ok {
		return nil, p.fail(p.i, "invalid escape")
	}
	p.i += 6
	if low, ok := p.hex(p.i); ok && r&^0x3ff == 0xd800 && low&^0x3ff == 0xdc00 {
		p.i += 6
		r = 0x10000 + (r&0x3ff)<<10 | low&0x3ff
	}
	return appendRune(buf, r), nil
}

// hex reads the escape \uXXXX at i.
func (p *parser) hex(i int) (rune, bool) {
	if i+6 > len(p.src) || p.src[i] != '\\' || p.src[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range []byte(p.src[i+2 : i+6]) {
		d := strings.IndexByte("0123456789abcdef", c|0x20)
		if d < 0 || c < '0' {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// decode reads one code point, lone surrogates included; n is 0 for bytes that
// are neither.
func decode(s string) (r rune, n int) {
	r, n = utf8.DecodeRuneInString(s)
	if r != utf8.RuneError || n > 1 {
		return r, n
	}
	if len(s) >= 3 && s[0] == 0xed && s[1]&0xe0 == 0xa0 && s[2]&0xc0 == 0x80 {
		return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), 3
	}
	return 0, 0
}

// RuneLen gives the length in bytes of the code point that s starts with; 1 for
// a byte that is none, 0 for an empty string.
func RuneLen(s string) int {
	if s == "" {
		return 0
	}
	_, n := decode(s)
	return max(n, 1)
}

// appendRune writes r as UTF-8, a surrogate as its generalised form.
func appendRune(b []byte, r rune) []byte {
	if r&^0x7ff == 0xd800 {
		return append(b, 0xed, 0x80|byte(r>>6&0x3f), 0x80|byte(r&0x3f))
	}
	return utf8.AppendRune(b, r)
}

// A slab hands out pieces of large allocations.
type slab[T any] struct {
	free []T
	used int
}

const slabMax = 256

// take gives n of T. A new allocation has room for what the rest of the text,
// left times as long as what was read, needs at the same rate, but no more than
// eight times what was used so far: a long text may be one long string.
func (s *slab[T]) take(n int, left float64) []T {
	s.used += n
	if n > len(s.free) {
		more := min(int(float64(s.used)*left), 8*s.used, slabMax)
		s.free = make([]T, n+more)
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

func (s *slab[T]) copy(from []T, left float64) []T {
	if len(from) == 0 {
		return nil
	}
	to := s.take(len(from), left)
	copy(to, from)
	return to
}

func (s *slab[T]) one(v T, left float64) *T {
	to := s.take(1, left)
	to[0] = v
	return &to[0]
}
