package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/gateway/fills"
	"qmtl.internal/plumbline/ref/gateway/hub"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// player replays one target's exchanges against one gateway. The recording is an
// excerpt: what came before an exchange and left no line is made up for first.
type player struct {
	s    *stand
	ws   *worldService
	who  credentials
	ids  map[string]string // recorded strategy id → ours
	warm map[string]bool   // paths of decisions and activations that the gateway remembers
	used map[string]bool   // differences that were met
	lost bool              // the DAG Manager is stopped
	now  string            // the fault that is on, or over

	owner    *testing.T  // of bus and acked
	bus      *kgo.Client // nil until records are played
	acked    *kgo.Client // nil until acknowledgements are read
	ackTexts []string
}

func newPlayer(t *testing.T, target string) *player {
	t.Helper()
	p := &player{ids: map[string]string{}, warm: map[string]bool{}, who: newCredentials(t), ws: newWorldService(t)}
	options := []standOption{
		withManager(&manager{state: "unknown"}), withArgs(p.who.args()...),
		// The level stays NORMAL and strategies stay queued, as the original's do: it
		// has neither monitor nor worker (design 9.5 wants both; they have tests of their own).
		withArgs("--degrade-every", "1h", "--workers", "0", "--breaker-open", "8s", "--events-url", "ws://127.0.0.1:18000/ws/evt", "--events-fallback-url", "ws://127.0.0.1:18000/ws"),
	}
	switch target {
	case "gw-kafka":
		options = append(options, withKafka, func(c *standConfig) { c.bus = busTopics })
	case "gw-world":
		options = append(options, withWorldService(p.ws))
	}
	p.s = newStand(t, options...)
	return p
}

// play prepares the neighbours, sends the request and judges the answer.
func (p *player) play(t *testing.T, x *exchange) {
	p.s.t = t
	p.who.t = t
	p.harm(t, x)
	switch x.Request.Method {
	case "WS":
		p.playSocket(t, x)
		return
	case "KAFKA":
		p.playBus(t, x)
		return
	}
	p.remember(t, x)
	p.tellManager(x)
	p.tellWorlds(t, x)
	p.ws.seen()
	got := p.s.send(p.request(t, x))
	p.learn(x, got)
	p.judge(t, x, got)
	p.compareRedis(t, x, strategyOf(got.body))
	p.compareUpstream(t, x)
}

func (p *player) request(t *testing.T, x *exchange) *http.Request {
	t.Helper()
	req, err := http.NewRequest(x.Request.Method, p.s.url+p.own(x.Request.Path), strings.NewReader(p.own(text(x.Request.Body))))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range x.Request.Headers {
		if name == "Authorization" && strings.HasPrefix(x.Request.Path, "/fills") {
			value = p.who.bearer(value, fills.Audience, x.status() == http.StatusUnauthorized)
		}
		req.Header.Set(name, value)
	}
	return req
}

var fault = regexp.MustCompile(`^fault\.(\w+?)_(down|back)\.`)

// harm brings the neighbours into the state that the name of an exchange tells.
func (p *player) harm(t *testing.T, x *exchange) {
	t.Helper()
	m := fault.FindStringSubmatch(x.Name)
	if m == nil || m[0] == p.now {
		return
	}
	p.now = m[0]
	down := m[2] == "down"
	switch m[1] {
	case "redis":
		p.s.redis.SetError(map[bool]string{true: "LOADING", false: ""}[down])
	case "ws":
		p.ws.on(script{status: 200, body: `{}`, hang: down})
	case "dm":
		p.lost = down
	}
	p.heal(t, down)
	time.Sleep(2100 * time.Millisecond) // health is kept for two seconds
}

// heal waits until the breakers let trials through again.
func (p *player) heal(t *testing.T, down bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !down && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if p.s.metric("dagclient_breaker_state") == "0" && p.s.metric("worlds_breaker_state") == "0" {
			return
		}
	}
}

// remember makes up for what the gateway had learnt before an exchange.
func (p *player) remember(t *testing.T, x *exchange) {
	t.Helper()
	p.register(x)
	if x.status() == http.StatusConflict {
		p.registerSame(t, x)
	}
	if strings.HasPrefix(x.Name, "fault.ws_down") && number(x.Side["worlds_breaker_state"]) == 1 {
		for range 3 {
			p.s.get("/worlds")
		}
	}
	p.warmUp(t, x)
}

