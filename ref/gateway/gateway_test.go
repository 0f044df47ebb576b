package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
)

func ackOf(t *testing.T, a answer) contract.StrategyAck {
	t.Helper()
	var ack contract.StrategyAck
	if err := json.Unmarshal([]byte(a.body), &ack); err != nil {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	return ack
}

// accepted submits and expects 202.
func (s *stand) accepted(body string) contract.StrategyAck {
	s.t.Helper()
	a := s.post("/strategies", body)
	if a.status != http.StatusAccepted {
		s.t.Fatalf("answer %d %s, want 202", a.status, a.body)
	}
	return ackOf(s.t, a)
}

// refused submits and expects a status and a code.
func (s *stand) refused(path, body string, status int, code string) {
	s.t.Helper()
	a := s.post(path, body)
	var detail struct {
		Detail struct{ Code string } `json:"detail"`
	}
	if err := json.Unmarshal([]byte(a.body), &detail); err != nil || a.status != status || detail.Detail.Code != code {
		s.t.Errorf("answer %d %s, want %d %s", a.status, a.body, status, code)
	}
}

// wantNothingStored: no key in Redis, no record in the commit log.
func (s *stand) wantNothingStored() {
	s.t.Helper()
	if keys := s.redis.Keys(); len(keys) != 0 {
		s.t.Errorf("keys left in Redis: %v", keys)
	}
}

const paperMeta = `{"execution_domain":"backtest","as_of":"2025-01-01T00:00:00Z","version":" 1.2.3 "}`

func TestSubmitAnswersInContractOrder(t *testing.T) {
	s := newStand(t)
	a := s.post("/strategies", bodyWith(oneNode("a"), paperMeta, "alpha"))
	id := ackOf(t, a).StrategyID
	if !uuids.MatchString(id) {
		t.Errorf("strategy id %q", id)
	}
	want := `{"strategy_id":"` + id + `","queue_map":{},"sentinel_id":"` + id +
		`-sentinel","node_ids_crc32":1023661098,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`
	if a.status != http.StatusAccepted || a.body != want {
		t.Errorf("answer %d %s\nwant 202 %s", a.status, a.body, want)
	}
	if got := s.get("/strategies/" + id + "/status").body; got != `{"status":"queued"}` {
		t.Errorf("status %s", got)
	}
}

func TestSubmitStoresARegistrationForGood(t *testing.T) {
	s := newStand(t, withArgs("--workers", "0"))
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, " alpha ", "beta", "alpha")).StrategyID
	key := "strategy:" + id
	for field, want := range map[string]string{
		"state": "queued", "compute_execution_domain": "backtest", "compute_as_of": "2025-01-01T00:00:00Z",
		"compute_world_id": "alpha", "compute_downgrade_reason": "",
	} {
		if got := s.redis.HGet(key, field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	if got, _ := s.redis.Get("dag_hash:" + s.redis.HGet(key, "hash")); got != id {
		t.Errorf("dag_hash = %q, want %q", got, id)
	}
	if q, _ := s.redis.List("strategy_queue"); !slices.Equal(q, []string{id}) {
		t.Errorf("queue %v", q)
	}
	for _, k := range s.redis.Keys() {
		if ttl := s.redis.TTL(k); ttl != 0 {
			t.Errorf("key %s expires in %s", k, ttl)
		}
	}
}

func TestSubmitWritesOneRecordOfWhatRedisHas(t *testing.T) {
	s := newStand(t, withKafka)
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, " alpha ", "beta", "alpha")).StrategyID
	records := s.records()
	if len(records) != 1 || string(records[0].Key) != "ingest:"+id || records[0].Headers[0].Key != "rfp" || len(records[0].Headers) != 1 {
		t.Fatalf("records %v", records)
	}
	b64 := s.redis.HGet("strategy:"+id, "dag")
	stored, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || !strings.HasSuffix(string(stored), `{"node_type": "VersionSentinel", "node_id": "`+id+`-sentinel", "version": "1.2.3"}]}`) {
		t.Errorf("stored dag %s (%v)", stored, err)
	}
	for _, want := range []string{
		`"dag_hash": "` + s.redis.HGet("strategy:"+id, "hash") + `", "dag": ` + string(stored) + `, "dag_base64": "` + b64 + `"`,
		`"world_ids": ["alpha", "beta"]`,
	} {
		if got := string(records[0].Value); !strings.Contains(got, want) {
			t.Errorf("record %s\nlacks %s", got, want)
		}
	}
}

