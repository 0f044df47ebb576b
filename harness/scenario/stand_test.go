package scenario_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// stand is a small control plane of real protocols whose faults a test
// chooses by name; without faults it behaves.
type stand struct {
	env    scenario.Env
	redis  *miniredis.Miniredis
	kafka  *kfake.Cluster
	faults map[string]bool

	watching sync.WaitGroup // handlers of WebSockets

	mu      sync.Mutex
	seen    map[string]string // dag hash → strategy id; guarded by mu
	counter int               // guarded by mu
	diffs   int               // guarded by mu
	acks    map[string]chan uint32
	pb.UnimplementedDiffServiceServer
	pb.UnimplementedTagQueryServer
}

func newStand(t *testing.T, faults ...string) *stand {
	t.Helper()
	s := &stand{faults: map[string]bool{}, seen: map[string]string{}, acks: map[string]chan uint32{}, redis: miniredis.RunT(t)}
	for _, f := range faults {
		s.faults[f] = true
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "gateway.ingest", "queue", "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s.kafka = cluster
	t.Cleanup(s.watching.Wait) // the server does not wait for its WebSockets
	web := httptest.NewServer(s.routes())
	t.Cleanup(web.Close)
	s.env = scenario.Env{
		Gateway: web.URL, DagManagerHTTP: strings.TrimPrefix(web.URL, "http://"), DagManager: s.serveGRPC(t),
		Kafka: cluster.ListenAddrs()[0], Redis: s.redis.Addr(), Provider: "stand", RunID: "run", Seed: 7,
	}
	return s
}

func (s *stand) serveGRPC(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	pb.RegisterDiffServiceServer(g, s)
	pb.RegisterTagQueryServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

func (s *stand) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /strategies", s.submit)
	m.HandleFunc("POST /strategies/dry-run", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, `{"strategy_id":"dryrun"}`) })
	m.HandleFunc("GET /count", s.count)
	m.HandleFunc("GET /metrics", s.metrics)
	m.HandleFunc("GET /ws", s.watch)
	m.HandleFunc("/echo", echo)
	m.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Second):
		}
	})
	m.HandleFunc("GET /broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "{")
	})
	return m
}

func reply(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	out, _ := json.Marshal(map[string]any{
		"method": r.Method, "query": r.URL.Query(), "body": string(b), "base64": base64.StdEncoding.EncodeToString(b),
		"type": r.Header.Get("Content-Type"), "encoding": r.Header.Get("Content-Encoding"), "x": r.Header.Get("X-Test"),
	})
	w.Header().Set("X-Seen", "yes")
	reply(w, http.StatusTeapot, string(out))
}

func (s *stand) count(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counter++
	reply(w, 200, fmt.Sprintf(`{"n":%d}`, s.counter))
}

func (s *stand) metrics(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(w, "# TYPE hits_total counter\nhits_total{kind=\"a\"} %d\nhits_total{kind=\"b\"} 1\n# TYPE level gauge\nlevel 2.5\n", s.counter)
}