// register makes the strategy that a path names.
func (p *player) register(x *exchange) {
	id := uuids.FindString(x.Request.Path)
	if id == "" || p.ids[id] != "" || x.status() == http.StatusNotFound || fault.MatchString(x.Name) {
		return
	}
	p.ids[id] = p.s.accepted(body(oneNode(x.Name), "w1")).StrategyID
}

// registerSame submits what was a duplicate for the first time.
func (p *player) registerSame(t *testing.T, x *exchange) {
	t.Helper()
	id := strategyOf(text(x.Response.Body))
	if id == "" || p.ids[id] != "" {
		return
	}
	if ours := strategyOf(p.s.send(p.request(t, x)).body); ours != "" {
		p.ids[id] = ours
	}
}

func number(raw json.RawMessage) (n float64) {
	_ = json.Unmarshal(raw, &n)
	return n
}

// warmUp lets the gateway ask once where a recorded answer came from memory.
func (p *player) warmUp(t *testing.T, x *exchange) {
	t.Helper()
	where, _, _ := strings.Cut(x.Request.Path, "?")
	if !kept(where) || x.Request.Method != http.MethodGet || x.status() != 200 {
		return
	}
	stale := x.Response.Headers["x-stale"] != ""
	if (stale || etagOf(x) != "" || unasked(x)) && !p.warm[x.Request.Path] {
		p.ws.on(script{method: "GET", path: where, status: 200, body: before(x, stale), header: map[string]string{"ETag": etagOf(x)}})
		p.s.get(x.Request.Path)
	}
	if stale {
		time.Sleep(1100 * time.Millisecond) // recorded decisions that went stale had a second to live
	}
	p.warm[x.Request.Path] = true
}

// kept are the paths whose answers a gateway keeps.
func kept(where string) bool {
	return strings.HasSuffix(where, "/decide") || strings.HasSuffix(where, "/activation")
}

// unasked: the recorded answer came without asking the WorldService.
func unasked(x *exchange) bool {
	var asked []upstream
	return x.Side["upstream_log"] != nil && json.Unmarshal(x.Side["upstream_log"], &asked) == nil && len(asked) == 0
}

func etagOf(x *exchange) string {
	var asked []upstream
	_ = json.Unmarshal(x.Side["upstream_log"], &asked)
	for _, u := range asked {
		if tag := u.Headers["if-none-match"]; tag != "" {
			return tag
		}
	}
	return ""
}

// before is what the WorldService must have said for the recorded answer.
func before(x *exchange, stale bool) string {
	v, err := pyjson.ParseString(text(x.Response.Body))
	if err != nil {
		return text(x.Response.Body)
	}
	v = v.Without("execution_domain").Without("compute_context")
	if stale {
		v = v.With("effective_mode", pyjson.OfString("live"))
		if _, activation := v.Get("active"); activation {
			v = v.Without("etag").With("active", pyjson.OfBool(true)).With("weight", pyjson.OfFloat(1))
		}
	}
	return string(pyjson.Append(nil, v, pyjson.Compact))
}

// tellManager makes the DAG Manager say what the recorded answer shows.
func (p *player) tellManager(x *exchange) {
	v, _ := pyjson.ParseString(text(x.Response.Body))
	sentinel, _ := v.Member("sentinel_id").Str()
	names := queuesIn(v, strings.Contains(x.Request.Path, "world_id="))
	m := p.s.dm
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queues = func(context.Context, *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error) {
		if p.lost {
			return nil, status.Error(codes.Unavailable, "stopped")
		}
		return names, nil
	}
	m.chunks = func(ctx context.Context, req *pb.DiffRequest) ([]*pb.DiffChunk, error) {
		chunks, err := goodChunk(ctx, req)
		switch {
		case p.lost || req.GetStrategyId() == "dryrun" && sentinel == "":
			return nil, status.Error(codes.Unavailable, "stopped")
		case strings.HasPrefix(sentinel, "dryrun:"):
			chunks[0].Crc32 = new(*chunks[0].Crc32 + 1)
		}
		chunks[0].QueueMap = topicsIn(v.Member("queue_map"))
		return chunks, err
	}
}

var namespace = regexp.MustCompile(`^[^.]+\.[^.]+\.`)

