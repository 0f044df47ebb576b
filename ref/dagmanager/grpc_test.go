package dagmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// kafka starts a broker on loopback and gives its address.
func kafka(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, string) {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster, cluster.ListenAddrs()[0]
}

func kafkaClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// dialAgain gives a client with a connection of its own.
func (p *process) dialAgain() pb.DiffServiceClient {
	p.t.Helper()
	conn, err := grpc.NewClient(p.ready.Addresses["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return pb.NewDiffServiceClient(conn)
}

// wants checks code, reason and a part of the message.
func wants(t *testing.T, err error, code codes.Code, reason, says string) {
	t.Helper()
	st := status.Convert(err)
	got := ""
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
		}
	}
	if st.Code() != code || got != reason || !strings.Contains(st.Message(), says) {
		t.Errorf("status %v, reason %q, %q; want %v, %q, …%s…", st.Code(), got, st.Message(), code, reason, says)
	}
}

// Many diffs of one new DAG at once, through two DAG Managers that share only
// the broker: one topic a node, and all are told the same.
func TestOverlappingDiffsMakeOneTopicANode(t *testing.T) {
	_, addr := kafka(t)
	flags := []string{"--kafka", addr, "--replication", "1"}
	managers := []*process{run(t, flags...), run(t, flags...)}
	const diffs, nodes = 64, 100
	var wg sync.WaitGroup
	replies := make([]reply, diffs)
	for i := range diffs {
		wg.Go(func() {
			var err error
			replies[i], err = managers[i%2].ask(t.Context(), &pb.DiffRequest{StrategyId: fmt.Sprint("s", i%7), DagJson: chain(nodes, "o")})
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
	all, err := kadm.NewClient(kafkaClient(t, addr)).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != nodes {
		t.Errorf("%d topics, want %d", len(all), nodes)
	}
	for _, topic := range replies[0].queues {
		if !all.Has(topic) {
			t.Errorf("topic %s does not exist", topic)
		}
	}
}

// The same nodes under different version labels, at once, are still one topic each.
func TestOverlappingVersionsMakeOneTopicANode(t *testing.T) {
	_, addr := kafka(t)
	p := run(t, "--kafka", addr, "--replication", "1")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			dag := strings.Replace(chain(10, "v"), "{", fmt.Sprintf(`{"version":"%d",`, i), 1)
			if _, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: fmt.Sprint(i), DagJson: dag}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := kadm.NewClient(kafkaClient(t, addr)).ListTopics(t.Context())
	if err != nil || len(all) != 10 {
		t.Errorf("%d topics, %v; want 10", len(all), err)
	}
}

func TestRestartKeepsTheTopics(t *testing.T) {
	_, addr := kafka(t)
	flags := []string{"--kafka", addr, "--replication", "1"}
	first := run(t, flags...)
	before := first.mustAsk(&pb.DiffRequest{StrategyId: "a", DagJson: chain(5, "r")})
	first.stop()
	after := run(t, flags...).mustAsk(&pb.DiffRequest{StrategyId: "a", DagJson: chain(5, "r")})
	if d := cmp.Diff(before.queues, after.queues); d != "" {
		t.Errorf("(-before +after):\n%s", d)
	}
}

func TestBadInputIsTold(t *testing.T) {
	p := run(t)
	node := func(fields string) string { return `{"nodes":[{"node_id":"n",` + fields + `}]}` }
	for _, c := range []struct{ name, dag, reason, says string }{
		{"empty", "", "DAG_NOT_JSON", "dag_json"},
		{"no JSON", "{", "DAG_NOT_JSON", "dag_json"},
		{"base64", "e30=", "DAG_NOT_JSON", "dag_json"},
		{"byte order mark", "\ufeff{}", "DAG_NOT_JSON", "dag_json"},
		{"list", "[]", "DAG_NOT_OBJECT", "array"},
		{"null", "null", "DAG_NOT_OBJECT", "null"},
		{"nodes is a number", `{"nodes":5}`, "DAG_NODES_INVALID", "nodes"},
		{"id is a number", `{"nodes":[{"node_id":5}]}`, "NODE_INVALID", "node_id"},
		{"id is half a pair", `{"nodes":[{"node_id":"\ud800","code_hash":"c","schema_hash":"s"}]}`, "NODE_INVALID", "surrogate"},
		{"no code hash", node(`"schema_hash":"s"`), "NODE_INVALID", "code_hash"},
		{"no schema hash", node(`"code_hash":"c"`), "NODE_INVALID", "schema_hash"},
		{"tags is null", node(`"code_hash":"c","schema_hash":"s","tags":null`), "NODE_INVALID", "tags"},
		{"two schema ids", node(`"code_hash":"c","schema_hash":"s","schema_id":"x","schema_compat_id":"y"`), "SCHEMA_ID_CONFLICT", "(node_id=n)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: c.dag})
			wants(t, err, codes.InvalidArgument, c.reason, c.says)
			if r.chunks > 0 {
				t.Errorf("%d chunks came before the error", r.chunks)
			}
		})
	}
	if r := p.mustAsk(&pb.DiffRequest{DagJson: "{}"}); r.chunks != 1 || r.sentinel != "-sentinel" || r.crc != 0 || r.version != "v1" {
		t.Errorf("the empty DAG afterwards: %+v", r)
	}
}

func TestErrorsStaySmall(t *testing.T) {
	p := run(t)
	id := strings.Repeat("é", 100_000)
	_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: `{"nodes":[{"node_id":"` + id + `"}]}`})
	wants(t, err, codes.InvalidArgument, "NODE_INVALID", "code_hash")
}

