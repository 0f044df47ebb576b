package contract

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The bounds of intervals, periods, tags and names.
const (
	MaxInterval   = 86_400 // seconds
	MaxPeriod     = 10_000 // bars
	MaxTagLength  = 100    // characters
	MaxNameLength = 200    // characters, trimmed
)

// The errors that the parsers below wrap, one for each thing parsed.
var (
	ErrInterval = errors.New("interval")
	ErrPeriod   = errors.New("period")
	ErrTag      = errors.New("tag")
	ErrName     = errors.New("name")
)

// ParseInterval reads an interval in seconds: an integer from 1 to MaxInterval
// (true is 1), or digits and one of s, m and h in either case with at most that
// product. "0s" is 0.
func ParseInterval(v pyjson.Value) (int64, error) {
	if s, ok := v.Str(); ok {
		return parseUnits(s)
	}
	n, err := wholeNumber(v)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInterval, err)
	}
	if n <= 0 || n > MaxInterval {
		return 0, fmt.Errorf("%w %d: not from 1 to %d seconds", ErrInterval, n, MaxInterval)
	}
	return n, nil
}

// ParsePeriod reads a count of bars: an integer from 1 to MaxPeriod (true is 1).
func ParsePeriod(v pyjson.Value) (int64, error) {
	n, err := wholeNumber(v)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrPeriod, err)
	}
	if n <= 0 || n > MaxPeriod {
		return 0, fmt.Errorf("%w %d: not from 1 to %d", ErrPeriod, n, MaxPeriod)
	}
	return n, nil
}

// wholeNumber reads an integer or a boolean, which Python counts among them.
func wholeNumber(v pyjson.Value) (int64, error) {
	if v.Kind() != pyjson.Int && v.Kind() != pyjson.Bool {
		return 0, fmt.Errorf("%s, not an integer", v.Kind())
	}
	return pyjson.ToInt(v)
}

func parseUnits(s string) (int64, error) {
	text := pyjson.Lower(pyjson.Strip(s))
	unit, ok := map[byte]int64{'s': 1, 'm': 60, 'h': 3600}[last(text)]
	if !ok {
		return 0, fmt.Errorf("%w %.40q: want digits and s, m or h", ErrInterval, s)
	}
	n, ok := number(text[:len(text)-1])
	if !ok || n > MaxInterval || n*unit > MaxInterval {
		return 0, fmt.Errorf("%w %.40q: want digits and s, m or h, at most %d seconds", ErrInterval, s, MaxInterval)
	}
	return n * unit, nil
}

func last(s string) byte {
	if s == "" {
		return 0
	}
	return s[len(s)-1]
}

// number reads decimal digits of any script; what 64 bits cannot hold becomes
// the largest number.
func number(s string) (int64, bool) {
	n := int64(0)
	for _, r := range s {
		d, ok := pyjson.Decimal(r)
		if !ok {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(d)
	}
	return n, s != ""
}

// ValidateTag gives the tag, up to MaxTagLength ASCII letters, digits and _.-,
// without the one newline that may end it.
func ValidateTag(v pyjson.Value) (string, error) {
	s, ok := v.Str()
	if !ok {
		return "", fmt.Errorf("%w: %s, not a string", ErrTag, v.Kind())
	}
	if utf8.RuneCountInString(s) > MaxTagLength {
		return "", fmt.Errorf("%w %.40q…: more than %d characters", ErrTag, s, MaxTagLength)
	}
	tag := strings.TrimSuffix(s, "\n")
	if tag == "" || strings.ContainsFunc(tag, outsideTag) {
		return "", fmt.Errorf("%w %q: want ASCII letters, digits, '_', '-' and '.'", ErrTag, s)
	}
	return tag, nil
}

func outsideTag(r rune) bool {
	letter := r|0x20 >= 'a' && r|0x20 <= 'z'
	digit := r >= '0' && r <= '9'
	return !letter && !digit && r != '_' && r != '-' && r != '.'
}

// ValidateName gives the trimmed name, 1 to MaxNameLength characters.
func ValidateName(v pyjson.Value) (string, error) {
	s, ok := v.Str()
	if !ok {
		return "", fmt.Errorf("%w: %s, not a string", ErrName, v.Kind())
	}
	name := pyjson.Strip(s)
	if n := utf8.RuneCountInString(name); n == 0 || n > MaxNameLength {
		return "", fmt.Errorf("%w: %d characters, want 1 to %d", ErrName, n, MaxNameLength)
	}
	return name, nil
}

// ParseFilterInterval reads the interval of a queue filter in seconds: digits
// without an upper bound, or what ParseInterval takes as text. Nothing is 0.
func ParseFilterInterval(s string) (int64, error) {
	text := pyjson.Strip(s)
	if text == "" {
		return 0, nil
	}
	if n, ok := number(text); ok {
		return n, nil
	}
	return parseUnits(text)
}

// QueueFilter is what AdminService.GetQueueStats filters by; without tags or
// interval it does not filter.
type QueueFilter struct {
	Tags     []string
	Interval int64 // seconds
}

// ParseQueueFilter reads "tag=a,b;interval=60" (dagmanager.md 1.7). Parts that
// are neither are passed over, of a repeated one the last counts; an interval
// that cannot be read switches the filter off.
func ParseQueueFilter(s string) QueueFilter {
	parts := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		if key, value, ok := strings.Cut(part, "="); ok {
			parts[key] = value
		}
	}
	seconds, err := ParseFilterInterval(parts["interval"])
	if err != nil {
		return QueueFilter{}
	}
	return QueueFilter{Tags: SplitTagText(parts["tag"]), Interval: seconds}
}
