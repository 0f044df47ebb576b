package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

type bench struct {
	*testing.T
	hub *hub.Hub
	reg *prometheus.Registry
	url string
}

// start serves a hub at /ws and, by query, filtered at /filtered.
func start(t *testing.T, cfg hub.Config) *bench {
	t.Helper()
	b := &bench{T: t, reg: prometheus.NewRegistry()}
	cfg.Metrics = b.reg
	h, err := hub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", h)
	mux.HandleFunc("/filtered", func(w http.ResponseWriter, r *http.Request) {
		f := hub.Filter{Topics: map[string]bool{}}
		for _, topic := range r.URL.Query()["topic"] {
			f.Topics[topic] = true
		}
		if world := r.URL.Query().Get("world"); world != "" {
			f.World = &world
		}
		h.Serve(w, r, f)
	})
	server := httptest.NewServer(mux)
	b.hub, b.url = h, server.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		server.Close()
	})
	return b
}

// dial connects and waits until the hub counts one client more.
func (b *bench) dial(path string) *websocket.Conn {
	b.Helper()
	before := b.subscribers()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, b.url+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(-1)
	b.eventually(func() bool { return b.subscribers() > before || strings.Contains(path, "filtered") })
	return conn
}

func (b *bench) subscribers() float64 { return b.metric("ws_subscribers", "deprecation") }

