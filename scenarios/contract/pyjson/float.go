package pyjson

import (
	"math"
	"strconv"
	"strings"
)

// ToFloat is Python's float(v): a boolean is 0 or 1, a string may have spaces
// around it, a sign, any decimal digits of Unicode with single underscores
// between them, and may say inf or nan. False for what Python raises on, an
// integer beyond every float among it.
func ToFloat(v Value) (float64, bool) {
	switch v.kind {
	case Bool, Int:
		f, err := strconv.ParseFloat(intText(v), 64)
		return f, err == nil
	case Float:
		return math.Float64frombits(v.num), true
	case String:
		return parseFloat(v.str)
	default:
		return 0, false
	}
}

func intText(v Value) string {
	if v.kind == Bool {
		return strconv.FormatUint(v.num, 10)
	}
	return string(appendInt(nil, v))
}

func parseFloat(s string) (float64, bool) {
	s, ok := floatDigits(strings.TrimFunc(s, aroundInteger))
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err == nil {
		return f, true
	}
	return f, math.IsInf(f, 0) // too large is infinite, as in Python
}

// floatDigits rewrites the text of a Python float in ASCII; false when it holds
// what only Go would read.
func floatDigits(s string) (string, bool) {
	switch word := strings.ToLower(strings.TrimLeft(s, "+-")); word {
	case "inf", "infinity":
		return s, len(s)-len(word) <= 1
	case "nan":
		return word, len(s)-len(word) <= 1
	}
	var out []byte
	digit := false // the last character was a digit
	for i, r := range s {
		d, isDigit := decimal(r)
		switch {
		case isDigit:
			out = append(out, '0'+d)
		case r == '_' && digit && followedByDigit(s[i+1:]):
		case strings.ContainsRune("+-.eE", r):
			out = append(out, byte(r))
		default:
			return "", false
		}
		digit = isDigit
	}
	return string(out), true
}

func followedByDigit(s string) bool {
	for _, r := range s {
		_, ok := decimal(r)
		return ok
	}
	return false
}
