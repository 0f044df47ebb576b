package sut

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// doubler writes commit-log records a second time.
type doubler struct {
	kafka, topic string
	client       *kgo.Client
}

func newDoubler(kafka, topic string) (*doubler, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, fmt.Errorf("tampering proxy: kafka %s: %w", kafka, err)
	}
	return &doubler{kafka: kafka, topic: topic, client: client}, nil
}

func (d *doubler) close() { d.client.Close() }

// end is where the commit log ends now, by partition.
func (d *doubler) end(ctx context.Context) (map[int32]kgo.Offset, error) {
	ends, err := kadm.NewClient(d.client).ListEndOffsets(ctx, d.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end of topic %s: %w", d.topic, err)
	}
	offsets := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) { offsets[o.Partition] = kgo.NewOffset().At(o.Offset) })
	return offsets, nil
}

// again finds the record of a strategy behind from and writes it once more.
func (d *doubler) again(ctx context.Context, from map[int32]kgo.Offset, strategyID string) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	reader, err := kgo.NewClient(kgo.SeedBrokers(d.kafka), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{d.topic: from}))
	if err != nil {
		return fmt.Errorf("topic %s: %w", d.topic, err)
	}
	defer reader.Close()
	for {
		fetched := reader.PollFetches(ctx)
		if err := fetched.Err0(); err != nil {
			return fmt.Errorf("topic %s: record of %s: %w", d.topic, strategyID, err)
		}
		for record := range fetched.RecordsAll() {
			if string(record.Key) == "ingest:"+strategyID {
				return d.write(ctx, record)
			}
		}
	}
}

func (d *doubler) write(ctx context.Context, r *kgo.Record) error {
	second := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
	if err := d.client.ProduceSync(ctx, second).FirstErr(); err != nil {
		return fmt.Errorf("topic %s: %w", d.topic, err)
	}
	return nil
}
