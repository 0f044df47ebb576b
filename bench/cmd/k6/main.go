// Command k6 is k6 with the module k6/x/plumbline compiled in. It links
// AGPL-3.0 code and is a program of its own, which the rest of plumbline runs
// but does not import.
package main

import (
	"go.k6.io/k6/cmd"

	"qmtl.internal/plumbline/bench/k6x"
)

func main() {
	k6x.Register()
	cmd.Execute()
}
