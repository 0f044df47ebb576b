package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand is a gateway as a whole process would be, between real servers: Redis,
// Kafka and a DAG Manager that answers as its fields say.
type stand struct {
	t      *testing.T
	url    string
	redis  *miniredis.Miniredis
	kafka  *kfake.Cluster // nil without a commit log
	dm     *manager
	client *http.Client
	given  *givenAnswers // what was seen of the described answers; nil: nobody asks
}

type standOption func(*standConfig)

type standConfig struct {
	kafka bool
	bus   string // ControlBus topics
	dm    *manager
	args  []string
}

func withKafka(c *standConfig) { c.kafka = true }
func withBus(c *standConfig)   { c.kafka, c.bus = true, "queue" }
func withArgs(args ...string) standOption {
	return func(c *standConfig) { c.args = append(c.args, args...) }
}
func withManager(m *manager) standOption { return func(c *standConfig) { c.dm = m } }

func newStand(t *testing.T, options ...standOption) *stand {
	t.Helper()
	c := standConfig{dm: &manager{}}
	for _, o := range options {
		o(&c)
	}
	s := &stand{t: t, redis: miniredis.RunT(t), dm: c.dm, client: &http.Client{
		Timeout:       30 * time.Second, // longer than any answer may take
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(s.client.CloseIdleConnections)
	args := append([]string{"--redis", s.redis.Addr(), "--dagmanager", s.dm.serve(t)}, c.args...)
	if c.kafka {
		s.kafka = newKafka(t)
		args = append(args, "--kafka", strings.Join(s.kafka.ListenAddrs(), ","), "--controlbus-topics", c.bus)
	}
	s.url = "http://" + run(t, args...).Addresses["http"]
	return s
}

func newKafka(t *testing.T) *kfake.Cluster {
	t.Helper()
	topics := []string{"gateway.ingest", "trade.fills", ackTopic}
	for _, one := range strings.Split(busTopics, ",") {
		topics = append(topics, one, one+".dlq")
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// run starts the service of Spec in this process and stops it at the end.
func run(t *testing.T, args ...string) contract.Ready {
	t.Helper()
	return runSpec(t, Spec(), args...)
}

func runSpec(t *testing.T, spec service.Spec, args ...string) contract.Ready {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var log lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- service.Run(ctx, service.IO{Args: args, Getenv: func(string) string { return "" }, Out: in, Err: &log}, spec)
		in.Close()
	}()
	t.Cleanup(func() {
		stop()
		if got := <-code; got != service.ExitOK {
			t.Errorf("exit code %d; log:\n%s", got, log.String())
		}
	})
	line := make([]byte, 4<<10)
	n, err := out.Read(line)
	if err != nil {
		t.Fatalf("no ready line: %v; log:\n%s", err, log.String())
	}
	ready, err := contract.ParseReady(bytes.TrimSpace(line[:n]))
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// answer is what an HTTP request got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *stand) do(method, path, contentType, body string) answer {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return s.send(req)
}

func (s *stand) send(req *http.Request) answer {
	s.t.Helper()
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header, string(b)}
	s.wantDescribed(req, a)
	return a
}

func (s *stand) get(path string) answer { s.t.Helper(); return s.do(http.MethodGet, path, "", "") }

func (s *stand) post(path, body string) answer {
	s.t.Helper()
	return s.do(http.MethodPost, path, "application/json", body)
}

// metric gives the value of a series by its whole name, 0 when absent.
func (s *stand) metric(series string) string {
	s.t.Helper()
	for line := range strings.Lines(s.get("/metrics").body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "0"
}

// records gives the values in the commit log.
func (s *stand) records() []*kgo.Record {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ConsumeTopics("gateway.ingest"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	var all []*kgo.Record
	for idle := 0; idle < 3; {
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		found := cl.PollFetches(ctx).Records()
		cancel()
		if all = append(all, found...); len(found) == 0 {
			idle++
		}
	}
	return all
}

// body writes a submission of dag, its CRC computed.
func body(dag string, worlds ...string) string { return bodyWith(dag, "null", worlds...) }

func bodyWith(dag, meta string, worlds ...string) string {
	v, err := pyjson.ParseString(dag)
	if err != nil {
		panic(err)
	}
	ids, err := contract.NodeIDsOf(v)
	if err != nil {
		panic(err)
	}
	b, err := json.Marshal(contract.StrategySubmit{
		DAGJSON: dag, Meta: json.RawMessage(meta), WorldIDs: worlds, NodeIDsCRC32: contract.CRC32(ids),
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// oneNode is a valid DAG, different for each unique.
func oneNode(unique string) string {
	return fmt.Sprintf(`{"schema_version":"v1","unique":%q,"nodes":[%s]}`, unique, node(
		`"node_type":"IndicatorNode","interval":60,"period":5,"params":{"window":5},"dependencies":[],`+
			`"schema_compat_id":"ind-major","code_hash":"code-ind","config_hash":"cfg-ind","schema_hash":"sch-ind"`))
}

// tagNode is a valid DAG with one TagQuery node over tags, a JSON array.
func tagNode(unique, tags string) string {
	return fmt.Sprintf(`{"schema_version":"v1","unique":%q,"nodes":[%s]}`, unique, node(
		`"node_type":"TagQueryNode","interval":60,"period":0,"tags":`+tags+`,`+
			`"schema_compat_id":"s","code_hash":"c","config_hash":"cf","schema_hash":"sh"`))
}

// node gives members the node id that they make.
func node(members string) string {
	v, err := pyjson.ParseString("{" + members + "}")
	if err != nil {
		panic(err)
	}
	id, err := contract.NodeID(v)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"node_id":%q,%s}`, id, members)
}

// manager is a DAG Manager that keeps to the protocol and answers as told. The
// zero value gives each diff one good chunk and finds no queues.
type manager struct {
	pb.UnimplementedDiffServiceServer
	pb.UnimplementedTagQueryServer
	pb.UnimplementedHealthCheckServer

	addr   string
	server *grpc.Server

	mu    sync.Mutex
	diffs []*pb.DiffRequest     // guarded by mu
	acks  []*pb.ChunkAck        // guarded by mu
	asked []*pb.TagQueryRequest // guarded by mu
	state string                // of neo4j, "ok" when empty; guarded by mu

	// chunks answers a diff, queues a tag query; both may be changed under mu.
	chunks func(context.Context, *pb.DiffRequest) ([]*pb.DiffChunk, error)
	queues func(context.Context, *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error)
}

func (m *manager) serve(t *testing.T) string {
	t.Helper()
	if m.addr == "" {
		m.addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	m.addr = l.Addr().String()
	srv := grpc.NewServer()
	m.server = srv
	pb.RegisterDiffServiceServer(srv, m)
	pb.RegisterTagQueryServer(srv, m)
	pb.RegisterHealthCheckServer(srv, m)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return m.addr
}

// stop leaves a refused port behind.
func (m *manager) stop() { m.server.Stop() }

func (m *manager) Diff(req *pb.DiffRequest, stream grpc.ServerStreamingServer[pb.DiffChunk]) error {
	m.mu.Lock()
	m.diffs = append(m.diffs, req)
	answer := m.chunks
	m.mu.Unlock()
	if answer == nil {
		answer = goodChunk
	}
	chunks, err := answer(stream.Context(), req)
	if err != nil {
		return err
	}
	for _, c := range chunks {
		if err := stream.Send(c); err != nil {
			return err
		}
	}
	return nil
}

func goodChunk(_ context.Context, req *pb.DiffRequest) ([]*pb.DiffChunk, error) {
	return []*pb.DiffChunk{{SentinelId: req.GetStrategyId() + "-sentinel", Version: "v1", Crc32: crcOf(req), QueueMap: map[string]string{}}}, nil
}

func crcOf(req *pb.DiffRequest) *uint32 {
	v, err := pyjson.ParseString(req.GetDagJson())
	if err != nil {
		return nil
	}
	ids, err := contract.NodeIDsOf(v)
	if err != nil {
		return nil
	}
	crc := contract.CRC32(ids)
	return &crc
}

func (m *manager) AckChunk(_ context.Context, ack *pb.ChunkAck) (*pb.ChunkAck, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acks = append(m.acks, ack)
	return ack, nil
}

func (m *manager) GetQueues(ctx context.Context, req *pb.TagQueryRequest) (*pb.TagQueryReply, error) {
	m.mu.Lock()
	m.asked = append(m.asked, req)
	answer := m.queues
	m.mu.Unlock()
	if answer == nil {
		return &pb.TagQueryReply{}, nil
	}
	queues, err := answer(ctx, req)
	return &pb.TagQueryReply{Queues: queues}, err
}

func (m *manager) Status(context.Context, *pb.StatusRequest) (*pb.StatusReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.state
	if state == "" {
		state = "ok"
	}
	return &pb.StatusReply{Neo4J: state, State: "running"}, nil
}

// seen copies what the manager was asked.
func (m *manager) seen() (diffs []*pb.DiffRequest, acks []*pb.ChunkAck, asked []*pb.TagQueryRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.diffs), slices.Clone(m.acks), slices.Clone(m.asked)
}

// hang is an answer that never comes.
func hang[Q, A any](ctx context.Context, _ Q) (A, error) {
	<-ctx.Done()
	var none A
	return none, status.FromContextError(ctx.Err()).Err()
}

// refuse is an answer with a gRPC code.
func refuse[Q, A any](code codes.Code) func(context.Context, Q) (A, error) {
	return func(context.Context, Q) (A, error) {
		var none A
		return none, status.Error(code, "as told")
	}
}
