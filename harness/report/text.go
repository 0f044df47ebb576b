package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"qmtl.internal/plumbline/harness/record"
)

// amount words a value with its unit: 1.23 ms, 41.2 MiB, 30,000, 999.8/s.
func amount(v float64, u record.Unit) string {
	switch u {
	case record.Milliseconds:
		return decimals(v) + " ms"
	case record.Seconds:
		return decimals(v) + " s"
	case record.Bytes:
		return bytesText(v)
	case record.BytesPerSecond:
		return bytesText(v) + "/s"
	case record.PerSecond:
		return thousands(v, 1) + "/s"
	case record.Ratio:
		return decimals(v*100) + " %"
	case record.Count:
		return thousands(v, 0)
	}
	return strings.TrimSpace(decimals(v) + " " + string(u))
}

// decimals keeps about three significant digits of small numbers.
func decimals(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == 0:
		return thousands(v, 0)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func bytesText(v float64) string {
	const kib = 1 << 10
	switch a := math.Abs(v); {
	case a >= kib*kib*kib:
		return decimals(v/(kib*kib*kib)) + " GiB"
	case a >= kib*kib:
		return decimals(v/(kib*kib)) + " MiB"
	case a >= kib:
		return decimals(v/kib) + " KiB"
	}
	return decimals(v) + " B"
}

// thousands puts commas between groups of three digits. A count that is not
// whole (a mean) keeps two places.
func thousands(v float64, places int) string {
	if places == 0 && v != math.Trunc(v) && math.Abs(v) < 100 {
		places = 2
	}
	s := strconv.FormatFloat(math.Abs(v), 'f', places, 64)
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" && strings.Trim(rest, "0") != "" {
		whole += "." + rest
	}
	if v < 0 && strings.Trim(whole, "0.,") != "" {
		whole = "-" + whole
	}
	return whole
}

// percent is the change from base to v; "" where the base is 0 and v is not.
func percent(base, v float64) string {
	switch {
	case v == base:
		return "±0 %"
	case base == 0:
		return ""
	}
	return fmt.Sprintf("%+.1f %%", (v-base)/math.Abs(base)*100)
}

// oneLine makes text from outside fit one line of at most width characters:
// control characters, which could also steer a terminal, become spaces.
func oneLine(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
