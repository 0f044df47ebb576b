package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore/nodestoretest"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// killsEnv says how often TestKillBetweenTopicAndRegistration kills.
const killsEnv = "PLUMBLINE_KILLS"

// kills is how often the process is killed: as often as the environment says, or
// 50 times, 5 where time is short.
func kills(t *testing.T) int {
	text := os.Getenv(killsEnv)
	if text == "" && testing.Short() {
		return 5
	}
	if text == "" {
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1 on", killsEnv, text)
	}
	return n
}

// A DAG Manager that is killed after Kafka made topics and before it registered
// them leaves orphans. The next one collects them, or a diff takes them up;
// either way no topic is left without a node, and no node without a topic.
func TestKillBetweenTopicAndRegistration(t *testing.T) {
	for seed := range kills(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { killing{collections: 1}.run(t, uint64(seed)) })
	}
}

// With a graph that outlives the process its claims stay too; a collector sees
// one twice before it gives it up.
func TestKillOnNeo4j(t *testing.T) {
	url := nodestoretest.Server(t)
	for seed := range kills(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			killing{collections: 2, flags: []string{"--neo4j", url, "--neo4j-timeout", "1m"}}.run(t, uint64(seed))
		})
	}
}

// killing is one way to kill a DAG Manager and see what becomes of its topics.
type killing struct {
	collections int
	flags       []string
}

func (k killing) run(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	cluster := broker(t, kfake.ListenFn(g.listen))
	k.flags = append([]string{"--kafka", cluster.ListenAddrs()[0], "--replication", "1",
		"--gc-drop", "always", "--gc-interval", "0", "--gc-indicator", "0s+0s", "--gc-claim-grace", "1ms"}, k.flags...)
	d, held := dag{strings.ToLower(crand.Text()[:8]), 1 + rng.IntN(40)}, rng.IntN(3) > 0
	first := serve(t, k.flags...)
	g.arm(cluster, held)
	asked := make(chan error, 1)
	go func() { asked <- ask(t.Context(), first, d) }()
	<-g.reached
	time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // a seeded moment after it
	first.end(syscall.SIGKILL)
	if err := <-asked; err == nil && held {
		t.Fatal("the diff was answered though Kafka was not heard")
	}
	g.open()

	queues := map[string]bool{}
	for _, topic := range k.aftermath(t, serve(t, k.flags...), rng.IntN(3), d) {
		queues[topic] = true
		if cluster.TopicInfo(topic) == nil {
			t.Errorf("queue %s has no topic", topic)
		}
	}
	for _, topic := range topicsOf(t, cluster) {
		if !queues[topic] {
			t.Errorf("topic %s belongs to no node", topic)
		}
	}
}

// aftermath collects and, before it, beside it or not at all, diffs for the
// client that comes again. It returns the queues that are registered then.
func (k killing) aftermath(t *testing.T, m *manager, when int, d dag) []string {
	t.Helper()
	const before, beside = 0, 1
	again := func() {
		if err := ask(t.Context(), m, d); err != nil {
			t.Error(err)
		}
	}
	var both sync.WaitGroup
	switch when {
	case before:
		again()
	case beside:
		both.Go(again)
	}
	for range k.collections {
		collect(t, m)
		time.Sleep(2 * time.Millisecond) // the patience with claims
	}
	both.Wait()
	return registered(t, m, d)
}

func topicsOf(t *testing.T, cluster *kfake.Cluster) []string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all, err := kadm.NewClient(client).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all.Names()
}

// dag is a DAG of n nodes that nobody else has.
type dag struct {
	tag string
	n   int
}

func (d dag) json() string {
	var nodes []string
	for i := range d.n {
		nodes = append(nodes, fmt.Sprintf(`{"node_id":"blake3:%04d%s","node_type":"N","code_hash":"%s%d","schema_hash":"s","interval":60,"tags":["%s"]}`,
			i, d.tag, d.tag, i, d.tag))
	}
	return `{"nodes":[` + strings.Join(nodes, ",") + `]}`
}

func dial(m *manager) (*grpc.ClientConn, error) {
	return grpc.NewClient(m.ready.Addresses["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// registered are the queues of the DAG's nodes.
func registered(t *testing.T, m *manager, d dag) (topics []string) {
	t.Helper()
	conn, err := dial(m)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	found, err := pb.NewTagQueryClient(conn).GetQueues(t.Context(), &pb.TagQueryRequest{Tags: []string{d.tag}, Interval: 60})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range found.GetQueues() {
		topics = append(topics, q.GetQueue())
	}
	return topics
}

// ask diffs a DAG.
func ask(ctx context.Context, m *manager, d dag) error {
	conn, err := dial(m)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewDiffServiceClient(conn)
	s, err := client.Diff(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: d.json()})
	if err != nil {
		return err
	}
	for chunk := uint32(0); ; chunk++ {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := client.AckChunk(ctx, &pb.ChunkAck{SentinelId: c.GetSentinelId(), ChunkId: chunk}); err != nil {
			return err
		}
	}
}

// collect asks for one garbage collection.
func collect(t *testing.T, m *manager) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.ready.Addresses["http"]+"/admin/gc-trigger", strings.NewReader(`{"id":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("gc-trigger: %d %s, %v", resp.StatusCode, body, err)
	}
}

// gate is how Kafka is heard. Shut, it keeps every answer back, so that a DAG
// Manager never learns that its topics were made.
type gate struct {
	shut    atomic.Bool
	reached chan struct{} // closed when topics are asked for
	opened  chan struct{}
}

// arm makes the next request for topics be reached and, where held says so, its
// answer be kept back.
func (g *gate) arm(cluster *kfake.Cluster, held bool) {
	var once sync.Once // also those of later requests come here
	cluster.ControlKey(kmsg.CreateTopics.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		once.Do(func() {
			g.shut.Store(held)
			close(g.reached)
		})
		return nil, nil, false // and Kafka makes them
	})
}

func (g *gate) open() {
	g.shut.Store(false)
	close(g.opened)
}

func (g *gate) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return listener{l, g}, err
}

type listener struct {
	net.Listener
	gate *gate
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return conn{c, l.gate}, err
}

type conn struct {
	net.Conn
	gate *gate
}

func (c conn) Write(b []byte) (int, error) {
	if c.gate.shut.Load() {
		<-c.gate.opened
	}
	return c.Conn.Write(b)
}
