package controlbus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/gateway/controlbus"
	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var busTopics = []string{"activation", "policy", "queue", "sentinel_weight", "rebalancing_planned"}

// A bus is a Kafka, a consumer on it, a hub and a client of the hub.
type bus struct {
	*testing.T
	cfg    controlbus.Config
	reg    *prometheus.Registry
	kafka  *kgo.Client
	url    string
	hub    *hub.Hub
	client *websocket.Conn
	stop   func()
}

func cluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newBus(t *testing.T, addrs []string) *bus {
	t.Helper()
	b := &bus{T: t, reg: prometheus.NewRegistry()}
	b.cfg = controlbus.Config{Brokers: addrs, Topics: busTopics, Metrics: b.reg, Since: time.Now().Add(-time.Second)}
	var err error
	if b.kafka, err = kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.AllowAutoTopicCreation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kafka.Close)
	if b.hub, err = hub.New(hub.Config{Metrics: b.reg}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b.hub)
	t.Cleanup(server.Close)
	t.Cleanup(func() { _ = b.hub.Close(context.Background()) })
	b.url = server.URL
	b.connect()
	return b
}

func (b *bus) connect() {
	conn, _, err := websocket.Dial(b.Context(), b.url+"/ws", nil)
	if err != nil {
		b.Fatal(err)
	}
	conn.SetReadLimit(-1)
	b.Cleanup(func() { _ = conn.CloseNow() })
	b.client = conn
	b.until("a client is counted", func() bool { return b.metric("ws_subscribers", "queue") > 0 })
}

// run starts a consumer; stop ends it and waits.
func (b *bus) run() {
	b.Helper()
	c, err := controlbus.New(b.cfg, b.hub)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			b.Errorf("run: %v", err)
		}
	})
	b.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	b.Cleanup(b.stop)
}

func (b *bus) until(what string, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func (b *bus) metric(family, label string) float64 {
	all, err := b.reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != family {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (b *bus) produce(topic, key, value string, headers ...kgo.RecordHeader) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value), Headers: headers}
	if err := b.kafka.ProduceSync(ctx, r).FirstErr(); err != nil {
		b.Fatal(err)
	}
}

func (b *bus) read() pyjson.Value {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, text, err := b.client.Read(ctx)
	if err != nil {
		b.Fatal(err)
	}
	v, err := pyjson.Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// frame reads one frame as its type and its data.
func (b *bus) frame() string {
	b.Helper()
	f := b.read()
	return f.Member("type").Text() + " " + string(pyjson.Append(nil, f.Member("data"), pyjson.Compact))
}

func (b *bus) wantFrames(want ...string) {
	b.Helper()
	for _, w := range want {
		if got := b.frame(); got != w {
			b.Fatalf("frame\n got %s\nwant %s", got, w)
		}
	}
}

// records reads n records of a topic from its start.
func (b *bus) records(topic string, n int) []*kgo.Record {
	b.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), kgo.ConsumeTopics(topic), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []*kgo.Record
	for len(got) < n && ctx.Err() == nil {
		got = append(got, cl.PollFetches(ctx).Records()...)
	}
	if len(got) != n {
		b.Fatalf("%d records in %s, want %d", len(got), topic, n)
	}
	return got
}

func (b *bus) committed(topic string) int64 {
	b.Helper()
	offsets, err := kadm.NewClient(b.kafka).FetchOffsets(context.Background(), "gateway")
	if err != nil {
		b.Fatal(err)
	}
	o, ok := offsets.Lookup(topic, 0)
	if !ok {
		return -1
	}
	return o.At
}

func activation(seq int) string {
	return fmt.Sprintf(`{"version":1,"world_id":"w","run_id":"r","etag":"e%d","ts":"2026-01-01T00:00:00Z","effective_mode":"live","requires_ack":true,"sequence":%d,"phase":"freeze"}`, seq, seq)
}

// sequences reads n activation frames and gives their numbers.
func (b *bus) sequences(n int) (got []int64) {
	b.Helper()
	for range n {
		s, _ := b.read().Member("data").Member("sequence").Int64()
		got = append(got, s)
	}
	return got
}

