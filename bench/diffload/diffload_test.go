package diffload_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/bench/diffload"
	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func TestMain(m *testing.M) {
	if ready := os.Getenv("DIFFLOAD_TEST_READY"); ready != "" { // the program that TestStart starts
		fmt.Println(ready)
		time.Sleep(time.Minute)
	}
	goleak.VerifyTestMain(m)
}

// manager is a DAG Manager that keeps the contract, in chunks of 40 queues,
// unless spoil changes them.
type manager struct {
	pb.UnimplementedDiffServiceServer
	spoil func(call int, chunks []*pb.DiffChunk)

	mu    sync.Mutex
	calls int
	acked map[string]int
}

func (m *manager) Diff(req *pb.DiffRequest, out grpc.ServerStreamingServer[pb.DiffChunk]) error {
	var dag struct {
		Nodes []struct {
			ID string `json:"node_id"`
		}
	}
	if err := json.Unmarshal([]byte(req.GetDagJson()), &dag); err != nil {
		return err
	}
	sum := crc32.NewIEEE()
	for _, n := range dag.Nodes {
		sum.Write([]byte(n.ID))
	}
	var chunks []*pb.DiffChunk
	for i, n := range dag.Nodes {
		if i%40 == 0 {
			chunks = append(chunks, &pb.DiffChunk{SentinelId: req.GetStrategyId(), Crc32: proto.Uint32(sum.Sum32()), QueueMap: map[string]string{}})
		}
		chunks[len(chunks)-1].QueueMap[n.ID+":60:0"] = "t_" + n.ID[7:]
	}
	m.mu.Lock()
	call := m.calls
	m.calls++
	m.mu.Unlock()
	if m.spoil != nil {
		m.spoil(call, chunks)
	}
	for _, c := range chunks {
		if err := out.Send(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *manager) AckChunk(_ context.Context, ack *pb.ChunkAck) (*pb.ChunkAck, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acked[fmt.Sprint(ack.GetSentinelId(), " ", ack.GetChunkId())]++
	return ack, nil
}

func serve(t *testing.T, m *manager) *diffload.Client {
	t.Helper()
	m.acked = map[string]int{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	pb.RegisterDiffServiceServer(g, m)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(l) })
	c, err := diffload.Dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); g.Stop(); wg.Wait() })
	return c
}

