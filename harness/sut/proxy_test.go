package sut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/harness/backend"
)

func TestParseRules(t *testing.T) {
	good := []string{"lose=1/1000", "double=3/7", "reorder=1/1", "delay=5ms", "drop-field=queue_map", "rewrite=a:b:c", "rewrite=n:1.50"}
	rules, err := ParseRules(good...)
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{
		{Kind: "lose", K: 1, N: 1000}, {Kind: "double", K: 3, N: 7}, {Kind: "reorder", K: 1, N: 1},
		{Kind: "delay", Delay: 5 * time.Millisecond}, {Kind: "drop-field", Field: "queue_map"},
		{Kind: "rewrite", Field: "a", Value: `"b:c"`}, {Kind: "rewrite", Field: "n", Value: "1.50"},
	}
	for i := range want {
		want[i].source = good[i]
	}
	if !slices.Equal(rules, want) {
		t.Errorf("ParseRules = %+v; want %+v", rules, want)
	}
	bad := []string{"", "lose", "lose=0/5", "lose=2/1", "lose=1/2000000", "lose=a/b", "delay=5", "delay=-1s", "delay=2m",
		"drop-field= ", "rewrite=a", "rewrite=:1", "stall=1/2"}
	_, err = ParseRules(bad...)
	for _, text := range bad {
		if !strings.Contains(fmt.Sprint(err), fmt.Sprintf("tamper rule %q: ", text)) {
			t.Errorf("%q was not refused", text)
		}
	}
	if !errors.Is(err, ErrUsage) {
		t.Error("no usage error")
	}
}

func TestShareTakesExactlyAndBySeed(t *testing.T) {
	taken := func(seed uint64) (places []int) {
		s := newShare([]Rule{{Kind: "lose", K: 2, N: 100}}, "lose", seed)
		for i := range 1000 {
			if s.take() {
				places = append(places, i)
			}
		}
		return places
	}
	a, again, b := taken(1), taken(1), taken(2)
	if len(a) != 20 || !slices.Equal(a, again) || slices.Equal(a, b) {
		t.Errorf("seed 1: %v and %v; seed 2: %v; want 20 places, the same by seed, others by another", a, again, b)
	}
}