func TestTooLargeRequest(t *testing.T) {
	p := run(t)
	_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: strings.Repeat(" ", 5<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("error %v, want RESOURCE_EXHAUSTED", err)
	}
	p.mustAsk(&pb.DiffRequest{DagJson: "{}"})
}

func TestConflictsAreTold(t *testing.T) {
	p := run(t)
	dag := func(typ string) string {
		return `{"nodes":[{"node_id":"nnnnnnnn` + typ + `","node_type":"` + typ + `","code_hash":"c","schema_hash":"s"}]}`
	}
	p.mustAsk(&pb.DiffRequest{DagJson: dag("N")})
	for range 5 { // a conflict is no failure of the broker: nothing opens
		_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: dag("n")})
		wants(t, err, codes.FailedPrecondition, "TOPIC_NAME_COLLISION", "name collision for topic 'asset_n_nnnnnnnn_v1'")
	}
	p.mustAsk(&pb.DiffRequest{DagJson: dag("M")})
}

func TestBadTopicNameOnKafka(t *testing.T) {
	_, addr := kafka(t)
	p := run(t, "--kafka", addr, "--replication", "1")
	_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: `{"nodes":[{"node_id":"노드","code_hash":"c","schema_hash":"s"}]}`})
	wants(t, err, codes.InvalidArgument, "TOPIC_NAME_INVALID", "ASCII")
}

func TestBrokerThatIsAway(t *testing.T) {
	p := run(t, "--kafka", "127.0.0.1:1", "--kafka-timeout", "1s")
	_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: chain(1, "a")})
	wants(t, err, codes.Unavailable, "BROKER_UNAVAILABLE", "unavailable")
	p.mustAsk(&pb.DiffRequest{DagJson: "{}"})
}

func TestClientThatNeverAcks(t *testing.T) {
	p := run(t, "--ack-timeout", "300ms", "--ack-replay", "100ms")
	dead, err := p.dialAgain().Diff(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.Recv(); err != nil {
		t.Fatal(err)
	}
	for range 10 { // others with the same strategy are not in its way
		p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "n")})
	}
	chunks := 1
	for err == nil {
		_, err = dead.Recv()
		chunks++
	}
	wants(t, err, codes.DeadlineExceeded, "CLIENT_NEVER_ACKED", "did not acknowledge diff chunk of s-sentinel")
	if chunks > 6 {
		t.Errorf("%d chunks in 300 ms", chunks)
	}
}

