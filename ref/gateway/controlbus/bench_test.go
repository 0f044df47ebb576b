package controlbus

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
)

type nowhere struct{}

func (nowhere) Publish(string, contract.Event)           {}
func (nowhere) ack(context.Context, ack)                 {}
func (nowhere) bury(context.Context, *kgo.Record, error) {}

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
