package dagmanager

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
	"qmtl.internal/plumbline/ref/internal/service"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// kafkaVariable is the environment variable that holds the HOST:PORT of a Kafka
// for tests that shared servers may serve; without it they have one of their own.
const kafkaVariable = "PLUMBLINE_TEST_KAFKA"

// onNeo4j runs DAG Managers that share a broker and a graph database.
func onNeo4j(t *testing.T, url string, managers int, flags ...string) (all []*process, broker string) {
	t.Helper()
	if broker = os.Getenv(kafkaVariable); broker == "" {
		_, broker = kafka(t)
	}
	flags = append([]string{"--kafka", broker, "--replication", "1", "--neo4j", url, "--neo4j-timeout", "1m"}, flags...)
	for range managers {
		all = append(all, run(t, flags...))
	}
	return all, broker
}

// prefix begins ids that no earlier test used: the graph keeps them.
func prefix() string { return strings.ToLower(rand.Text()[:8]) }

// versioned is a DAG whose topics are named after its version, so that each
// version would name them otherwise.
func versioned(n int, ids, version string) string {
	return strings.Replace(chain(n, ids), "{", fmt.Sprintf(`{"version":%q,`, version), 1)
}

func TestTwoManagersOnOneGraphMakeOneTopicANode(t *testing.T) {
	managers, broker := onNeo4j(t, nodestoretest.Server(t), 2)
	const diffs, nodes = 64, 100
	ids := prefix()
	var wg sync.WaitGroup
	replies := make([]reply, diffs)
	for i := range diffs {
		wg.Go(func() {
			var err error
			dag := versioned(nodes, ids, fmt.Sprint("v", i%5))
			replies[i], err = managers[i%2].ask(t.Context(), &pb.DiffRequest{StrategyId: fmt.Sprint("s", i), DagJson: dag})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, r := range replies {
		if d := cmp.Diff(replies[0].queues, r.queues); d != "" {
			t.Fatalf("diff %d is told something else (-first +this):\n%s", i, d)
		}
	}
	if made := topicsNamed(t, broker, ids); len(made) != nodes {
		t.Errorf("%d topics; want %d: %v", len(made), nodes, made)
	}
	for i, m := range managers {
		got, err := pb.NewTagQueryClient(m.conn).GetQueues(t.Context(), &pb.TagQueryRequest{Tags: []string{"t" + ids}, Interval: 60})
		if err != nil || len(got.GetQueues()) != nodes {
			t.Errorf("manager %d finds %d queues by tag, %v", i, len(got.GetQueues()), err)
		}
	}
}

// topicsNamed are the topics of a broker that hold a part in their name.
func topicsNamed(t *testing.T, broker, part string) (names []string) {
	t.Helper()
	all, err := kadm.NewClient(kafkaClient(t, broker)).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all.Names() {
		if strings.Contains(name, part) {
			names = append(names, name)
		}
	}
	return names
}

func TestTheGraphOutlivesTheManager(t *testing.T) {
	url := nodestoretest.Server(t)
	ids := prefix()
	managers, broker := onNeo4j(t, url, 1)
	before := managers[0].mustAsk(&pb.DiffRequest{StrategyId: "a", DagJson: versioned(30, ids, "v1")})
	managers[0].stop()
	p := run(t, "--kafka", broker, "--replication", "1", "--neo4j", url)
	after := p.mustAsk(&pb.DiffRequest{StrategyId: "a", DagJson: versioned(30, ids, "v2")})
	if d := cmp.Diff(before.queues, after.queues); d != "" {
		t.Errorf("(-before +after):\n%s", d)
	}
	if got := state(t, p); got != "ok" {
		t.Errorf("neo4j is %q", got)
	}
}

// state is what the health check says of the graph database.
func state(t *testing.T, p *process) string {
	t.Helper()
	got, err := pb.NewHealthCheckClient(p.conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return got.GetNeo4J()
}

func TestGraphOutage(t *testing.T) {
	gate := nodestoretest.NewGate(t, nodestoretest.Server(t))
	managers, _ := onNeo4j(t, gate.URL(), 1, "--neo4j-timeout", "1s", "--neo4j-retry", "300ms")
	p, ids := managers[0], prefix()
	ask := func(n int, what string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := p.ask(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: chain(n, ids+what)})
		return err
	}
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, ids+"known")})
	for i, outage := range []struct{ away, back func() }{{gate.Shut, gate.Open}, {gate.Mute, gate.Speak}} {
		outage.away()
		wants(t, ask(3, fmt.Sprint("new", i)), codes.Unavailable, "GRAPH_UNAVAILABLE", "not available")
		_, err := pb.NewTagQueryClient(p.conn).GetQueues(t.Context(), &pb.TagQueryRequest{Tags: []string{"x"}, Interval: 60})
		wants(t, err, codes.Unavailable, "GRAPH_UNAVAILABLE", "not available")
		if got := state(t, p); got != "error" {
			t.Errorf("neo4j is %q while it is away", got)
		}
		outage.back()
		healed(t, func() error { return ask(3, fmt.Sprint("new", i)) })
		if got := state(t, p); got != "ok" {
			t.Errorf("neo4j is %q after it came back", got)
		}
	}
}