func TestConcurrentDiffsOfOneStrategyAllEnd(t *testing.T) {
	p := run(t)
	var wg sync.WaitGroup
	start := time.Now()
	for range 50 {
		wg.Go(func() {
			if _, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: "same", DagJson: chain(350, "c")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("acknowledgements went astray: %v", took)
	}
}

func TestAckWithToken(t *testing.T) {
	p := run(t)
	s, err := p.diff.Diff(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: "{}"})
	if err != nil {
		t.Fatal(err)
	}
	header, err := s.Header()
	if err != nil {
		t.Fatal(err)
	}
	token := header.Get(contract.DiffStreamHeader)
	if len(token) != 1 {
		t.Fatalf("header %v names no stream", header)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	other := p.dialAgain() // a connection of its own
	ctx := metadata.AppendToOutgoingContext(t.Context(), contract.DiffStreamHeader, token[0])
	ack := &pb.ChunkAck{SentinelId: "s-sentinel", ChunkId: 0}
	if _, err := other.AckChunk(ctx, ack); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the acknowledgement: %v", err)
	}
}

func TestAckOfUnknownIsAnEcho(t *testing.T) {
	p := run(t)
	got, err := p.diff.AckChunk(t.Context(), &pb.ChunkAck{SentinelId: "nobody", ChunkId: 77})
	if err != nil || got.GetSentinelId() != "nobody" || got.GetChunkId() != 77 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCancelledClientMayComeAgain(t *testing.T) {
	p := run(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := p.diff.Diff(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "z")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	start := time.Now()
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "z")})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the next diff took %v", took)
	}
}

// A client that leaves while its nodes are registered is no failure of ours.
func TestClientThatLeavesIsNoFailure(t *testing.T) {
	p := run(t, "--log-level", "debug")
	for stay := time.Millisecond; ; stay += stay / 4 { // until one is through: those before it were left at every stage
		ctx, leave := context.WithTimeout(t.Context(), stay)
		_, err := p.ask(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: chain(3000, "left"+stay.String())})
		leave()
		if err == nil {
			break
		}
	}
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "stays")})
	p.stop()
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, `"code":"Internal"`) {
			t.Error(line)
		}
	}
	if !strings.Contains(p.log.String(), `"code":"Canceled"`) && !strings.Contains(p.log.String(), `"code":"DeadlineExceeded"`) {
		t.Error("no diff was left")
	}
}

func TestTagQuery(t *testing.T) {
	p := run(t)
	r := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "q")})
	tags := pb.NewTagQueryClient(p.conn)
	for _, c := range []struct {
		tags     []string
		interval int64
		mode     string
		want     int
	}{
		{[]string{"tq"}, 60, "", 3}, {[]string{"tq", "nope"}, 60, "any", 3}, {[]string{"tq", "nope"}, 60, "all", 0},
		{[]string{"tq", "btc"}, 60, "all", 3}, {[]string{"tq", "nope"}, 60, "ALL", 3}, {nil, 60, "", 3}, {[]string{"tq"}, 61, "", 0},
	} {
		got, err := tags.GetQueues(t.Context(), &pb.TagQueryRequest{Tags: c.tags, Interval: c.interval, MatchMode: c.mode})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.GetQueues()) != c.want {
			t.Errorf("%v at %d, %q: %d queues, want %d", c.tags, c.interval, c.mode, len(got.GetQueues()), c.want)
		}
		for _, q := range got.GetQueues() {
			if !holds(r.queues, q.GetQueue()) || q.GetGlobal() {
				t.Errorf("queue %v is none of the diff's", q)
			}
		}
	}
}

func holds(m map[string]string, value string) bool {
	for _, v := range m {
		if v == value {
			return true
		}
	}
	return false
}

func TestHealthAndStatus(t *testing.T) {
	p := run(t)
	got, err := pb.NewHealthCheckClient(p.conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil || got.GetNeo4J() != "ok" || got.GetState() != "running" {
		t.Errorf("%v, %v", got, err)
	}
	serving, err := healthpb.NewHealthClient(p.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || serving.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", serving, err)
	}
	if code, body := get(t, p.ready.Addresses["http"], "/status"); code != 200 || body != `{"status":"ok","neo4j":"ok","dagmanager":"running"}` {
		t.Errorf("/status: %d %s", code, body)
	}
	if code, body := get(t, p.ready.Addresses["http"], "/health"); code != 404 || body != `{"detail":"Not Found"}` {
		t.Errorf("/health: %d %s", code, body)
	}
}

func get(t testing.TB, addr, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	p := run(t)
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "m")})
	_, err := p.ask(t.Context(), &pb.DiffRequest{DagJson: "["})
	if err == nil {
		t.Fatal("a bad DAG was accepted")
	}
	_, text := get(t, p.ready.Addresses["admin"], "/metrics")
	for _, line := range []string{
		"diff_requests_total 1", "diff_failures_total 1", "queue_create_error_total 0", "sentinel_gap_count 0",
		"compute_nodes_total 2", "queues_total 2", "diff_duration_ms_p95 ", "kafka_breaker_open_total 0",
		`dagmanager_grpc_request_seconds_count{code="OK",method="/qmtl.services.dagmanager.DiffService/Diff"} 1`,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no line %q", line)
		}
	}
}

