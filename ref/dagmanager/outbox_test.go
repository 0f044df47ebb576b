package dagmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kfake"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// sink takes what an outbox publishes; while err is set it refuses everything.
type sink struct {
	mu   sync.Mutex
	keys []string
	err  error
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) published() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

func (s *sink) publish(_ context.Context, records []contract.Record) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(records))
	for i, r := range records {
		if s.err != nil {
			errs[i] = s.err
			continue
		}
		s.keys = append(s.keys, string(r.Key))
	}
	return errs
}

// inBubble runs check with an outbox in virtual time; the outbox runs between
// check's return and its own end.
func inBubble(t *testing.T, s *sink, check func(o *outbox, m *metrics)) {
	synctest.Test(t, func(t *testing.T) {
		o, m := still(s, outboxCrowded)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { o.run(ctx, time.Second); close(done) }()
		check(o, m)
		cancel()
		<-done
	})
}

func value(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func TestOutboxKeepsOrderOverFailures(t *testing.T) {
	s := &sink{err: errors.New("away")}
	var want []string
	inBubble(t, s, func(o *outbox, m *metrics) {
		for i := range 1200 { // more than two batches
			o.queueUpdated([]string{fmt.Sprint(i)}, 60)
			want = append(want, fmt.Sprint(i))
		}
		time.Sleep(10 * time.Second)
		if len(s.published()) > 0 || o.waiting() != 1200 {
			t.Errorf("%d published, %v waiting", len(s.published()), o.waiting())
		}
		s.fail(nil)
		time.Sleep(5 * time.Second)
		if o.waiting() != 0 || value(m.retried) == 0 {
			t.Errorf("%v waiting, %v tried again", o.waiting(), value(m.retried))
		}
	})
	if d := cmp.Diff(want, s.published()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// still is an outbox that does not run.
func still(s *sink, crowded int) (*outbox, *metrics) {
	log := slog.New(slog.DiscardHandler)
	m := newMetrics(prometheus.NewRegistry(), log)
	o := newOutbox(s.publish, nodestore.NewMemory(), "queue", m, log)
	o.crowded = crowded
	return o, m
}

func TestCrowdedOutboxLeavesRepetitionsOut(t *testing.T) {
	s := &sink{}
	o, m := still(s, 10)
	for i := range 1000 {
		o.queueUpdated([]string{fmt.Sprint(i % 5)}, 60)
		o.weightChanged(contract.SentinelWeight{SentinelID: "s", Weight: float64(i) / 1000})
	}
	if n, lost := o.waiting(), value(m.lost); n != 10 || lost != 0 {
		t.Errorf("%v events wait, %v lost", n, lost)
	}
	o.flush(t.Context())
	for _, key := range []string{"0", "1", "2", "3", "4", "s"} {
		if !slices.Contains(s.keys, key) {
			t.Errorf("nothing of %s in %v", key, s.keys)
		}
	}
}

func TestFullOutboxGivesUpTheOldestAndSaysSo(t *testing.T) {
	s := &sink{}
	o, m := still(s, 2)
	for i := range 25 {
		o.queueUpdated([]string{fmt.Sprint(i)}, 60)
	}
	if lost := value(m.lost); o.waiting() != 20 || lost != 5 {
		t.Errorf("%v waiting, %v lost", o.waiting(), lost)
	}
	o.flush(t.Context())
	if len(s.keys) != 20 || s.keys[0] != "5" {
		t.Errorf("published %v", s.keys)
	}
}

func TestOutboxFlushesAtTheEnd(t *testing.T) {
	s := &sink{}
	inBubble(t, s, func(o *outbox, _ *metrics) { o.queueUpdated([]string{"last"}, 60) })
	if d := cmp.Diff([]string{"last"}, s.published()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// What an update says is true when it leaves, not when it was asked for.
func TestUpdateSaysWhatIsTrueWhenItLeaves(t *testing.T) {
	store := nodestore.NewMemory()
	var sent []contract.Record
	o := newOutbox(func(_ context.Context, r []contract.Record) []error {
		sent = append(sent, r...)
		return make([]error, len(r))
	},
		store, "queue", newMetrics(prometheus.NewRegistry(), slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	o.queueUpdated([]string{"x"}, 60)
	interval := int64(60)
	if err := store.Put(t.Context(), diff.Node{ID: "late", HasQueue: true, Topic: "late_topic", Interval: &interval, Tags: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	o.flush(t.Context())
	if len(sent) != 1 || !strings.Contains(string(sent[0].Value), "late_topic") {
		t.Errorf("sent %s", sent)
	}
}

// The ControlBus comes back after a while: everything that happened is told, in
// order, and no diff waited for it.
func TestControlBusThatComesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, port := l.Addr().String(), l.Addr().(*net.TCPAddr).Port
	l.Close()
	p := run(t, "--controlbus", addr)
	for i := range 5 {
		p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, fmt.Sprint("r", i))})
	}
	kafka(t, kfake.Ports(port), kfake.SeedTopics(1, "queue", "sentinel_weight"))
	var keys []string
	for _, e := range events(t, addr, 5) {
		keys = append(keys, e.key)
	}
	if d := cmp.Diff([]string{"btc,tr0", "btc,tr1", "btc,tr2", "btc,tr3", "btc,tr4"}, keys); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The ControlBus goes while the service runs and comes back empty: what each
// kind of event says meanwhile is told then, though nothing waited for it.
func TestEveryKindOfEventOutlivesAnOutage(t *testing.T) {
	port := freePort(t)
	bus, busAddr := kafka(t, kfake.Ports(port), kfake.SeedTopics(1, "queue", "sentinel_weight"))
	cluster, addr := kafka(t)
	orphan := map[string]string{"qmtl.tag": "raw", "qmtl.interval": "60", "qmtl.created_at": fmt.Sprint(time.Now().AddDate(-1, 0, 0).Unix())}
	if err := cluster.CreateTopic("a_N_old_v1", 1, orphan); err != nil {
		t.Fatal(err)
	}
	p := run(t, "--kafka", addr, "--replication", "1", "--controlbus", busAddr, "--gc-drop", "always", "--gc-interval", "0")
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "before")})
	events(t, busAddr, 1)
	bus.Close()
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", DagJson: chain(1, "while")})
	p.mustAsk(&pb.DiffRequest{StrategyId: "s", ExecutionDomain: "live",
		DagJson: `{"nodes":[{"node_type":"VersionSentinel","node_id":"q","version":"9","weight":0.25}]}`})
	if done := p.trigger(""); len(done.Processed) != 1 {
		t.Errorf("collected %+v", done)
	}
	eventually(t, func() error { return p.lacks("dagmanager_events_waiting 4") })
	kafka(t, kfake.Ports(port), kfake.SeedTopics(1, "queue", "sentinel_weight"))
	var said []string
	for _, e := range events(t, busAddr, 4) {
		said = append(said, strings.TrimSpace(e.Type+" "+e.key))
	}
	slices.Sort(said) // two topics, so the order is that of each
	want := []string{"queue_lifecycle a_N_old_v1", "queue_updated btc,twhile", "queue_updated raw", "sentinel_weight_updated s-sentinel"}
	if d := cmp.Diff(want, said); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	p.shows("dagmanager_events_lost_total 0")
}

// quiet is a stream that nobody listens to.
type quiet struct {
	grpc.ServerStream
	ctx context.Context
}

func (q quiet) Context() context.Context       { return q.ctx }
func (q quiet) SetHeader(md metadata.MD) error { return nil }

func TestPanicHarmsOnlyItsCall(t *testing.T) {
	m := newMetrics(prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	_, err := m.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/x"}, func(context.Context, any) (any, error) { panic("bug") })
	if status.Code(err) != codes.Internal || value(m.panics) != 1 {
		t.Errorf("error %v, %v panics", err, value(m.panics))
	}
	if err := m.stream(nil, quiet{ctx: t.Context()}, &grpc.StreamServerInfo{}, func(any, grpc.ServerStream) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestLabelsFromClientsAreBounded(t *testing.T) {
	var s seen
	for i := range 2000 {
		s.limit(fmt.Sprint(i))
	}
	if len(s.set) != mostLabels || s.limit("new") != overflowLabel || s.limit("1") != "1" || s.limit("\xff") != overflowLabel {
		t.Errorf("%d labels", len(s.set))
	}
}
