// Command dagmanager is the reference DAG Manager: it diffs strategy graphs and
// gives new nodes their topics. As "dagmanager neo4j-init" and "dagmanager
// neo4j-rollback" it makes and drops the schema of its graph database.
package main

import (
	"os"

	"qmtl.internal/plumbline/ref/dagmanager"
)

func main() { os.Exit(dagmanager.Main()) }
