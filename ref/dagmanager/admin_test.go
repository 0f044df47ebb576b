package dagmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// post sends a body to the HTTP side.
func (p *process) post(path, body string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://"+p.ready.Addresses["http"]+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// trigger asks for a garbage collection.
func (p *process) trigger(query string) gc.Report {
	p.t.Helper()
	code, body := p.post("/admin/gc-trigger"+query, `{"id": "x"}`)
	var answer struct {
		Processed []string
		Report    gc.Report
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusAccepted {
		p.t.Fatalf("%d %s, %v", code, body, err)
	}
	if !slices.Equal(answer.Processed, answer.Report.Processed) {
		p.t.Errorf("processed %v, report says %v", answer.Processed, answer.Report.Processed)
	}
	return answer.Report
}

func TestTriggerAnswersAsTheOriginal(t *testing.T) {
	p := run(t)
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "g")}) // registered topics are no orphans
	for body, want := range map[string]struct {
		code int
		body string
	}{
		`{"id": "x"}`: {202, `{"processed":[],"report":{"observed":0,"candidates":0,"processed":[],"skipped":[],"actions":{"drop":0,"archive":0,"skip":0},"by_tag":{},"items":[]}}`},
		`{`:           {422, `{"detail":[{"type":"json_invalid","loc":["body",1],"msg":"JSON decode error","input":{},"ctx":{"error":"expected a member name in double quotes"}}]}`},
		``:            {422, `{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}`},
		`{"id": 1}`:   {422, `{"detail":[{"type":"string_type","loc":["body","id"],"msg":"Input should be a valid string","input":1}]}`},
		`{"i": 1}`:    {422, `{"detail":[{"type":"missing","loc":["body","id"],"msg":"Field required","input":{"i":1}}]}`},
	} {
		if code, got := p.post("/admin/gc-trigger", body); code != want.code || got != want.body {
			t.Errorf("%q: %d %s, want %d %s", body, code, got, want.code, want.body)
		}
	}
	if code, body := get(t, p.ready.Addresses["http"], "/admin/gc-trigger"); code != 405 || body != `{"detail":"Method Not Allowed"}` {
		t.Errorf("GET: %d %s", code, body)
	}
	if code, _ := p.post("/admin/gc-trigger", `{"id":"`+strings.Repeat("x", mostTrigger)+`"}`); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit: %d", code)
	}
}

func TestQueueStats(t *testing.T) {
	_, addr := kafka(t)
	p := run(t, "--kafka", addr, "--replication", "1")
	r := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(3, "z")})
	var written string
	for _, topic := range r.queues {
		written = topic
	}
	cl := kafkaClient(t, addr)
	for range 7 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: written, Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	other := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: strings.ReplaceAll(chain(1, "y"), `"interval":60`, `"interval":30`)})
	admin := pb.NewAdminServiceClient(p.conn)
	for filter, want := range map[string]int{
		"": 4, "tag=tz;interval=60": 3, "tag=tz; interval=1m": 4, "tag=tz;interval=1m": 3, "tag=tz,nope;interval=1M": 3,
		"tag=ty;interval=30s": 1, "tag=tz;interval=2d": 4, "tag=tz;interval=-5": 4, "tag=;interval=60": 4, "tag=nope;interval=60": 0, "rubbish": 4,
	} {
		got, err := admin.GetQueueStats(t.Context(), &pb.QueueStatsRequest{Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.GetSizes()) != want {
			t.Errorf("%q: %d topics, want %d", filter, len(got.GetSizes()), want)
		}
		if size, there := got.GetSizes()[written]; there && size != 7 {
			t.Errorf("%q: %s holds %d records, want 7", filter, written, size)
		}
	}
	if len(other.queues) != 1 {
		t.Errorf("%d queues", len(other.queues))
	}
}

// lifecycle is a record of the ControlBus about the end of a queue.
type lifecycle struct {
	Type string
	Data struct {
		Type, Queue, Action, Reason, Tag string
		Archive                          string `json:"archive_status"`
		Interval                         *int64
		Tags                             []string
		Queues                           []contract.QueueRef
	}
}

