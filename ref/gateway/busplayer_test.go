package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// busTopics are those of the recorded ControlBus, in the order of the contract.
const busTopics = "activation,policy,queue,sentinel_weight,rebalancing_planned"

const ackTopic = "control.activation.ack"

// busStep is one step of a recorded exchange over Kafka: a record, or a pause.
type busStep struct {
	Topic   string
	Key     json.RawMessage
	Value   json.RawMessage
	Headers [][2]json.RawMessage
	Sleep   float64 `json:"sleep_s"`
}

// busSeen is what a gateway made of the records: frames on /ws, frames on
// /ws/evt, acknowledgements, and how its counters grew. Texts are without what
// is new in each run.
type busSeen struct {
	All, Evt, Acks []string
	Metrics        map[string]float64
}

// busRecording is the answer of a recorded exchange over Kafka.
type busRecording struct {
	Frames []struct{ Frame json.RawMessage } `json:"ws_frames"`
	Evt    []struct{ Frame json.RawMessage } `json:"evt_frames"`
	Acks   []struct {
		Key     json.RawMessage
		Value   json.RawMessage
		Headers json.RawMessage
	} `json:"ack_records"`
	Metrics map[string]float64 `json:"metric_deltas"`
}

// counted are the families of metrics that a recording is held to.
var counted = []string{
	"event_relay_events_total", "event_relay_dropped_total", "event_fanout_total", "controlbus_apply_ack_total",
	"rebalance_plans_observed_total", "rebalance_plan_last_delta_count", "gateway_sentinel_traffic_ratio",
}

// playBus sends recorded records to the bus of a whole gateway and compares
// what comes out of it: on both kinds of WebSocket, on the topic of
// acknowledgements and in the metrics.
func (p *player) playBus(t *testing.T, x *exchange) {
	want, world := wantBus(t, x)
	p.hearBus(t)
	all, evt := p.listen(t, "/ws", ""), p.listen(t, "/ws/evt", world)
	defer p.hangUp(t, all, evt)
	p.s.eventually("both clients are heard of", func() bool { return p.s.metric(`ws_subscribers{topic="activation"}`) == "2" })
	before, acked := p.s.counters(), len(p.acks(t))
	p.sendBus(t, x)
	got := func() busSeen {
		return busSeen{all.seen(), evt.seen(), p.acks(t)[acked:], grown(before, p.s.counters())}
	}
	deadline := time.Now().Add(6 * time.Second) // a gap is given up after three
	for !enough(got(), want) && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // for what should not come
	p.judgeBus(t, x, got(), want)
}

func enough(got, want busSeen) bool {
	return len(got.All) >= len(want.All) && len(got.Evt) >= len(want.Evt) && len(got.Acks) >= len(want.Acks) &&
		fmt.Sprint(got.Metrics) == fmt.Sprint(want.Metrics)
}

// wantBus gives the recorded answer, and the world of the recorded client.
func wantBus(t *testing.T, x *exchange) (busSeen, string) {
	t.Helper()
	var r busRecording
	if err := json.Unmarshal(x.Answer, &r); err != nil {
		t.Fatal(err)
	}
	want, world := busSeen{Metrics: map[string]float64{}}, "w1"
	for _, f := range r.Frames {
		want.All = append(want.All, busFrame(t, f.Frame))
	}
	for _, f := range r.Evt {
		want.Evt = append(want.Evt, busFrame(t, f.Frame))
		v, _ := pyjson.Parse(f.Frame)
		if w, ok := v.Member("data").Member("world_id").Str(); ok {
			world = w
		}
	}
	for _, a := range r.Acks {
		want.Acks = append(want.Acks, ackShape(t, rawBytes(a.Key), a.Value))
	}
	for series, by := range r.Metrics {
		if family, _, _ := strings.Cut(series, "{"); slices.Contains(counted, family) {
			want.Metrics[series] = by
		}
	}
	return want, world
}

// busFrame is a frame without what is new in each; numbers of frames count all
// that a process sent.
func busFrame(t *testing.T, raw []byte) string {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := v.Get("seq_no"); there {
		v = v.With("seq_no", pyjson.OfString("<n>"))
	}
	return frameShape(t, pyjson.Append(nil, v, pyjson.Compact))
}

func ackShape(t *testing.T, key, value []byte) string {
	t.Helper()
	return string(key) + " " + frameShape(t, value)
}

// rawBytes gives a recorded key, value or header: text, bytes as numbers or in
// base64, or nothing.
func rawBytes(raw json.RawMessage) []byte {
	var s string
	if json.Unmarshal(raw, &s) == nil && len(raw) > 0 && raw[0] == '"' {
		return []byte(s)
	}
	var numbers []int
	if json.Unmarshal(raw, &numbers) == nil && numbers != nil {
		b := make([]byte, len(numbers))
		for i, n := range numbers {
			b[i] = byte(n)
		}
		return b
	}
	var packed struct{ Base64 *string }
	if json.Unmarshal(raw, &packed) == nil && packed.Base64 != nil {
		b, _ := base64.StdEncoding.DecodeString(*packed.Base64)
		return b
	}
	return nil
}

// sendBus does the recorded steps.
func (p *player) sendBus(t *testing.T, x *exchange) {
	t.Helper()
	var steps []busStep
	if err := json.Unmarshal(x.Request.Body, &steps); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if step.Topic == "" {
			time.Sleep(time.Duration(step.Sleep * float64(time.Second)))
			continue
		}
		r := &kgo.Record{Topic: step.Topic, Key: rawBytes(step.Key), Value: rawBytes(step.Value)}
		for _, h := range step.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: string(rawBytes(h[0])), Value: rawBytes(h[1])})
		}
		p.produce(t, r)
	}
}

