package gateway

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"qmtl.internal/plumbline/ref/gateway/degrade"
	"qmtl.internal/plumbline/ref/gateway/fills"
	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/gateway/openapi"
	"qmtl.internal/plumbline/ref/gateway/rebalance"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/gateway/world"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// designTable gives the rows of the first table below a heading of
// ref/DESIGN.md, cell by cell.
func designTable(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		t.Fatalf("ref/DESIGN.md has no %q", heading)
	}
	for line := range strings.Lines(below) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if rows != nil {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("no table below %q", heading)
	}
	return rows[2:] // without head and rule
}

// errorRow shows one row of the table "Error → HTTP answer".
type errorRow func(t *testing.T, open opener)

// opener starts a stand whose answers count as given.
type opener func(options ...standOption) *stand

// TestErrorTable has a test for each row of the table of errors in
// ref/DESIGN.md, and at the end asks that every answer of the document was given.
func TestErrorTable(t *testing.T) {
	given := &givenAnswers{}
	all := maps.Clone(submissionRows())
	maps.Copy(all, outcomeRows())
	maps.Copy(all, otherRows())
	written := map[string]bool{}
	ok := t.Run("rows", func(t *testing.T) {
		for _, row := range designTable(t, "## Error → HTTP answer") {
			written[row[0]] = true
			t.Run(row[0], func(t *testing.T) {
				if all[row[0]] == nil {
					t.Fatal("this row has no test")
				}
				t.Parallel()
				all[row[0]](t, given.opener(t))
			})
		}
	})
	for name := range all {
		if !written[name] {
			t.Errorf("a test without a row in ref/DESIGN.md: %q", name)
		}
	}
	ok = t.Run("successes", func(t *testing.T) { successes(t, given.opener(t)) }) && ok
	ok = t.Run("worlds", func(t *testing.T) { passedOnAnswers(t, given.opener(t)) }) && ok
	if ok && !strings.Contains(flag.Lookup("test.run").Value.String(), "/") { // a part of the tests cannot give all
		given.wantAll(t)
	}
}

func (g *givenAnswers) opener(t *testing.T) opener {
	return func(options ...standOption) *stand {
		s := newStand(t, options...)
		s.given = g
		return s
	}
}

// both are the routes that take submissions.
var both = []string{"/strategies", "/strategies/dry-run"}

// want sends a request and expects a status and a part of the body.
func (s *stand) want(method, path, body string, status int, part string) answer {
	s.t.Helper()
	kind := ""
	if body != "" {
		kind = "application/json"
	}
	a := s.do(method, path, kind, body)
	if a.status != status || !strings.Contains(a.body, part) {
		s.t.Errorf("%s %s: %d %.300s, want %d %s", method, path, a.status, a.body, status, part)
	}
	return a
}

func (s *stand) wantMetric(series, value string) {
	s.t.Helper()
	if got := s.metric(series); got != value {
		s.t.Errorf("%s = %s, want %s", series, got, value)
	}
}

const notUTF8 = "{\"a\":\"\xff\"}"

// withNodes is a submission of nodes with ids as they say, and a checksum.
func withNodes(nodes string, crc string) string {
	return `{"dag_json":` + jsonText(`{"schema_version":"v1","nodes":[`+nodes+`]}`) + `,"node_ids_crc32":` + crc + `,"world_ids":["w"]}`
}

// whole and coded together are all that a node needs besides its id.
const (
	whole = `"node_type":"N","interval":60,"period":1,"params":{},"dependencies":[],"schema_compat_id":"s","config_hash":"c","schema_hash":"h"`
	coded = `,"code_hash":"c"`
)