func TestRedoDiff(t *testing.T) {
	p := run(t)
	admin := pb.NewAdminServiceClient(p.conn)
	got, err := admin.RedoDiff(t.Context(), &pb.RedoDiffRequest{SentinelId: "x", DagJson: chain(3, "d")})
	if err != nil || got.GetSentinelId() != "x-sentinel" || got.GetVersion() != "v1" || len(got.GetQueueMap()) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	_, err = admin.RedoDiff(t.Context(), &pb.RedoDiffRequest{SentinelId: "x", DagJson: "5"})
	wants(t, err, codes.InvalidArgument, "DAG_NOT_OBJECT", "integer")
	p.shows("diff_requests_total 1", "diff_failures_total 1")
}

// busEvent is a record of the ControlBus.
type busEvent struct {
	topic, key string
	Type       string
	Data       struct {
		Tags        []string
		Interval    int64
		Queues      []contract.QueueRef
		ETag        string
		Idempotency string `json:"idempotency_key"`
		Weight      float64
		Sentinel    string `json:"sentinel_id"`
	}
}

// events reads n records of the ControlBus.
func events(t *testing.T, addr string, n int) []busEvent {
	t.Helper()
	cl := kafkaClient(t, addr, kgo.ConsumeTopics("queue", "sentinel_weight"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []busEvent
	for len(out) < n {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d events: %v", len(out), n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			e := busEvent{topic: r.Topic, key: string(r.Key)}
			if err := json.Unmarshal(r.Value, &e); err != nil {
				t.Error(err)
			}
			out = append(out, e)
		})
	}
	return out
}

func TestNewQueuesAreAnnounced(t *testing.T) {
	_, addr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight"))
	p := run(t, "--controlbus", addr)
	first := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "e")})
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "e")}) // known: no news
	one := events(t, addr, 1)[0]
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "e")})
	all := events(t, addr, 2)
	two := all[1]
	if one.key != "btc,te" || one.Type != "queue_updated" || one.Data.Interval != 60 ||
		len(one.Data.Queues) != 1 || !holds(first.queues, one.Data.Queues[0].Queue) {
		t.Errorf("first event %+v", one)
	}
	if len(two.Data.Queues) != 2 || two.Data.ETag == one.Data.ETag || two.Data.Idempotency == one.Data.Idempotency {
		t.Errorf("second event %+v after %+v", two, one)
	}
	if !strings.HasPrefix(one.Data.ETag, "q:btc.te:60:1:") {
		t.Errorf("etag %q", one.Data.ETag)
	}
}

func TestWeightChangesAreAnnouncedOnce(t *testing.T) {
	_, addr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight"))
	p := run(t, "--controlbus", addr)
	weigh := func(domain, weight string) {
		p.mustAsk(&pb.DiffRequest{StrategyId: "s", ExecutionDomain: domain,
			DagJson: `{"nodes":[{"node_type":"VersionSentinel","node_id":"q","version":"9","weight":` + weight + `}]}`})
	}
	weigh("", "0.1") // safe mode: no event
	weigh("live", "0.25")
	weigh("live", "0.25")
	weigh("live", "0.75")
	var got []float64
	for _, e := range events(t, addr, 2) {
		if e.topic != "sentinel_weight" || e.key != "s-sentinel" || e.Data.Sentinel != "s-sentinel" {
			t.Errorf("event %+v", e)
		}
		got = append(got, e.Data.Weight)
	}
	if d := cmp.Diff([]float64{0.25, 0.75}, got); d != "" {
		t.Errorf("weights (-want +got):\n%s", d)
	}
}