func TestDiffIsAskedOnceForTheFirstWorldAndAcknowledged(t *testing.T) {
	s := newStand(t)
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, "alpha", "beta")).StrategyID
	diffs, acks, _ := s.dm.seen()
	if len(diffs) != 1 || diffs[0].GetStrategyId() != id || diffs[0].GetWorldId() != "alpha" ||
		diffs[0].GetExecutionDomain() != "backtest" || diffs[0].GetDagJson() != oneNode("a") {
		t.Errorf("diffs %v", diffs)
	}
	if len(acks) != 1 || acks[0].GetChunkId() != 0 || acks[0].GetSentinelId() != id+"-sentinel" {
		t.Errorf("acks %v", acks)
	}
}

func TestParallelIdenticalSubmissionsMakeOneStrategy(t *testing.T) {
	s := newStand(t, withKafka, withArgs("--workers", "0"))
	var (
		mu       sync.Mutex
		statuses = map[int]int{}
		ids      = map[string]bool{}
		all      sync.WaitGroup
	)
	for i := range 32 {
		all.Go(func() {
			a := s.post("/strategies", body(oneNode("same"), fmt.Sprintf("w%d", i)))
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
			ids[uuids.FindString(a.body)] = true
		})
	}
	all.Wait()
	if !maps.Equal(statuses, map[int]int{202: 1, 409: 31}) || len(ids) != 1 {
		t.Errorf("statuses %v, ids %v", statuses, ids)
	}
	if keys := s.redis.Keys(); len(keys) != 3 {
		t.Errorf("keys %v, want one dag_hash, one strategy, the queue", keys)
	}
	if q, _ := s.redis.List("strategy_queue"); len(q) != 1 {
		t.Errorf("queue %v", q)
	}
	if n := len(s.records()); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestTheSameDAGInAnotherDressIsADuplicate(t *testing.T) {
	s := newStand(t)
	first := s.accepted(body(oneNode("a"), "w1"))
	spaced := strings.ReplaceAll(oneNode("a"), `,"`, ` , "`)
	for _, again := range []string{
		bodyWith(spaced, `{"user":"other"}`, "w2"),
		strings.Replace(body(oneNode("a"), "w1"), jsonText(oneNode("a")), jsonText(base64.StdEncoding.EncodeToString([]byte(oneNode("a")))), 1),
	} {
		a := s.post("/strategies", again)
		if want := `{"detail":{"code":"E_DUPLICATE","strategy_id":"` + first.StrategyID + `"}}`; a.status != 409 || a.body != want {
			t.Errorf("answer %d %s, want 409 %s", a.status, a.body, want)
		}
	}
}

func jsonText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestWhatCannotBeStoredIsRefusedBeforeAnythingIs(t *testing.T) {
	s := newStand(t, withKafka, withArgs("--max-body", "20000", "--commitlog-max-bytes", "8000"))
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"nodes is an object":    {`{"dag_json":"{\"schema_version\":\"v1\",\"nodes\":{}}","node_ids_crc32":0,"world_ids":["w"]}`, 400, "E_SCHEMA_INVALID"},
		"too deep":              {`{"dag_json":"` + deep + `","node_ids_crc32":0,"world_ids":["w"]}`, 400, "E_SCHEMA_INVALID"},
		"record too large":      {body(oneNode(strings.Repeat("x", 5000)), "w"), 413, "E_TOO_LARGE"},
		"body too large":        {body(oneNode(strings.Repeat("x", 30000)), "w"), 413, "E_TOO_LARGE"},
		"lone surrogate in id":  {`{"dag_json":"{\"schema_version\":\"v1\",\"nodes\":[{\"node_id\":\"x\",\"node_type\":\"\\ud800\",\"code_hash\":\"c\",\"config_hash\":\"c\",\"schema_hash\":\"c\",\"schema_compat_id\":\"c\"}]}","node_ids_crc32":0,"world_ids":["w"]}`, 400, "E_SCHEMA_INVALID"},
		"interval beyond a day": {`{"dag_json":"{\"schema_version\":\"v1\",\"nodes\":[{\"node_id\":\"x\",\"node_type\":\"N\",\"interval\":{\"a\":1},\"code_hash\":\"c\",\"config_hash\":\"c\",\"schema_hash\":\"c\",\"schema_compat_id\":\"c\"}]}","node_ids_crc32":0,"world_ids":["w"]}`, 400, "E_SCHEMA_INVALID"},
	} {
		t.Run(name, func(t *testing.T) { s.refused("/strategies", c.body, c.status, c.code) })
	}
	s.wantNothingStored()
	if n := len(s.records()); n != 0 {
		t.Errorf("%d records", n)
	}
	if got := s.get("/health").status; got != 200 {
		t.Errorf("health %d afterwards", got)
	}
}