// healed waits until a call works; before that, it may only be UNAVAILABLE.
func healed(t *testing.T, call func() error) {
	t.Helper()
	for range 300 {
		err := call()
		if err == nil {
			return
		}
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("while healing: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("not healed")
}

// A manager starts without its graph database, and says so.
func TestStartWithoutTheGraph(t *testing.T) {
	p := run(t, "--neo4j", "bolt://127.0.0.1:1", "--neo4j-retry", "100ms")
	_, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "x")})
	wants(t, err, codes.Unavailable, "GRAPH_UNAVAILABLE", "not available")
	if got := state(t, p); got != "error" {
		t.Errorf("neo4j is %q", got)
	}
	if r := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: "{}"}); r.chunks != 1 {
		t.Errorf("%d chunks for a DAG without nodes", r.chunks)
	}
}

// cli runs a command of the program.
func cli(t *testing.T, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Command(t.Context(), service.IO{Args: args, Getenv: func(name string) string { return env[name] }, Out: &o, Err: &e})
	return code, o.String(), e.String()
}

func TestSchemaCommands(t *testing.T) {
	url := nodestoretest.Server(t)
	env := map[string]string{"PLUMBLINE_DAGMANAGER_NEO4J": url}
	const all = "compute_pk, kafka_topic, compute_tags, queue_interval, compute_buffering_since"
	cli(t, env, "neo4j-rollback")
	for _, c := range []struct{ command, want string }{
		{"neo4j-rollback", "there is no schema, nothing to do"}, {"neo4j-init", "made " + all}, {"neo4j-init", "the schema is there, nothing to do"},
		{"neo4j-rollback", "dropped " + all}, {"neo4j-init", "made " + all},
	} {
		code, out, errs := cli(t, env, c.command)
		if code != 0 || out != c.command+": "+c.want+"\n" || errs != "" {
			t.Errorf("%s: exit %d, %q, %q", c.command, code, out, errs)
		}
	}
}

func TestBadCommandLines(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "no command"}, {[]string{"neo4j-up"}, 2, "neo4j-init"}, {[]string{"neo4j-init"}, 2, "--neo4j: want bolt://"},
		{[]string{"neo4j-init", "--neo4j", "bolt://me:secret@host:1"}, 2, "settings of their own"},
		{[]string{"neo4j-init", "--nope"}, 2, "nope"}, {[]string{"neo4j-init", "--neo4j", "bolt://127.0.0.1:1", "x"}, 2, `"x"`},
		{[]string{"neo4j-init", "--neo4j", "bolt://127.0.0.1:1", "--neo4j-password", "secret", "--neo4j-retry", "10ms"}, 1, "not available"},
	} {
		code, out, errs := cli(t, nil, c.args...)
		if code != c.code || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, c.says) || strings.Contains(errs, "secret") {
			t.Errorf("%q: exit %d, %q, %q", c.args, code, out, errs)
		}
	}
}

func TestBadGraphFlags(t *testing.T) {
	for says, flags := range map[string][]string{
		"settings of their own": {"--neo4j", "bolt://me:secret@host:1"},
		"--neo4j-cache -1":      {"--neo4j-cache", "-1"},
		"--neo4j-timeout 0s":    {"--neo4j-timeout", "0"},
		"give it or --neo4j":    {"--neo4j", "bolt://127.0.0.1:1", "--memory-repo", "f"},
	} {
		var errs bytes.Buffer
		code := service.Run(t.Context(), service.IO{Args: flags, Getenv: func(string) string { return "" }, Out: &errs, Err: &errs}, Spec())
		if code != service.ExitUsage || !strings.Contains(errs.String(), says) || strings.Contains(errs.String(), "secret") {
			t.Errorf("%q: exit %d, %s", flags, code, &errs)
		}
	}
}
