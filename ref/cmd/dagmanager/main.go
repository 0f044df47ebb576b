// Command dagmanager is the reference DAG Manager: it diffs strategy graphs and
// gives new nodes their topics. Besides serving it has commands, which
// "dagmanager --help" lists: diff, topics, gc, export, config check, neo4j-init
// and neo4j-rollback.
package main

import (
	"os"

	"qmtl.internal/plumbline/ref/dagmanager"
)

func main() { os.Exit(dagmanager.Main()) }