func TestBodyOfUnknownLengthIsBounded(t *testing.T) {
	s := newStand(t, withArgs("--max-body", "1000"))
	for size, want := range map[int]int{400: 422, 5000: 413} {
		req, err := http.NewRequest(http.MethodPost, s.url+"/strategies", struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", size))})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if a := s.send(req); a.status != want {
			t.Errorf("%d bytes: %d %s, want %d", size, a.status, a.body, want)
		}
	}
}

func TestMetricsCountFindings(t *testing.T) {
	s := newStand(t)
	s.refused("/strategies", strings.Replace(body(oneNode("a"), "w"), `"node_ids_crc32":1023661098`, `"node_ids_crc32":1`, 1), 400, "E_CHECKSUM_MISMATCH")
	s.accepted(bodyWith(oneNode("b"), `{"execution_domain":"paper"}`, "w"))
	for series, want := range map[string]string{
		`nodeid_checksum_mismatch_total{source="dag"}`:                     "1",
		`strategy_compute_context_downgrade_total{reason="missing_as_of"}`: "1",
		`lost_requests_total`: "0",
		`gateway_stage_seconds_count{outcome="error",stage="normalise"}`: "1",
		`gateway_stage_seconds_count{outcome="ok",stage="confirm"}`:      "1",
		`dagclient_breaker_state`:                                        "0",
	} {
		if got := s.metric(series); got != want {
			t.Errorf("%s = %s, want %s", series, got, want)
		}
	}
	if got := s.metric("gateway_e2e_latency_p95"); got == "0" {
		t.Error("gateway_e2e_latency_p95 is 0 after an accepted submission")
	}
	if got := s.get("/metrics").header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
}

func TestStatusAddsTheProcessToHealth(t *testing.T) {
	s := newStand(t)
	const health = `{"status":"degraded","redis":"ok","postgres":"ok","dagmanager":"ok","worldservice":"unknown","capabilities":{"rebalance_schema_version":1,"alpha_metrics_capable":false},"rebalance_schema_version":1,"alpha_metrics_capable":false`
	if got, want := s.get("/status").body, health+`,"degrade_level":"NORMAL","enforce_live_guard":true,"pretrade":{"attempts":0,"rejections":{},"ratio":0.0}}`; got != want {
		t.Errorf("status %s\nwant   %s", got, want)
	}
	if got, want := s.get("/health").body, health+`}`; got != want {
		t.Errorf("health %s\nwant   %s", got, want)
	}
}

func TestWebSocketIsOfferedToHandshakesOnly(t *testing.T) {
	s := newStand(t)
	if a := s.get("/ws"); a.status != http.StatusNotFound || a.body != `{"detail":"Not Found"}` {
		t.Errorf("plain request: %d %s", a.status, a.body)
	}
	conn, resp, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws", nil)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("handshake answered %d", resp.StatusCode)
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestQueueUpdateOnTheBusReachesAWebSocket(t *testing.T) {
	s := newStand(t, withBus)
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws", nil)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	defer conn.CloseNow()
	s.produce("queue", "btc", `{"specversion":"1.0","id":"e1","type":"QueueUpdated","source":"dm","data":`+
		`{"version":1,"tags":["btc"],"interval":60,"queues":[{"queue":"q1","global":false}],"match_mode":"any","etag":"t1"}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	_, frame, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(frame); !strings.Contains(got, `"queue":"q1"`) && !strings.Contains(got, `"queue": "q1"`) {
		t.Errorf("frame %s", got)
	}
}

func (s *stand) produce(topic, key, value string) {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...))
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(s.t.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

func TestGatewayStartsAndServesWhileEverythingIsAway(t *testing.T) {
	nowhere := "127.0.0.1:1"
	ready := run(t, "--redis", nowhere, "--kafka", nowhere, "--dagmanager", nowhere)
	s := &stand{t: t, url: "http://" + ready.Addresses["http"], client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if a := s.get("/health"); a.status != 200 || !strings.Contains(a.body, `"redis":"error","postgres":"ok","dagmanager":"error"`) {
		t.Errorf("health %d %s", a.status, a.body)
	}
}

// A client that writes its whole body before it reads must still get to see why
// it was refused.
func TestTooLargeIsHeardByAClientThatWritesFirst(t *testing.T) {
	const limit, size = 6 << 20, 10 << 20
	s := newStand(t, withArgs("--max-body", fmt.Sprint(limit)))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, strings.Repeat("x", size))
	for name, request := range map[string]string{
		"known length":   fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)),
		"unknown length": "Transfer-Encoding: chunked\r\n\r\n" + chunked,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "POST /strategies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
}
