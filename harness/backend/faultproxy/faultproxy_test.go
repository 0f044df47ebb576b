package faultproxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is embedded backends behind proxies, with a client of each server on
// either side.
type stage struct {
	*backend.Set
	sut, own           *redis.Client
	sutKafka, ownKafka *kgo.Client
}

func set(t *testing.T) *stage {
	t.Helper()
	s, err := Provider{backend.Embedded{}}.Start(t.Context(), backend.Options{RunID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{Set: s, sut: red(s.Redis, nil), own: red(s.Redis, s.Dial), sutKafka: kafka(t, s.Kafka), ownKafka: kafka(t, s.Kafka, kgo.Dialer(s.Dial))}
	t.Cleanup(func() {
		st.sutKafka.Close()
		st.ownKafka.Close()
		if err := errors.Join(st.sut.Close(), st.own.Close(), s.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return st
}

func red(addr string, dial func(context.Context, string, string) (net.Conn, error)) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, Dialer: dial, MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true, DialTimeout: time.Second,
	})
}

func kafka(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(addr), kgo.DialTimeout(time.Second), kgo.DisableIdempotentWrite(), kgo.ProduceRequestTimeout(100 * time.Millisecond), kgo.RequestTimeoutOverhead(200 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), d)
	t.Cleanup(stop)
	return ctx
}

func produce(ctx context.Context, cl *kgo.Client) error {
	return cl.ProduceSync(ctx, &kgo.Record{Topic: "queue", Value: []byte("x")}).FirstErr()
}

func fault(t *testing.T, s *backend.Set, server, name string, p backend.Params) (heal func()) {
	t.Helper()
	f, err := s.Faults().Get(server, name)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = f.With(p); err != nil {
		t.Fatal(err)
	}
	undo, err := f.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := undo(t.Context()); err != nil {
			t.Errorf("heal %s of %s: %v", name, server, err)
		}
	}
}

func TestNamesWhatItCanDo(t *testing.T) {
	want := []string{
		"kafka/bandwidth", "kafka/blackhole", "kafka/cut", "kafka/latency", "kafka/stop",
		"redis/bandwidth", "redis/blackhole", "redis/cut", "redis/latency", "redis/stop",
	}
	if got := set(t).Faults().Names(); !slices.Equal(got, want) {
		t.Errorf("faults = %q; want %q", got, want)
	}
}

// While the network is broken the SUT gets nothing and the harness all; after
// healing the same clients work on the same ports, and all is still there.
func TestRedisIsOutOfReachForTheSUTOnly(t *testing.T) {
	for _, name := range []string{backend.FaultCut, backend.FaultBlackHole} {
		t.Run(name, func(t *testing.T) {
			s := set(t)
			if err := s.sut.Set(t.Context(), "kept", "1", 0).Err(); err != nil {
				t.Fatal(err)
			}
			heal := fault(t, s.Set, "redis", name, backend.Params{})
			if err := s.sut.Set(within(t, 300*time.Millisecond), "kept", "2", 0).Err(); err == nil {
				t.Error("the SUT reaches Redis")
			}
			if got := s.own.Get(t.Context(), "kept").Val(); got != "1" {
				t.Errorf("the harness sees %q; want 1", got)
			}
			heal()
			if got := s.sut.Get(t.Context(), "kept").Val(); got != "1" {
				t.Errorf("after healing the SUT sees %q; want 1", got)
			}
		})
	}
}

func TestKafkaIsOutOfReachForTheSUTOnly(t *testing.T) {
	for _, name := range []string{backend.FaultCut, backend.FaultBlackHole} {
		t.Run(name, func(t *testing.T) {
			s := set(t)
			if err := errors.Join(produce(t.Context(), s.sutKafka), produce(t.Context(), s.ownKafka)); err != nil {
				t.Fatal(err)
			}
			heal := fault(t, s.Set, "kafka", name, backend.Params{})
			if err := produce(within(t, 500*time.Millisecond), s.sutKafka); err == nil {
				t.Error("the SUT reaches Kafka")
			}
			if err := produce(within(t, 5*time.Second), s.ownKafka); err != nil {
				t.Errorf("the harness does not reach Kafka: %v", err)
			}
			heal()
			if err := produce(within(t, 15*time.Second), s.sutKafka); err != nil {
				t.Errorf("after healing: %v", err)
			}
		})
	}
}