func TestWhatTheDAGManagerWritesReachesWebSocketClients(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.run()
	update := contract.QueueUpdate{Tags: []string{"price", "btc"}, Interval: 60, Queues: []contract.QueueRef{{Queue: "btc_price"}}}
	at := contract.Stamp{ID: "id", Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}
	for revision := range uint64(2) {
		update.Revision = revision
		r := update.Record(at)
		b.produce(r.Topic, string(r.Key), string(r.Value))
	}
	weight := contract.SentinelWeight{SentinelID: "s", Weight: 0.25}.Record(at)
	b.wantFrames(
		`queue_update {"tags":["price","btc"],"interval":60,"queues":[{"queue":"btc_price","global":false}],"match_mode":"any","etag":"q:btc.price:60:1","ts":"2026-01-02T03:04:05.000006Z","version":1}`,
		`tagquery.upsert {"tags":["price","btc"],"interval":60,"queues":[{"queue":"btc_price","global":false}],"version":1}`,
		`queue_update {"tags":["price","btc"],"interval":60,"queues":[{"queue":"btc_price","global":false}],"match_mode":"any","etag":"q:btc.price:60:1:1","ts":"2026-01-02T03:04:05.000006Z","version":1}`)
	b.produce(weight.Topic, string(weight.Key), string(weight.Value))
	b.wantFrames(`sentinel_weight {"sentinel_id":"s","weight":0.25,"version":1}`)
	if b.metric("gateway_sentinel_traffic_ratio", "s") != 0.25 || b.metric("event_relay_events_total", "queue") != 2 {
		t.Error("metrics do not tell what was relayed")
	}
	b.until("the offset is committed", func() bool { return b.committed("queue") == 2 })
}

func TestATopicThatAppearsLaterLosesNothing(t *testing.T) {
	b := newBus(t, cluster(t).ListenAddrs())
	b.run()
	time.Sleep(500 * time.Millisecond) // the consumer has looked and found nothing
	for i := range 3 {
		b.produce("policy", "w", fmt.Sprintf(`{"version":1,"policy_version":%d}`, i))
	}
	for i := range 3 {
		b.wantFrames(fmt.Sprintf(`policy_updated {"version":1,"policy_version":%d}`, i))
	}
}

func TestARecordThatCannotBeUsedIsKeptAndPassedOver(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.run()
	b.produce("policy", "w", `{"version":1,"policy_version":1}`)
	b.produce("policy", "w", "{broken", kgo.RecordHeader{Key: "h", Value: []byte("v")})
	b.produce("policy", "\xff", `{"version":1,"policy_version":2}`)
	b.produce("sentinel_weight", "s", `{"sentinel_id":"s","weight":"0.5","version":1}`)
	b.produce("queue", "k", `{"version":1,"tags":null,"etag":"1"}`)
	b.produce("policy", "w", `{"version":1,"policy_version":3}`)
	got := []string{b.frame(), b.frame(), b.frame()}
	slices.Sort(got)
	want := []string{`policy_updated {"version":1,"policy_version":1}`, `policy_updated {"version":1,"policy_version":3}`,
		`queue_update {"tags":null,"interval":0,"queues":[],"match_mode":"any","etag":"1","version":1}`}
	if !slices.Equal(got, want) {
		t.Errorf("frames\n got %q\nwant %q", got, want)
	}
	letters := b.records("policy.dlq", 2)
	checkLetter(t, letters[0], "w", "{broken", map[string]string{"h": "v", "dlq_topic": "policy", "dlq_partition": "0", "dlq_offset": "1", "dlq_error": "json: offset 1: expected a member name in double quotes"})
	checkLetter(t, letters[1], "\xff", `{"version":1,"policy_version":2}`, map[string]string{"dlq_topic": "policy", "dlq_partition": "0", "dlq_offset": "2", "dlq_error": "key is not UTF-8"})
	if says := string(b.records("sentinel_weight.dlq", 1)[0].Headers[3].Value); !strings.Contains(says, "weight is a JSON string, want a number") {
		t.Errorf("the dead letter says %q", says)
	}
	b.records("queue.dlq", 1)
	if b.metric("controlbus_dead_letters_total", "policy") != 2 {
		t.Error("not every dead letter is counted")
	}
	b.until("the offset is past them", func() bool { return b.committed("policy") == 4 })
}

func checkLetter(t *testing.T, l *kgo.Record, key, value string, headers map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, h := range l.Headers {
		got[h.Key] = string(h.Value)
	}
	if string(l.Key) != key || string(l.Value) != value || !maps.Equal(got, headers) {
		t.Errorf("dead letter with key %q, value %q, headers %v", l.Key, l.Value, got)
	}
}

