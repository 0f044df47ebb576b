package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/scenarios/contract"
)

// TestMain lets tests run the program as a process of its own, by the name
// dagmanager.
func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"dagmanager": main})
}

// checked fails when a test leaves a goroutine behind.
type checked struct{ m *testing.M }

func (c checked) Run() int {
	code := c.m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// broker is a Kafka on loopback.
func broker(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// manager is a DAG Manager that runs as a process.
type manager struct {
	t     testing.TB
	cmd   *exec.Cmd
	ready contract.Ready
	log   bytes.Buffer // complete once the process ended
}

// serve starts a DAG Manager and waits until it is ready; it ends with the test.
func serve(t testing.TB, flags ...string) *manager {
	t.Helper()
	m := &manager{t: t, cmd: exec.Command("dagmanager", append([]string{"serve"}, flags...)...)}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.cmd.Stderr = &m.log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.end(syscall.SIGTERM) })
	if err := json.NewDecoder(out).Decode(&m.ready); err != nil {
		m.end(syscall.SIGKILL)
		t.Fatalf("no ready line: %v\n%s", err, m.log.String())
	}
	return m
}

// end signals the process, once, and waits for it.
func (m *manager) end(s syscall.Signal) {
	if m.cmd.ProcessState != nil {
		return
	}
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Error(err)
	}
	err := m.cmd.Wait()
	if s == syscall.SIGTERM && err != nil {
		m.t.Errorf("the process ended with %v\n%s", err, m.log.String())
	}
}

// TestScripts runs the program's commands as a person does, against a Kafka and
// a DAG Manager of their own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			kafka := broker(tb, kfake.SeedTopics(1, "gateway.ingest")).ListenAddrs()[0]
			m := serve(tb, "--kafka", kafka, "--replication", "1", "--gc-indicator", "0s+0s", "--gc-interval", "0")
			e.Setenv("KAFKA", kafka)
			e.Setenv("GRPC", m.ready.Addresses["grpc"])
			e.Setenv("HTTP", m.ready.Addresses["http"])
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"spaced": spaced},
	})
}

var runs = regexp.MustCompile(` +`)

// spaced compares stdout with a file, runs of spaces counting as one.
func spaced(ts *testscript.TestScript, _ bool, args []string) {
	got := runs.ReplaceAllString(ts.ReadFile("stdout"), " ")
	want := runs.ReplaceAllString(ts.ReadFile(args[0]), " ")
	if got != want {
		ts.Fatalf("stdout is\n%s\nwant\n%s", got, want)
	}
}