func TestAbsentControlBusHoldsNothingUp(t *testing.T) {
	p := run(t, "--controlbus", "127.0.0.1:1", "--log-level", "error")
	start := time.Now()
	for i := range 20 {
		p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, fmt.Sprint("b", i))})
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("20 diffs took %v", took)
	}
	p.stop()
	if !strings.Contains(p.log.String(), `"events lost","service":"dagmanager","count":40`) {
		t.Errorf("the loss at the end is not told:\n%s", p.log)
	}
}

func TestBadFlagsAreToldTogether(t *testing.T) {
	c := Config{Listen: "nowhere", HTTPListen: "127.0.0.1:0", Kafka: topics.AdminSession{Brokers: "x"}, QueueTopic: "a b", MaxRequest: 1}
	var text []string
	for _, err := range c.check() {
		if err != nil {
			text = append(text, err.Error())
		}
	}
	for _, flag := range []string{"--listen", "--kafka", "--controlbus-queue-topic", "--ack-timeout", "--max-streams"} {
		if !strings.Contains(strings.Join(text, "\n"), flag) {
			t.Errorf("%s is not named in %q", flag, text)
		}
	}
}

func TestSeededGraph(t *testing.T) {
	file := filepath.Join(t.TempDir(), "graph.json")
	graph := `{"nodes":[{"id":"n","type":"compute","code_hash":"c","schema_hash":"s","interval":60,"tags":["x"],"topic":"stored"}]}`
	if err := os.WriteFile(file, []byte(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, "--memory-repo", file)
	dag := func(schema, more string) *pb.DiffRequest {
		return &pb.DiffRequest{StrategyId: "s", DagJson: `{"nodes":[{"node_id":"n","code_hash":"c","schema_hash":"` + schema +
			`","interval":30,"period":7,"tags":["y"]}]` + more + `}`}
	}
	if r := p.mustAsk(dag("s", "")); !holds(r.queues, "stored") || len(r.buffer) > 0 {
		t.Errorf("reuse: %+v", r)
	}
	r := p.mustAsk(dag("other", ""))
	if len(r.buffer) != 1 || r.buffer[0].GetLag() != 7 || r.buffer[0].GetInterval() != 30 || r.buffer[0].GetSchemaHash() != "other" {
		t.Errorf("other schema: %+v", r)
	}
	_, err := p.ask(t.Context(), dag("s", `,"compute_context":{"execution_domain":"live","world":"w"}`))
	wants(t, err, codes.FailedPrecondition, "CROSS_CONTEXT_TOPIC_REUSE", "Cross-context topic reuse detected for node 'n'. Attempted context: world=w, domain=live")
	_, text := get(t, p.ready.Addresses["admin"], "/metrics")
	for _, line := range []string{
		`cross_context_cache_hit_total{as_of="__unset__",execution_domain="live",node_id="n",partition="__unset__",world_id="w"} 1`,
		`cross_context_cache_violation_total{execution_domain="live",node_id="n",world_id="w"} 1`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %s", line)
		}
	}
}

// A client that never acknowledges must not turn an orderly stop into a failure.
func TestStopWithAStuckClient(t *testing.T) {
	_, addr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight"))
	p := run(t, "--drain", "2s", "--controlbus", addr)
	s, err := p.dialAgain().Diff(t.Context(), &pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "u")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	p.stop() // checks the exit code
	for err == nil {
		_, err = s.Recv() // repeated chunks first
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stuck client is told %v", err)
	}
	events(t, addr, 1)
}

// A client that opens a diff and reads nothing is ended as well, though the
// transport holds its chunks back.
func TestClientThatReadsNothing(t *testing.T) {
	p := run(t, "--ack-timeout", "300ms", "--ack-replay", "100ms")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := p.dialAgain().Diff(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: chain(5000, "i")}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, text := get(t, p.ready.Addresses["admin"], "/metrics")
		if strings.Contains(text, "\ndiff_failures_total 1") && strings.Contains(text, "\ndagmanager_streams_open 0") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the stream is still open")
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(5000, "i")})
}
