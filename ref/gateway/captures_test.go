package gateway

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// exchange is one recorded exchange with the running original.
type exchange struct {
	Name, Target string
	Request      struct {
		Method, Path string
		Headers      map[string]string
		Body         json.RawMessage
	}
	Response struct {
		Status  json.RawMessage
		Headers map[string]string
		Body    json.RawMessage
		Close   json.RawMessage
	}
	Answer json.RawMessage            `json:"-"` // the response as it was recorded
	Value  map[string]json.RawMessage // of a line that is no exchange
	Side   map[string]json.RawMessage `json:"side_effects"`
}

func (x *exchange) status() int {
	var n int
	_ = json.Unmarshal(x.Response.Status, &n) // what was not an answer has a text
	return n
}

// text gives a recorded body: text, or bytes in base64.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var packed struct{ Base64 string }
	if json.Unmarshal(raw, &packed) == nil {
		b, _ := base64.StdEncoding.DecodeString(packed.Base64)
		return string(b)
	}
	return ""
}

// recordings are the files of exchanges: those of the repository, and that of
// the folder that PLUMBLINE_VECTORS names.
func recordings(t *testing.T) map[string][]exchange {
	t.Helper()
	files := map[string]string{"embedded": filepath.Join("testdata", "captures.jsonl")}
	if dir := os.Getenv(vectors.Env); dir != "" {
		if name := filepath.Join(dir, "captures.jsonl"); exists(t, name) {
			files["extra"] = name
		}
	}
	all := map[string][]exchange{}
	for label, name := range files {
		all[label] = readRecording(t, name)
	}
	return all
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

func readRecording(t *testing.T, name string) []exchange {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 256<<20)
	var all []exchange
	for n := 1; lines.Scan(); n++ {
		var x exchange
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			t.Fatalf("%s:%d: %v", name, n, err)
		}
		var whole struct{ Response json.RawMessage }
		if err := json.Unmarshal(lines.Bytes(), &whole); err != nil {
			t.Fatalf("%s:%d: %v", name, n, err)
		}
		x.Answer = whole.Response
		all = append(all, x)
	}
	if lines.Err() != nil || len(all) == 0 {
		t.Fatalf("%s: %d exchanges, %v", name, len(all), lines.Err())
	}
	return all
}

// TestRecordedExchanges replays what the running original answered, over HTTP and
// WebSocket against a whole gateway, started as its main starts it, between stand-ins that say what the
// original's neighbours must have said. Each answer is equal, or on the list
// differences.
func TestRecordedExchanges(t *testing.T) {
	for label, all := range recordings(t) {
		t.Run(label, func(t *testing.T) {
			used := map[string]bool{}
			for _, target := range []string{"gw-base", "gw-kafka", "gw-world", "gw-shim"} {
				t.Run(target, func(t *testing.T) { replayTarget(t, target, all, used) })
			}
			wantUsed(t, label, used)
		})
	}
}

// wantUsed: an entry that no recorded exchange is of would prove nothing.
func wantUsed(t *testing.T, label string, used map[string]bool) {
	t.Helper()
	for _, d := range differences {
		if label == "embedded" && !used[d.what] {
			t.Errorf("no exchange differs by %q", d.what)
		}
	}
	for _, d := range busDifferences {
		if label == "embedded" && !used[d.what] {
			t.Errorf("no exchange differs by %q", d.what)
		}
	}
}

// busDifferences is the whole list of those on the bus.
var busDifferences = []busDifference{
	{"an event that is refused counts as applied", "9", named("ack.ts_non_string"), func(want busSeen) busSeen {
		want.Metrics = maps.Clone(want.Metrics)
		for series := range want.Metrics {
			if strings.HasPrefix(series, "controlbus_apply_ack_total") {
				want.Metrics[series] = float64(len(want.Acks))
			}
		}
		return want
	}},
}

func replayTarget(t *testing.T, target string, all []exchange, used map[string]bool) {
	var p *player
	for i := range all {
		x := &all[i]
		if x.Target != target {
			continue
		}
		if stage := staged[x.Name]; stage != nil {
			t.Run(x.Name, func(t *testing.T) { stage(t, x) })
			continue
		}
		if reason := unplayable(x); reason != "" {
			t.Logf("%s is not replayed: %s", x.Name, reason)
			continue
		}
		if p == nil {
			p = newPlayer(t, target)
			p.owner = t
			p.used = used
		}
		t.Run(x.Name, func(t *testing.T) { p.play(t, x) })
	}
}

