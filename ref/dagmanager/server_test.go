package dagmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a DAG Manager that runs in the test as it does in its process:
// flags in, ready line out, real listeners.
type process struct {
	t     testing.TB
	ready contract.Ready
	conn  *grpc.ClientConn
	diff  pb.DiffServiceClient
	log   *bytes.Buffer // complete once the process has stopped
	stop  func()
}

// run starts a DAG Manager with flags and stops it when the test ends.
func run(t testing.TB, flags ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	p := &process{t: t, log: &bytes.Buffer{}}
	code := make(chan int, 1)
	go func() {
		code <- service.Run(ctx, service.IO{Args: append([]string{"--log-level", "error"}, flags...),
			Getenv: func(string) string { return "" }, Out: in, Err: p.log}, Spec())
		in.Close()
	}()
	line, err := io.ReadAll(io.LimitReader(out, 1))
	if err == nil && len(line) == 1 {
		err = json.NewDecoder(io.MultiReader(bytes.NewReader(line), out)).Decode(&p.ready)
	}
	if err != nil || p.ready.Addresses["grpc"] == "" {
		cancel()
		t.Fatalf("no ready line: %v, exit %d\n%s", err, <-code, p.log)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	p.conn, err = grpc.NewClient(p.ready.Addresses["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	p.diff = pb.NewDiffServiceClient(p.conn)
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		p.conn.Close()
		cancel()
		if got := <-code; got != service.ExitOK {
			t.Errorf("exit code %d\n%s", got, p.log)
		}
	}
	t.Cleanup(p.stop)
	return p
}

// reply is the union of the chunks of one diff.
type reply struct {
	queues   map[string]string
	sentinel string
	version  string
	crc      uint32
	buffer   []*pb.BufferInstruction
	chunks   int
}

// ask diffs and acknowledges each chunk.
func (p *process) ask(ctx context.Context, req *pb.DiffRequest) (reply, error) {
	s, err := p.diff.Diff(ctx, req)
	if err != nil {
		return reply{}, err
	}
	r := reply{queues: map[string]string{}}
	for n := uint32(0); ; n++ {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return r, err
		}
		if c.Crc32 == nil {
			return r, errors.New("a chunk has no crc32")
		}
		r.chunks++
		r.sentinel, r.version, r.crc = c.GetSentinelId(), c.GetVersion(), c.GetCrc32()
		r.buffer = append(r.buffer, c.GetBufferNodes()...)
		for k, v := range c.GetQueueMap() {
			r.queues[k] = v
		}
		if _, err := p.diff.AckChunk(ctx, &pb.ChunkAck{SentinelId: c.GetSentinelId(), ChunkId: n}); err != nil {
			return r, err
		}
	}
}

func (p *process) mustAsk(req *pb.DiffRequest) reply {
	p.t.Helper()
	r, err := p.ask(p.t.Context(), req)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// chain is a DAG of n nodes, each reading the one before.
func chain(n int, prefix string) string {
	type node struct {
		ID       string   `json:"node_id"`
		Type     string   `json:"node_type"`
		Code     string   `json:"code_hash"`
		Schema   string   `json:"schema_hash"`
		Interval int      `json:"interval"`
		Period   int      `json:"period"`
		Tags     []string `json:"tags"`
		Inputs   []string `json:"inputs"`
	}
	nodes := make([]node, n)
	for i := range nodes {
		nodes[i] = node{ID: fmt.Sprintf("blake3:%s%08d", prefix, i), Type: "IndicatorNode", Code: fmt.Sprintf("%064x", i),
			Schema: "s", Interval: 60, Period: 5, Tags: []string{"btc", "t" + prefix}, Inputs: []string{}}
		if i > 0 {
			nodes[i].Inputs = []string{nodes[i-1].ID}
		}
	}
	b, err := json.Marshal(map[string]any{"nodes": nodes})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestSameDAGAgainIsReuse(t *testing.T) {
	p := run(t)
	first := p.mustAsk(&pb.DiffRequest{StrategyId: "a", DagJson: chain(250, "x")})
	if first.chunks != 3 || len(first.queues) != 250 || first.sentinel != "a-sentinel" || first.version != "v1" {
		t.Fatalf("%d chunks, %d queues, %s, %s", first.chunks, len(first.queues), first.sentinel, first.version)
	}
	again := p.mustAsk(&pb.DiffRequest{StrategyId: "b", DagJson: chain(250, "x")})
	if again.chunks != 1 || again.crc != first.crc {
		t.Errorf("%d chunks, crc %d and %d", again.chunks, first.crc, again.crc)
	}
	for key, topic := range first.queues {
		if again.queues[key] != topic {
			t.Errorf("%s: %q, then %q", key, topic, again.queues[key])
		}
	}
}