// submissionRows are refusals of what was sent, outcomeRows those of what came
// of it, otherRows those of other routes.
func submissionRows() map[string]errorRow {
	return map[string]errorRow{
		"body over `--max-body` (32 MiB), or its record over `--commitlog-max-bytes`": func(t *testing.T, open opener) {
			s := open(withKafka, withArgs("--max-body", "20000", "--commitlog-max-bytes", "8000"))
			for _, path := range both {
				s.want("POST", path, body(oneNode(strings.Repeat("x", 30000)), "w"), 413, `"code":"E_TOO_LARGE"`)
			}
			s.want("POST", "/strategies", body(oneNode(strings.Repeat("x", 5000)), "w"), 413, `"code":"E_TOO_LARGE"`)
			s.wantNothingStored()
		},
		"JSON of more than 500,000 values": tooManyValues,
		"no place or no room for the body within `--wait-limit` (10 s), or more than `--max-waiting` (8,192) wait for one": func(t *testing.T, open opener) {
			given := open().given
			late, let := occupied(t, 0, "--wait-limit", "20ms")
			defer let()
			full, leave := occupied(t, 1, "--max-waiting", "1")
			defer leave()
			for _, s := range []*stand{late, full} {
				s.given = given
				for _, path := range both {
					if a := s.want("POST", path, body(oneNode("a"), "w"), 503, `"code":"E_BUSY"`); a.header.Get("Retry-After") != "1" {
						t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
					}
				}
				s.wantMetric("gateway_busy_total", "2")
			}
			busyElsewhere(t, open)
		},
		"body cut off or slower than 1 MiB/s and 5 s, not UTF-8": func(t *testing.T, open opener) {
			s := open() // a body that is too slow: TestClientThatDawdlesLosesItsPlace
			for _, path := range both {
				s.want("POST", path, notUTF8, 400, `{"detail":"There was an error parsing the body"}`)
			}
		},
		"body not JSON, not the model, other content type": func(t *testing.T, open opener) {
			s := open()
			for _, path := range both {
				s.want("POST", path, `{`, 422, `"type":"json_invalid"`)
				s.want("POST", path, `{}`, 422, `{"detail":[{"type":"missing","loc":["body","dag_json"]`)
				if a := s.do("POST", path, "text/plain", body(oneNode("a"), "w")); a.status != 422 {
					t.Errorf("text: %d %s", a.status, a.body)
				}
			}
		},
		"`world_id` given / no usable `world_ids`": func(t *testing.T, open opener) {
			s := open()
			for _, path := range both {
				s.want("POST", path, `{"dag_json":"","node_ids_crc32":0,"world_id":"w"}`, 422, `"code":"E_WORLD_ID_DEPRECATED"`)
				s.want("POST", path, `{"dag_json":"","node_ids_crc32":0,"world_ids":[" "]}`, 422, `"code":"E_WORLD_IDS_REQUIRED"`)
			}
		},
		"DAG neither base64 nor JSON, not an object, nested deeper than 1,000, bad `nodes`, unusable `interval`, `period`, `match_mode`, tags": unusableDAGs,
		"schema version missing or unsupported": func(t *testing.T, open opener) {
			s := open()
			for _, path := range both {
				s.want("POST", path, `{"dag_json":"{\"nodes\":[]}","node_ids_crc32":0,"world_ids":["w"]}`, 400, `"message":"schema_version is required"`)
				s.want("POST", path, `{"dag_json":"{\"schema_version\":\"v9\",\"nodes\":[]}","node_ids_crc32":0,"world_ids":["w"]}`, 400, `"message":"unsupported schema version: v9"`)
			}
		},
	}
}

func tooManyValues(_ *testing.T, open opener) {
	s := open()
	dense := `[` + strings.Repeat(`0,`, model.MaxValues+1) + `0]`
	for _, path := range both {
		s.want("POST", path, dense, 413, `"code":"E_TOO_LARGE"`)
		s.want("POST", path, `{"dag_json":"`+dense+`","node_ids_crc32":0,"world_ids":["w"]}`, 413, `"code":"E_TOO_LARGE"`)
	}
	s.want("POST", "/fills", dense, 413, `"code":"E_TOO_LARGE"`)
}