// queuesIn gives the queues of an answer as the DAG Manager names them.
func queuesIn(v pyjson.Value, prefixed bool) []*pb.QueueDescriptor {
	lists := []pyjson.Value{v.Member("queues")}
	for _, m := range v.Member("queue_map").Members() {
		lists, prefixed = append(lists, m.Value), true
	}
	var all []*pb.QueueDescriptor
	seen := map[string]bool{}
	for _, list := range lists {
		for _, q := range list.Elems() {
			name, _ := q.Member("queue").Str()
			if prefixed {
				name = namespace.ReplaceAllString(name, "")
			}
			if !seen[name] {
				seen[name] = true
				all = append(all, &pb.QueueDescriptor{Queue: name, Global: q.Member("global").IsTrue()})
			}
		}
	}
	return all
}

// topicsIn gives the queue map of a dry run as a diff reports it.
func topicsIn(v pyjson.Value) map[string]string {
	all := map[string]string{}
	for _, m := range v.Members() {
		for _, q := range m.Value.Elems() {
			name, _ := q.Member("queue").Str()
			all[m.Key+":60:0#ck=blake3:aa"] = namespace.ReplaceAllString(name, "")
		}
	}
	return all
}

// tellWorlds makes the WorldService say what the recorded answer shows.
func (p *player) tellWorlds(t *testing.T, x *exchange) {
	t.Helper()
	if x.Target != "gw-world" || strings.HasPrefix(x.Name, "fault.") {
		return
	}
	where, _, _ := strings.Cut(x.Request.Path, "?")
	switch {
	case strings.HasPrefix(where, "/strategies"):
		p.ws.on(script{method: "POST", status: 200, body: `{}`})
		p.decideFor(x)
	case where == "/rebalancing/execute":
		p.ws.on(script{status: 200, body: planOf(x)})
	default:
		p.ws.on(proxied(x, where))
	}
}

// proxied is the answer behind a recorded one of the proxy.
func proxied(x *exchange, where string) script {
	said := text(x.Response.Body)
	s := script{path: where, method: x.Request.Method, status: x.status(), body: said}
	switch {
	case x.Response.Headers["x-stale"] != "":
		s.status, s.body = 500, ""
	case etagOf(x) != "":
		s.status, s.body = 304, ""
	case strings.Contains(said, "WorldService unavailable"):
		s.hang = true
	case said == problem500:
		s.status, s.body = 200, `{"ok":true}`
	case said == "null" || s.status == http.StatusNoContent:
		s.status, s.body = 204, ""
	case s.status == 200 && kept(where):
		s.body = before(x, false)
	}
	return s
}

// decideFor gives the decision behind a recorded submission.
func (p *player) decideFor(x *exchange) {
	var asked []upstream
	_ = json.Unmarshal(x.Side["upstream_log"], &asked)
	v, _ := pyjson.ParseString(text(x.Response.Body))
	var fields map[string]string
	_ = json.Unmarshal(x.Side["redis_hash"], &fields)
	reason, _ := v.Member("downgrade_reason").Str()
	for _, u := range asked {
		if !strings.HasSuffix(u.Path, "/decide") {
			continue
		}
		s := script{method: "GET", path: u.Path, status: 200}
		switch reason {
		case "decision_unavailable":
			s.status, s.hang = 404, len(asked) > 2
		case "stale_decision":
			s.status = 500
		default:
			s.body = decisionBehind(fields)
		}
		p.ws.on(s)
	}
}

func decisionBehind(fields map[string]string) string {
	mode, known := map[string]string{"live": "live", "dryrun": "paper", "shadow": "shadow"}[fields["compute_execution_domain"]]
	if !known {
		mode = "validate"
	}
	said := pyjson.OfObject(pyjson.Member{Key: "effective_mode", Value: pyjson.OfString(mode)})
	if mode == "paper" {
		said = said.With("as_of", pyjson.OfString(fields["compute_as_of"]))
	}
	if f := fields["compute_dataset_fingerprint"]; f != "" {
		said = said.With("dataset_fingerprint", pyjson.OfString(f))
	}
	return string(pyjson.Append(nil, said, pyjson.Compact))
}

