package neighbour_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/harness/neighbour"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func worldService(t *testing.T, rules ...neighbour.Rule) *neighbour.WorldService {
	t.Helper()
	w, err := neighbour.StartWorldService(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if err := w.Script(rules); err != nil {
		t.Fatal(err)
	}
	return w
}

// said is an answer: its status and body, or the error that came instead.
type said struct {
	status int
	header http.Header
	body   string
	err    error
}

func ask(ctx context.Context, w *neighbour.WorldService, method, target, body string) said {
	req, err := http.NewRequestWithContext(ctx, method, w.URL()+target, strings.NewReader(body))
	if err != nil {
		return said{err: err}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return said{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return said{resp.StatusCode, resp.Header, string(b), err}
}

func TestTheFirstRuleThatFitsAndIsLeftAnswers(t *testing.T) {
	const decide = "GET /worlds/{world}/decide"
	w := worldService(t,
		neighbour.Rule{On: decide, Where: func(c neighbour.Call) bool { return c.Query["as_of"] != nil }, Body: []byte(`"dated"`)},
		neighbour.Rule{On: decide, Times: 2, Headers: map[string]string{"Cache-Control": "max-age=1", "ETag": `"e"`}, Body: []byte(`{"n":1.0}`)},
		neighbour.Rule{On: decide, Status: 503, Body: []byte("not json")},
	)
	for i, want := range []said{
		{status: 200, body: `{"n":1.0}`}, {status: 200, body: `"dated"`}, {status: 200, body: `{"n":1.0}`}, {status: 503, body: "not json"}, {status: 503, body: "not json"},
	} {
		target := "/worlds/w1/decide"
		if want.body == `"dated"` {
			target += "?as_of=2025"
		}
		got := ask(t.Context(), w, "GET", target, "")
		if got.err != nil || got.status != want.status || got.body != want.body {
			t.Errorf("answer %d = %d %q %v, want %d %q", i, got.status, got.body, got.err, want.status, want.body)
		}
		if i == 0 && (got.header.Get("Cache-Control") != "max-age=1" || got.header.Get("Etag") != `"e"`) {
			t.Errorf("headers %v", got.header)
		}
	}
}

func TestWhatNoRuleCoversIsRefusedAndMarked(t *testing.T) {
	w := worldService(t, neighbour.Rule{On: "GET /worlds/{world}", Body: []byte(`{}`)})
	for target, want := range map[string]int{"/worlds/w1": 200, "/worlds/": 404, "/worlds/w1/x": 404, "/health": 200} {
		if got := ask(t.Context(), w, "GET", target, ""); got.status != want {
			t.Errorf("GET %s = %d %v, want %d", target, got.status, got.err, want)
		}
	}
	if got := ask(t.Context(), w, "POST", "/worlds/w1", ""); got.status != 404 {
		t.Errorf("another method = %d", got.status)
	}
	ruled := 0
	for _, c := range w.Calls() {
		if c.Ruled {
			ruled++
		}
	}
	if ruled != 1 {
		t.Errorf("%d calls were covered by a rule, want 1", ruled)
	}
}

func TestCallsAreRememberedUntilForgotten(t *testing.T) {
	w := worldService(t)
	ask(t.Context(), w, "POST", "/worlds/a%20b/bindings?x=1", `{"strategies":["s"]}`)
	ask(t.Context(), w, "GET", "/health", "")
	calls := w.Calls()
	if len(calls) != 2 || calls[0].Path != "/worlds/a b/bindings" || string(calls[0].Body) != `{"strategies":["s"]}` || calls[0].Query["x"][0] != "1" {
		t.Errorf("calls %+v", calls)
	}
	if !calls[0].Is("POST /worlds/{w}/bindings") || calls[0].Is(neighbour.Health) || !calls[1].Is(neighbour.Health) || !calls[1].Is("*") {
		t.Error("a call is of another kind than it is")
	}
	w.Forget()
	if left := w.Calls(); len(left) != 0 {
		t.Errorf("left %+v", left)
	}
}

func TestFailuresReachTheCaller(t *testing.T) {
	w := worldService(t)
	for _, c := range []struct {
		rule    neighbour.Rule
		headers bool // the answer began
	}{
		{neighbour.Rule{On: "*", Fail: neighbour.FailReset}, false},
		{neighbour.Rule{On: "*", Fail: neighbour.FailCut, Body: []byte(`{"half":`)}, true},
	} {
		if err := w.Script([]neighbour.Rule{c.rule}); err != nil {
			t.Fatal(err)
		}
		got := ask(t.Context(), w, "GET", "/health", "")
		if got.err == nil || (got.status != 0) != c.headers {
			t.Errorf("%s: %+v", c.rule.Fail, got)
		}
	}
}

// A call that hangs or dawdles ends with its caller, or with the neighbour.
func TestNothingOutlivesTheNeighbour(t *testing.T) {
	for _, rule := range []neighbour.Rule{{On: "*", Fail: neighbour.FailHang}, {On: "*", Delay: 1 << 40}} {
		w := worldService(t, rule)
		ctx, leave := context.WithCancel(t.Context())
		left, closed := make(chan said, 1), make(chan said, 1)
		go func() { left <- ask(ctx, w, "GET", "/left", "") }()
		go func() { closed <- ask(t.Context(), w, "GET", "/closed", "") }()
		for len(w.Calls()) < 2 {
			time.Sleep(time.Millisecond)
		}
		leave()
		if got := <-left; got.err == nil {
			t.Errorf("the caller who left got %+v", got)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if got := <-closed; got.err == nil {
			t.Errorf("after Close the caller got %+v", got)
		}
	}
}

func TestAWrongScriptReplacesNothing(t *testing.T) {
	w := worldService(t, neighbour.Rule{On: "GET /x", Body: []byte("kept")})
	err := w.Script([]neighbour.Rule{{On: "GET /ok"}, {On: "/worlds"}, {On: "get /worlds"}, {On: "GET /x", Fail: "explode"}})
	for _, want := range []string{"rule 1", "rule 2", "rule 3", "explode"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "rule 0") {
		t.Errorf("error %v names a rule that is right", err)
	}
	if got := ask(t.Context(), w, "GET", "/x", ""); got.body != "kept" {
		t.Errorf("answer %+v", got)
	}
}

const dag = `{"schema_version":"v1","nodes":[{"node_id":"a"},{"node_id":"b"}]}`

func dagManager(t *testing.T, rules ...neighbour.DagRule) (*neighbour.DagManager, *grpc.ClientConn) {
	t.Helper()
	d, err := neighbour.StartDagManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Script(rules); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+d.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return d, conn
}

// diffed are the chunks of one diff and its end.
func diffed(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (chunks []*pb.DiffChunk, end error) {
	t.Helper()
	stream, err := pb.NewDiffServiceClient(conn).Diff(ctx, &pb.DiffRequest{StrategyId: "s", DagJson: dag, WorldId: "w"})
	if err != nil {
		t.Fatal(err)
	}
	for {
		c, err := stream.Recv()
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, c)
	}
}

func TestADiffIsAnsweredByTheScript(t *testing.T) {
	empty := ""
	d, conn := dagManager(t,
		neighbour.DagRule{On: neighbour.CallDiff, Times: 1, Chunks: []neighbour.Chunk{
			{CRC: neighbour.CRCWrong, QueueMap: map[string]string{"a": "t"}}, {CRC: neighbour.CRCAbsent, Sentinel: &empty, Version: "v2"},
		}},
		neighbour.DagRule{On: neighbour.CallDiff, Times: 1, Code: codes.Unavailable, Message: "gone"},
		neighbour.DagRule{On: neighbour.CallDiff, Times: 1, Chunks: []neighbour.Chunk{}},
	)
	for i, want := range []string{
		"s-sentinel  wrong map[a:t]; - v2 absent map[]; EOF",
		"rpc error: code = Unavailable desc = gone",
		"EOF",
		"s-sentinel  right map[]; EOF",
	} {
		if got := told(diffed(t.Context(), t, conn)); got != want {
			t.Errorf("diff %d = %s, want %s", i, got, want)
		}
	}
	if calls := d.Calls(); len(calls) != 4 || calls[3].Request.(*pb.DiffRequest).GetWorldId() != "w" {
		t.Errorf("calls %v", calls)
	}
	d.Forget()
	if calls := d.Calls(); len(calls) != 0 {
		t.Errorf("left %v", calls)
	}
}

// told writes chunks and their end: sentinel, version, checksum, map.
func told(chunks []*pb.DiffChunk, end error) string {
	var b strings.Builder
	for _, c := range chunks {
		crc := "wrong"
		switch {
		case c.Crc32 == nil:
			crc = "absent"
		case c.GetCrc32() == contract.CRC32([]string{"a", "b"}):
			crc = "right"
		}
		fmt.Fprintf(&b, "%s %s %s %v; ", cmp.Or(c.GetSentinelId(), "-"), c.GetVersion(), crc, c.GetQueueMap())
	}
	return b.String() + end.Error()
}

func TestADagManagerIsWellUnlessTheScriptSaysOtherwise(t *testing.T) {
	d, conn := dagManager(t)
	expectAll(t, conn, "ok running", "[] OK", "[] OK")
	err := d.Script([]neighbour.DagRule{
		{On: neighbour.CallStatus, State: &pb.StatusReply{Neo4J: "error"}},
		{On: neighbour.CallGetQueues, Where: func(c neighbour.DagCall) bool { return c.Request.(*pb.TagQueryRequest).GetInterval() == 60 }, Code: codes.NotFound},
		{On: neighbour.CallGetQueues, Queues: &pb.TagQueryReply{Queues: []*pb.QueueDescriptor{{Queue: "q", Global: true}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	expectAll(t, conn, "error ", "[] NotFound", "[q] OK")
	err = d.Script([]neighbour.DagRule{{On: "Dif"}, {On: neighbour.CallDiff, Chunks: []neighbour.Chunk{{CRC: "odd"}}}})
	if err == nil || !strings.Contains(err.Error(), "rule 0") || !strings.Contains(err.Error(), "rule 1") {
		t.Errorf("a wrong script: %v", err)
	}
}

// expectAll asks for the health, and for the queues of two intervals.
func expectAll(t *testing.T, conn *grpc.ClientConn, health string, queues ...string) {
	t.Helper()
	got, err := pb.NewHealthCheckClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if state := got.GetNeo4J() + " " + got.GetState(); err != nil || state != health {
		t.Errorf("status %s %v, want %s", state, err, health)
	}
	for i, want := range queues {
		reply, err := pb.NewTagQueryClient(conn).GetQueues(t.Context(), &pb.TagQueryRequest{Interval: int64(60 + i)})
		names := []string{}
		for _, q := range reply.GetQueues() {
			names = append(names, q.GetQueue())
		}
		if got := fmt.Sprint(names, " ", status.Code(err)); got != want {
			t.Errorf("queues of %d: %s, want %s", 60+i, got, want)
		}
	}
}

func TestACallThatHangsEndsWithTheDagManager(t *testing.T) {
	d, conn := dagManager(t, neighbour.DagRule{On: neighbour.CallStatus, Hang: true})
	done := make(chan error, 1)
	go func() {
		_, err := pb.NewHealthCheckClient(conn).Status(context.Background(), &pb.StatusRequest{})
		done <- err
	}()
	for len(d.Calls()) == 0 {
		time.Sleep(time.Millisecond)
	}
	d.Close()
	if err := <-done; err == nil {
		t.Error("a call that hangs was answered")
	}
}
