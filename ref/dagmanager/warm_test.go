package dagmanager

import (
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
)

// A database that takes its time when the manager starts is waited for; the
// schema is there before the first diff.
func TestStartWaitsForASlowGraph(t *testing.T) {
	url := nodestoretest.Server(t)
	cli(t, map[string]string{"PLUMBLINE_DAGMANAGER_NEO4J": url}, "neo4j-rollback")
	gate := nodestoretest.NewGate(t, url)
	gate.Mute()
	spoken := make(chan struct{})
	go func() {
		defer close(spoken)
		time.Sleep(2500 * time.Millisecond) // beyond some attempts
		gate.Speak()
	}()
	run(t, "--neo4j", gate.URL(), "--neo4j-timeout", "1s")
	<-spoken
	_, out, _ := cli(t, map[string]string{"PLUMBLINE_DAGMANAGER_NEO4J": url}, "neo4j-init")
	if out != "neo4j-init: the schema is there, nothing to do\n" {
		t.Errorf("when the manager was ready: %s", out)
	}
}