func dag(t *testing.T, n int) diffload.DAG {
	t.Helper()
	d, err := diffload.NewDAG(n, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEveryChunkIsAcknowledgedByItsNumber(t *testing.T) {
	m := &manager{}
	c := serve(t, m)
	a, err := c.Diff(t.Context(), "s", dag(t, 100))
	if err != nil || a.Chunks != 3 || len(a.Queues) != 100 || a.Topics() != 100 {
		t.Fatalf("%d chunks, %d queues, %v", a.Chunks, len(a.Queues), err)
	}
	if len(m.acked) != 3 || m.acked["s 0"] != 1 || m.acked["s 2"] != 1 {
		t.Errorf("acknowledged %v", m.acked)
	}
}

func TestWrongAnswersAreTold(t *testing.T) {
	for says, spoil := range map[string]func([]*pb.DiffChunk){
		"tells again": func(c []*pb.DiffChunk) {
			for k, v := range c[0].GetQueueMap() {
				c[1].QueueMap[k] = v
			}
		},
		"99 queues for 100": func(c []*pb.DiffChunk) {
			for k := range c[2].GetQueueMap() {
				delete(c[2].QueueMap, k)
				break
			}
		},
		"crc32":         func(c []*pb.DiffChunk) { c[1].Crc32 = proto.Uint32(1) },
		"crc32 0":       func(c []*pb.DiffChunk) { c[2].Crc32 = nil },
		"chunk 1 holds": func(c []*pb.DiffChunk) { c[0].QueueMap["x"] = strings.Repeat("x", 1<<20) },
	} {
		c := serve(t, &manager{spoil: func(_ int, chunks []*pb.DiffChunk) { spoil(chunks) }})
		_, err := c.Diff(t.Context(), "s", dag(t, 100))
		var wrong *diffload.WrongError
		if !errors.As(err, &wrong) || !strings.Contains(wrong.Why, says) {
			t.Errorf("%v; want %s", err, says)
		}
	}
}

func TestTwoNodesOfOneTopicAreTold(t *testing.T) {
	c := serve(t, &manager{spoil: func(_ int, chunks []*pb.DiffChunk) {
		for k := range chunks[0].GetQueueMap() {
			chunks[0].QueueMap[k] = "one"
		}
	}})
	if _, err := diffload.Teach(t.Context(), c, dag(t, 10)); err == nil || !strings.Contains(err.Error(), "1 topics for 10 nodes") {
		t.Error(err)
	}
}

func TestOneByOne(t *testing.T) {
	c := serve(t, &manager{})
	d := dag(t, 100)
	want, err := diffload.Teach(t.Context(), c, d)
	if err != nil {
		t.Fatal(err)
	}
	class, err := diffload.OneByOne(t.Context(), c, d, want, 20)
	if err != nil || class.N != 20 || class.Service.P50 <= 0 || class.Service.P95 < class.Service.P50 {
		t.Errorf("%+v, %v", class, err)
	}
}

func TestOpenModelCountsWrongAnswers(t *testing.T) {
	m := &manager{}
	c := serve(t, m)
	d := dag(t, 10)
	want, err := diffload.Teach(t.Context(), c, d)
	if err != nil {
		t.Fatal(err)
	}
	m.spoil = func(call int, chunks []*pb.DiffChunk) { // the teaching was call 0
		for k := range chunks[0].GetQueueMap() {
			if call%2 == 0 {
				chunks[0].QueueMap[k] = "another"
			}
		}
	}
	ev, err := diffload.Offer(t.Context(), diffload.Offering{Clients: []*diffload.Client{c}, DAG: d, Want: want, Rate: 100, Window: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if l := ev.Result.Ledger; l.Offered != 20 || l.Accepted != 10 || l.Unexpected != 10 {
		t.Errorf("%+v", l)
	}
	if n := ev.Result.Classes[load.All].N; n != 20 {
		t.Errorf("%d latencies", n)
	}
}

func TestStart(t *testing.T) {
	t.Setenv("DIFFLOAD_TEST_READY", `{"plumbline_ready":1,"service":"dagmanager","pid":1,"addresses":{"grpc":"127.0.0.1:1"}}`)
	p, err := diffload.Start(t.Context(), os.Stderr, []string{os.Args[0]})
	if err != nil || p.Ready.Addresses["grpc"] != "127.0.0.1:1" || p.Ready.Version != contract.ReadyVersion {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "ended with") { // it knows no orderly end
		t.Errorf("stop: %v", err)
	}
}

func TestWhatIsNoDAGManagerIsNotStarted(t *testing.T) {
	for ready, says := range map[string]string{
		`{"plumbline_ready":1,"service":"gateway","pid":1,"addresses":{"http":"127.0.0.1:1"}}`: "no grpc address",
		`hello`: "ready line",
	} {
		t.Setenv("DIFFLOAD_TEST_READY", ready)
		if _, err := diffload.Start(t.Context(), os.Stderr, []string{os.Args[0]}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %s", err, says)
		}
	}
	if _, err := diffload.Start(t.Context(), os.Stderr, nil); err == nil {
		t.Error("nothing was started")
	}
}

func TestMeter(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP x y\nprocess_resident_memory_bytes 1.5e+07\nother{a=\"b\"} 3\n")
	}))
	defer s.Close()
	defer http.DefaultClient.CloseIdleConnections()
	got, err := diffload.NewMeter(strings.TrimPrefix(s.URL, "http://")).Read(t.Context())
	if err != nil || got[diffload.Resident] != 15e6 {
		t.Errorf("%v, %v", got, err)
	}
	if _, there := got[diffload.Live]; there {
		t.Error("a series that is not there has a value")
	}
}
