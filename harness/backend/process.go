package backend

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// ProcessStart is when a process began, in the system's own words, so that a pid
// that was used again is not taken for its former owner. It is "" when the
// process has ended, even where nobody has collected it yet, and "?" when that
// cannot be told.
func ProcessStart(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return ""
		}
		return "?"
	}
	// The name in brackets may hold anything; what follows its last bracket not.
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	switch {
	case len(fields) < 20:
		return "?"
	case fields[0] == "Z" || fields[0] == "X":
		return ""
	}
	return fields[19]
}
