package containers

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/faultproxy"
)

// Behind proxies the servers are reached through them only, Kafka too, which
// advertises its proxy; the harness goes around.
func TestServersBehindProxies(t *testing.T) {
	needDocker(t)
	s, err := faultproxy.Provider{Provider: Provider{}}.Start(t.Context(), backend.Options{RunID: "fronts"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	names := strings.Join(s.Faults().Names(), " ")
	for _, want := range []string{"kafka/stop", "kafka/cut", "redis/pause", "redis/blackhole", "neo4j/stop", "neo4j/latency", "neo4j/kill"} {
		if !strings.Contains(names, want) {
			t.Errorf("faults %s: no %s", names, want)
		}
	}
	sut, own := red(s.Redis, nil), red(s.Redis, s.Dial)
	defer sut.Close()
	defer own.Close()
	log := producer(t, s.Kafka, kgo.DisableIdempotentWrite())
	around := producer(t, s.Kafka, kgo.Dialer(s.Dial))
	produce := func(cl *kgo.Client, within time.Duration) error {
		ctx, stop := context.WithTimeout(t.Context(), within)
		defer stop()
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "queue", Value: []byte("x")}).FirstErr()
	}
	if err := errors.Join(sut.Set(t.Context(), "kept", "1", 0).Err(), produce(log, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	cut(t, s, "redis")
	cut(t, s, "kafka")
	if sut.Get(t.Context(), "kept").Err() == nil || produce(log, time.Second) == nil {
		t.Error("the SUT reaches its servers through a cut network")
	}
	if err := errors.Join(own.Get(t.Context(), "kept").Err(), produce(around, 20*time.Second)); err != nil {
		t.Errorf("the harness does not get around the proxies: %v", err)
	}
}

// cut cuts a server off until the test ends.
func cut(t *testing.T, s *backend.Set, server string) {
	t.Helper()
	f, err := s.Faults().Get(server, backend.FaultCut)
	if err != nil {
		t.Fatal(err)
	}
	heal, err := f.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := heal(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func red(addr string, dial func(context.Context, string, string) (net.Conn, error)) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, Dialer: dial, MaxRetries: -1, DisableIdentity: true})
}

func producer(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.ProduceRequestTimeout(time.Second), kgo.RequestTimeoutOverhead(time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}