func TestStoppedServersRefuseAndKeepTheirData(t *testing.T) {
	s := set(t)
	if err := errors.Join(produce(t.Context(), s.sutKafka), s.sut.Set(t.Context(), "kept", "1", 0).Err()); err != nil {
		t.Fatal(err)
	}
	healKafka, healRedis := fault(t, s.Set, "kafka", backend.FaultStop, backend.Params{}), fault(t, s.Set, "redis", backend.FaultStop, backend.Params{})
	for _, addr := range []string{s.Kafka, s.Redis} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s accepts connections while its server is stopped", addr)
		}
		if c, err := s.Dial(t.Context(), "tcp", addr); err == nil {
			c.Close()
			t.Errorf("the server behind %s accepts connections while it is stopped", addr)
		}
	}
	healRedis()
	healKafka()
	if got := s.sut.Get(t.Context(), "kept").Val(); got != "1" {
		t.Errorf("after healing Redis holds %q; want 1", got)
	}
	reader := kafka(t, s.Kafka, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"queue": {0: kgo.NewOffset().AtStart()}}))
	defer reader.Close()
	if n := reader.PollRecords(within(t, 15*time.Second), 1).NumRecords(); n != 1 {
		t.Errorf("after healing Kafka gives %d records; want what was there before", n)
	}
}

func TestFaultsMayOverlap(t *testing.T) {
	s := set(t)
	stop := fault(t, s.Set, "redis", backend.FaultStop, backend.Params{})
	cut := fault(t, s.Set, "redis", backend.FaultCut, backend.Params{})
	late := fault(t, s.Set, "redis", backend.FaultLatency, backend.Params{Latency: time.Millisecond})
	f, err := s.Faults().Get("redis", backend.FaultCut)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(t.Context()); err == nil {
		t.Error("the same fault applies twice")
	}
	// The second, which failed, has healed the first along with itself.
	cut()
	stop()
	late()
	if err := s.sut.Set(within(t, 5*time.Second), "a", "1", 0).Err(); err != nil {
		t.Errorf("after healing all: %v", err)
	}
}

func TestLatencyAndBandwidth(t *testing.T) {
	s := set(t)
	late := fault(t, s.Set, "redis", backend.FaultLatency, backend.Params{Latency: 60 * time.Millisecond, Jitter: 5 * time.Millisecond, Seed: 3})
	took := func(size int) time.Duration {
		t.Helper()
		began := time.Now()
		if err := s.sut.Set(within(t, 20*time.Second), "k", strings.Repeat("x", size), 0).Err(); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	if d := took(1); d < 120*time.Millisecond {
		t.Errorf("a command took %v; each way is at least 60 ms late", d)
	}
	late()
	narrow := fault(t, s.Set, "redis", backend.FaultBandwidth, backend.Params{Rate: 200 << 10})
	if d := took(100 << 10); d < 400*time.Millisecond {
		t.Errorf("100 KiB at 200 KiB/s took %v", d)
	}
	narrow()
	if err := s.sut.Get(t.Context(), "k").Err(); err != nil {
		t.Errorf("after healing: %v", err) // the connection lived on
	}
}

// Healing while data is held back loses none of it.
func TestHealingLatencyLosesNothing(t *testing.T) {
	s := set(t)
	late := fault(t, s.Set, "redis", backend.FaultLatency, backend.Params{Latency: 10 * time.Second})
	done := make(chan error)
	go func() { done <- s.sut.Set(t.Context(), "held", "1", 0).Err() }()
	time.Sleep(100 * time.Millisecond) // lets the command reach the proxy; either way it must arrive
	late()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefusesParametersThatMeanNothing(t *testing.T) {
	s := set(t)
	for _, c := range []struct {
		name string
		p    backend.Params
		want string
	}{
		{backend.FaultStop, backend.Params{Latency: 1}, "takes no parameters"},
		{backend.FaultLatency, backend.Params{Rate: 1}, "latency takes no rate"},
		{backend.FaultLatency, backend.Params{Latency: -1}, "must not be negative"},
		{backend.FaultLatency, backend.Params{Tail: 1}, "tail must be above 1"},
		{backend.FaultBandwidth, backend.Params{Jitter: 1}, "takes a rate only"},
	} {
		f, err := s.Faults().Get("redis", c.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.With(c.p); err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, backend.ErrUsage) {
			t.Errorf("%s %+v: %v; want a usage error with %q", c.name, c.p, err, c.want)
		}
	}
}

func TestJitterIsSeededAndHeavyTailed(t *testing.T) {
	draw := func(seed uint64) (out []time.Duration) {
		s := &shape{Latency: time.Second, Jitter: time.Millisecond, Tail: 2, Seed: seed}
		d := s.NewState().(*draws)
		for range 2000 {
			out = append(out, d.next(s))
		}
		return out
	}
	one := draw(1)
	if !slices.Equal(one, draw(1)) || slices.Equal(one, draw(2)) {
		t.Error("draws do not follow from the seed")
	}
	sorted := slices.Sorted(slices.Values(one))
	median, far := sorted[1000]-time.Second, sorted[1990]-time.Second
	if median < 300*time.Microsecond || median > 550*time.Microsecond || far < 10*median {
		t.Errorf("median %v, p99.5 %v: want about 0.41 ms and a tail far beyond it", median, far)
	}
	if got := lomax(1, 2); got != most {
		t.Errorf("the longest draw is %v; want %v", got, most)
	}
}
