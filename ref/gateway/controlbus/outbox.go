package controlbus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/ref/internal/service"
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

// kafkaOutbox writes to Kafka. Writes of one poll go out together and are waited
// for by flush. One that fails is tried again, then told and given up: the bus
// goes on. A dead-letter topic that refused a record is left alone for a while,
// so that a flood of bad records costs that time once.
type kafkaOutbox struct {
	client   *kgo.Client
	ackTopic string
	within   time.Duration   // of one try
	pauses   []time.Duration // before each further try
	rest     time.Duration
	metrics  *metrics
	log      *slog.Logger
	resting  map[string]time.Time // dead-letter topics, until when

	letters, acks  []*parcel // since the last flush
	said, saidLost service.Throttle
}

// A parcel is a record on its way. err may be read once sent is closed.
type parcel struct {
	record *kgo.Record
	of     string // the topic that the record tells of
	sent   chan struct{}
	err    error
}

func (o *kafkaOutbox) ack(ctx context.Context, a ack) {
	if o.ackTopic == "" {
		return
	}
	o.acks = append(o.acks, o.send(ctx, &parcel{record: a.record(o.ackTopic), of: "activation"}))
}

func (o *kafkaOutbox) bury(ctx context.Context, r *kgo.Record, why error) {
	letter := &parcel{record: deadLetter(r, why), of: r.Topic}
	if unsaid, ok := o.said.Pass(time.Now()); ok {
		o.log.Warn("controlbus_record_buried", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
			"in", letter.record.Topic, "error", why, "more_unsaid", unsaid)
	}
	if until := o.resting[letter.record.Topic]; time.Now().Before(until) {
		o.lost(letter, fmt.Errorf("topic %s: it took no record lately and is tried again at %s", letter.record.Topic, until.Format(time.TimeOnly)))
		return
	}
	o.letters = append(o.letters, o.send(ctx, letter))
}

// send begins to write a parcel.
func (o *kafkaOutbox) send(ctx context.Context, p *parcel) *parcel {
	ctx, cancel := context.WithTimeout(ctx, o.within)
	p.sent = make(chan struct{})
	o.client.Produce(ctx, p.record, func(_ *kgo.Record, err error) {
		p.err = err
		close(p.sent)
		cancel()
	})
	return p
}

// flush waits until everything is written or given up.
func (o *kafkaOutbox) flush(ctx context.Context) {
	letters, acks := unsent(o.letters), o.unacked(o.acks)
	o.letters, o.acks = o.letters[:0], o.acks[:0]
	for _, pause := range o.pauses {
		if len(letters)+len(acks) == 0 {
			return
		}
		time.Sleep(pause)
		letters, acks = unsent(o.again(ctx, letters)), o.unacked(o.again(ctx, acks))
	}
	for _, p := range letters {
		o.resting[p.record.Topic] = time.Now().Add(o.rest)
		o.lost(p, p.err)
	}
	for _, p := range acks {
		o.log.Error("activation_ack_failed", "key", string(p.record.Key), "error", p.err)
	}
}

// unsent waits for parcels and gives those that were not written.
func unsent(parcels []*parcel) (failed []*parcel) {
	for _, p := range parcels {
		if <-p.sent; p.err != nil {
			failed = append(failed, p)
		}
	}
	return failed
}

// unacked is unsent for acknowledgements, whose order counts: with one that
// failed, those after it are to be written once more.
func (o *kafkaOutbox) unacked(parcels []*parcel) []*parcel {
	failed := unsent(parcels)
	if len(failed) == 0 {
		return nil
	}
	return slices.Clone(parcels[slices.Index(parcels, failed[0]):])
}

// again sends parcels once more.
func (o *kafkaOutbox) again(ctx context.Context, parcels []*parcel) []*parcel {
	for i, p := range parcels {
		o.metrics.retries.WithLabelValues(p.of).Inc()
		r := p.record // what Kafka's client noted in it belongs to the first try
		parcels[i] = o.send(ctx, &parcel{record: &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}, of: p.of})
	}
	return parcels
}

func (o *kafkaOutbox) lost(p *parcel, err error) {
	o.metrics.unburied.WithLabelValues(p.of).Inc()
	if unsaid, ok := o.saidLost.Pass(time.Now()); ok {
		o.log.Error("controlbus_record_lost", "topic", p.of, "in", p.record.Topic, "error", err, "more_unsaid", unsaid)
	}
}