func TestCleanupDropsAndAnnouncesInOrder(t *testing.T) {
	_, busAddr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight"))
	cluster, addr := kafka(t)
	old := fmt.Sprint(time.Now().AddDate(-1, 0, 0).Unix())
	for name, config := range map[string]map[string]string{
		"a_old": {"qmtl.tag": "raw", "qmtl.created_at": old, "qmtl.interval": "60"},
		"b_old": {"qmtl.tag": "sentinel", "qmtl.created_at": old, "qmtl.interval": "60"},
		"c_old": {"qmtl.tag": "raw", "qmtl.created_at": old, "qmtl.interval": "60"},
		"d_old": {"qmtl.tag": "raw", "qmtl.created_at": old},
		"e_new": {"qmtl.tag": "raw", "qmtl.created_at": fmt.Sprint(time.Now().Unix())},
		"other": {},
	} {
		if err := cluster.CreateTopic(name, 1, config); err != nil {
			t.Fatal(err)
		}
	}
	p := run(t, "--kafka", addr, "--replication", "1", "--controlbus", busAddr, "--gc-drop", "always", "--gc-interval", "0", "--gc-archive", t.TempDir())
	if _, err := pb.NewAdminServiceClient(p.conn).Cleanup(t.Context(), &pb.CleanupRequest{StrategyId: "any"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"QueueLifecycle a_old drop eligible raw []", "QueueLifecycle b_old archive eligible sentinel archived []",
		"QueueLifecycle c_old drop eligible raw []", "QueueLifecycle d_old drop eligible raw []",
		"QueueUpdated [raw]", "QueueUpdated [sentinel]",
	}
	if d := cmp.Diff(want, endings(t, busAddr, 6)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	for name, there := range map[string]bool{"a_old": false, "b_old": false, "c_old": false, "d_old": false, "e_new": true, "other": true} {
		if (cluster.TopicInfo(name) != nil) != there {
			t.Errorf("%s is there: %t", name, !there)
		}
	}
	p.shows("orphan_queue_total 5", "gc_last_run_timestamp ", `dagmanager_gc_orphans_total{action="archive",reason="eligible"} 1`,
		`dagmanager_kafka_admin_seconds_count{operation="delete",outcome="ok"} 1`)
}

// shows checks lines of the metrics by how they begin.
func (p *process) shows(lines ...string) {
	p.t.Helper()
	if err := p.lacks(lines...); err != nil {
		p.t.Error(err)
	}
}

func (p *process) lacks(lines ...string) error {
	p.t.Helper()
	_, text := get(p.t, p.ready.Addresses["admin"], "/metrics")
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line) {
			return fmt.Errorf("no line %q", line)
		}
	}
	return nil
}

// endings are n events of the queue topic in short.
func endings(t *testing.T, addr string, n int) (said []string) {
	t.Helper()
	for _, raw := range bodies(t, addr, n) {
		var e lifecycle
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		d := e.Data
		said = append(said, strings.Join(strings.Fields(fmt.Sprint(d.Type, " ", d.Queue, " ", d.Action, " ", d.Reason, " ", d.Tag, " ", d.Archive, " ", d.Tags)), " "))
	}
	return said
}

// bodies reads n records of the queue topic.
func bodies(t *testing.T, addr string, n int) (all [][]byte) {
	t.Helper()
	cl := kafkaClient(t, addr, kgo.ConsumeTopics("queue"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(all) < n {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d events: %v", len(all), n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { all = append(all, r.Value) })
	}
	return all
}

func TestOrphansStayWhereAGraphInMemoryForgets(t *testing.T) {
	cluster, addr := kafka(t)
	flags := []string{"--kafka", addr, "--replication", "1", "--gc-indicator", "0s+0s"}
	first := run(t, flags...)
	first.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "f")})
	first.stop()
	kept := run(t, flags...).trigger("")
	if kept.Observed != 2 || kept.Candidates != 2 || len(kept.Processed) != 0 || kept.Items[0].Reason != "graph_in_memory" {
		t.Errorf("auto: %+v", kept)
	}
	dropped(run(t, append(flags, "--gc-drop", "always", "--gc-interval", "0")...), cluster)
}

// dropped drops the topics of chain(2, "f") and wants them again. Their names
// are held for a while: whoever wants one gets another, which exists.
func dropped(p *process, cluster *kfake.Cluster) {
	t := p.t
	t.Helper()
	if dry := p.trigger("?dry_run=true"); len(dry.Processed) != 2 || dry.Actions.Drop != 2 {
		t.Errorf("dry run: %+v", dry)
	}
	if done := p.trigger(""); len(done.Processed) != 2 {
		t.Errorf("always: %+v", done)
	}
	if again := p.trigger(""); again.Observed != 0 {
		t.Errorf("again: %+v", again)
	}
	r := p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(2, "f")})
	for _, topic := range r.queues {
		if cluster.TopicInfo(topic) == nil {
			t.Errorf("queue %s has no topic", topic)
		}
	}
}

