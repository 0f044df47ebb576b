package gateway

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// worldService is a WorldService that answers each request by the newest script
// that fits, and remembers what it was asked.
type worldService struct {
	url string

	mu      sync.Mutex
	scripts []script // guarded by mu
	asked   []upstream
}

// script is one answer of a worldService.
type script struct {
	method, path string // "" fits any
	status       int
	body         string
	header       map[string]string
	hang         bool // until the asker leaves
}

// upstream is one request that reached a worldService, as recordings have it.
type upstream struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Query   string            `json:"query"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func newWorldService(t *testing.T) *worldService {
	t.Helper()
	ws := &worldService{}
	srv := httptest.NewServer(ws)
	t.Cleanup(srv.Close)
	ws.url = srv.URL
	return ws
}

func (ws *worldService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		return
	}
	body, _ := io.ReadAll(r.Body)
	s := ws.note(r, string(body))
	if s.hang {
		<-r.Context().Done()
		return
	}
	for k, v := range s.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(s.status)
	_, _ = io.WriteString(w, s.body)
}

// told are the request headers that recordings keep.
var told = []string{"authorization", "x-caller-sub", "x-caller-claims", "x-world-roles", "x-correlation-id", "content-type", "if-none-match"}

func (ws *worldService) note(r *http.Request, body string) script {
	u := upstream{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Headers: map[string]string{}, Body: body}
	for _, name := range told {
		if v := r.Header.Get(name); v != "" {
			u.Headers[name] = v
		}
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.asked = append(ws.asked, u)
	for i := len(ws.scripts) - 1; i >= 0; i-- {
		if s := ws.scripts[i]; (s.method == "" || s.method == r.Method) && (s.path == "" || s.path == r.URL.Path) {
			return s
		}
	}
	return script{status: http.StatusNotFound}
}

// on adds a script.
func (ws *worldService) on(s script) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.scripts = append(ws.scripts, s)
}

// seen gives what was asked since the last time.
func (ws *worldService) seen() []upstream {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := ws.asked
	ws.asked = nil
	return all
}

func withWorldService(ws *worldService, more ...string) standOption {
	return withArgs(append([]string{"--worldservice-url", ws.url}, more...)...)
}

func TestProxyPassesIdentityOnAndGivesTheExchangeAnID(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws))
	ws.on(script{status: 201, body: `[{"id":"w"}]`})
	req, err := http.NewRequest(http.MethodGet, s.url+"/worlds", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer aGVhZA.eyJzdWIiOiJ1MSIsInJvbGUiOiJ4In0.c2ln")
	req.Header.Set("X-World-Roles", "admin")
	req.Header.Set("X-Correlation-ID", "mine")
	a := s.send(req)
	seen := ws.seen()
	if a.status != 200 || a.body != `[{"id":"w"}]` || len(seen) != 1 {
		t.Fatalf("%d %s, asked %v", a.status, a.body, seen)
	}
	id := a.header.Get("X-Correlation-ID")
	want := map[string]string{
		"authorization": "Bearer aGVhZA.eyJzdWIiOiJ1MSIsInJvbGUiOiJ4In0.c2ln", "x-correlation-id": id, "x-caller-sub": "u1",
		"x-caller-claims": `{"sub": "u1", "role": "x"}`, "x-world-roles": "admin",
	}
	if len(id) != 32 || !maps.Equal(seen[0].Headers, want) {
		t.Errorf("id %q, headers %v\nwant %v", id, seen[0].Headers, want)
	}
}

// Each error of the proxy and its answer.
func TestProxyErrors(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws, "--worldservice-retries", "0", "--worldservice-timeout", "100ms"))
	for name, c := range map[string]struct {
		script script
		status int
		body   string
	}{
		"detail":           {script{status: 404, body: `{"detail":"world not found"}`}, 404, `{"detail":"world not found"}`},
		"other JSON":       {script{status: 409, body: `{"foo":1}`}, 409, `{"detail":{"foo":1}}`},
		"text":             {script{status: 502, body: `broken`}, 502, `{"detail":"broken"}`},
		"nothing":          {script{status: 500}, 500, `{"detail":"WorldService request failed"}`},
		"redirect":         {script{status: 307, header: map[string]string{"Location": "/x"}}, 307, `{"detail":"WorldService request failed"}`},
		"nonsense":         {script{status: 200, body: `{`}, 502, `{"detail":"WorldService's answer is no JSON"}`},
		"success, no body": {script{status: 204}, 200, `null`},
		"hangs":            {script{hang: true}, 503, `{"detail":"WorldService unavailable"}`},
	} {
		t.Run(name, func(t *testing.T) {
			ws.on(c.script)
			a := s.get("/worlds/x")
			if a.status != c.status || a.body != c.body || len(a.header.Get("X-Correlation-ID")) != 32 {
				t.Errorf("%d %s %v, want %d %s", a.status, a.body, a.header, c.status, c.body)
			}
		})
	}
}

func TestLiveGuard(t *testing.T) {
	ws := newWorldService(t)
	ws.on(script{status: 200, body: `{"ok":true}`})
	guarded, open := newStand(t, withWorldService(ws)), newStand(t, withWorldService(ws, "--allow-live"))
	for _, path := range []string{"/worlds/w/apply", "/worlds/w/promotions/live/apply", "/worlds/w/promotions/live/auto-apply"} {
		for header, want := range map[string]int{"": 403, "True": 403, "true": 200} {
			if a := guarded.postWith(path, `{}`, "X-Allow-Live", header); a.status != want {
				t.Errorf("%s, X-Allow-Live %q: %d %s", path, header, a.status, a.body)
			}
		}
		if a := open.post(path, `{}`); a.status != 200 {
			t.Errorf("%s without guard: %d %s", path, a.status, a.body)
		}
	}
	if n := len(ws.seen()); n != 6 {
		t.Errorf("asked %d times: a refused call went through", n)
	}
}

// postWith posts JSON with one header more, unless its value is empty.
func (s *stand) postWith(path, body, name, value string) answer {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if value != "" {
		req.Header.Set(name, value)
	}
	return s.send(req)
}

func TestProxyWithoutWorldService(t *testing.T) {
	s := newStand(t)
	for body, want := range map[string]string{
		`{`:  `json_invalid`,
		``:   `{"detail":"WorldService disabled"}`,
		`[]`: `{"detail":"WorldService disabled"}`,
		`{}`: `{"detail":"WorldService disabled"}`,
	} {
		if a := s.post("/worlds", body); !strings.Contains(a.body, want) {
			t.Errorf("%q: %d %s, want %s", body, a.status, a.body, want)
		}
	}
}

func TestASubmissionRunsWhereTheWorldServiceDecides(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws))
	ws.on(script{method: "GET", path: "/worlds/a/decide", status: 200, body: `{"world_id":"a","effective_mode":"paper","as_of":"D"}`})
	ws.on(script{method: "POST", status: 200, body: `{}`})
	id := s.accepted(bodyWith(oneNode("x"), `{"execution_domain":"live"}`, "a", "b")).StrategyID
	if got := s.redis.HGet("strategy:"+id, "compute_execution_domain"); got != "dryrun" {
		t.Errorf("domain %q", got)
	}
	diffs, _, _ := s.dm.seen()
	if len(diffs) != 1 || diffs[0].GetExecutionDomain() != "dryrun" || diffs[0].GetAsOf() != "D" {
		t.Errorf("diffs %v", diffs)
	}
	var asked []string
	for _, u := range ws.seen() {
		asked = append(asked, u.Method+" "+u.Path+" "+u.Body)
	}
	want := `["GET /worlds/a/decide ","POST /worlds/a/bindings {\"strategies\":[\"` + id + `\"]}","POST /worlds/b/bindings {\"strategies\":[\"` + id + `\"]}"]`
	if got, _ := json.Marshal(asked); string(got) != want {
		t.Errorf("asked %s\nwant  %s", got, want)
	}
}

func TestASubmissionSurvivesAWorldServiceThatIsAway(t *testing.T) {
	s := newStand(t, withArgs("--worldservice-url", "http://127.0.0.1:1"))
	ack := s.accepted(bodyWith(oneNode("x"), `{"execution_domain":"live"}`, "a"))
	if !ack.Downgraded || ack.DowngradeReason == nil || *ack.DowngradeReason != "decision_unavailable" || !ack.SafeMode {
		t.Errorf("ack %+v", ack)
	}
	if a := s.get("/worlds"); a.status != 503 || a.body != `{"detail":"WorldService unavailable"}` {
		t.Errorf("proxy %d %s", a.status, a.body)
	}
}
