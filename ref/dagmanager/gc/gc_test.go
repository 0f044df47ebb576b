package gc_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// yard is a broker in memory, a graph and a clock.
type yard struct {
	t      *testing.T
	broker *topics.Memory
	graph  *nodestore.Memory
	now    time.Time
	opts   gc.Options
	*gc.Collector
}

func newYard(t *testing.T, o gc.Options) *yard {
	y := &yard{t: t, broker: topics.NewMemory(), graph: nodestore.NewMemory(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	o.Now = func() time.Time { return y.now }
	y.opts = o
	y.Collector = gc.New(topics.NewSession(y.broker, topics.Options{}), y.graph, o)
	return y
}

// put adds a topic that is so many days old.
func (y *yard) put(name string, days int, config map[string]string) {
	y.broker.Put(name, topics.Shape{Config: config, CreatedAt: y.now.AddDate(0, 0, -days)})
}

func (y *yard) run() *gc.Report {
	y.t.Helper()
	r, err := y.Run(y.t.Context(), false)
	if err != nil {
		y.t.Fatal(err)
	}
	return r
}

func retention(d int) map[string]string {
	return map[string]string{"retention.ms": fmt.Sprint((time.Duration(d) * 24 * time.Hour).Milliseconds())}
}

// said is a report in short: one line an item.
func said(r *gc.Report) []string {
	out := []string{}
	for _, i := range r.Items {
		line := i.Queue + " " + i.Tag + " " + i.Action + " " + i.Reason
		if i.ArchiveStatus != nil {
			line += " " + *i.ArchiveStatus
		}
		out = append(out, line)
	}
	return out
}

func (y *yard) same(what string, got, want any) {
	y.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		y.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// shelf is an archive that keeps keys, and refuses one topic.
type shelf struct {
	refuse string
	keys   []string
}

func (s *shelf) Archive(_ context.Context, topic, key string) error {
	if topic == s.refuse {
		return errors.New("the shelf is full")
	}
	s.keys = append(s.keys, key)
	return nil
}

func TestPoliciesByTag(t *testing.T) {
	y := newYard(t, gc.Options{})
	y.put("a_raw", 7, retention(7))
	y.put("b_raw", 8, retention(7))
	y.put("c_indicator", 32, retention(30))
	y.put("d_indicator", 33, retention(30))
	y.put("e_trade", 33, retention(90)) // 90 days are an indicator's
	y.put("f_Sentinel", 209, nil)
	y.put("g_Sentinel", 210, nil)
	y.put("h_odd", 900, map[string]string{"qmtl.tag": "odd"})
	y.put("i_said", 8, map[string]string{"retention.ms": "1", "queue_tag": "indicator", "qmtl.interval": " 60 "})
	r := y.run()
	y.same("items", said(r), []string{
		"b_raw raw drop eligible", "d_indicator indicator drop eligible", "e_trade indicator drop eligible",
		"g_Sentinel sentinel archive eligible missing_client",
		"a_raw raw skip within_grace", "c_indicator indicator skip within_grace", "f_Sentinel sentinel skip within_grace",
		"h_odd odd skip unknown_policy", "i_said indicator skip within_grace",
	})
	y.same("processed", r.Processed, []string{"b_raw", "d_indicator", "e_trade", "g_Sentinel"})
	y.same("counts", []any{r.Observed, r.Candidates, r.Actions, r.ByTag},
		[]any{9, 4, gc.Actions{Drop: 3, Archive: 1, Skip: 5}, map[string]int{"raw": 2, "indicator": 4, "sentinel": 2, "odd": 1}})
	if i := r.Items[8].Interval; i == nil || *i != 60 {
		t.Errorf("interval %v, want 60", i)
	}
	y.same("what is left", y.broker.Names(), []string{"a_raw", "c_indicator", "f_Sentinel", "h_odd", "i_said"})
}

func TestAgeIsReadFromTheConfiguration(t *testing.T) {
	y := newYard(t, gc.Options{})
	made := y.now.AddDate(0, 0, -8)
	for name, text := range map[string]string{
		"seconds": fmt.Sprint(made.Unix()), "millis": fmt.Sprint(made.UnixMilli()),
		"iso": made.Format(time.RFC3339), "naive": made.Format("2006-01-02T15:04:05"),
	} {
		y.put(name, 0, map[string]string{"qmtl.tag": "raw", "qmtl.created_at": text})
	}
	y.put("nonsense", 0, map[string]string{"qmtl.tag": "raw", "created_at": "yesterday"})
	y.same("processed", y.run().Processed, []string{"iso", "millis", "naive", "seconds"})
}

func TestBatches(t *testing.T) {
	load := 0.0
	y := newYard(t, gc.Options{Load: func(context.Context) float64 { return load }})
	for i := range 120 {
		y.put(fmt.Sprintf("t%03d", i), 400, retention(7))
	}
	first := y.run()
	y.same("a whole batch", []int{first.Observed, first.Candidates, len(first.Items)}, []int{120, 120, 50})
	load = 80
	second := y.run()
	y.same("half a batch", []any{second.Observed, len(second.Items), second.Processed[0]}, []any{70, 25, "t050"})
	load = 79.9
	y.same("the rest", len(y.run().Items), 45)
	y.same("nothing", y.run(), &gc.Report{Processed: []string{}, Skipped: []gc.Item{}, Items: []gc.Item{}, ByTag: map[string]int{}})
}

func TestArchiveBeforeDrop(t *testing.T) {
	s := &shelf{refuse: "b"}
	y := newYard(t, gc.Options{Archive: s})
	y.put("a", 300, retention(180))
	y.put("b", 300, retention(180))
	y.same("items", said(y.run()), []string{"a sentinel archive eligible archived", "b sentinel skip archive_failed failed"})
	y.same("keys", s.keys, []string{"a-20260102T030405"})
	y.same("what is left", y.broker.Names(), []string{"b"})
	s.refuse = ""
	y.same("again", said(y.run()), []string{"b sentinel archive eligible archived"})
}

func TestDryRunAndKeepChangeNothing(t *testing.T) {
	y := newYard(t, gc.Options{})
	y.put("a", 300, retention(180))
	r, err := y.Run(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	y.same("dry", said(r), []string{"a sentinel archive eligible missing_client"})
	y.same("what is left", y.broker.Names(), []string{"a"})
	kept := newYard(t, gc.Options{Keep: "graph_in_memory"})
	kept.put("a", 300, nil)
	r = kept.run()
	kept.same("kept", append(said(r), fmt.Sprint(r.Candidates)), []string{"a indicator skip graph_in_memory", "1"})
	kept.same("what is left", kept.broker.Names(), []string{"a"})
}

// claim is a diff's claim of a topic of that name, or of the next.
func claim(node, topic string) diff.Claim {
	return diff.Claim{Node: diff.Node{ID: node, CodeHash: "c"}, ComputeKey: "k", Choose: func(owned func(string) bool) (string, error) {
		if owned(topic) {
			return topic + "-next", nil
		}
		return topic, nil
	}}
}

func TestADiffThatCameFirstKeepsItsTopic(t *testing.T) {
	y := newYard(t, gc.Options{})
	y.put("t", 300, retention(7))
	got, err := y.graph.Claim(t.Context(), []diff.Claim{claim("n", "t")})
	if err != nil {
		t.Fatal(err)
	}
	y.same("claimed", said(y.run()), []string{})
	if _, err := y.graph.Confirm(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	y.same("confirmed", said(y.run()), []string{})
	y.same("what is left", y.broker.Names(), []string{"t"})
}

func TestADiffThatComesLaterGetsAnotherName(t *testing.T) {
	y := newYard(t, gc.Options{})
	y.put("t", 300, retention(7))
	y.same("dropped", said(y.run()), []string{"t raw drop eligible"})
	topicOf := func(node string) string {
		got, err := y.graph.Claim(t.Context(), []diff.Claim{claim(node, "t")})
		if err != nil {
			t.Fatal(err)
		}
		return got[0].Binding.Topic
	}
	y.same("while it is held", topicOf("a"), "t-next")
	y.now = y.now.Add(time.Minute)
	y.run()
	y.same("afterwards", topicOf("b"), "t")
	nodes, queues := y.graph.Size()
	y.same("nothing of the collector stays", []int{nodes, queues}, []int{0, 0})
}

func TestAbandonedClaimsAreGivenUp(t *testing.T) {
	y := newYard(t, gc.Options{})
	got, err := y.graph.Claim(t.Context(), []diff.Claim{claim("n", "t")})
	if err != nil {
		t.Fatal(err)
	}
	y.run()
	y.now = y.now.Add(119 * time.Second)
	y.run()
	if open, _ := y.graph.OpenClaims(t.Context(), 9); len(open) != 1 {
		t.Fatalf("%d open claims, want the one that is still young", len(open))
	}
	y.now = y.now.Add(time.Second)
	y.run()
	if open, _ := y.graph.OpenClaims(t.Context(), 9); len(open) != 0 {
		t.Errorf("%d open claims", len(open))
	}
	if _, err := y.graph.Confirm(t.Context(), got); !errors.Is(err, diff.ErrGone) {
		t.Errorf("the diff is told %v", err)
	}
}

// On Kafka nothing tells a topic's age.
func TestOrphansOnKafka(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "gateway.ingest", "foreign_a_b_c"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	kafka, end, err := topics.AdminSession{Brokers: cluster.ListenAddrs()[0]}.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	session := topics.NewSession(kafka, topics.Options{Replication: 1})
	err = session.Ensure(t.Context(), []diff.Topic{
		{Name: "x_RawNode_11111111_v1", Kind: diff.Raw}, {Name: "x_RawNode_22222222_v1", Kind: diff.Raw}, {Name: "x_RawNode_33333333_v1", Kind: diff.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	y := newYard(t, gc.Options{})
	y.Collector = gc.New(session, y.graph, y.opts)
	claims, err := y.graph.Claim(t.Context(), []diff.Claim{claim("n", "x_RawNode_33333333_v1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := y.graph.Confirm(t.Context(), claims); err != nil {
		t.Fatal(err)
	}
	write(t, cluster.ListenAddrs()[0], "x_RawNode_22222222_v1")
	fresh := []string{"x_RawNode_11111111_v1 raw skip within_grace", "x_RawNode_22222222_v1 raw skip within_grace"}
	y.same("at first", said(y.run()), fresh)
	y.now = y.now.Add(24*time.Hour - time.Second)
	y.same("within grace", said(y.run()), fresh)
	y.now = y.now.Add(time.Second)
	y.same("after it", said(y.run()), []string{"x_RawNode_11111111_v1 raw drop eligible", fresh[1]})
	for p := range int32(3) {
		if cluster.PartitionInfo("x_RawNode_22222222_v1", p).HighWatermark > 0 {
			if err := cluster.DeleteRecords("x_RawNode_22222222_v1", p, 1); err != nil { // as retention does
				t.Fatal(err)
			}
		}
	}
	y.run()
	y.now = y.now.Add(24 * time.Hour)
	y.same("what lost its records", said(y.run()), []string{"x_RawNode_22222222_v1 raw drop eligible"})
	for name, there := range map[string]bool{"foreign_a_b_c": true, "gateway.ingest": true,
		"x_RawNode_11111111_v1": false, "x_RawNode_22222222_v1": false, "x_RawNode_33333333_v1": true} {
		y.same(name+" is there", cluster.TopicInfo(name) != nil, there)
	}
}

func write(t *testing.T, addr, topic string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Diffs and a collector without any patience at the same topics: whatever a diff
// confirmed exists.
func TestCollectorAgainstDiffs(t *testing.T) {
	y := newYard(t, gc.Options{})
	for j := range 40 { // left behind by an earlier life of the nodes
		y.broker.Put(fmt.Sprintf("asset_N_n%d_v1", j), topics.Shape{Partitions: 1, CreatedAt: y.now})
	}
	session := topics.NewSession(y.broker, topics.Options{})
	if err := session.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	collector := gc.New(session, y.graph, gc.Options{
		Policies: gc.Policies{gc.Indicator: {}, gc.Raw: {}, gc.Sentinel: {}}, ClaimGrace: time.Nanosecond})
	ctx, stop := context.WithCancel(t.Context())
	var collecting, diffs sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			if _, err := collector.Run(context.WithoutCancel(ctx), false); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 8 {
		diffs.Go(func() {
			for j := range 40 {
				dag := fmt.Sprintf(`{"nodes":[{"node_id":"n%d","node_type":"N","code_hash":"c%d","schema_hash":"s"}]}`, j, i%3)
				_, err := diff.Run(ctx, diff.ExecutionContext{StrategyID: "s", DAG: dag, Now: time.Now()}, y.graph, session)
				if err != nil && !errors.Is(err, diff.ErrGone) { // gave up, which a client may repeat
					t.Error(err)
				}
			}
		})
	}
	diffs.Wait()
	stop()
	collecting.Wait()
	y.everyQueueHasItsTopic()
}

func (y *yard) everyQueueHasItsTopic() {
	y.t.Helper()
	there := map[string]bool{}
	for _, name := range y.broker.Names() {
		there[name] = true
	}
	queues := 0
	for j := range 40 {
		nodes, err := y.graph.Lookup(y.t.Context(), []string{fmt.Sprint("n", j)})
		if err != nil {
			y.t.Fatal(err)
		}
		if nodes[0] == nil {
			continue
		}
		for _, b := range nodes[0].Bindings {
			queues++
			if b.Ready && !there[b.Topic] {
				y.t.Errorf("queue %s has no topic", b.Topic)
			}
		}
	}
	if queues == 0 {
		y.t.Error("no diff came through: the test proves nothing")
	}
}