// A broker that takes connections and says nothing is told as such in time.
func TestMuteBroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { l.Close() })
	conns.Go(func() { mute(l) })
	p := run(t, "--kafka", l.Addr().String(), "--kafka-timeout", "300ms", "--breaker-open", "1ms", "--gc-interval", "0")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // far more than the limit: its end is the failure
	defer cancel()
	_, err = pb.NewAdminServiceClient(p.conn).GetQueueStats(ctx, &pb.QueueStatsRequest{})
	wants(t, err, codes.DeadlineExceeded, "BROKER_TIMEOUT", "in time")
	if code, body := p.post("/admin/gc-trigger", `{"id":"x"}`); code != http.StatusGatewayTimeout || !strings.Contains(body, `"code":"BROKER_TIMEOUT"`) {
		t.Errorf("gc-trigger: %d %s", code, body)
	}
}

// mute takes connections until l is closed and holds them until then.
func mute(l net.Listener) {
	var all []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		all = append(all, c)
	}
	for _, c := range all {
		c.Close()
	}
}

func TestCallsAreNamedAndLogged(t *testing.T) {
	p := run(t, "--log-level", "debug", "--gc-interval", "0")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "mine 1", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	var header metadata.MD
	if _, err := pb.NewHealthCheckClient(p.conn).Status(ctx, &pb.StatusRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("x-request-id"); len(got) != 1 || got[0] != "mine 1" {
		t.Errorf("the answer's request id is %q", got)
	}
	s, err := p.diff.Diff(t.Context(), &pb.DiffRequest{DagJson: "5"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err == nil {
		t.Fatal("a bad DAG was accepted")
	}
	given, err := s.Header()
	if err != nil || len(given.Get("x-request-id")) != 1 {
		t.Fatalf("a call without an id gets %v, %v", given, err)
	}
	p.trigger("")
	p.stop()
	for _, want := range []string{
		`"method":"/qmtl.services.dagmanager.HealthCheck/Status","code":"OK","request_id":"mine 1"`,
		`"trace_id":"0af7651916cd43dd8448eb211c80319c"`,
		`"method":"/qmtl.services.dagmanager.DiffService/Diff","code":"InvalidArgument","request_id":"` + given.Get("x-request-id")[0],
		`"path":"/admin/gc-trigger","code":"202"`,
	} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no %s in the log:\n%s", want, p.log)
		}
	}
}

// webhook keeps the bodies that it is sent.
type webhook struct {
	mu     sync.Mutex
	bodies []string
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bodies = append(h.bodies, string(b))
}

func (h *webhook) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.bodies)
}

// fallBehind lets the group g commit one of three records of the topic "read".
func fallBehind(t *testing.T, addr string) {
	t.Helper()
	cl := kafkaClient(t, addr, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("read"), kgo.DisableAutoCommit())
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "read", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	first := cl.PollRecords(t.Context(), 1)
	if err := cl.CommitRecords(t.Context(), first.Records()[0]); err != nil {
		t.Fatal(err)
	}
}

func TestJobsBehindFlags(t *testing.T) {
	hook := &webhook{}
	server := httptest.NewServer(hook)
	defer server.Close()
	cluster, addr := kafka(t, kfake.SeedTopics(1, "queue", "sentinel_weight", "read"))
	fallBehind(t, addr)
	p := run(t, "--kafka", addr, "--replication", "1", "--controlbus", addr, "--completion-every", "20ms", "--gc-interval", "20ms",
		"--lag-every", "20ms", "--lag-groups", "g", "--lag-threshold", "1", "--monitor-every", "20ms", "--alert-slack", server.URL, "--recompute-every", "20ms")
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "j")})
	eventually(t, func() error {
		return p.lacks(`queue_lag_seconds{topic="read"} 2`, `queue_lag_threshold_seconds{topic="read"} 1`,
			`dagmanager_job_runs_total{job="gc",outcome="ok"}`, `dagmanager_job_runs_total{job="completion",outcome="ok"}`,
			`dagmanager_job_runs_total{job="recompute",outcome="ok"}`, `dagmanager_job_last_success_timestamp{job="monitor"}`,
			`dagmanager_alerts_total{channel="slack",outcome="sent"} 1`)
	})
	all := events(t, addr, 2)
	if len(all[0].Data.Queues) != 1 || len(all[1].Data.Queues) != 0 || all[1].key != "btc,tj" {
		t.Errorf("a queue that grows no more: %+v after %+v", all[1], all[0])
	}
	p.stop()
	if d := cmp.Diff([]string{`{"text":"Queue lag high","topic":"read"}`}, hook.told()); d != "" {
		t.Errorf("alerts (-want +got):\n%s", d)
	}
	if cluster.TopicInfo("read") == nil {
		t.Error("a foreign topic was dropped")
	}
}