func TestActivationsAreAcknowledgedInOrder(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.cfg.Gap = 300 * time.Millisecond
	b.run()
	for _, seq := range []int{10, 12, 11, 15, 9} { // 13 and 14 never come
		b.produce("activation", "w", activation(seq))
	}
	if got := b.sequences(4); !slices.Equal(got, []int64{10, 11, 12, 15}) {
		t.Errorf("frames %v", got)
	}
	for i, r := range b.records("control.activation.ack", 4) {
		checkAck(t, r, []int{10, 11, 12, 15}[i])
	}
	if got := b.metric("event_relay_dropped_total", "activation"); got != 2 { // one gap, one late
		t.Errorf("%v dropped, want 2", got)
	}
	b.until("the offset is committed", func() bool { return b.committed("activation") == 5 })
}

func checkAck(t *testing.T, r *kgo.Record, seq int) {
	t.Helper()
	v, err := pyjson.Parse(r.Value)
	if err != nil {
		t.Fatal(err)
	}
	data := string(pyjson.Append(nil, v.Member("data"), pyjson.Compact))
	for _, want := range []string{
		fmt.Sprintf(`"type":"ActivationAck","version":1,"world_id":"w","run_id":"r","sequence":%d,"phase":"freeze","etag":"e%d","ts":`, seq, seq),
		fmt.Sprintf(`"idempotency_key":"activation_ack:w:r:%d:freeze:1"`, seq),
	} {
		if !strings.Contains(data, want) {
			t.Errorf("ack %d is %s, want %s in it", seq, data, want)
		}
	}
	if string(r.Key) != "w" || v.Member("type").Text() != "activation_ack" || v.Member("correlation_id").Text() != "activation:w:r" {
		t.Errorf("ack %d: key %q, %s", seq, r.Key, r.Value)
	}
}

func TestARestartGoesOnWhereEffectsEnded(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.cfg.Gap = time.Hour
	b.run()
	b.produce("activation", "w", activation(1))
	b.produce("activation", "w", activation(3)) // waits for 2
	b.produce("policy", "w", `{"version":1,"policy_version":1}`)
	got := []string{b.read().Member("type").Text(), b.read().Member("type").Text()}
	if slices.Sort(got); !slices.Equal(got, []string{"activation_updated", "policy_updated"}) {
		t.Fatalf("got %v", got)
	}
	b.until("what had its effect is committed", func() bool { return b.committed("activation") == 1 && b.committed("policy") == 1 })
	b.stop()
	b.produce("policy", "w", `{"version":1,"policy_version":2}`)
	b.cfg.Since = time.Now()
	b.run()
	got = []string{b.frame(), b.frame()}
	slices.Sort(got)
	if !strings.Contains(got[0], `"sequence":3`) || got[1] != `policy_updated {"version":1,"policy_version":2}` {
		t.Errorf("after the restart %q", got)
	}
	b.until("all is committed", func() bool { return b.committed("activation") == 2 && b.committed("policy") == 2 })
}

func TestABurstArrivesOnceAndInOrder(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.run()
	const n = 5_000
	var batch []*kgo.Record
	for i := range n {
		batch = append(batch, &kgo.Record{Topic: "policy", Key: []byte(strconv.Itoa(i % 7)), Value: fmt.Appendf(nil, `{"version":1,"checksum":%d}`, i)})
	}
	if err := b.kafka.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(n) {
		f := b.read()
		seq, _ := f.Member("seq_no").Int64()
		if got, _ := f.Member("data").Member("checksum").Int64(); got != i || seq != i+1 {
			t.Fatalf("frame %d is number %d with %d", i, seq, got)
		}
	}
	b.until("all is committed", func() bool { return b.committed("policy") == n })
}

