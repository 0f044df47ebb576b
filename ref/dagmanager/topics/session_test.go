package topics_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand is a Kafka on loopback and a session with it.
type stand struct {
	*kfake.Cluster
	*topics.Session
	admin *kadm.Client
}

func newStand(t *testing.T, o topics.Options, opts ...kfake.Opt) *stand {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	if o.Replication == 0 {
		o.Replication = 1
	}
	return &stand{cluster, session(t, cluster.ListenAddrs(), o), kadm.NewClient(client(t, cluster.ListenAddrs(), time.Second))}
}

func client(t *testing.T, addrs []string, timeout time.Duration) *kgo.Client {
	t.Helper()
	how := topics.AdminSession{Brokers: strings.Join(addrs, ","), Timeout: timeout, Retries: 4}
	opts, err := how.Options()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, how.Patience()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func session(t *testing.T, addrs []string, o topics.Options) *topics.Session {
	t.Helper()
	timeout := o.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	return topics.NewSession(topics.NewKafka(client(t, addrs, timeout)), o)
}

func wanted(kind diff.Kind, names ...string) []diff.Topic {
	out := make([]diff.Topic, len(names))
	for i, n := range names {
		out[i] = diff.Topic{Name: n, Kind: kind}
	}
	return out
}

func (s *stand) names(t *testing.T) []string {
	t.Helper()
	all, err := s.admin.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all.Names()
}

// count counts the requests of a kind that the cluster gets.
func (s *stand) count(key kmsg.Key) *atomic.Int32 {
	var n atomic.Int32
	s.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

func TestEnsureMakesAllWithOneRequest(t *testing.T) {
	s := newStand(t, topics.Options{})
	creates, metadata := s.count(kmsg.CreateTopics), s.count(kmsg.Metadata)
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	listed := metadata.Load()
	all := append(wanted(diff.Raw, "a", "b"), wanted(diff.Indicator, "c")...)
	all = append(all, wanted(diff.TradeExec, "d")...)
	for range 3 {
		if err := s.Ensure(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	if creates.Load() != 1 {
		t.Errorf("%d requests to create, want 1", creates.Load())
	}
	if metadata.Load() > listed+1 { // the client may look for the controller
		t.Errorf("%d requests for metadata on the way", metadata.Load()-listed)
	}
	checkShapes(t, s)
}

func checkShapes(t *testing.T, s *stand) {
	t.Helper()
	details, err := s.admin.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	configs, err := s.admin.DescribeTopicConfigs(t.Context(), details.Names()...)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		partitions int
		retention  string
	}{"a": {3, "604800000"}, "b": {3, "604800000"}, "c": {1, "2592000000"}, "d": {1, "7776000000"}} {
		if got := len(details[name].Partitions); got != want.partitions {
			t.Errorf("%s has %d partitions, want %d", name, got, want.partitions)
		}
		of, _ := configs.On(name, nil)
		if at := slices.IndexFunc(of.Configs, func(c kadm.Config) bool { return c.Key == "retention.ms" }); at < 0 ||
			of.Configs[at].MaybeValue() != want.retention {
			t.Errorf("%s: retention %+v, want %s", name, of.Configs, want.retention)
		}
	}
}

func TestOverlappingEnsuresShareTheirTopics(t *testing.T) {
	s := newStand(t, topics.Options{})
	creates := s.count(kmsg.CreateTopics)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if err := s.Ensure(t.Context(), wanted(diff.Indicator, "x", "y", "z")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if creates.Load() != 1 {
		t.Errorf("%d requests to create, want 1", creates.Load())
	}
	if got := s.names(t); !slices.Equal(got, []string{"x", "y", "z"}) {
		t.Errorf("topics %v", got)
	}
}

func TestTopicOfAnotherProcessIsTakenUp(t *testing.T) {
	s := newStand(t, topics.Options{})
	if err := s.Refresh(t.Context()); err != nil { // before the other one makes it
		t.Fatal(err)
	}
	other := session(t, s.ListenAddrs(), topics.Options{Replication: 1})
	if err := other.Ensure(t.Context(), wanted(diff.Indicator, "shared")); err != nil {
		t.Fatal(err)
	}
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "shared", "own")); err != nil {
		t.Error(err)
	}
	if got := s.Fit(diff.Topic{Name: "shared", Kind: diff.Indicator}); got != diff.Same {
		t.Errorf("fit %v, want Same", got)
	}
}

func TestTopicInAnotherShape(t *testing.T) {
	for name, make := range map[string]func(*stand) error{
		"partition": func(s *stand) error {
			_, err := s.admin.CreateTopic(context.Background(), 7, 1, nil, "taken")
			return err
		},
		"retention": func(s *stand) error {
			retention := "1000"
			_, err := s.admin.CreateTopic(context.Background(), 1, 1, map[string]*string{"retention.ms": &retention}, "taken")
			return err
		},
		"cleanup policy": func(s *stand) error {
			policy, retention := "compact", "2592000000"
			_, err := s.admin.CreateTopic(context.Background(), 1, 1,
				map[string]*string{"cleanup.policy": &policy, "retention.ms": &retention}, "taken")
			return err
		},
	} {
		for _, seen := range []bool{true, false} { // before or after the view was made
			t.Run(fmt.Sprintf("%s seen=%v", name, seen), func(t *testing.T) {
				s := newStand(t, topics.Options{})
				steps := []func() error{func() error { return s.Refresh(t.Context()) }, func() error { return make(s) }}
				if seen {
					slices.Reverse(steps)
				}
				for _, step := range steps {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
				err := s.Ensure(t.Context(), wanted(diff.Indicator, "taken"))
				var mismatch *topics.MismatchError
				if !errors.As(err, &mismatch) || mismatch.What != name {
					t.Errorf("error %v, want a %s mismatch", err, name)
				}
				if got := s.Fit(diff.Topic{Name: "taken", Kind: diff.Indicator}); got != diff.Foreign {
					t.Errorf("fit %v, want Foreign", got)
				}
			})
		}
	}
}

func TestNamesThatDifferInCaseCollide(t *testing.T) {
	s := newStand(t, topics.Options{})
	if _, err := s.admin.CreateTopic(t.Context(), 1, 1, nil, "Taken"); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"new", "taken"}, {"new", "twin", "Twin"}} {
		err := s.Ensure(t.Context(), wanted(diff.Indicator, names...))
		var collision *topics.CollisionError
		if !errors.As(err, &collision) {
			t.Errorf("%v: error %v, want a collision", names, err)
		}
	}
	if got := s.names(t); !slices.Equal(got, []string{"Taken"}) {
		t.Errorf("topics %v: something was made though it was refused", got)
	}
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "new", "twin")); err != nil {
		t.Errorf("after the collisions: %v", err)
	}
}

