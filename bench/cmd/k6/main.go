// Command k6 is k6 with the module k6/x/plumbline compiled in. It links AGPL-3.0
// code and is a program of its own; the rest of plumbline runs it as a process.
package main

import (
	"os"
	"runtime/debug"

	"go.k6.io/k6/cmd"

	"qmtl.internal/plumbline/bench/k6x"
)

// gcPercent lets garbage grow to four times the live heap: a collection delays
// requests that are due meanwhile.
const gcPercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	k6x.Register()
	cmd.Execute()
}
