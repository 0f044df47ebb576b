package dagmanager

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Kafka goes for 5 s, long enough for the breaker to open, and comes back at the
// same address: new nodes are UNAVAILABLE meanwhile, known ones go on, and
// within 5 s all is well again without a restart.
func TestBrokerOutageHeals(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	cluster, addr := kafka(t, kfake.Ports(port))
	p := run(t, "--kafka", addr, "--replication", "1", "--kafka-timeout", "1s")
	known := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "known")})
	cluster.Close()
	opened := false
	for away := time.Now(); time.Since(away) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		_, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "new")})
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Fatalf("without a broker: %v", err)
		}
		opened = opened || reasonOf(err) == "BROKER_CIRCUIT_OPEN"
		if r := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "known")}); len(r.queues) != len(known.queues) {
			t.Fatalf("known nodes without a broker: %v", r.queues)
		}
	}
	if !opened {
		t.Error("the breaker never opened: the test proves nothing of it")
	}
	kafka(t, kfake.Ports(port))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		_, err := p.ask(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "new")})
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("5 s after the broker came back: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// reasonOf is the reason that an error carries.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// freePort is a port of loopback that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Ten thousand clients that read their chunk and never acknowledge are held at
// once, at a few KB each with both ends in this process; one more is refused,
// and when they leave all is free again.
func TestTenThousandStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("10,000 streams; run without -short")
	}
	const streams, most = 10_000, 64 << 10
	p := run(t, "--ack-timeout", "1h", "--ack-replay", "10m")
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(12, "k")})
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clients := make([]pb.DiffServiceClient, 10)
	for i := range clients {
		clients[i] = p.dialAgain()
	}
	var opening sync.WaitGroup
	for i, client := range clients {
		opening.Go(func() {
			for n := range streams / len(clients) {
				s, err := client.Diff(ctx, &pb.DiffRequest{StrategyId: fmt.Sprint(i, "-", n), DagJson: chain(12, "k")})
				if err == nil {
					_, err = s.Recv()
				}
				if err != nil {
					t.Errorf("stream %d of connection %d: %v", n, i, err)
					return
				}
			}
		})
	}
	opening.Wait()
	each := (heap() - before) / streams
	t.Logf("%d streams are open: %d bytes of heap each, %d goroutines", streams, each, runtime.NumGoroutine())
	if each > most {
		t.Errorf("%d bytes a stream, at most %d", each, most)
	}
	_, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "more", DagJson: "{}"})
	wants(t, err, codes.ResourceExhausted, "TOO_MANY_STREAMS", "too many diff streams")
	cancel()
	healed(t, func() error {
		_, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "more", DagJson: "{}"})
		if status.Code(err) == codes.ResourceExhausted {
			return status.Error(codes.Unavailable, "not yet")
		}
		return err
	})
}

// heap is what lives on the heap.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What a diff of known nodes allocates grows with its nodes and not with the
// topics and nodes that exist beside them.
func TestDiffAllocatesByNode(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 nodes; run without -short")
	}
	store, session := nodestore.NewMemory(), topics.NewSession(topics.NewMemory(), topics.Options{})
	ask := func(dag string) {
		x := diff.ExecutionContext{StrategyID: "s", DAG: dag, Namespaces: true, Now: time.Now()}
		res, err := diff.Run(t.Context(), x, store, session)
		if err != nil {
			t.Fatal(err)
		}
		stream.Chunks(answerOf(res))
	}
	perNode := func(nodes int) float64 {
		dag := chain(nodes, fmt.Sprint("n", nodes, "-"))
		ask(dag)
		return allocated(func() { ask(dag) }) / float64(nodes)
	}
	base := perNode(100)
	for beside := 0; beside <= 100_000; {
		for _, nodes := range []int{100, 1000, 10_000} {
			if got := perNode(nodes); got > 1.5*base {
				t.Errorf("%d nodes beside %d others: %.0f bytes a node, %.0f at 100 nodes beside none", nodes, beside, got, base)
			}
		}
		for range 5 {
			ask(chain(10_000, fmt.Sprint("beside", beside, "-")))
			beside += 10_000
		}
	}
}

// allocated is what f allocates in bytes, the least of some runs.
func allocated(f func()) float64 {
	least := ^uint64(0)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return float64(least)
}