func TestBadNameHarmsOnlyItself(t *testing.T) {
	s := newStand(t, topics.Options{})
	err := s.Ensure(t.Context(), wanted(diff.Indicator, "fine", "노드"))
	var name *topics.NameError
	if !errors.As(err, &name) {
		t.Errorf("error %v, want a name error", err)
	}
	if got := s.names(t); !slices.Equal(got, []string{"fine"}) {
		t.Errorf("topics %v", got)
	}
}

func TestTooFewBrokersIsRefusedWithAHint(t *testing.T) {
	s := newStand(t, topics.Options{Replication: 3})
	err := s.Ensure(t.Context(), wanted(diff.Indicator, "a"))
	var refused *topics.RefusedError
	if !errors.As(err, &refused) || refused.Hint == "" {
		t.Errorf("error %v, want a refusal with a hint", err)
	}
}

func TestOneTimeoutIsOutlived(t *testing.T) {
	s := newStand(t, topics.Options{})
	var asked atomic.Int32
	s.ControlKey(kmsg.CreateTopics.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		s.KeepControl()
		if asked.Add(1) > 1 {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		for _, topic := range r.(*kmsg.CreateTopicsRequest).Topics {
			resp.Topics = append(resp.Topics, kmsg.CreateTopicsResponseTopic{Topic: topic.Topic, ErrorCode: kerr.RequestTimedOut.Code})
		}
		return resp, nil, true
	})
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "a", "b")); err != nil {
		t.Fatal(err)
	}
	if got := s.names(t); len(got) != 2 || asked.Load() < 2 {
		t.Errorf("topics %v after %d requests", got, asked.Load())
	}
}