// submit accepts a DAG once, registers it and writes its record, or does what
// its faults say.
func (s *stand) submit(w http.ResponseWriter, r *http.Request) {
	var body struct {
		DAG string `json:"dag_json"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	raw, err := base64.StdEncoding.DecodeString(body.DAG)
	if err != nil {
		raw = []byte(body.DAG)
	}
	dag, err := pyjson.Parse(raw)
	if err != nil {
		reply(w, 400, `{"detail":"undecodable"}`)
		return
	}
	hash, id := contract.DAGHash(dag), uuid.NewString()
	s.mu.Lock()
	first, again := s.seen[hash]
	if !again {
		s.seen[hash] = id
	}
	s.mu.Unlock()
	if again && !s.faults["accept twice"] {
		reply(w, 409, fmt.Sprintf(`{"detail":{"code":"E_DUPLICATE","strategy_id":%q}}`, first))
		return
	}
	s.store(id, hash)
	reply(w, 202, fmt.Sprintf(`{"strategy_id":%q}`, id))
}

func (s *stand) store(id, hash string) {
	if !s.faults["no registration"] {
		_ = s.redis.Set("dag_hash:"+hash, id)
		s.redis.HSet("strategy:"+id, "hash", hash)
	}
	times := 1
	switch {
	case s.faults["no record"]:
		times = 0
	case s.faults["two records"]:
		times = 2
	}
	for range times {
		s.produce("gateway.ingest", "ingest:"+id, fmt.Sprintf(`["gateway.ingest",1,%q,{"dag_hash":%q}]`, id, hash))
	}
	if s.faults["record of nobody"] {
		s.produce("gateway.ingest", "ingest:x", fmt.Sprintf(`["gateway.ingest",1,"nobody",{"dag_hash":%q}]`, hash))
	}
}

func (s *stand) produce(topic, key, value string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...))
	if err != nil {
		return
	}
	defer cl.Close()
	cl.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)})
}

// watch relays the queue topic as the contract's gateway would, more or less:
// the value's data, numbered.
func (s *stand) watch(w http.ResponseWriter, r *http.Request) {
	s.watching.Add(1)
	defer s.watching.Done()
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	if s.faults["hang up"] {
		_ = ws.Close(websocket.StatusGoingAway, "")
		return
	}
	ctx := ws.CloseRead(r.Context())
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ConsumeTopics("queue"), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMaxWait(20*time.Millisecond))
	if err != nil {
		return
	}
	defer cl.Close()
	for n := 1; ctx.Err() == nil && !s.faults["deaf"]; {
		cl.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
			var e struct {
				Data json.RawMessage `json:"data"`
			}
			if json.Unmarshal(rec.Value, &e) == nil && e.Data != nil {
				for range s.copies() {
					_ = ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"queue_update","seq_no":%d,"data":%s}`, n, e.Data))
					n++
				}
			}
		})
	}
	<-ctx.Done()
}

func (s *stand) copies() int {
	if s.faults["double frames"] {
		return 2
	}
	return 1
}

// Diff answers two chunks for a DAG and waits for an acknowledgement of each.
func (s *stand) Diff(r *pb.DiffRequest, stream grpc.ServerStreamingServer[pb.DiffChunk]) error {
	dag, err := pyjson.ParseString(r.GetDagJson())
	if err != nil {
		return status.Error(codes.InvalidArgument, "not JSON")
	}
	ids, _ := contract.NodeIDsOf(dag)
	s.mu.Lock()
	s.diffs++
	version := "v1"
	if s.faults["new topic each time"] {
		version = fmt.Sprintf("v%d", s.diffs)
	}
	acks := make(chan uint32, 100)
	s.acks[r.GetStrategyId()+"-sentinel"] = acks
	s.mu.Unlock()
	crc := contract.CRC32(ids)
	m := map[string]string{}
	for _, id := range ids {
		m[id+":60:0#ck=x"] = "asset_N_" + version
	}
	for range 2 {
		chunk := &pb.DiffChunk{QueueMap: m, SentinelId: r.GetStrategyId() + "-sentinel", Version: version, Crc32: &crc}
		if err := stream.Send(chunk); err != nil {
			return err
		}
		select {
		case <-acks:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(500 * time.Millisecond):
			return status.Error(codes.DeadlineExceeded, "client did not acknowledge")
		}
	}
	return nil
}

func (s *stand) AckChunk(_ context.Context, a *pb.ChunkAck) (*pb.ChunkAck, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.acks[a.GetSentinelId()]; ok {
		c <- a.GetChunkId()
	}
	return a, nil
}

func (s *stand) GetQueues(_ context.Context, r *pb.TagQueryRequest) (*pb.TagQueryReply, error) {
	if r.GetInterval() < 0 {
		return nil, status.Error(codes.InvalidArgument, "interval")
	}
	return &pb.TagQueryReply{Queues: []*pb.QueueDescriptor{{Queue: strings.Join(r.GetTags(), "+"), Global: true}}}, nil
}

// outcome runs one scenario made of steps (YAML, unindented).
func outcome(t *testing.T, env scenario.Env, steps string) record.Outcome {
	t.Helper()
	return outcomes(t, env, map[string]string{"T-1": steps})[0]
}

// outcomes runs one scenario for each id, in the order of the ids.
func outcomes(t *testing.T, env scenario.Env, steps map[string]string) []record.Outcome {
	t.Helper()
	fsys := fstest.MapFS{}
	for id, text := range steps {
		head := fmt.Sprintf("id: %s\ntitle: t\nclass: strict\nclause: contract/gateway.md#x\n", id)
		if !strings.Contains("\n"+text, "\nsteps:") {
			text = "steps:\n" + text
		}
		fsys[id+".yaml"] = &fstest.MapFile{Data: []byte(head + text)}
	}
	all, err := scenario.Load(fsys)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return scenario.Run(t.Context(), env, all)
}