func TestABrokerThatComesBackIsReadAgain(t *testing.T) {
	disk := kfake.DataDir(t.TempDir())
	first := cluster(t, kfake.SeedTopics(1, busTopics...), disk)
	addrs := first.ListenAddrs()
	b := newBus(t, addrs)
	b.run()
	b.produce("policy", "w", `{"version":1,"policy_version":1}`)
	b.wantFrames(`policy_updated {"version":1,"policy_version":1}`)
	first.Close()
	time.Sleep(200 * time.Millisecond)
	_, port, err := net.SplitHostPort(addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	cluster(t, kfake.Ports(n), disk)
	fresh, err := kgo.NewClient(kgo.SeedBrokers(addrs...)) // the old one holds on to a producer id
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := fresh.ProduceSync(ctx, &kgo.Record{Topic: "policy", Key: []byte("w"), Value: []byte(`{"version":1,"policy_version":2}`)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.wantFrames(`policy_updated {"version":1,"policy_version":2}`)
}

// An outage is a way to a broker that can be cut.
type outage struct {
	control *kfake.Cluster
	down    atomic.Bool
}

func (o *outage) begin() { o.down.Store(true) }
func (o *outage) end()   { o.down.Store(false) }

// newOutage makes every request fail while it is down, as those to a broker
// that was stopped do: the connection ends without an answer.
func newOutage(c *kfake.Cluster) *outage {
	o := &outage{control: c}
	c.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if o.down.Load() {
			return nil, errors.New("stopped"), true
		}
		return nil, nil, false
	})
	return o
}

func TestABrokerThatIsAwayLosesAndRepeatsNothing(t *testing.T) {
	kafka := cluster(t, kfake.SeedTopics(1, busTopics...))
	away := newOutage(kafka)
	b := newBus(t, kafka.ListenAddrs())
	b.run()
	const n = 2_000
	batch := func(from int) {
		var records []*kgo.Record
		for i := from; i < from+n; i++ {
			records = append(records, &kgo.Record{Topic: "policy", Key: []byte(strconv.Itoa(i % 7)), Value: fmt.Appendf(nil, `{"version":1,"checksum":%d}`, i)})
		}
		if err := b.kafka.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	batch(0)
	b.read() // the consumer is in the middle of it
	away.begin()
	time.Sleep(5 * time.Second)
	away.end()
	batch(n)
	for i := int64(1); i < 2*n; i++ {
		if got, _ := b.read().Member("data").Member("checksum").Int64(); got != i {
			t.Fatalf("frame %d has %d", i, got)
		}
	}
	b.until("all is committed", func() bool { return b.committed("policy") == 2*n })
}

func TestPoisonIsCountedKeptAndPassedOver(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.run()
	const n = 2_000
	poisons := [][]byte{[]byte("{"), []byte("[1]"), {0xff}, nil}
	var batch []*kgo.Record
	for i := range n {
		if i%100 == 99 {
			batch = append(batch, &kgo.Record{Topic: "policy", Key: []byte("bad"), Value: poisons[i/100%len(poisons)]})
		}
		batch = append(batch, &kgo.Record{Topic: "policy", Key: []byte("good"), Value: fmt.Appendf(nil, `{"version":1,"checksum":%d}`, i)})
	}
	if err := b.kafka.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(n) {
		if got, _ := b.read().Member("data").Member("checksum").Int64(); got != i {
			t.Fatalf("frame %d has %d", i, got)
		}
	}
	if got := len(b.records("policy.dlq", n/100)); got != n/100 {
		t.Errorf("%d dead letters", got)
	}
	for _, family := range []string{"gateway_controlbus_unparsed_total", "controlbus_dead_letters_total"} {
		if got := b.metric(family, "policy"); got != n/100 {
			t.Errorf("%s is %v, want %d", family, got, n/100)
		}
	}
}

func TestAFloodOfBadRecordsWithoutADeadLetterTopicDoesNotStopTheBus(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, busTopics...)) // creates no topic by itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := newBus(t, c.ListenAddrs())
	b.run()
	for range 50 {
		b.produce("policy", "w", "{broken")
	}
	b.produce("policy", "w", `{"version":1,"policy_version":1}`)
	b.wantFrames(`policy_updated {"version":1,"policy_version":1}`)
	if got := b.metric("controlbus_dead_letters_lost_total", "policy"); got != 50 {
		t.Errorf("%v records are told as lost, want 50", got)
	}
}

func TestLabelsThatAreNoUnicodeStopNothing(t *testing.T) {
	b := newBus(t, cluster(t, kfake.SeedTopics(1, busTopics...)).ListenAddrs())
	b.run()
	b.produce("activation", "w", `{"version":1,"world_id":"\ud800","run_id":"\udfff","requires_ack":true,"sequence":1}`)
	b.read()
	b.produce("sentinel_weight", "w", `{"version":1,"sentinel_id":"\ud800","weight":1}`)
	b.read()
}

func TestMissingSettingsAreNamed(t *testing.T) {
	for want, cfg := range map[string]controlbus.Config{
		"brokers": {}, "topics": {Brokers: []string{"x:1"}}, "metrics": {Brokers: []string{"x:1"}, Topics: busTopics},
	} {
		if _, err := controlbus.New(cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %s", err, want)
		}
	}
}
