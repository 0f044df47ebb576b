package nodestoretest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// ServerVariable is the environment variable that holds the bolt URL of a Neo4j
// server for tests: one without a password, whose data they may delete.
const ServerVariable = "PLUMBLINE_TEST_NEO4J"

// Server returns the bolt URL of a Neo4j server that is the test's alone until
// it ends, with whatever earlier tests left in it; without a server the test is
// skipped. Test binaries run side by side, so that they take turns by a lock on
// a file.
func Server(t testing.TB) string {
	t.Helper()
	url := os.Getenv(ServerVariable)
	if url == "" {
		t.Skip("needs containers: run it by bin/plumbline with -- go test …, as make test does, or set PLUMBLINE_TEST_NEO4J=bolt://HOST:PORT")
	}
	turn, err := os.OpenFile(filepath.Join(os.TempDir(), "plumbline-test-neo4j.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { turn.Close() }) // which gives the lock back
	if err := syscall.Flock(int(turn.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return url
}