func unusableDAGs(_ *testing.T, open opener) {
	s := open()
	for _, dag := range []string{
		`?`, `[]`, strings.Repeat("[", 2000) + strings.Repeat("]", 2000), `{"schema_version":"v1","nodes":5}`,
		`{"schema_version":"v1","nodes":[{"node_id":"x",` + whole + coded + `,"interval":{"a":1}}]}`,
		`{"schema_version":"v1","nodes":[{"node_id":"x",` + whole + coded + `,"period":{"a":1}}]}`,
	} {
		for _, path := range both {
			s.want("POST", path, `{"dag_json":`+jsonText(dag)+`,"node_ids_crc32":0,"world_ids":["w"]}`, 400, `{"detail":{"code":"E_SCHEMA_INVALID","errors":[{"path":[`)
		}
	}
	s.wantNothingStored()
}

func outcomeRows() map[string]errorRow {
	return map[string]errorRow{
		"node identity": func(t *testing.T, open opener) {
			s := open()
			wrong := `{"node_id":"x","schema_id":"other",` + whole
			for _, path := range both { // each has the faults of all that follow, too
				s.want("POST", path, withNodes(wrong+coded+`},{"node_id":"y",`+whole+`}`, "1"), 400, `"code":"E_NODE_ID_FIELDS"`)
				s.want("POST", path, withNodes(wrong+coded+`}`, "1"), 400, `"code":"E_SCHEMA_COMPAT_MISMATCH"`)
				s.want("POST", path, withNodes(`{"node_id":"x",`+whole+coded+`}`, "1"), 400, `"code":"E_CHECKSUM_MISMATCH"`)
				s.want("POST", path, body(`{"schema_version":"v1","nodes":[{"node_id":"x",`+whole+coded+`}]}`, "w"), 400, `"code":"E_NODE_ID_MISMATCH"`)
			}
			s.wantMetric(`nodeid_checksum_mismatch_total{source="dag"}`, "6")
		},
		"same DAG registered": func(t *testing.T, open opener) {
			s := open()
			first := s.accepted(body(oneNode("a"), "w")).StrategyID
			s.want("POST", "/strategies", body(oneNode("a"), "v"), 409, `{"detail":{"code":"E_DUPLICATE","strategy_id":"`+first+`"}}`)
		},
		"same DAG pending for more than 5 s": func(t *testing.T, open opener) {
			s := open(withArgs("--workers", "0"))
			s.claim(oneNode("a"), "11111111-2222-4333-8444-555555555555")
			s.want("POST", "/strategies", body(oneNode("a"), "w"), 503, `"code":"E_PENDING"`)
		},
		"Redis fails (submit: rolled back or left to expire)": func(t *testing.T, open opener) {
			s := open()
			s.redis.SetError("LOADING as told")
			s.want("POST", "/strategies", body(oneNode("a"), "w"), 503, `"code":"E_REGISTRY"`)
			s.want("GET", "/strategies/x/status", "", 503, `"code":"E_REGISTRY"`)
			s.want("POST", "/strategies/x/history", `{"node_id":"n","interval":1}`, 503, `"code":"E_REGISTRY"`)
			s.wantMetric("lost_requests_total", "1")
			s.redis.SetError("")
			s.wantNothingStored()
		},
		"Kafka does not acknowledge within `--commitlog-timeout` (3 s)": func(t *testing.T, open opener) {
			s := open(withKafka, withArgs("--commitlog-timeout", "1s"))
			s.kafka.Close()
			s.want("POST", "/strategies", body(oneNode("a"), "w"), 503, `{"detail":{"code":"E_COMMITLOG","message":"commit log unavailable"}}`)
			s.wantMetric("lost_requests_total", "1")
			if keys := s.redis.Keys(); len(keys) != 0 {
				t.Errorf("keys left in Redis: %v", keys)
			}
		},
		"DAG Manager: diff late (owed), wrong CRC": func(t *testing.T, open opener) {
			late := open(withManager(&manager{chunks: badDiffs()["hangs"].chunks}), withArgs("--workers", "0"))
			late.wantOwnSentinels("dryrun:3d03d42a", "late", 1)
			wrong := open(withManager(&manager{chunks: badDiffs()["other crc"].chunks}), withArgs("--workers", "0"))
			wrong.wantOwnSentinels("dryrun:3d03d42a", "crc_differs", 0)
		},
		"DAG Manager: refuses (`INVALID_ARGUMENT`, `FAILED_PRECONDITION`, …)": func(t *testing.T, open opener) {
			s := open(withManager(refusing(codes.FailedPrecondition)), withArgs("--workers", "0"))
			s.wantOwnSentinels("", "refused", 1) // a worker has to say that it failed
			s.want("GET", "/queues/by_tag?tags=a&interval=60", "", 200, `{"queues":[]}`)
		},
		"DAG Manager: gone, breaker open": func(t *testing.T, open opener) {
			s := open(withArgs("--workers", "0", "--breaker-open", "1m", "--lookup-limit", "3s"))
			s.dm.stop()
			s.wantOwnSentinels("", "", 1)
			s.eventually("the breaker is open", func() bool {
				s.want("GET", "/queues/by_tag?tags=a&interval=60", "", 200, `{"queues":[]}`)
				return s.metric("dagclient_breaker_state") == "1"
			})
			s.wantOwnSentinels("", "no_reply", 2)
		},
	}
}

