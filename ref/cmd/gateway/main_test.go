package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// TestMain lets tests run both services as processes of their own, by their
// names.
func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"gateway": main, "dagmanager": func() { os.Exit(dagmanager.Main()) }})
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

// servers are what both services need.
type servers struct {
	redis *miniredis.Miniredis
	kafka *kfake.Cluster
}

func newServers(t *testing.T) servers {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "gateway.ingest"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return servers{miniredis.RunT(t), cluster}
}

// gateway starts a Gateway on the servers.
func (s servers) gateway(t *testing.T, dagmanager string, flags ...string) *process {
	t.Helper()
	return launch(t, "gateway", append([]string{"--redis", s.redis.Addr(), "--kafka", s.kafka.ListenAddrs()[0],
		"--controlbus-topics", "", "--dagmanager", dagmanager}, flags...)...)
}

// dagManager starts a DAG Manager on the servers.
func (s servers) dagManager(t *testing.T, flags ...string) *process {
	t.Helper()
	return launch(t, "dagmanager", append([]string{"serve", "--kafka", s.kafka.ListenAddrs()[0], "--replication", "1"}, flags...)...)
}

// process is a service that runs.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready contract.Ready
	log   lines
	asked sync.Once // to stop
	ended sync.Once
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// launch starts a service and waits until it is ready; it ends with the test.
func launch(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if err := json.NewDecoder(out).Decode(&p.ready); err != nil {
		t.Fatalf("%s: no ready line: %v\n%s", name, err, p.log.String())
	}
	return p
}

// terminate asks the process to stop, once: a second signal would end it.
func (p *process) terminate() {
	p.asked.Do(func() {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.t.Error(err)
		}
	})
}

// stop asks the process to stop, waits for it and wants exit code 0.
func (p *process) stop() {
	p.ended.Do(func() {
		p.terminate()
		if err := p.cmd.Wait(); err != nil {
			p.t.Errorf("%s ended with %v\n%s", p.cmd.Path, err, p.log.String())
		}
	})
}

// submission is the body of a valid submission, different for each name.
func submission(t testing.TB, name string) []byte {
	t.Helper()
	members := `"node_type":"IndicatorNode","interval":60,"period":5,"schema_compat_id":"s","code_hash":"c","config_hash":"f","schema_hash":"h"`
	node, err := pyjson.ParseString("{" + members + "}")
	if err != nil {
		t.Fatal(err)
	}
	id, err := contract.NodeID(node)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(contract.StrategySubmit{
		DAGJSON:  fmt.Sprintf(`{"schema_version":"v1","name":%q,"nodes":[{"node_id":%q,%s}]}`, name, id, members),
		WorldIDs: []string{"w"}, NodeIDsCRC32: contract.CRC32([]string{id}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fails runs a service that cannot start, and gives what it says and its exit
// code.
func fails(t *testing.T, name string, args ...string) (said string, code int) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out), exit.ExitCode()
}