// eventually tries until what holds, for as long as nobody waits in vain.
func eventually(t *testing.T, holds func() error) {
	t.Helper()
	err := errors.New("never tried")
	for begun := time.Now(); time.Since(begun) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestLoadIsReadFromTheBrokersMetrics(t *testing.T) {
	for text, want := range map[string]float64{
		"# HELP x\nkafka_server_BrokerTopicMetrics_MessagesInPerSec{a=\"b c\"} 81.5\n": 81.5,
		"kafka_server_BrokerTopicMetrics_MessagesInPerSec broken":                      0, "": 0, "other 5\n": 0,
	} {
		if got := lastNumber([]byte(text), busyLine); got != want {
			t.Errorf("%q: %g, want %g", text, got, want)
		}
	}
}

func TestArchiveIsPut(t *testing.T) {
	var put []string
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		put = append(put, r.Method+" "+r.URL.Path)
		if strings.Contains(r.URL.Path, "bad") {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer hook.Close()
	client := hook.Client()
	defer client.CloseIdleConnections()
	b := bucket{hook.URL + "/bucket", client}
	if err := b.Archive(t.Context(), "t", "t-20260102T030405"); err != nil {
		t.Error(err)
	}
	if err := b.Archive(t.Context(), "bad", "bad-1"); err == nil || strings.Contains(err.Error(), hook.URL) {
		t.Errorf("a refusal: %v", err)
	}
	hook.Close()
	if err := b.Archive(t.Context(), "t", "t-1"); err == nil || strings.Contains(err.Error(), "bucket") {
		t.Errorf("an archive that is away: %v", err)
	}
	if d := cmp.Diff([]string{"PUT /bucket/t-20260102T030405", "PUT /bucket/bad-1"}, put); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A collector without any patience beside diffs of the same nodes: whatever a
// diff was told exists, and nothing else is left in the end.
func TestCollectorBesideDiffsOnKafka(t *testing.T) {
	cluster, addr := kafka(t)
	p := run(t, "--kafka", addr, "--replication", "1", "--gc-drop", "always", "--gc-interval", "0", "--gc-indicator", "0s+0s", "--gc-claim-grace", "1ms")
	seed(t, addr, chain(30, "w")) // left behind by an earlier life, and taken up or collected
	ctx, stop := context.WithCancel(t.Context())
	var collecting, diffs sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			if _, err := pb.NewAdminServiceClient(p.conn).Cleanup(t.Context(), &pb.CleanupRequest{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var mu sync.Mutex
	told := map[string]string{}
	for i := range 6 {
		diffs.Go(func() {
			for n := i; n < 30; n++ {
				r, err := p.ask(t.Context(), &pb.DiffRequest{StrategyId: fmt.Sprint(i), DagJson: chain(n+1, "w")})
				if err != nil && status.Code(err) != codes.Aborted { // whose claims were given up eight times
					t.Error(err)
				}
				mu.Lock()
				maps.Copy(told, r.queues)
				mu.Unlock()
			}
		})
	}
	diffs.Wait()
	stop()
	collecting.Wait()
	if len(told) != 30 {
		t.Errorf("%d queues, want 30", len(told))
	}
	for key, topic := range told {
		if cluster.TopicInfo(topic) == nil {
			t.Errorf("queue %s has no topic %s", key, topic)
		}
	}
}

// seed lets a DAG Manager that ends at once make the topics of a DAG.
func seed(t *testing.T, addr, dag string) {
	t.Helper()
	p := run(t, "--kafka", addr, "--replication", "1")
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: dag})
	p.stop()
}