// busyElsewhere asks every other route with a body, while one request holds the
// one place for them.
func busyElsewhere(t *testing.T, open opener) {
	ws := newWorldService(t)
	ws.on(script{hang: true})
	s := open(withWorldService(ws), withArgs("--worldservice-timeout", "1m", "--worldservice-retries", "0", "--max-in-work", "1", "--wait-limit", "20ms"))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", s.url+"/worlds", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := s.client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	defer func() { leave(); <-left }()
	s.eventually("the place is taken", func() bool { return len(ws.seen()) == 1 })
	busy := openapi.Answer{Status: http.StatusServiceUnavailable, When: "the one place is taken"}
	for _, op := range openapi.Operations() {
		if op.Body != "" && !slices.Contains(both, op.Path) {
			s.wantPassedOn(&op, "w", `{}`, busy, "true")
		}
	}
}

// wantOwnSentinels submits, dry and not, to a DAG Manager that gives no diff: how
// they end, what a dry run's sentinel is, and how many diffs are owed then.
func (s *stand) wantOwnSentinels(dry, outcome string, owed int) {
	s.t.Helper()
	unique := fmt.Sprint(time.Now().UnixNano())
	if ack := s.accepted(body(oneNode(unique), "w")); ack.SentinelID != ack.StrategyID+"-sentinel" {
		s.t.Errorf("submission answered %+v", ack)
	}
	a := s.want("POST", "/strategies/dry-run", body(oneNode("b"), "w"), 200, `"queue_map":{}`)
	if got := ackOf(s.t, a).SentinelID; got != dry && (outcome != "" || got != "dryrun:3d03d42a") { // without an outcome it may be either
		s.t.Errorf("dry run answered %s, want the sentinel %q", a.body, dry)
	}
	if outcome != "" && s.metric(`gateway_diffs_total{outcome="`+outcome+`"}`) == "0" {
		s.t.Errorf("no diff ended as %s", outcome)
	}
	if got := len(s.owed()); got != owed {
		s.t.Errorf("%d diffs are owed, want %d", got, owed)
	}
}

// refusing answers everything with a code, and is healthy.
func refusing(code codes.Code) *manager {
	return &manager{chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](code), queues: refuse[*pb.TagQueryRequest, []*pb.QueueDescriptor](code)}
}