func (p *player) produce(t *testing.T, r *kgo.Record) {
	t.Helper()
	if err := p.bus.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// hearBus waits, once, until the gateway follows the bus.
func (p *player) hearBus(t *testing.T) {
	t.Helper()
	if p.bus != nil {
		return
	}
	var err error
	if p.bus, err = kgo.NewClient(kgo.SeedBrokers(p.s.kafka.ListenAddrs()...), kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	p.owner.Cleanup(p.bus.Close)
	probe := p.listen(t, "/ws", "")
	defer p.hangUp(t, probe)
	for n := 0; len(probe.seen()) == 0; n++ {
		if n == 200 {
			t.Fatal("the gateway does not follow its bus")
		}
		p.produce(t, &kgo.Record{Topic: "policy", Key: []byte("probe"), Value: fmt.Appendf(nil, `{"version":1,"world_id":"probe","checksum":"%d"}`, n)})
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // for the frames of the other probes
}

// acks are all the acknowledgements so far.
func (p *player) acks(t *testing.T) (all []string) {
	t.Helper()
	if p.acked == nil {
		cl, err := kgo.NewClient(kgo.SeedBrokers(p.s.kafka.ListenAddrs()...), kgo.ConsumeTopics(ackTopic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		p.owner.Cleanup(cl.Close)
		p.acked = cl
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	p.acked.PollFetches(ctx).EachRecord(func(r *kgo.Record) { p.ackTexts = append(p.ackTexts, ackShape(t, r.Key, r.Value)) })
	return slices.Clone(p.ackTexts)
}

// counters are the series that a recording is held to.
func (s *stand) counters() map[string]float64 {
	s.t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(s.get("/metrics").body) {
		at := strings.LastIndexByte(line, ' ')
		family, _, _ := strings.Cut(line, "{")
		if n, err := strconv.ParseFloat(strings.TrimSpace(line[max(at, 0):]), 64); err == nil && slices.Contains(counted, family) {
			all[line[:at]] = n
		}
	}
	return all
}

// grown is by how much which series grew.
func grown(before, after map[string]float64) map[string]float64 {
	by := map[string]float64{}
	for series, n := range after {
		if n != before[series] {
			by[series] = n - before[series]
		}
	}
	return by
}

// listener is a client that keeps its frames.
type listener struct {
	conn *websocket.Conn
	done chan struct{}

	mu     sync.Mutex
	frames []string // guarded by mu
}

func (l *listener) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.frames)
}

// listen opens a WebSocket, with a token for a world unless that is empty.
func (p *player) listen(t *testing.T, path, world string) *listener {
	t.Helper()
	header := http.Header{}
	if world != "" {
		header.Set("Authorization", "Bearer "+p.who.trusted.sign(t, jwt.MapClaims{
			"aud": hub.Audience, "world_id": world, "strategy_id": "s", "topics": []string{"activation", "policy", "queue"}, "exp": time.Now().Add(time.Hour).Unix(),
		}))
	}
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(p.s.url, "http")+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for {
			_, b, err := conn.Read(context.Background()) // ended by hangUp
			if err != nil {
				return
			}
			l.mu.Lock()
			l.frames = append(l.frames, busFrame(t, b))
			l.mu.Unlock()
		}
	}()
	return l
}

// hangUp ends clients and waits until the gateway has noticed.
func (p *player) hangUp(t *testing.T, all ...*listener) {
	t.Helper()
	for _, l := range all {
		_ = l.conn.CloseNow() // gone already is as good
		<-l.done
	}
	p.s.eventually("nobody listens", func() bool { return cmp.Or(p.s.metric(`ws_subscribers{topic="activation"}`), "0") == "0" })
}

// busDifference is a recorded outcome on the bus that the reference betters.
type busDifference struct {
	what  string
	point string // of design section 9
	is    func(x *exchange) bool
	want  func(want busSeen) busSeen // the better outcome, from the recorded one
}

// judgeBus holds an outcome to the recorded one, or to the better one on the
// list.
func (p *player) judgeBus(t *testing.T, x *exchange, got, want busSeen) {
	t.Helper()
	for _, d := range busDifferences {
		if !d.is(x) {
			continue
		}
		p.used[d.what] = true
		if len(got.mismatches(want)) == 0 {
			t.Errorf("no longer differs: take it off the list (%s, design 9.%s)", d.what, d.point)
		}
		want = d.want(want)
		break
	}
	for _, w := range got.mismatches(want) {
		t.Error(w)
	}
}

func (s busSeen) mismatches(want busSeen) (all []string) {
	for _, one := range []struct {
		what      string
		got, want []string
	}{{"frames of /ws", s.All, want.All}, {"frames of /ws/evt", s.Evt, want.Evt}, {"acknowledgements", s.Acks, want.Acks}} {
		if !slices.Equal(one.got, one.want) {
			all = append(all, fmt.Sprintf("%s\n  %s\nrecorded\n  %s", one.what, strings.Join(one.got, "\n  "), strings.Join(one.want, "\n  ")))
		}
	}
	if fmt.Sprint(s.Metrics) != fmt.Sprint(want.Metrics) {
		all = append(all, fmt.Sprintf("metrics grew by %v\nrecorded %v", s.Metrics, want.Metrics))
	}
	return all
}