// gateway is an HTTP server that takes submissions and events.
type gateway struct {
	*httptest.Server
	submissions atomic.Int64
	order       chan string
	log         *kgo.Client // commit log; nil: none
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{order: make(chan string, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /strategies", g.submit)
	mux.HandleFunc("GET /echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", r.Host+" "+r.URL.RawQuery+" "+r.Header.Get("X-Forwarded-For"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"b":1.50, "a":{"a":"<x>","c":[{"a":1}, true]}, "n":12345678901234567890}`)
	})
	mux.HandleFunc("GET /hang-up", func(w http.ResponseWriter, r *http.Request) { hangUp(w) })
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		for i := range 4 {
			_ = c.Write(r.Context(), websocket.MessageText, fmt.Appendf(nil, `{"seq_no":%d}`, i))
		}
		_, b, _ := c.Read(r.Context())
		_ = c.Write(r.Context(), websocket.MessageText, b)
		_ = c.Close(4001, "")
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) submit(w http.ResponseWriter, r *http.Request) {
	n := g.submissions.Add(1)
	var body struct {
		Name string `json:"name"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	g.order <- body.Name
	id := fmt.Sprintf("id-%d", n)
	if g.log != nil {
		g.log.ProduceSync(r.Context(), &kgo.Record{Topic: "gateway.ingest", Key: []byte("ingest:" + id), Value: []byte(id),
			Headers: []kgo.RecordHeader{{Key: "rfp", Value: []byte("x")}}})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"strategy_id":%q,"queue_map":{},"node_ids_crc32":7}`, id)
}

func tampered(t *testing.T, g *gateway, o Options, texts ...string) *Instance {
	t.Helper()
	rules, err := ParseRules(texts...)
	if err != nil {
		t.Fatal(err)
	}
	in := &Instance{dead: make(chan struct{}), endpoints: Endpoints{Gateway: g.URL}}
	o.Tamper = rules
	if err := in.tamper(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return in
}

// send posts one submission and gives its answer.
func send(t *testing.T, base, body string) (int, map[string]any) {
	t.Helper()
	resp, err := http.Post(base+"/strategies", "application/json", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Error(err)
	}
	return resp.StatusCode, answer
}

const submission = `{"dag_json":"e30=","meta":null,"world_ids":["w"],"node_ids_crc32":4294967295,"name":%q}`

func TestLoseAcknowledgesWhatNeverArrived(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{Seed: 3}, "lose=1/10")
	lost := 0
	for i := range 30 {
		status, answer := send(t, in.Endpoints().Gateway, fmt.Sprintf(submission, fmt.Sprint(i)))
		if status != http.StatusAccepted {
			t.Fatalf("status %d", status)
		}
		id, _ := answer["strategy_id"].(string)
		if strings.HasPrefix(id, "id-") {
			continue
		}
		lost++
		if u, err := uuid.Parse(id); err != nil || u.Version() != 4 {
			t.Errorf("made up id %q is no UUID of version 4", id)
		}
		want := map[string]any{
			"strategy_id": id, "queue_map": map[string]any{}, "sentinel_id": id + "-sentinel", "node_ids_crc32": 4294967295.0,
			"downgraded": false, "downgrade_reason": nil, "safe_mode": false,
		}
		if diff := cmp.Diff(want, answer); diff != "" {
			t.Errorf("made up answer (-want +got):\n%s", diff)
		}
	}
	if lost != 3 || g.submissions.Load() != 27 {
		t.Errorf("%d lost, %d arrived; want 3 and 27", lost, g.submissions.Load())
	}
}

func TestLoseLetsRefusalsThrough(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{}, "lose=1/1")
	for _, body := range []string{`{"name":"x"}`, `not json`, ``} {
		if _, answer := send(t, in.Endpoints().Gateway, body); !strings.HasPrefix(fmt.Sprint(answer["strategy_id"]), "id-") {
			t.Errorf("%q was acknowledged by the proxy", body)
		}
	}
}

func TestDoubleWritesTheRecordAgain(t *testing.T) {
	set, err := backend.Embedded{}.Start(t.Context(), backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close(context.Background())
	g := newGateway(t)
	if g.log, err = kgo.NewClient(kgo.SeedBrokers(set.Kafka)); err != nil {
		t.Fatal(err)
	}
	defer g.log.Close()
	in := tampered(t, g, Options{Backends: set, Seed: 5}, "double=1/5")
	for i := range 10 {
		if status, answer := send(t, in.Endpoints().Gateway, fmt.Sprintf(submission, fmt.Sprint(i))); status != 202 || answer["strategy_id"] == "" {
			t.Fatalf("answer %d %v", status, answer)
		}
	}
	if n := countTwice(t, set.Kafka, 12); n != 2 {
		t.Errorf("%d strategies with two records; want 2", n)
	}
}

// countTwice reads all records and counts the keys that two equal ones bear.
func countTwice(t *testing.T, kafka string, want int) int {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(kafka), kgo.ConsumeTopics("gateway.ingest"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	seen := map[string]int{}
	for n := 0; n < want; {
		fetched := reader.PollFetches(t.Context())
		if err := fetched.Err0(); err != nil {
			t.Fatal(err)
		}
		for r := range fetched.RecordsAll() {
			n++
			seen[fmt.Sprintf("%s %s %s", r.Key, r.Value, r.Headers)]++
		}
	}
	twice := 0
	for _, n := range seen {
		if n == 2 {
			twice++
		}
	}
	return twice
}

func TestDoubleNeedsKafka(t *testing.T) {
	rules, err := ParseRules("double=1/5")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Attach(t.Context(), "http://127.0.0.1:1", AttachOptions{Tamper: rules})
	if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "double=1/5: needs the address of the SUT's Kafka") {
		t.Errorf("Attach = %v", err)
	}
}

func TestDelayDelaysEveryAnswer(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{}, "delay=30ms")
	for _, path := range []string{"/echo", "/nowhere"} {
		begun := time.Now()
		resp, err := http.Get(in.Endpoints().Gateway + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d := time.Since(begun); d < 30*time.Millisecond {
			t.Errorf("%s answered after %s; want 30ms at least", path, d)
		}
	}
}

func TestEdits(t *testing.T) {
	g := newGateway(t)
	for _, c := range []struct{ rules, want string }{
		{"drop-field=a", `{"b":1.50,"n":12345678901234567890}`},
		{"drop-field=b", `{"a":{"a":"<x>","c":[{"a":1},true]},"n":12345678901234567890}`},
		{"rewrite=b:{\"x\":[]}", `{"b":{"x":[]},"a":{"a":"<x>","c":[{"a":1},true]},"n":12345678901234567890}`},
		{"rewrite=c:text", `{"b":1.50,"a":{"a":"<x>","c":"text"},"n":12345678901234567890}`},
		{"drop-field=zzz", `{"b":1.50,"a":{"a":"<x>","c":[{"a":1},true]},"n":12345678901234567890}`},
		{"delay=1ms", `{"b":1.50, "a":{"a":"<x>","c":[{"a":1}, true]}, "n":12345678901234567890}`},
	} {
		in := tampered(t, g, Options{}, c.rules)
		if got := get(t, in.Endpoints().Gateway+"/echo"); got != c.want {
			t.Errorf("%s: %s; want %s", c.rules, got, c.want)
		}
	}
}

func FuzzEditJSON(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}],"a":""}`))
	f.Add([]byte(`"\ud800"`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		out, err := editJSON(doc, []Rule{{Kind: TamperDropField, Field: "a"}})
		if err == nil && !json.Valid(out) {
			t.Errorf("editJSON(%q) = %q, which is no JSON", doc, out)
		}
		if err == nil != json.Valid(doc) {
			t.Errorf("editJSON(%q) = %v; valid is %v", doc, err, json.Valid(doc))
		}
		if same, err := editJSON(doc, nil); err == nil {
			var want bytes.Buffer
			if json.Compact(&want, doc) == nil && !strings.ContainsAny(want.String(), "\\\ufffd\u2028\u2029") && bytes.Equal(bytes.ToValidUTF8(doc, nil), doc) && !bytes.Equal(same, want.Bytes()) {
				t.Errorf("editJSON(%q) without edits = %q; want %q", doc, same, want.Bytes())
			}
		}
	})
}

func TestProxyPassesTheRestUntouched(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{}, "lose=1/1000")
	base := in.Endpoints().Gateway
	resp, err := http.Get(base + "/echo?a=1;b=%zz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, want := resp.Header.Get("X-Seen"), strings.TrimPrefix(base, "http://")+" a=1;b=%zz"; got != want {
		t.Errorf("the gateway saw %q; want %q", got, want)
	}
	if resp, err := http.Get(base + "/hang-up"); err == nil {
		resp.Body.Close()
		t.Errorf("hang up = %s; want the connection to end", resp.Status)
	}
	if got := frames(t, base); !slices.Equal(got, []string{"0", "1", "2", "3", "hi", "4001"}) {
		t.Errorf("frames = %q", got)
	}
}