// unplayable says why a line that is not staged says nothing about an answer.
func unplayable(x *exchange) string {
	switch {
	case x.Request.Method == "":
		return "an observation without a request"
	case x.Response.Headers == nil && x.Request.Method != "WS" && x.Request.Method != "KAFKA":
		return "a summary of many requests, or of none that was answered"
	case strings.HasPrefix(string(x.Request.Body), `{"truncated":`):
		return "the recording cut its body"
	default:
		return ""
	}
}

// answered are the headers that an answer is held to.
var answered = []string{"content-type", "allow", "location", "warning", "x-stale", "retry-after"}

var (
	host  = regexp.MustCompile(`^https?://[^/]+`)
	moved = []struct {
		is   *regexp.Regexp
		mask string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)`), "<time>"},
		{regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`), "<token>"},
		{regexp.MustCompile(`,"url":"https://errors\.pydantic\.dev/[^"]*"`), ""},          // not part of the contract (1.0)
		{regexp.MustCompile(`"ctx":\{"error":"[^"]*"\}`), `"ctx":{"error":"<reason>"}`},   // nor that
		{regexp.MustCompile(`"pretrade":\{"attempts":\d+`), `"pretrade":{"attempts":<n>`}, // counts what the recording left out
	}
)

// masked replaces what differs from one run to the next by its shape, and sorts
// the queue map, which comes out of a map.
func masked(s string) string {
	if v, err := pyjson.ParseString(s); err == nil {
		s = string(pyjson.Append(nil, sortedQueues(v), pyjson.Compact))
	}
	for _, m := range moved {
		s = m.is.ReplaceAllString(s, m.mask)
	}
	return s
}

func sortedQueues(v pyjson.Value) pyjson.Value {
	queues, there := v.Get("queue_map")
	if !there {
		return v
	}
	members := slices.Clone(queues.Members())
	slices.SortFunc(members, func(a, b pyjson.Member) int { return strings.Compare(a.Key, b.Key) })
	return v.With("queue_map", pyjson.OfObject(members...))
}

// mismatches compares an answer with the recorded one.
func (p *player) mismatches(x *exchange, got answer) (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if got.status != x.status() {
		say("status %d, recorded %d", got.status, x.status())
	}
	for _, name := range answered {
		g, w := host.ReplaceAllString(got.header.Get(name), ""), host.ReplaceAllString(x.Response.Headers[name], "")
		if g != w {
			say("header %s %q, recorded %q", name, g, w)
		}
	}
	if g, w := len(got.header.Get("X-Correlation-Id")), len(x.Response.Headers["x-correlation-id"]); g != w {
		say("a correlation id of %d characters, recorded %d", g, w)
	}
	var cut struct{ Head string }
	if _ = json.Unmarshal(x.Response.Body, &cut); cut.Head != "" {
		if !strings.HasPrefix(got.body, p.own(cut.Head)) {
			say("body %.600s\n  recorded, cut: %.600s", got.body, cut.Head)
		}
		return all
	}
	if g, w := masked(got.body), masked(p.own(text(x.Response.Body))); g != w {
		say("body %.600s\n  recorded %.600s", g, w)
	}
	return all
}

// difference is a recorded answer that the reference betters on purpose.
type difference struct {
	what  string
	point string // of design section 9
	is    func(x *exchange) bool
	want  func(x *exchange, got answer) bool
}

const problem500 = "Internal Server Error"

// differences is the whole list. An entry that an answer no longer differs by
// fails.
var differences = []difference{
	{"undecodable or misshapen DAG", "8", crash("/strategies", "/strategies/dry-run"), is(400, `"code":"E_SCHEMA_INVALID","errors":[{"path":[`)},
	{"promotions and campaigns that crash", "2", crash("/auto-apply", "/tick"), is(200, ``)},
	{"WorldService away", "4", crash("/worlds", "/allocations", "/plan", "/execute", "/decide", "/activation"), is(503, `{"detail":"WorldService unavailable"}`)},
	{"status while Redis is away", "8", named("fault.redis_down.status"), is(503, `"code":"E_REGISTRY"`)},
	{"health shows what status added", "6", named("health.after_status"), without(`"degrade_level"`)},
	{"a breaker that never closes", "4", named("fault.ws_back.health"), is(200, `"worldservice":"ok"`)},
	{"history without a real Redis", "8", named("shim.history"), is(204, ``)},
	{"history while Redis is away", "8", crash("/history"), is(503, `"code":"E_REGISTRY"`)},
	{"queue map of a dry run of several worlds: the last world only", "2", named("dryrun.multi_world"), is(200, `"queue":"alpha.`)},
	{"published signing secret", "7", path("/events/jwks"), is(200, `"kty":"OKP"`)},
	{"metrics: families of another runtime", "10", path("/metrics"), is(200, "# TYPE gateway_e2e_latency_p95 gauge\n")},
	{"the framework's own pages and description", "10", path("/docs", "/redoc", "/openapi.json"), servedOrNot},
}