func otherRows() map[string]errorRow {
	return map[string]errorRow{
		"unknown strategy": func(t *testing.T, open opener) {
			s := open()
			s.want("GET", "/strategies/x/status", "", 404, `{"detail":"strategy not found"}`)
			s.want("POST", "/strategies/x/history", `{"node_id":"n","interval":1}`, 404, `{"detail":"strategy not found"}`)
		},
		"WorldService: none configured / away, slow, breaker open / answers no JSON, no plan": func(t *testing.T, open opener) {
			open().want("POST", "/rebalancing/execute", equity+`}`, 503, `{"detail":"WorldService disabled"}`)
			away := open(withArgs("--worldservice-url", "http://127.0.0.1:1", "--worldservice-retries", "0", "--breaker-open", "1m"))
			for range 4 {
				away.want("POST", "/rebalancing/execute", equity+`}`, 503, `{"detail":"WorldService unavailable"}`)
			}
			away.wantMetric("worlds_breaker_state", "1")
			ws := newWorldService(t)
			s := open(withWorldService(ws, "--worldservice-retries", "0", "--worldservice-timeout", "50ms"))
			ws.on(script{status: 200, body: `{`})
			s.want("GET", "/worlds", "", 502, `{"detail":"WorldService's answer is no JSON"}`)
			ws.on(script{status: 200, body: `[]`})
			s.want("POST", "/rebalancing/execute", equity+`}`, 502, `{"detail":"WorldService's answer is no rebalancing plan"}`)
			ws.on(script{hang: true})
			s.want("GET", "/worlds", "", 503, `{"detail":"WorldService unavailable"}`)
		},
		"WorldService refuses": func(t *testing.T, open opener) {
			ws := newWorldService(t)
			s := open(withWorldService(ws))
			ws.on(script{status: 418, body: `{"detail":{"why":1}}`})
			s.want("GET", "/worlds/w", "", 418, `{"detail":{"why":1}}`)
			s.want("POST", "/rebalancing/execute", equity+`}`, 418, `{"detail":{"why":1}}`)
		},
		"level MINIMAL / STATIC": func(t *testing.T, open opener) {
			s := open(withArgs("--degrade-every", "20ms", "--worldservice-url", "http://127.0.0.1:1", "--worldservice-retries", "0", "--breaker-open", "1m"))
			s.dm.ill("unknown")
			s.redis.SetError("LOADING")
			s.becomes("MINIMAL")
			if a := s.want("POST", "/strategies", body(oneNode("a"), "w"), 503, ""); a.body != "" {
				t.Errorf("body %s", a.body)
			}
			s.wantMetric(`degrade_level{service="gateway"}`, "2")
			for range 3 {
				s.get("/worlds")
			}
			s.eventually("everything is refused", func() bool { return s.get("/metrics").status == 204 })
			if a := s.want("POST", "/strategies", body(oneNode("a"), "w"), 204, ""); a.header.Get("Retry-After") != "30" {
				t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
			}
		},
		"live guard without `X-Allow-Live: true`": func(t *testing.T, open opener) {
			s := open(withWorldService(newWorldService(t)))
			s.want("POST", "/worlds/w/apply", `{}`, 403, `"code":"E_PERMISSION_DENIED"`)
			s.want("POST", "/rebalancing/execute?submit=1", equity+`}`, 403, `"code":"E_PERMISSION_DENIED"`)
		},
		"rebalancing: hybrid / overlay / shared account / shadow world":                   rebalancingRefusals,
		"rebalancing: no commit log / Kafka does not take it":                             rebalancingUnwritten,
		"fill: no JSON, nobody, no ids, no envelope, wrong data / Kafka does not take it": fillRefusals,
		"a bug (panic)": func(t *testing.T, _ opener) {
			g := &Gateway{ // without a monitor, which /health needs
				log: slog.New(slog.DiscardHandler), pipeline: &submit.Pipeline{}, proxy: &world.Proxy{}, fills: &fills.Handler{},
				orders: &rebalance.Handler{}, level: &degrade.Driver{}, events: &hub.Hub{}, stream: &hub.Stream{},
			}
			w := httptest.NewRecorder()
			g.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
			if w.Code != 500 || w.Body.String() != problem500 || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
		},
	}
}