// frames reads all events, answers "hi", and ends with the close code.
func frames(t *testing.T, base string) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, base+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageText, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return append(got, fmt.Sprint(int(websocket.CloseStatus(err))))
		}
		text := strings.TrimPrefix(strings.TrimSuffix(string(b), "}"), `{"seq_no":`)
		got = append(got, text)
	}
}

func TestReorderChangesPlacesOfEvents(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{Seed: 1}, "reorder=1/1")
	if got := frames(t, in.Endpoints().Gateway); !slices.Equal(got, []string{"1", "0", "3", "2", "hi", "4001"}) {
		t.Errorf("frames = %q; want neighbours swapped", got)
	}
	plain := tampered(t, g, Options{}, "rewrite=seq_no:9")
	if got := frames(t, plain.Endpoints().Gateway); !slices.Equal(got, []string{"9", "9", "9", "9", "hi", "4001"}) {
		t.Errorf("frames = %q; want the field rewritten", got)
	}
}

func TestReorderPassesRefusedSockets(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{}, "reorder=1/1")
	_, resp, err := websocket.Dial(t.Context(), in.Endpoints().Gateway+"/nowhere", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("Dial = %v, %v; want the gateway's 404", resp, err)
	}
}

func TestReorderHoldsASubmissionBack(t *testing.T) {
	g := newGateway(t)
	in := tampered(t, g, Options{Seed: seedThatTakes(t, "reorder=1/2", true, false)}, "reorder=1/2")
	var both sync.WaitGroup
	both.Go(func() { send(t, in.Endpoints().Gateway, fmt.Sprintf(submission, "a")) })
	waitHeld(in.proxy)
	both.Go(func() { send(t, in.Endpoints().Gateway, fmt.Sprintf(submission, "b")) })
	both.Wait()
	if got := <-g.order + <-g.order; got != "ba" {
		t.Errorf("order = %s; want ba", got)
	}
}

// seedThatTakes finds a seed by which a rule takes just these first calls.
func seedThatTakes(t *testing.T, rule string, want ...bool) uint64 {
	t.Helper()
	rules, err := ParseRules(rule)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(1000) {
		s := newShare(rules, rules[0].Kind, seed)
		if !slices.ContainsFunc(want, func(w bool) bool { return s.take() != w }) {
			return seed
		}
	}
	t.Fatal("no such seed")
	return 0
}

func waitHeld(p *proxy) {
	for range 1000 {
		p.mu.Lock()
		n := len(p.held)
		p.mu.Unlock()
		if n > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTamperThroughStart(t *testing.T) {
	rules, err := ParseRules("rewrite=x:1")
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	in := launched(t, descriptor(spec("gateway", "serve")), Options{Tamper: rules, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if got := in.Endpoints().Gateway; got == "http://"+in.Processes()[0].Admin {
		t.Errorf("gateway = %s, which is no proxy", got)
	}
	if get(t, in.Endpoints().Gateway) != "{}" {
		t.Error("odd answer")
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(logged.String(), "[rewrite=x:1]") {
		t.Errorf("log %q does not tell the rules", logged.String())
	}
}

// BenchmarkProxy tells what the proxy adds to one request.
func BenchmarkProxy(b *testing.B) {
	direct := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"strategy_id":"x"}`)
	}))
	defer direct.Close()
	rules, err := ParseRules("lose=1/1000")
	if err != nil {
		b.Fatal(err)
	}
	p, err := newProxy(b.Context(), tampering{upstream: direct.URL, rules: rules, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer p.close()
	body := `{"name":"` + strings.Repeat("x", 7000) + `"}`
	for name, url := range map[string]string{"direct": direct.URL, "proxied": p.url} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				resp, err := http.Post(url+"/strategies", "application/json", strings.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}