// planOf gives the plan behind recorded orders.
func planOf(x *exchange) string {
	v, _ := pyjson.ParseString(text(x.Response.Body))
	worlds := []pyjson.Member{}
	for _, m := range v.Member("orders_per_world").Members() {
		worlds = append(worlds, pyjson.Member{Key: m.Key, Value: pyjson.OfObject(pyjson.Member{Key: "deltas", Value: deltasBehind(m.Value)})})
	}
	said := pyjson.OfObject(
		pyjson.Member{Key: "schema_version", Value: v.Member("rebalance_schema_version").Or(pyjson.OfInt(1))},
		pyjson.Member{Key: "per_world", Value: pyjson.OfObject(worlds...)},
		pyjson.Member{Key: "global_deltas", Value: deltasBehind(v.Member("orders_global"))})
	overlay := v.Member("overlay_deltas")
	if symbol, ok := v.Member("detail").Member("symbol").Str(); ok {
		overlay = pyjson.OfArray(pyjson.OfObject(
			pyjson.Member{Key: "symbol", Value: pyjson.OfString(symbol)}, pyjson.Member{Key: "delta_qty", Value: pyjson.OfFloat(1)}))
	}
	return string(pyjson.Append(nil, said.With("overlay_deltas", overlay), pyjson.Compact))
}

func deltasBehind(orders pyjson.Value) pyjson.Value {
	var all []pyjson.Value
	for _, o := range orders.Elems() {
		all = append(all, pyjson.OfObject(
			pyjson.Member{Key: "symbol", Value: o.Member("symbol")}, pyjson.Member{Key: "delta_qty", Value: o.Member("quantity")},
			pyjson.Member{Key: "venue", Value: o.Member("venue")}))
	}
	return pyjson.OfArray(all...)
}

// playSocket opens a recorded WebSocket, sends what was sent and compares the
// handshake, the frames and the end.
func (p *player) playSocket(t *testing.T, x *exchange) {
	p.tellManager(x)
	refused := x.status() == http.StatusForbidden
	target, err := url.Parse("ws" + strings.TrimPrefix(p.s.url, "http") + x.Request.Path)
	if err != nil {
		t.Fatal(err)
	}
	query := target.Query()
	if token := query.Get("token"); token != "" {
		query.Set("token", p.who.token(token, hub.Audience, refused))
		target.RawQuery = query.Encode()
	}
	header := http.Header{}
	for name, value := range x.Request.Headers {
		header.Set(name, p.who.bearer(value, hub.Audience, refused))
	}
	ctx, cancel := contextFor(t, 20*time.Second)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, target.String(), &websocket.DialOptions{HTTPHeader: header})
	if resp == nil || resp.StatusCode != x.status() {
		t.Fatalf("handshake %v, %v; recorded %d", resp, err, x.status())
	}
	if err != nil {
		return // refused, as recorded
	}
	defer conn.CloseNow()
	p.converse(ctx, t, x, conn)
}

func (p *player) converse(ctx context.Context, t *testing.T, x *exchange, conn *websocket.Conn) {
	t.Helper()
	var sent, want []json.RawMessage
	_ = json.Unmarshal(x.Request.Body, &sent)
	_ = json.Unmarshal(x.Response.Body, &want)
	for _, one := range sent {
		kind, payload := p.frame(one)
		if err := conn.Write(ctx, kind, payload); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range want {
		_, got, err := conn.Read(ctx)
		if err != nil {
			t.Fatalf("no frame: %v; recorded %s", err, one)
		}
		if g, w := frameShape(t, got), frameShape(t, one); g != w {
			t.Errorf("frame %s\nrecorded %s", g, w)
		}
	}
	var end struct{ Code *int }
	if json.Unmarshal(x.Response.Close, &end) == nil && end.Code != nil {
		if _, _, err := conn.Read(ctx); int(websocket.CloseStatus(err)) != *end.Code {
			t.Errorf("end %v, recorded %d", err, *end.Code)
		}
	}
}

// frame gives a recorded message: text, an object, or bytes.
func (p *player) frame(raw json.RawMessage) (websocket.MessageType, []byte) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return websocket.MessageText, []byte(s)
	}
	var binary struct{ Binary []int }
	if json.Unmarshal(raw, &binary) == nil && binary.Binary != nil {
		b := make([]byte, len(binary.Binary))
		for i, n := range binary.Binary {
			b[i] = byte(n)
		}
		return websocket.MessageBinary, b
	}
	v, err := pyjson.Parse(raw)
	if token, ok := v.Member("token").Str(); err == nil && ok {
		return websocket.MessageText, pyjson.Append(nil, v.With("token", pyjson.OfString(p.who.token(token, hub.Audience, false))), pyjson.Compact)
	}
	return websocket.MessageText, raw
}

// frameShape gives a frame without what is new in each.
func frameShape(t *testing.T, raw []byte) string {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "correlation_id"} {
		if _, there := v.Get(key); there {
			v = v.With(key, pyjson.OfString("<new>"))
		}
	}
	return masked(string(pyjson.Append(nil, v, pyjson.Compact)))
}