// metric gives the value of a family, for one topic unless topic is "".
func (b *bench) metric(family, topic string) float64 {
	all, err := b.reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != family {
			continue
		}
		for _, m := range f.GetMetric() {
			if topic == "" || m.GetLabel()[0].GetValue() == topic {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (b *bench) eventually(ok func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("it never happened")
		}
	}
}

// read gives the next frame.
func (b *bench) read(conn *websocket.Conn) pyjson.Value {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, text, err := conn.Read(ctx)
	if err != nil || kind != websocket.MessageText {
		b.Fatalf("read: %v %v", kind, err)
	}
	v, err := pyjson.Parse(text)
	if err != nil {
		b.Fatalf("%v in %s", err, text)
	}
	return v
}

func event(n int64, members ...pyjson.Member) contract.Event {
	data := append([]pyjson.Member{{Key: "n", Value: pyjson.OfInt(n)}}, members...)
	return contract.Event{Source: contract.GatewaySource, Type: "test", Data: pyjson.OfObject(data...)}
}

func ofWorld(n int64, world string) contract.Event {
	return event(n, pyjson.Member{Key: "world_id", Value: pyjson.OfString(world)})
}

func number(v pyjson.Value) int64 {
	n, _ := v.Member("data").Member("n").Int64()
	return n
}

func TestAFrameIsACloudEventWithItsNumberLast(t *testing.T) {
	b := start(t, hub.Config{})
	conn := b.dial("/ws")
	b.hub.Publish("queue", event(7))
	got := b.read(conn)
	var keys []string
	for _, m := range got.Members() {
		keys = append(keys, m.Key)
	}
	if want := "specversion id source type time datacontenttype data correlation_id seq_no"; strings.Join(keys, " ") != want {
		t.Errorf("members %v, want %s", keys, want)
	}
	for key, want := range map[string]string{"specversion": "1.0", "source": "qmtl.services.gateway", "type": "test", "datacontenttype": "application/json", "seq_no": "1"} {
		if got.Member(key).Text() != want {
			t.Errorf("%s is %s, want %s", key, got.Member(key).Text(), want)
		}
	}
	for _, key := range []string{"id", "correlation_id"} {
		if _, err := uuid.Parse(got.Member(key).Text()); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, got.Member("time").Text()); err != nil {
		t.Errorf("time: %v", err)
	}
}

func TestFramesComeInOrderWithRisingNumbers(t *testing.T) {
	b := start(t, hub.Config{})
	conns := []*websocket.Conn{b.dial("/ws"), b.dial("/ws"), b.dial("/ws")}
	const n = 2_000
	go func() {
		for i := range int64(n) {
			b.hub.Publish("queue", event(i))
		}
	}()
	for _, conn := range conns {
		for i := range int64(n) {
			got := b.read(conn)
			if seq, _ := got.Member("seq_no").Int64(); seq != i+1 || number(got) != i {
				t.Fatalf("frame %d has number %d and data %d", i, seq, number(got))
			}
		}
	}
	if got := b.metric("event_fanout_total", "queue"); got != 3*n {
		t.Errorf("fan-out %v, want %d", got, 3*n)
	}
}

func TestTopicsAndWorldsAreFiltered(t *testing.T) {
	b := start(t, hub.Config{})
	queueA, all, none := b.dial("/filtered?topic=queue&world=a"), b.dial("/ws"), b.dial("/filtered?topic=deprecation")
	b.eventually(func() bool {
		return b.metric("ws_subscribers", "queue") == 2 && b.metric("ws_subscribers", "deprecation") == 2
	})
	b.hub.Publish("queue", ofWorld(1, "b"))
	b.hub.Publish("policy", ofWorld(2, "a"))
	b.hub.Publish("queue", ofWorld(3, "a"))
	b.hub.Publish("queue", event(4))
	b.hub.Publish("queue", event(5, pyjson.Member{Key: "world_id", Value: pyjson.OfInt(9)})) // no text, no world
	b.hub.Publish("", event(6))
	for conn, want := range map[*websocket.Conn]string{queueA: "[3 4 5 6]", all: "[1 2 3 4 5 6]", none: "[6]"} {
		var got []int64
		for len(got) == 0 || got[len(got)-1] != 6 {
			got = append(got, number(b.read(conn)))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

func TestASlowReaderLosesItsOldestFramesAndHoldsUpNobody(t *testing.T) {
	b := start(t, hub.Config{QueueFrames: 50, QueueBytes: 8 << 20})
	slow, quick := b.dial("/ws"), b.dial("/ws")
	pad := pyjson.Member{Key: "pad", Value: pyjson.OfString(strings.Repeat("x", 64<<10))}
	const n = 600 // 40 MiB: more than sockets and queue hold
	var last int64
	for i := range int64(n) {
		b.hub.Publish("queue", event(i, pad))
		if last = number(b.read(quick)); last != i {
			t.Fatalf("the quick reader got %d, want %d", last, i)
		}
	}
	dropped := b.metric("event_relay_dropped_total", "queue")
	if dropped == 0 {
		t.Fatal("nothing was dropped: the slow reader was not slow")
	}
	seen, prev := 0.0, int64(-1)
	for prev != n-1 {
		got := number(b.read(slow))
		if got <= prev {
			t.Fatalf("%d came after %d", got, prev)
		}
		prev = got
		seen++
	}
	if seen+dropped != n {
		t.Errorf("%v seen and %v dropped of %d", seen, dropped, n)
	}
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	b := start(t, hub.Config{QueueBytes: 1 << 20})
	slow := b.dial("/ws")
	pad := pyjson.Member{Key: "pad", Value: pyjson.OfString(strings.Repeat("x", 256<<10))}
	for i := range int64(200) {
		b.hub.Publish("queue", event(i, pad))
	}
	if b.metric("event_relay_dropped_total", "queue") < 100 {
		t.Error("far more than the bound waits")
	}
	b.hub.Publish("queue", event(999))
	for number(b.read(slow)) != 999 {
	}
}

func TestAnEventOfAKnownIDIsDropped(t *testing.T) {
	b := start(t, hub.Config{})
	conn := b.dial("/ws")
	for i, id := range []string{"a", "b", "a", "", ""} {
		b.hub.PublishAs("queue", event(int64(i)), contract.Stamp{ID: id, Time: time.Now()})
	}
	var got []int64
	for range 4 {
		got = append(got, number(b.read(conn)))
	}
	if fmt.Sprint(got) != "[0 1 3 4]" || b.metric("event_relay_dropped_total", "queue") != 1 {
		t.Errorf("got %v, dropped %v", got, b.metric("event_relay_dropped_total", "queue"))
	}
	for i := range 10_000 {
		b.hub.PublishAs("", event(0), contract.Stamp{ID: fmt.Sprint("id", i)})
	}
	b.hub.PublishAs("last", event(99), contract.Stamp{ID: "a"}) // forgotten by now
	for number(b.read(conn)) != 99 {
	}
}

func TestWhatClientsSendIsIgnored(t *testing.T) {
	b := start(t, hub.Config{})
	conn := b.dial("/ws")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, text := range []string{`{"type":"ack"}`, "noise", strings.Repeat("x", 1<<20)} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Write(ctx, websocket.MessageBinary, []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	b.hub.Publish("", event(1))
	if number(b.read(conn)) != 1 {
		t.Error("another frame came first")
	}
}

func TestClientsThatGoAreForgotten(t *testing.T) {
	b := start(t, hub.Config{})
	stays, goes := b.dial("/ws"), b.dial("/ws")
	_ = goes.CloseNow() // no farewell
	b.eventually(func() bool { return b.subscribers() == 1 })
	b.hub.Publish("queue", event(1))
	if number(b.read(stays)) != 1 || b.metric("ws_dropped_subscribers_total", "") != 1 {
		t.Errorf("left %v", b.metric("ws_dropped_subscribers_total", ""))
	}
}

func TestAClientThatAnswersNoPingIsEnded(t *testing.T) {
	b := start(t, hub.Config{PingEvery: 50 * time.Millisecond})
	b.dial("/filtered") // nobody reads, so nobody answers
	b.eventually(func() bool { return b.metric("ws_dropped_subscribers_total", "") == 1 })
}

func TestCloseSendsWhatWaitsAndSaysGoodbye(t *testing.T) {
	b := start(t, hub.Config{})
	conn := b.dial("/ws")
	for i := range int64(100) {
		b.hub.Publish("queue", event(i))
	}
	closed := make(chan error, 1)
	go func() { closed <- b.hub.Close(context.Background()) }()
	for i := range int64(100) {
		if got := number(b.read(conn)); got != i {
			t.Fatalf("got %d, want %d", got, i)
		}
	}
	if _, _, err := conn.Read(context.Background()); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("close status %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	_, resp, err := websocket.Dial(context.Background(), b.url+"/ws", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a closed hub took a client: %v", err)
	}
}

func TestCloseDoesNotWaitForAClientThatDoesNotRead(t *testing.T) {
	b := start(t, hub.Config{})
	b.dial("/ws")
	pad := pyjson.Member{Key: "pad", Value: pyjson.OfString(strings.Repeat("x", 1<<20))}
	for i := range int64(12) {
		b.hub.Publish("queue", event(i, pad))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := b.hub.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
}

func TestAFullHubRefuses(t *testing.T) {
	b := start(t, hub.Config{Clients: 1})
	b.dial("/ws")
	_, resp, err := websocket.Dial(context.Background(), b.url+"/ws", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a second client came in: %v", err)
	}
	plain, err := http.Get(b.url + "/filtered")
	if err != nil {
		t.Fatal(err)
	}
	_ = plain.Body.Close()
	if plain.StatusCode < 400 {
		t.Errorf("a request without upgrade got %s", plain.Status)
	}
}

func TestFamiliesAreSharedWithWhoeverRegisteredThem(t *testing.T) {
	reg := prometheus.NewRegistry()
	for range 2 {
		if _, err := hub.New(hub.Config{Metrics: reg}); err != nil {
			t.Fatal(err)
		}
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "event_fanout_total", Help: "another"}))
	if _, err := hub.New(hub.Config{Metrics: other}); err == nil {
		t.Error("a family of another shape was taken")
	}
}

func TestAClientGetsOnlySoManyFramesASecond(t *testing.T) {
	const rate, sent = 5, 50
	b := start(t, hub.Config{RatePerSec: rate})
	conn := b.dial("/ws")
	for i := range sent {
		b.hub.Publish("policy", event(int64(i)))
	}
	if got := b.metric("event_fanout_total", "policy"); got != sent {
		t.Errorf("%v counted as handed on, want %d: the limit comes after it", got, sent)
	}
	limited := b.metric("ws_rate_limited_frames_total", "")
	if limited < sent-2*rate || limited > sent-rate {
		t.Errorf("%v left out of %d at %d a second", limited, sent, rate)
	}
	for range sent - int(limited) {
		if _, _, err := conn.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Ping(conn.CloseRead(t.Context())); err != nil {
		t.Errorf("the connection is gone: %v", err)
	}
}