func crash(paths ...string) func(*exchange) bool {
	return func(x *exchange) bool {
		where, _, _ := strings.Cut(x.Request.Path, "?")
		return text(x.Response.Body) == problem500 && slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix(where, p) })
	}
}

func named(prefix string) func(*exchange) bool {
	return func(x *exchange) bool { return strings.HasPrefix(x.Name, prefix) }
}

func path(paths ...string) func(*exchange) bool {
	return func(x *exchange) bool {
		return x.Request.Method == http.MethodGet && slices.Contains(paths, x.Request.Path)
	}
}

func is(status int, part string) func(*exchange, answer) bool {
	return func(_ *exchange, got answer) bool { return got.status == status && strings.Contains(got.body, part) }
}

func without(part string) func(*exchange, answer) bool {
	return func(x *exchange, got answer) bool {
		return got.status == x.status() && !strings.Contains(got.body, part)
	}
}

func servedOrNot(_ *exchange, got answer) bool { return got.status == 200 || got.status == 404 }

// judge holds an answer to the recording, or to the better answer on the list.
func (p *player) judge(t *testing.T, x *exchange, got answer) {
	t.Helper()
	wrong := p.mismatches(x, got)
	for _, d := range differences {
		if !d.is(x) {
			continue
		}
		p.used[d.what] = true
		if len(wrong) == 0 {
			t.Errorf("no longer differs: take it off the list (%s, design 9.%s)", d.what, d.point)
		}
		if !d.want(x, got) {
			t.Errorf("%s (design 9.%s): %d %.400s", d.what, d.point, got.status, got.body)
		}
		return
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// redisFields are the fields of strategy:<id> that are the same in each run.
func (p *player) compareRedis(t *testing.T, x *exchange, id string) {
	t.Helper()
	for _, name := range []string{"hash", "redis_hash"} {
		var want map[string]string
		if raw := x.Side[name]; raw == nil || json.Unmarshal(raw, &want) != nil {
			continue
		}
		for field, value := range want {
			if got := p.s.redis.HGet("strategy:"+id, field); got != p.stored(field, value) {
				t.Errorf("redis %s = %.300q, recorded %.300q", field, got, p.stored(field, value))
			}
		}
	}
}

// stored gives a recorded field under our ids; a DAG has one inside.
func (p *player) stored(field, value string) string {
	if field != "dag" {
		return p.own(value)
	}
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return value
	}
	return base64.StdEncoding.EncodeToString([]byte(p.own(string(b))))
}

// compareUpstream holds what the WorldService was asked to the recording.
func (p *player) compareUpstream(t *testing.T, x *exchange) {
	t.Helper()
	var want []upstream
	if raw := x.Side["upstream_log"]; raw == nil || json.Unmarshal(raw, &want) != nil || text(x.Response.Body) == problem500 {
		return
	}
	got := p.ws.seen()
	if len(got) != len(want) {
		t.Errorf("WorldService was asked %v\nrecorded %v", got, want)
		return
	}
	for i := range want {
		if g, w := p.asked(got[i]), p.asked(want[i]); g != w {
			t.Errorf("WorldService was asked %s\nrecorded %s", g, w)
		}
	}
}

// asked writes a request to the WorldService without what is new in each.
func (p *player) asked(u upstream) string {
	delete(u.Headers, "x-correlation-id")
	b, _ := json.Marshal(u)
	return masked(p.own(string(b)))
}

// own gives recorded text with our ids in the place of the recorded ones.
func (p *player) own(s string) string {
	for recorded, ours := range p.ids {
		s = strings.ReplaceAll(s, recorded, ours)
	}
	return s
}

// learn remembers which of our ids stands for which recorded one.
func (p *player) learn(x *exchange, got answer) {
	recorded, ours := strategyOf(text(x.Response.Body)), strategyOf(got.body)
	if recorded != "" && ours != "" {
		p.ids[recorded] = ours
	}
}

func strategyOf(body string) string {
	v, err := pyjson.ParseString(body)
	if err != nil {
		return ""
	}
	id, _ := v.Member("strategy_id").Str()
	if id == "" {
		id, _ = v.Member("detail").Member("strategy_id").Str()
	}
	if !uuids.MatchString(id) {
		return ""
	}
	return id
}