func rebalancingRefusals(t *testing.T, open opener) {
	ws := newWorldService(t)
	ws.on(script{status: 200, body: plan})
	closed := open(withWorldService(ws))
	closed.want("POST", "/rebalancing/execute", equity+`,"mode":"hybrid"}`, 501, `"code":"E_REBALANCE_MODE_UNSUPPORTED"`)
	closed.want("POST", "/rebalancing/execute?shared_account=1", equity+`}`, 403, `"code":"E_SHARED_ACCOUNT_DISABLED"`)
	s := open(withKafka, withWorldService(ws, "--allow-live", "--shared-account", "--shared-account-max-gross", "0.1"))
	s.want("POST", "/rebalancing/execute?shared_account=1", equity+`}`, 422, `"code":"E_SHARED_ACCOUNT_POLICY"`)
	s.want("POST", "/rebalancing/execute", equity+`,"mode":"overlay"}`, 422, `{"detail":"overlay config is required when mode='overlay'"}`)
	s.want("POST", "/rebalancing/execute", equity+`,"mode":"overlay","overlay":{"instrument_by_world":{"a":"P","b":"P"}}}`, 422, `"code":"E_OVERLAY_EXECUTION_AMBIGUOUS"`)
	ws.on(script{method: "POST", status: 200, body: `{"overlay_deltas":[{"symbol":"Z","delta_qty":2}]}`})
	s.want("POST", "/rebalancing/execute", equity+`,"mode":"overlay","overlay":{"instrument_by_world":{"w1":"P"}}}`, 422, `"code":"E_OVERLAY_EXECUTION_UNMAPPED"`)
	ws.on(script{method: "POST", status: 200, body: plan})
	ws.on(script{method: "GET", status: 200, body: `{"effective_mode":"shadow"}`})
	s.want("POST", "/rebalancing/execute?submit=1", equity+`}`, 422, `"code":"E_SHADOW_ORDERS_BLOCKED"`)
	if n := len(s.records()); n != 0 {
		t.Errorf("%d records", n)
	}
}

func rebalancingUnwritten(t *testing.T, open opener) {
	ws := newWorldService(t)
	ws.on(script{status: 200, body: plan})
	open(withWorldService(ws, "--allow-live")).want("POST", "/rebalancing/execute?submit=1", equity+`}`, 503, `"code":"E_COMMITLOG_DISABLED"`)
	s := open(withKafka, withWorldService(ws, "--allow-live", "--commitlog-timeout", "1s"))
	s.kafka.Close()
	s.want("POST", "/rebalancing/execute?submit=1", equity+`}`, 503, `"code":"E_COMMITLOG"`)
}