func TestSilentBrokerIsATimeout(t *testing.T) {
	s := newStand(t, topics.Options{Timeout: 200 * time.Millisecond})
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	s.ControlKey(kmsg.CreateTopics.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.KeepControl()
		s.SleepControl(func() { <-hold })
		return nil, nil, false
	})
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "a")); !errors.Is(err, topics.ErrTimeout) {
		t.Errorf("error %v, want %v", err, topics.ErrTimeout)
	}
}

// away is an address where nobody listens until back is called.
type away struct {
	addr string
	t    *testing.T
}

func newAway(t *testing.T) away {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return away{l.Addr().String(), t}
}

func (a away) back() {
	_, port, err := net.SplitHostPort(a.addr)
	if err != nil {
		a.t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		a.t.Fatal(err)
	}
	cluster, err := kfake.NewCluster(kfake.Ports(number))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(cluster.Close)
}

func TestBreakerOpensAndHealsByItself(t *testing.T) {
	broker := newAway(t)
	opened := 0
	s := session(t, []string{broker.addr}, topics.Options{
		Replication: 1, Timeout: 400 * time.Millisecond, HalfOpen: 200 * time.Millisecond, OnOpen: func() { opened++ }})
	for range 3 {
		if err := s.Ensure(t.Context(), wanted(diff.Indicator, "a")); !errors.Is(err, topics.ErrUnavailable) {
			t.Fatalf("error %v, want an unavailable broker", err)
		}
	}
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "a")); !errors.Is(err, topics.ErrOpen) {
		t.Errorf("error %v, want %v", err, topics.ErrOpen)
	}
	if opened == 0 {
		t.Error("nobody was told that the breaker opened")
	}
	broker.back()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := s.Ensure(t.Context(), wanted(diff.Indicator, "a"))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestRefusalsDoNotOpenTheBreaker(t *testing.T) {
	s := newStand(t, topics.Options{})
	for range 10 {
		if err := s.Ensure(t.Context(), wanted(diff.Indicator, "A", "a")); err == nil {
			t.Fatal("a collision was accepted")
		}
		if err := s.Ensure(t.Context(), wanted(diff.Indicator, "bad name")); err == nil {
			t.Fatal("a bad name was accepted")
		}
	}
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "good")); err != nil {
		t.Error(err)
	}
}

func TestRunRenewsTheView(t *testing.T) {
	s := newStand(t, topics.Options{RefreshAge: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	if _, err := s.admin.CreateTopic(t.Context(), 1, 1, nil, "later"); err != nil {
		t.Fatal(err)
	}
	for s.Count() == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-done
	if s.Fit(diff.Topic{Name: "later", Kind: diff.Indicator}) != diff.Same {
		t.Error("the renewed view does not know the topic")
	}
}

func TestUnknownKind(t *testing.T) {
	s := topics.NewSession(topics.NewMemory(), topics.Options{})
	if err := s.Ensure(t.Context(), wanted("RAW", "a")); err == nil {
		t.Error("an unknown kind was accepted")
	}
}

// A session that has not looked at the broker yet answers all the same.
func TestSessionThatSawNothing(t *testing.T) {
	s := topics.NewSession(topics.NewMemory(), topics.Options{})
	if s.Fit(diff.Topic{Name: "t", Kind: diff.Raw}) != diff.Absent || s.Begins("a_N_c0ffee") || s.Count() != 0 {
		t.Error("it knows topics")
	}
	if errs, err := s.Delete(t.Context(), []string{"t"}); err != nil || errs[0] != nil {
		t.Errorf("delete: %v, %v", errs, err)
	}
}

// What topics begin with is known as long as they are there.
func TestSessionKnowsWhatTopicsBeginWith(t *testing.T) {
	s := topics.NewSession(topics.NewMemory(), topics.Options{})
	if err := s.Ensure(t.Context(), wanted(diff.Raw, "a_N_c0ffee00_v1", "\u00c9_N_c0ffee00_v1")); err != nil {
		t.Fatal(err)
	}
	err := s.Ensure(t.Context(), wanted(diff.Raw, "\u00e9_N_c0ffee00_v1"))
	if !errors.As(err, new(*topics.CollisionError)) || !s.Begins("a_N_c0ffee") || s.Begins("a_N_c0ffe0") {
		t.Errorf("error %v", err)
	}
	if _, err := s.Delete(t.Context(), []string{"a_N_c0ffee00_v1"}); err != nil || s.Begins("a_N_c0ffee") {
		t.Errorf("delete: %v", err)
	}
}
