package dagmanager

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
)

// kafkaBus publishes to Kafka with idempotent producers and all replicas'
// acknowledgement, in the order given.
type kafkaBus struct {
	client *kgo.Client
	topics []string // made when the first event leaves
	made   bool
	log    *slog.Logger
}

// busOptions are the settings of a client for a kafkaBus, besides where it is.
func busOptions() []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.AllowIdempotentProduceCancellation(), // the end of the process does not wait for a broker
		kgo.AllowAutoTopicCreation(),
		kgo.MetadataMinAge(500 * time.Millisecond), // how soon a broker that came back is noticed
	}
}

// publishLimit is how long the bus may take for a batch. What it did not take by
// then is told to have failed, so that the outage is seen and tried again.
const publishLimit = 5 * time.Second

// publish is used by one goroutine.
func (b *kafkaBus) publish(ctx context.Context, records []contract.Record) []error {
	errs := make([]error, len(records))
	if len(records) == 0 {
		return errs
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	b.makeTopics(ctx)
	batch := make([]*kgo.Record, len(records))
	for i, r := range records {
		batch[i] = &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
	}
	place := make(map[*kgo.Record]int, len(batch))
	for i, r := range batch {
		place[r] = i
	}
	done := b.client.ProduceSync(ctx, batch...)
	for _, res := range done {
		errs[place[res.Record]] = res.Err
	}
	if done.FirstErr() != nil {
		// A bus may come back with its topics made anew, where what the client
		// remembers of them, ids and sequence numbers, would never be taken.
		b.client.PurgeTopicsFromProducing(b.topics...)
		b.made = false
	}
	return errs
}

// makeTopics is for brokers that do not make topics by themselves. Where we may
// not, somebody else has.
func (b *kafkaBus) makeTopics(ctx context.Context) {
	if b.made {
		return
	}
	made, err := kadm.NewClient(b.client).CreateTopics(ctx, 1, -1, nil, b.topics...)
	if err != nil {
		b.log.Warn("ControlBus topics not made", "error", err)
		return
	}
	b.made = true
	for _, t := range made.Sorted() {
		if t.Err != nil && !errors.Is(t.Err, kerr.TopicAlreadyExists) {
			b.log.Warn("ControlBus topic not made", "topic", t.Topic, "error", t.Err)
		}
	}
}
