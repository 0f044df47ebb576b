package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, p Provider, o Options) *Set {
	t.Helper()
	s, err := p.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func kafka(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kafkaClient(addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func topicNames(t *testing.T, addr string) []string {
	t.Helper()
	topics, err := kadm.NewClient(kafka(t, addr)).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return topics.Names()
}

func short(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(stop)
	return ctx
}

func TestEmbeddedServesControlTopicsAndRecords(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		s := start(t, Embedded{DataDir: dir}, Options{RunID: "r1"})
		if got := topicNames(t, s.Kafka); !slices.Equal(got, sorted(ControlTopics())) {
			t.Errorf("topics = %q; want the control topics only", got)
		}
		cl := kafka(t, s.Kafka, kgo.ConsumeTopics(s.Topic("gateway.ingest")))
		big := make([]byte, 700<<10) // a large DAG, near Kafka's own limit
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: s.Topic("gateway.ingest"), Value: big}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if got := cl.PollRecords(t.Context(), 1).NumRecords(); got != 1 {
			t.Errorf("consumed %d records; want 1", got)
		}
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

func TestEmbeddedIsOnLoopbackAndGoneAfterClose(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Embedded{DataDir: dir}, Options{})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{s.Kafka, s.Redis} {
		if !strings.HasPrefix(addr, "127.0.0.1:") {
			t.Errorf("address %s is not on 127.0.0.1", addr)
		}
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s still listens after Close", addr)
		}
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestEmbeddedKeysExpire(t *testing.T) {
	s := start(t, Embedded{}, Options{})
	red := redis.NewClient(&redis.Options{Addr: s.Redis})
	defer red.Close()
	if err := red.Set(t.Context(), "pending", "1", 200*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	for range 200 { // 10 s at most
		if n := red.Exists(t.Context(), "pending").Val(); n == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("a key with a lifetime of 200 ms is still there")
}

func TestEmbeddedPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	for what, p := range map[string]Embedded{
		"embedded kafka": {KafkaPort: port},
		"embedded redis": {RedisPort: port},
	} {
		_, err := p.Start(t.Context(), Options{})
		want := fmt.Sprintf("%s: port %d is in use; stop what listens there, or ask for port 0", what, port)
		if err == nil || err.Error() != want {
			t.Errorf("Start = %v; want %s", err, want)
		}
	}
}

func TestEmbeddedDataDirMissing(t *testing.T) {
	_, err := Embedded{DataDir: filepath.Join(t.TempDir(), "no")}.Start(t.Context(), Options{})
	if err == nil || !strings.Contains(err.Error(), "give a directory") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start = %v; want what is missing and how to mend it", err)
	}
}

func TestEmbeddedNamesItsFaults(t *testing.T) {
	s := start(t, Embedded{}, Options{})
	if got, want := s.Faults().Names(), []string{"kafka/stop", "redis/stop"}; !slices.Equal(got, want) {
		t.Fatalf("faults = %q; want %q", got, want)
	}
	if _, err := s.Faults().Get("neo4j", FaultStop); !errors.Is(err, ErrNoFault) || !strings.Contains(err.Error(), "kafka/stop, redis/stop") {
		t.Errorf("Get = %v; want ErrNoFault and what there is", err)
	}
}

func TestEmbeddedFaultsHarmAndHealAndKeepTheData(t *testing.T) {
	s := start(t, Embedded{}, Options{})
	red := redis.NewClient(&redis.Options{Addr: s.Redis})
	defer red.Close()
	red.Set(t.Context(), "kept", "1", 0)

	harm(t, s, "kafka", FaultStop, func(ctx context.Context) error { return CheckKafka(ctx, s.Kafka, "t") })
	harm(t, s, "redis", FaultStop, func(ctx context.Context) error { return CheckRedis(ctx, s.Redis, "t") })

	if got := red.Get(t.Context(), "kept").Val(); got != "1" {
		t.Errorf("GET kept = %q after stop and heal; want 1", got)
	}
	if got := topicNames(t, s.Kafka); len(got) != len(ControlTopics()) {
		t.Errorf("topics after stop and heal = %q", got)
	}
}

// harm applies one fault, heals it, and looks with check that each took effect.
func harm(t *testing.T, s *Set, server, name string, check func(context.Context) error) {
	t.Helper()
	f, err := s.Faults().Get(server, name)
	if err != nil {
		t.Fatal(err)
	}
	heal, err := f.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := check(short(t)); err == nil {
		t.Errorf("%s works during %s", server, name)
	}
	if err := heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := check(t.Context()); err != nil {
		t.Errorf("after healing: %v", err)
	}
}

func TestExternalNamesByRunAndRemovesItsOwn(t *testing.T) {
	host := start(t, Embedded{}, Options{})
	red := redis.NewClient(&redis.Options{Addr: host.Redis})
	defer red.Close()
	red.Set(t.Context(), "other", "1", 0)

	s := start(t, External{Kafka: host.Kafka, Redis: host.Redis}, Options{RunID: "run-7"})
	if got, want := s.Topic("queue"), "plumbline.run-7.queue"; got != want {
		t.Errorf("Topic(queue) = %q; want %q", got, want)
	}
	if got := topicNames(t, host.Kafka); !slices.Contains(got, "plumbline.run-7.gateway.ingest") {
		t.Errorf("topics = %q; want the prefixed control topics too", got)
	}
	// What a gateway and a DAG Manager would have made for worlds of this run.
	red.HSet(t.Context(), "strategy:1", "dag", "x")
	if err := createTopics(t.Context(), kafka(t, host.Kafka), "w-run-7.backtest.a_v1", "staging.a_v1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := sorted(append(ControlTopics(), "staging.a_v1"))
	if got := topicNames(t, host.Kafka); !slices.Equal(got, want) {
		t.Errorf("topics after Close = %q; want %q", got, want)
	}
	if got := red.Keys(t.Context(), "*").Val(); !slices.Equal(got, []string{"other"}) {
		t.Errorf("keys after Close = %q; want only what was there before", got)
	}
}

func TestExternalRefuses(t *testing.T) {
	host := start(t, Embedded{}, Options{})
	used := start(t, Embedded{}, Options{})
	red := redis.NewClient(&redis.Options{Addr: used.Redis})
	defer red.Close()
	red.HSet(t.Context(), "strategy:9", "dag", "x")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the backlog, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	free := "127.0.0.1:" + strconv.Itoa(freePort(t))

	for _, c := range []struct {
		name  string
		p     External
		usage bool
		want  []string
	}{
		{"nothing given", External{}, true, []string{`kafka address ""`, `redis address ""`}},
		{"no port", External{Kafka: "broker", Redis: host.Redis}, true, []string{`kafka address "broker": want host:port`}},
		{"odd graph", External{Kafka: host.Kafka, Redis: host.Redis, Neo4j: "http://x"}, true, []string{`want bolt://host:port`}},
		{"used redis", External{Kafka: host.Kafka, Redis: used.Redis}, true, []string{"strategy:9", "give one without strategies"}},
		{"kafka down", External{Kafka: free, Redis: host.Redis}, false, []string{"kafka " + free}},
		{"redis down", External{Kafka: host.Kafka, Redis: free}, false, []string{"redis " + free + ": nothing answers there"}},
		{"graph down", External{Kafka: host.Kafka, Redis: host.Redis, Neo4j: "bolt://" + free}, false, []string{"neo4j bolt://" + free + ": nothing answers there"}},
		{"kafka silent", External{Kafka: silent.Addr().String(), Redis: host.Redis}, false, []string{"no answer in time"}},
		{"graph silent", External{Kafka: host.Kafka, Redis: host.Redis, Neo4j: "bolt://" + silent.Addr().String()}, false, []string{"no answer in time"}},
		{"graph is another server", External{Kafka: host.Kafka, Redis: host.Redis, Neo4j: "bolt://" + host.Redis}, false, []string{"bolt handshake"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Within = time.Second
			_, err := c.p.Start(t.Context(), Options{RunID: "r"})
			if err == nil {
				t.Fatal("Start succeeded")
			}
			if got := errors.Is(err, ErrUsage); got != c.usage {
				t.Errorf("is a usage error: %v; want %v (%v)", got, c.usage, err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
	if got := topicNames(t, host.Kafka); len(got) != len(ControlTopics()) {
		t.Errorf("topics after refusals = %q; want nothing left behind", got)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// machine is a container provider whose machine answers as told.
type machine struct {
	Embedded
	err error
}

func (m machine) Available(context.Context) (string, error) { return "Docker 1.2 answers", m.err }

func TestChoose(t *testing.T) {
	down := errors.New("docker: no daemon")
	for _, c := range []struct {
		want       string
		containers ContainerProvider
		kind       string
		reason     string
		err        string
	}{
		{"auto", machine{}, KindContainers, "Docker 1.2 answers", ""},
		{"", machine{}, KindContainers, "Docker 1.2 answers", ""},
		{"auto", machine{err: down}, KindEmbedded, "containers cannot serve: docker: no daemon", ""},
		{"auto", nil, KindEmbedded, "containers cannot serve: this binary has no containers in it", ""},
		{"embedded", machine{}, KindEmbedded, "asked for", ""},
		{"containers", machine{}, KindContainers, "asked for; Docker 1.2 answers", ""},
		{"containers", machine{err: down}, "", "", "docker: no daemon; mend that"},
		{"containers", nil, "", "", "provider containers: this binary has no containers"},
		{"external", nil, KindExternal, "asked for", ""},
		{"cloud", nil, "", "", `provider "cloud": want auto, embedded, containers or external`},
	} {
		p, kind, reason, err := Choose(t.Context(), c.want, Candidates{Containers: c.containers})
		if kind != c.kind || reason != c.reason {
			t.Errorf("Choose(%q) = %q, %q; want %q, %q", c.want, kind, reason, c.kind, c.reason)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Choose(%q) error = %v; want %q", c.want, err, c.err)
		}
		if (p == nil) != (err != nil) {
			t.Errorf("Choose(%q) = provider %v with error %v", c.want, p, err)
		}
	}
}

func TestChosenSetCarriesItsReason(t *testing.T) {
	p, _, reason, err := Choose(t.Context(), KindAuto, Candidates{})
	if err != nil {
		t.Fatal(err)
	}
	if s := start(t, p, Options{}); s.Reason != reason || s.Kind != KindEmbedded {
		t.Errorf("set = %s because %q; want embedded because %q", s.Kind, s.Reason, reason)
	}
}

func TestUnwindRunsAllNewestFirstEvenWhenCancelled(t *testing.T) {
	var u Unwind
	var order []int
	boom := errors.New("boom")
	for i := range 3 {
		u.Add(func(ctx context.Context) error {
			order = append(order, i)
			if i == 1 {
				return boom
			}
			return ctx.Err()
		})
	}
	u.Add(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.Run(ctx); !errors.Is(err, boom) || errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want only boom", err)
	}
	if !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("order = %v; want 2 1 0", order)
	}
}
