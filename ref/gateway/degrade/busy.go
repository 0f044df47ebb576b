package degrade

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// Busy measures the machine's processors by way of Linux's /proc/stat: each call
// of what it gives returns the share, in percent, that was busy since the call
// before. Elsewhere, and the first time, that is zero.
func Busy() func() float64 {
	var last times
	read := func() (times, bool) {
		b, err := os.ReadFile("/proc/stat")
		if err != nil {
			return times{}, false
		}
		return parseTimes(b)
	}
	return func() float64 {
		now, ok := read()
		if !ok {
			return 0
		}
		share := now.since(last)
		last = now
		return share
	}
}

// times are what all processors together spent since the machine started.
type times struct{ idle, all float64 }

// parseTimes reads the first line of /proc/stat.
func parseTimes(b []byte) (times, bool) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := strings.Fields(string(line))
	const idle, wait = 4, 5 // user nice system idle iowait …
	if len(fields) <= wait || fields[0] != "cpu" {
		return times{}, false
	}
	var t times
	for i, f := range fields[1:] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return times{}, false
		}
		t.all += n
		if i+1 == idle || i+1 == wait {
			t.idle += n
		}
	}
	return t, true
}

func (t times) since(last times) float64 {
	passed := t.all - last.all
	if last.all == 0 || passed <= 0 {
		return 0
	}
	return 100 * (1 - (t.idle-last.idle)/passed)
}
