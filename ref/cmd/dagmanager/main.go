// Command dagmanager is the reference DAG Manager: it diffs strategy graphs and
// gives new nodes their topics.
package main

import (
	"os"

	"qmtl.internal/plumbline/ref/dagmanager"
	"qmtl.internal/plumbline/ref/internal/service"
)

func main() { os.Exit(service.Main(dagmanager.Spec())) }
