package controlbus

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// An ack says that an activation came in order (controlbus.md 3.5).
type ack struct {
	world, run, phase string
	sequence, etag    pyjson.Value
	at                time.Time
}

// record is the acknowledgement as it goes to topic.
func (a ack) record(topic string) *kgo.Record {
	at := pyjson.OfString(contract.ISOTime(a.at, "Z"))
	e := contract.Event{
		Source:        contract.GatewaySource,
		Type:          "activation_ack",
		CorrelationID: fmt.Sprintf("activation:%s:%s", a.world, a.run),
		Data: pyjson.OfObject(
			member("type", pyjson.OfString("ActivationAck")), versionOne(),
			member("world_id", pyjson.OfString(a.world)), member("run_id", pyjson.OfString(a.run)),
			member("sequence", a.sequence), member("phase", pyjson.OfString(a.phase)), member("etag", a.etag),
			member("ts", at), member("ack_ts", at),
			member("idempotency_key", pyjson.OfString(
				fmt.Sprintf("activation_ack:%s:%s:%s:%s:1", a.world, a.run, a.sequence.Text(), a.phase))),
		),
	}
	return &kgo.Record{Topic: topic, Key: []byte(a.world), Value: e.Envelope(contract.Stamp{ID: uuid.NewString(), Time: a.at})}
}

// DeadLetterSuffix ends the name of the topic that keeps the unusable records
// of another.
const DeadLetterSuffix = ".dlq"

// deadLetter is r, unchanged, for the topic that keeps what could not be used;
// headers say where it was and why it is there.
func deadLetter(r *kgo.Record, why error) *kgo.Record {
	headers := append([]kgo.RecordHeader(nil), r.Headers...)
	for _, h := range [...][2]string{
		{"dlq_topic", r.Topic}, {"dlq_partition", strconv.Itoa(int(r.Partition))},
		{"dlq_offset", strconv.FormatInt(r.Offset, 10)}, {"dlq_error", why.Error()},
	} {
		headers = append(headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return &kgo.Record{Topic: r.Topic + DeadLetterSuffix, Key: r.Key, Value: r.Value, Headers: headers}
}

// kafkaOutbox writes to Kafka. A write that fails is told and given up after
// its time: the bus goes on. A dead-letter topic that refused a record is left
// alone for a while, so that a flood of bad records costs that time once.
type kafkaOutbox struct {
	client   *kgo.Client
	ackTopic string
	within   time.Duration
	rest     time.Duration
	metrics  *metrics
	log      *slog.Logger
	resting  map[string]time.Time // dead-letter topics, until when
}

func (o *kafkaOutbox) ack(ctx context.Context, a ack) {
	if o.ackTopic == "" {
		return
	}
	if err := o.write(ctx, a.record(o.ackTopic)); err != nil {
		o.log.Error("activation_ack_failed", "world_id", a.world, "run_id", a.run, "sequence", a.sequence.Text(), "error", err)
	}
}

func (o *kafkaOutbox) bury(ctx context.Context, r *kgo.Record, why error) {
	letter := deadLetter(r, why)
	o.log.Warn("controlbus_record_buried", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "in", letter.Topic, "error", why)
	if err := o.keep(ctx, letter); err != nil {
		o.metrics.unburied.WithLabelValues(r.Topic).Inc()
		o.log.Error("controlbus_record_lost", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
	}
}

func (o *kafkaOutbox) keep(ctx context.Context, letter *kgo.Record) error {
	if until := o.resting[letter.Topic]; time.Now().Before(until) {
		return fmt.Errorf("topic %s: it took no record lately and is tried again at %s", letter.Topic, until.Format(time.TimeOnly))
	}
	err := o.write(ctx, letter)
	if err != nil {
		o.resting[letter.Topic] = time.Now().Add(o.rest)
	}
	return err
}

func (o *kafkaOutbox) write(ctx context.Context, r *kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, o.within)
	defer cancel()
	return o.client.ProduceSync(ctx, r).FirstErr()
}
