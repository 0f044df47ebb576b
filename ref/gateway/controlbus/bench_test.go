package controlbus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
)

type nowhere struct{}

func (nowhere) Publish(string, contract.Event)           {}
func (nowhere) ack(context.Context, ack)                 {}
func (nowhere) bury(context.Context, *kgo.Record, error) {}
func (nowhere) flush(context.Context)                    {}

// BenchmarkQueueUpdate is one record of the DAG Manager, parsed, checked and
// relayed.
func BenchmarkQueueUpdate(b *testing.B) {
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	p := newProcessor(nowhere{}, nowhere{}, m, slog.New(slog.DiscardHandler), time.Now, defaultGap)
	var records [64]*kgo.Record
	for i := range records {
		r := contract.QueueUpdate{
			Tags: []string{"price", fmt.Sprint("t", i)}, Interval: 60, Revision: uint64(i + 1),
			Queues: []contract.QueueRef{{Queue: fmt.Sprint("price_", i)}},
		}.Record(contract.Stamp{ID: "id", Time: time.Unix(1, 0)})
		records[i] = &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Timestamp: time.Now()}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p.handle(b.Context(), records[i%64])
		i++
	}
}

// counted is a sink that tells when the last event has come.
type counted struct {
	want int64
	n    atomic.Int64
	all  chan struct{}
}

func (c *counted) Publish(string, contract.Event) {
	if c.n.Add(1) == c.want {
		close(c.all)
	}
}

// BenchmarkBacklog is the whole bridge working off a backlog: fetched from a
// Kafka that lives in the same process, parsed, checked, handed on, committed.
// In "poison" every hundredth record besides cannot be used and goes to the
// dead-letter topic. One operation is one event that is handed on.
func BenchmarkBacklog(b *testing.B) {
	for _, c := range []struct {
		name   string
		poison int // one in so many; 0: none
	}{{"clean", 0}, {"poison", 100}} {
		b.Run(c.name, func(b *testing.B) { workOff(b, c.poison) })
	}
}

func workOff(b *testing.B, poison int) {
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "queue"), kfake.SeedTopics(1, "queue.dlq"))
	if err != nil {
		b.Fatal(err)
	}
	defer kafka.Close()
	fill(b, kafka.ListenAddrs(), poison)
	sink := &counted{want: int64(b.N), all: make(chan struct{})}
	reg := prometheus.NewRegistry()
	consumer, err := New(Config{Brokers: kafka.ListenAddrs(), Topics: []string{"queue"}, Metrics: reg, Since: time.Unix(1, 0)}, sink)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	running.Go(func() {
		if err := consumer.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	<-sink.all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	cancel()
	running.Wait()
}

// fill writes b.N queue updates of a thousand keys, and poison between them.
func fill(b *testing.B, addrs []string, poison int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic("queue"), kgo.MaxBufferedRecords(1<<20))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	for i := range b.N {
		if poison > 0 && i%poison == 0 {
			cl.Produce(b.Context(), &kgo.Record{Key: []byte("bad"), Value: []byte("{")}, nil)
		}
		r := contract.QueueUpdate{
			Tags: []string{fmt.Sprint("t", i%1000)}, Interval: 60, Revision: uint64(i + 1),
			Queues: []contract.QueueRef{{Queue: fmt.Sprint("price_", i)}},
		}.Record(contract.Stamp{ID: "id", Time: time.Unix(1, 0)})
		cl.Produce(b.Context(), &kgo.Record{Key: r.Key, Value: r.Value}, nil)
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}
