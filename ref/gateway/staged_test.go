package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// staged are the recorded lines that are no single exchange: summaries of many
// requests, and what was seen of a process. Each is staged anew on a gateway of
// its own, and equal or better, then with its point of design section 9.
var staged = map[string]func(t *testing.T, x *exchange){
	"kafka.concurrent_32_submissions": stageParallelSubmissions,
	"shim.concurrent_32_identical":    stageSameSubmissions,
	"fault.kafka_down.submit_hang":    stageSubmissionWithoutKafka,
	"submit.oversized_32MiB_body":     stageOversizedBody,
	"metrics.breaker_after_oversized": stageBreakerAfterLargeDAGs,
	"events.subscribe_token_decoded":  stageToken,
	"ws.close_on_gateway_sigterm":     stageStop,
}

// statuses counts the answers to n submissions at once.
func (s *stand) statuses(n int, submission func(i int) string) map[string]int {
	s.t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	counts := map[string]int{}
	for i := range n {
		group.Go(func() {
			resp, err := s.client.Post(s.url+"/strategies", "application/json", strings.NewReader(submission(i)))
			if err != nil {
				s.t.Error(err)
				return
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body) // the status is all that counts
			mu.Lock()
			defer mu.Unlock()
			counts[fmt.Sprint(resp.StatusCode)]++
		})
	}
	group.Wait()
	return counts
}

// Design 9.8: of 32 submissions at once the original accepted 2, since its
// transactions hinder one another, and answered the others 503.
func stageParallelSubmissions(t *testing.T, _ *exchange) {
	s := newStand(t, withKafka)
	got := s.statuses(32, func(i int) string { return body(oneNode(fmt.Sprint("parallel ", i)), "w") })
	if got["202"] != 32 {
		t.Errorf("%v, want all accepted", got)
	}
}

func stageSameSubmissions(t *testing.T, x *exchange) {
	var want struct{ Statuses map[string]int }
	if err := json.Unmarshal(x.Answer, &want); err != nil {
		t.Fatal(err)
	}
	s := newStand(t)
	same := body(oneNode("same"), "w")
	if got := s.statuses(32, func(int) string { return same }); fmt.Sprint(got) != fmt.Sprint(want.Statuses) {
		t.Errorf("%v, recorded %v", got, want.Statuses)
	}
}

// Design 9.8: the original answered nothing for 200 s, and kept what it had
// registered.
func stageSubmissionWithoutKafka(t *testing.T, _ *exchange) {
	s := newStand(t, withKafka, withArgs("--commitlog-timeout", "1s"))
	heal := produceFaults()["drops the connection"](s.kafka)
	defer heal()
	s.refused("/strategies", body(oneNode("a"), "w"), http.StatusServiceUnavailable, "E_COMMITLOG")
	s.wantNothingStored()
	if got := s.metric("lost_requests_total"); got != "1" {
		t.Errorf("lost_requests_total %s, want 1", got)
	}
}

// Design 9.8: the original accepts a body of any size.
func stageOversizedBody(t *testing.T, x *exchange) {
	var cut struct{ Length int }
	if err := json.Unmarshal(x.Request.Body, &cut); err != nil || cut.Length == 0 {
		t.Fatalf("length %d, %v", cut.Length, err)
	}
	s := newStand(t)
	a := s.post("/strategies", `{"dag_json":"`+strings.Repeat("A", max(0, cut.Length-15))+`"}`)
	if a.status != http.StatusRequestEntityTooLarge || !strings.Contains(a.body, `"code":"E_TOO_LARGE"`) {
		t.Errorf("%d %.200s", a.status, a.body)
	}
	s.wantNothingStored()
}

func stageBreakerAfterLargeDAGs(t *testing.T, x *exchange) {
	s := newStand(t)
	for i, size := range []int{9_400_000, 25_000_000} {
		dag := strings.Replace(oneNode(fmt.Sprint("large ", i)), `{"schema_version"`, `{"padding":"`+strings.Repeat("x", size/4*3)+`","schema_version"`, 1)
		if a := s.post("/strategies", body(dag, "w")); a.status != http.StatusAccepted && a.status != http.StatusRequestEntityTooLarge {
			t.Errorf("%d bytes: %d %.200s", size, a.status, a.body)
		}
	}
	for series, want := range x.Value {
		if strings.HasSuffix(series, "_created") {
			continue // a time
		}
		if got := s.metric(series); got != strings.TrimSuffix(string(want), ".0") {
			t.Errorf("%s is %s, recorded %s", series, got, want)
		}
	}
}

// Design 9.7: another algorithm and key; what a token says is the same.
func stageToken(t *testing.T, x *exchange) {
	s := newStand(t)
	recorded, err := pyjson.Parse(x.Value["claims"])
	if err != nil {
		t.Fatal(err)
	}
	ask := pyjson.OfObject(
		pyjson.Member{Key: "world_id", Value: recorded.Member("world_id")},
		pyjson.Member{Key: "strategy_id", Value: recorded.Member("strategy_id")},
		pyjson.Member{Key: "topics", Value: recorded.Member("topics")})
	parts := strings.Split(s.subscribe(string(pyjson.Append(nil, ask, pyjson.Compact))), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, want := range []string{"header", "claims"} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if g, w := tokenShape(t, b), tokenShape(t, x.Value[want]); g != w {
			t.Errorf("%s %s\nrecorded %s", want, g, w)
		}
	}
}

// tokenShape is a part of a token without what is new in each, and without what
// differs on purpose; times are replaced by how long the token lives.
func tokenShape(t *testing.T, raw []byte) string {
	t.Helper()
	var part map[string]any
	if err := json.Unmarshal(raw, &part); err != nil {
		t.Fatal(err)
	}
	if exp, ok := part["exp"].(float64); ok {
		iat, _ := part["iat"].(float64)
		part["exp"], part["iat"], part["jti"] = exp-iat, "<time>", "<new>"
	}
	if _, ok := part["alg"]; ok {
		part["alg"] = "<its own>"
	}
	b, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func stageStop(t *testing.T, x *exchange) {
	var want struct {
		Close struct{ Close websocket.StatusCode }
	}
	if err := json.Unmarshal(x.Answer, &want); err != nil {
		t.Fatal(err)
	}
	var conn *websocket.Conn
	got := make(chan error, 1)
	t.Run("gateway", func(t *testing.T) { // at its end the gateway is stopped
		s := newStand(t)
		var err error
		if conn, _, err = websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws", nil); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _, err := conn.Read(context.Background()) // ended by the gateway
			got <- err
		}()
		s.eventually("it is heard of", func() bool { return s.metric(`ws_subscribers{topic="queue"}`) == "1" })
	})
	if conn == nil {
		return
	}
	defer conn.CloseNow()
	if err := <-got; websocket.CloseStatus(err) != want.Close.Close {
		t.Errorf("end %v, recorded %d", err, want.Close.Close)
	}
}