func fillRefusals(t *testing.T, open opener) {
	s := open(withKafka, withArgs("--fill-secret", "k", "--commitlog-timeout", "1s", "--max-body", "5000"))
	signed := func(body string, more ...string) answer {
		return s.fill(body, append([]string{"X-Signature", signature("k", body)}, more...)...)
	}
	for name, c := range map[string]struct {
		got    answer
		status int
		part   string
	}{
		"no JSON":     {s.fill(`{`), 400, `{"detail":{"code":"E_INVALID_JSON"}}`},
		"nobody":      {s.fill(fill), 401, `{"detail":{"code":"E_AUTH"}}`},
		"no ids":      {signed(fill, "X-World-ID", ""), 400, `{"detail":{"code":"E_MISSING_IDS"}}`},
		"no envelope": {signed(`[1]`), 400, `"code":"E_CE_REQUIRED"`},
		"wrong data":  {signed(`{"specversion":"1","data":{"order_id":1}}`), 400, `{"detail":{"code":"E_SCHEMA_INVALID","errors":[{"type":"string_type"`},
		"too large":   {signed(strings.Repeat(" ", 6000)), 413, `"code":"E_TOO_LARGE"`},
	} {
		if c.got.status != c.status || !strings.Contains(c.got.body, c.part) {
			t.Errorf("%s: %d %s, want %d %s", name, c.got.status, c.got.body, c.status, c.part)
		}
	}
	s.wantMetric(`fills_rejected_total{reason="invalid_json",strategy_id="unknown",world_id="unknown"}`, "1")
	s.kafka.Close()
	if a := signed(fill); a.status != 503 || !strings.Contains(a.body, `"code":"E_FILLS"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// successes gives what the rows of errors leave out.
func successes(t *testing.T, open opener) {
	ws := newWorldService(t)
	ws.on(script{status: 200, body: plan})
	s := open(withKafka, withWorldService(ws, "--max-body", "20000"), withArgs("--fill-secret", "k"))
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, "w")).StrategyID
	s.want("POST", "/strategies/dry-run", body(oneNode("a"), "w"), 200, `"strategy_id":"dryrun"`)
	s.want("GET", "/strategies/"+id+"/status", "", 200, `{"status":"`)
	s.want("POST", "/strategies/"+id+"/history", `{"node_id":"n","interval":1}`, 204, "")
	s.want("GET", "/queues/by_tag?tags=a&interval=60", "", 200, `{"queues":[]}`)
	s.want("GET", "/queues/by_tag", "", 422, `"loc":["query","tags"]`)
	s.want("POST", "/events/subscribe", `{"world_id":"w","strategy_id":"s"}`, 200, `"token":"`)
	if a := s.fill(fill, "X-Signature", signature("k", fill)); a.status != 202 || a.body != "" {
		t.Errorf("fill %d %s", a.status, a.body)
	}
	for path, part := range map[string]string{
		"/events/jwks": `"keys":[{`, "/events/schema": `"queue_update":{`, "/health": `"status":"`, "/status": `"degrade_level":"NORMAL"`,
		"/metrics": "gateway_stage_seconds", "/openapi.json": `"openapi":"3.1.0"`,
	} {
		s.want("GET", path, "", 200, part)
	}
	s.want("POST", "/rebalancing/execute", equity+`}`, 200, `"orders_per_world":{`)
	for _, path := range []string{"/strategies/" + id + "/history", "/events/subscribe", "/rebalancing/execute"} {
		s.want("POST", path, notUTF8, 400, `{"detail":"There was an error parsing the body"}`)
		s.want("POST", path, `{}`, 422, `"type":"missing"`)
	}
	for _, path := range []string{"/strategies/" + id + "/history", "/events/subscribe", "/rebalancing/execute"} {
		s.want("POST", path, strings.Repeat(" ", 30000), 413, `"code":"E_TOO_LARGE"`)
	}
	if a := s.fillCutOff(); a.status != 400 {
		t.Errorf("fill that is cut off: %d %s", a.status, a.body)
	}
}

// fillCutOff says more than it sends.
func (s *stand) fillCutOff() answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /fills HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	req := httptest.NewRequest("POST", "/fills", nil)
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header, string(text)}
	s.wantDescribed(req, a)
	return a
}

// passedOnAnswers gives every answer of every route that the WorldService is
// behind.
func passedOnAnswers(t *testing.T, open opener) {
	ws := newWorldService(t)
	s, none := open(withWorldService(ws, "--max-body", "1000")), open()
	for _, op := range openapi.Operations() {
		if _, passedOn := bodiesOf(&op, 0); !passedOn || op.ID == "executeRebalancing" {
			continue
		}
		t.Run(op.ID, func(t *testing.T) {
			for _, a := range op.Answers {
				s.t, none.t = t, t
				switch {
				case a.Body == "E_BUSY": // see busyElsewhere
				case a.Status == http.StatusServiceUnavailable:
					none.wantPassedOn(&op, "none", `{}`, a, "true")
				case a.Status == 0:
					ws.on(script{status: 404, body: `{"detail":{"no":"such"}}`})
					s.wantPassedOn(&op, "refused", `{}`, openapi.Answer{Status: 404, Body: a.Body}, "true")
				case a.Status == http.StatusBadGateway:
					ws.on(script{status: 200, body: `{`})
					s.wantPassedOn(&op, "nonsense", `{}`, a, "true")
				default:
					ws.on(script{status: 200, body: `{"some":"thing"}`})
					s.wantPassedOn(&op, "well", bodyFor(a), a, map[bool]string{true: "true"}[a.Status != http.StatusForbidden])
				}
			}
		})
	}
}

