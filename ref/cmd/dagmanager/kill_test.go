package main

import (
	"context"
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
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { killOnce(t, uint64(seed)) })
	}
}

func killOnce(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	cluster := broker(t, kfake.ListenFn(g.listen))
	flags := []string{"--kafka", cluster.ListenAddrs()[0], "--replication", "1",
		"--gc-drop", "always", "--gc-interval", "0", "--gc-indicator", "0s+0s", "--gc-claim-grace", "1ms"}
	nodes, held := 1+rng.IntN(40), rng.IntN(3) > 0
	first := serve(t, flags...)
	g.arm(cluster, held)
	asked := make(chan error, 1)
	go func() { _, err := ask(t.Context(), first, nodes); asked <- err }()
	<-g.reached
	time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // a seeded moment after it
	first.end(syscall.SIGKILL)
	if err := <-asked; err == nil && held {
		t.Fatal("the diff was answered though Kafka was not heard")
	}
	g.open()

	queues := aftermath(t, serve(t, flags...), rng.IntN(3), nodes)
	owned := map[string]bool{}
	for node, topic := range queues {
		owned[topic] = true
		if cluster.TopicInfo(topic) == nil {
			t.Errorf("node %s has no topic %s", node, topic)
		}
	}
	for _, topic := range topicsOf(t, cluster) {
		if !owned[topic] {
			t.Errorf("topic %s belongs to no node", topic)
		}
	}
}

// aftermath is one collection and, before it, beside it or not at all, the diff
// of the client that comes again. It returns the queues that were registered.
func aftermath(t *testing.T, m *manager, when, nodes int) (queues map[string]string) {
	t.Helper()
	const before, beside = 0, 1
	again := func() {
		var err error
		if queues, err = ask(t.Context(), m, nodes); err != nil {
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
	collect(t, m)
	both.Wait()
	return queues
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

// ask diffs a DAG of n nodes and returns the queue map.
func ask(ctx context.Context, m *manager, n int) (map[string]string, error) {
	conn, err := grpc.NewClient(m.ready.Addresses["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var nodes []string
	for i := range n {
		nodes = append(nodes, fmt.Sprintf(`{"node_id":"blake3:%08d","node_type":"N","code_hash":"c%d","schema_hash":"s","interval":60,"tags":["t"]}`, i, i))
	}
	client := pb.NewDiffServiceClient(conn)
	s, err := client.Diff(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: `{"nodes":[` + strings.Join(nodes, ",") + `]}`})
	if err != nil {
		return nil, err
	}
	queues := map[string]string{}
	for chunk := uint32(0); ; chunk++ {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return queues, nil
		}
		if err != nil {
			return nil, err
		}
		for key, topic := range c.GetQueueMap() {
			queues[key] = topic
		}
		if _, err := client.AckChunk(ctx, &pb.ChunkAck{SentinelId: c.GetSentinelId(), ChunkId: chunk}); err != nil {
			return nil, err
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
