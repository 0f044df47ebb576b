package controlbus

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Sink takes the events that are relayed, and never waits.
type Sink interface {
	// Publish hands on an event of a hub topic.
	Publish(topic string, e contract.Event)
}

// An outbox writes what the consumer has to say to the bus itself.
type outbox interface {
	// ack writes one acknowledgement by the next flush; a failure is the
	// outbox's to tell.
	ack(ctx context.Context, a ack)
	// bury keeps a record that could not be used, by the next flush.
	bury(ctx context.Context, r *kgo.Record, why error)
	// flush waits, bounded in time, until everything is written or given up.
	flush(ctx context.Context)
}

// memory is how many markers, tag queries and series are remembered at least.
const memory = 50_000

// A processor decides what each record does. One goroutine uses it.
type processor struct {
	sink    Sink
	out     outbox
	metrics *metrics
	log     *slog.Logger
	now     func() time.Time

	table   map[string]strategy
	last    recent[string]   // the last marker by topic and key
	upserts recent[struct{}] // tag queries that were announced
	series  series
}

func newProcessor(sink Sink, out outbox, m *metrics, log *slog.Logger, now func() time.Time, gap time.Duration) *processor {
	return &processor{
		sink: sink, out: out, metrics: m, log: log, now: now, table: strategies(),
		last: newRecent[string](memory), upserts: newRecent[struct{}](memory), series: newSeries(gap),
	}
}

// handle does everything that a record does, save what a gap in a series holds
// back. What cannot be used is buried; nothing a record holds stops the next.
func (p *processor) handle(ctx context.Context, r *kgo.Record) {
	m, err := parse(r)
	if err != nil || m.flaw != nil {
		p.metrics.unparsed.WithLabelValues(r.Topic).Inc()
	}
	if err != nil {
		p.bury(ctx, r, err)
		return
	}
	s := p.strategy(m.topic)
	if s.check != nil {
		if err := s.check(m); err != nil {
			err = errors.Join(m.flaw, err)
			p.log.Warn("controlbus_message_invalid", "topic", m.topic, "key", m.key, "error", err)
			p.bury(ctx, r, err)
			return
		}
	}
	if m.topic == "activation" && m.acked() {
		p.inSequence(ctx, m)
		return
	}
	p.settle(ctx, m)
}

func (p *processor) strategy(topic string) strategy {
	if s, ok := p.table[topic]; ok {
		return s
	}
	return unknown()
}

// settle has a message take effect and buries it when it could not; it says
// whether it could.
func (p *processor) settle(ctx context.Context, m *message) bool {
	err := p.apply(ctx, m)
	if err != nil {
		p.log.Error("controlbus_message_failed", "topic", m.topic, "key", m.key, "error", err)
	}
	if m.flaw != nil {
		p.bury(ctx, m.record, m.flaw)
	} else if err != nil {
		p.bury(ctx, m.record, err)
	}
	return err == nil
}

// apply drops a message that repeats the one before it under the same key;
// any other counts and takes effect.
func (p *processor) apply(ctx context.Context, m *message) error {
	s := p.strategy(m.topic)
	key, mark := m.topic+"\x00"+m.key, s.marker(m)
	if before, ok := p.last.get(key); ok && before == mark {
		p.metrics.dropped.WithLabelValues(m.topic).Inc()
		return nil
	}
	p.last.put(key, mark)
	p.metrics.relayed(m.topic, p.now(), m.record.Timestamp)
	return s.effect(ctx, p, m)
}

// relayable says whether a message has the version that clients know.
func (p *processor) relayable(m *message) bool {
	if m.current() {
		return true
	}
	p.log.Warn("controlbus_version_unsupported", "topic", m.topic, "key", m.key, "version", m.data.Member("version").Text())
	return false
}

func (p *processor) publish(topic, kind string, data pyjson.Value) {
	p.sink.Publish(topic, contract.Event{Source: contract.GatewaySource, Type: kind, Data: data})
}

func (p *processor) bury(ctx context.Context, r *kgo.Record, why error) {
	p.metrics.buried.WithLabelValues(r.Topic).Inc()
	p.out.bury(ctx, r, why)
}

// acknowledge tells the sender that its activation came in order.
func (p *processor) acknowledge(ctx context.Context, m *message) error {
	sent, err := m.sent()
	if err != nil {
		return err
	}
	a := ack{world: m.world(), run: m.run(), phase: m.phase(), sequence: m.data.Member("sequence"), etag: m.etag, at: p.now()}
	labels := p.metrics.acked.Of(a.world, a.run, a.phase)
	p.metrics.acks.WithLabelValues(labels...).Inc()
	if !sent.IsZero() {
		late := max(a.at.Sub(sent), 0)
		p.metrics.ackLatency.WithLabelValues(labels...).Set(float64(late.Microseconds()) / 1000)
	}
	p.out.ack(ctx, a)
	return nil
}

// recent remembers at least limit of the keys used last, and at most twice as
// many.
type recent[V any] struct {
	limit      int
	young, old map[string]V
}

func newRecent[V any](limit int) recent[V] {
	return recent[V]{limit: limit, young: map[string]V{}}
}

func (r *recent[V]) get(key string) (V, bool) {
	if v, ok := r.young[key]; ok {
		return v, true
	}
	v, ok := r.old[key]
	if ok {
		r.put(key, v)
	}
	return v, ok
}

func (r *recent[V]) put(key string, v V) {
	if len(r.young) >= r.limit {
		r.young, r.old = map[string]V{}, r.young
	}
	r.young[key] = v
}