// bodyFor is a body that makes a route answer so.
func bodyFor(a openapi.Answer) string {
	switch a.Status {
	case http.StatusBadRequest:
		return notUTF8
	case http.StatusUnprocessableEntity:
		return `[]`
	case http.StatusRequestEntityTooLarge:
		return strings.Repeat(" ", 2000)
	default:
		return `{}`
	}
}

// wantPassedOn asks a route, in worlds of that name, and expects an answer.
func (s *stand) wantPassedOn(op *openapi.Operation, name, body string, want openapi.Answer, live string) {
	s.t.Helper()
	segments := strings.Split(op.Path, "/")
	for i := range segments {
		if strings.HasPrefix(segments[i], "{") {
			segments[i] = name
		}
	}
	req, err := http.NewRequest(op.Method, s.url+strings.Join(segments, "/"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Allow-Live", live)
	if a := s.send(req); a.status != want.Status {
		s.t.Errorf("%d %s, want %d: %s", a.status, a.body, want.Status, want.When)
	}
}

// TestManagerCodeTable holds each row of the table of gRPC codes to what a DAG
// Manager that answers with the code brings about.
func TestManagerCodeTable(t *testing.T) {
	var written []string
	for _, row := range designTable(t, "### gRPC code of the DAG Manager → HTTP answer") {
		name := strings.Trim(row[0], "`")
		written = append(written, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var code codes.Code
			if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
				t.Fatal(err)
			}
			wantCode(t, code, row)
		})
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if name := codeName(code); !slices.Contains(written, name) {
			t.Errorf("%s is not in the table", name)
		}
	}
}

// codeName is the name of a code as gRPC writes it.
func codeName(code codes.Code) string {
	return map[codes.Code]string{
		codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
		codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS", codes.PermissionDenied: "PERMISSION_DENIED",
		codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED",
		codes.OutOfRange: "OUT_OF_RANGE", codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE",
		codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
	}[code]
}

// wantCode: row is code, times asked, submission, dry run, lookup, outcome.
func wantCode(t *testing.T, code codes.Code, row []string) {
	s := newStand(t, withManager(refusing(code)), withArgs("--workers", "0", "--diff-limit", "20s", "--dryrun-limit", "20s", "--lookup-limit", "20s"))
	status, _, _ := strings.Cut(row[2], ",")
	a := s.post("/strategies", body(oneNode("a"), "w"))
	ack := ackOf(t, a)
	if fmt.Sprint(a.status) != status || ack.SentinelID != ack.StrategyID+"-sentinel" {
		t.Errorf("submission: %d %s, want %s", a.status, a.body, row[2])
	}
	if asked := len(s.dmDiffs()); asked != map[string]int{"once": 1, "5 times": 5}[row[1]] {
		t.Errorf("asked %d times, want %s", asked, row[1])
	}
	if owed := len(s.owed()); owed != 1 { // a worker repeats it, or says that it failed
		t.Errorf("%d diffs are owed, want one: %s", owed, row[2])
	}
	dry := s.post("/strategies/dry-run", body(oneNode("b"), "w"))
	if got := fmt.Sprintf("%d, sentinel `%q`", dry.status, ackOf(t, dry).SentinelID); got != row[3] {
		t.Errorf("dry run: %s, want %s", got, row[3])
	}
	found := s.get("/queues/by_tag?tags=a&interval=60")
	if got := fmt.Sprintf("%d, `%s`", found.status, strings.TrimSuffix(strings.TrimPrefix(found.body, `{"queues":`), "}")); got != row[4] {
		t.Errorf("lookup: %s, want %s", got, row[4])
	}
	s.wantMetric(`gateway_diffs_total{outcome="`+strings.Trim(row[5], "`")+`"}`, "2")
}
