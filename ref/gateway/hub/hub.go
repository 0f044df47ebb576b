// Package hub sends events to WebSocket clients. Every event is written once,
// numbered once and handed to each client that it concerns; every client has
// its own bounded queue, so that one that reads slowly, or not at all, loses
// its own oldest frames and holds up nobody.
package hub

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Config says how a hub behaves; what is zero takes its default.
type Config struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer // required; families that are there already are shared

	QueueFrames int           // frames that may wait for one client; 10,000
	QueueBytes  int           // bytes that may wait for one client; 16 MiB
	Clients     int           // clients at once; 4,096
	RatePerSec  int           // frames a second for one client, the others are left out; 0: no limit
	PingEvery   time.Duration // between two pings, and how long a pong may take; 20 s
	Now         func() time.Time
}

// The limits of controlbus.md 4.8 and the ones that bound memory.
const (
	defaultFrames  = 10_000
	defaultBytes   = 16 << 20
	defaultClients = 4_096
	defaultPing    = 20 * time.Second
	idsRemembered  = 10_000
)

func (c Config) withDefaults() Config {
	c.QueueFrames = positive(c.QueueFrames, defaultFrames)
	c.QueueBytes = positive(c.QueueBytes, defaultBytes)
	c.Clients = positive(c.Clients, defaultClients)
	if c.PingEvery <= 0 {
		c.PingEvery = defaultPing
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func positive(n, other int) int {
	if n > 0 {
		return n
	}
	return other
}

// Hub is safe for concurrent use. The goroutines of its clients end with their
// requests or with Close, which waits for them.
type Hub struct {
	cfg     Config
	metrics *metrics
	clients sync.WaitGroup

	mu      sync.Mutex // guards what follows, and keeps frames in the order of their numbers
	joined  map[*client]struct{}
	closed  bool
	seq     uint64
	ids     window
	forming int // clients that are shaking hands
}

// New makes a hub without clients. The error names a metric family that is
// registered in another shape.
func New(cfg Config) (*Hub, error) {
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Hub{cfg: cfg, metrics: m, joined: map[*client]struct{}{}, ids: newWindow(idsRemembered)}, nil
}

// A Filter says which events a client gets.
type Filter struct {
	Topics map[string]bool // nil: of every topic. Events without a topic always pass
	World  *string         // nil: of every world. Events without a world always pass
}

func (f Filter) passes(topic string, world *string) bool {
	if topic != "" && f.Topics != nil && !f.Topics[topic] {
		return false
	}
	return world == nil || f.World == nil || *world == *f.World
}

// Publish numbers e and hands it to the clients of topic ("" concerns all) and
// of its data's world_id. It never waits for a client. Id, time and, when it is
// empty, the correlation id are made here.
func (h *Hub) Publish(topic string, e contract.Event) {
	h.publish(topic, e, contract.Stamp{ID: uuid.NewString(), Time: h.cfg.Now()})
}

// Clients counts those that get events.
func (h *Hub) Clients() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.joined)
}

// PublishAs is Publish for an event that has its id and time already: an id
// among the last 10,000 that came this way is dropped and counted.
func (h *Hub) PublishAs(topic string, e contract.Event, s contract.Stamp) {
	h.mu.Lock()
	seen := h.ids.seen(s.ID)
	h.mu.Unlock()
	if seen {
		h.metrics.dropped.WithLabelValues(orUnknown(topic)).Inc()
		return
	}
	h.publish(topic, e, s)
}

func orUnknown(topic string) string {
	if topic == "" {
		return "unknown"
	}
	return topic
}

func (h *Hub) publish(topic string, e contract.Event, s contract.Stamp) {
	if e.CorrelationID == "" {
		e.CorrelationID = uuid.NewString()
	}
	world := worldOf(e.Data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	var f *frame
	reached := 0
	for c := range h.joined {
		if !c.filter.passes(topic, world) {
			continue
		}
		if f == nil {
			f = newFrame(topic, e, s, h.seq)
		}
		reached++
		h.give(c, topic, f)
	}
	if topic != "" && reached > 0 {
		h.metrics.fanout.WithLabelValues(topic).Add(float64(reached))
	}
}

// give puts a frame into a client's queue, where its rate allows it.
func (h *Hub) give(c *client, topic string, f *frame) {
	if c.rate != nil && !c.rate.Allow() {
		h.metrics.limited.Inc()
		return
	}
	if lost := c.queue.push(f); lost > 0 && topic != "" {
		h.metrics.dropped.WithLabelValues(topic).Add(float64(lost))
	}
}

// worldOf gives the world of an event, nil when its data names none as text.
func worldOf(data pyjson.Value) *string {
	if world, ok := data.Member("world_id").Str(); ok {
		return &world
	}
	return nil
}

// A frame is one event as every client gets it.
type frame struct {
	topic string
	text  []byte
}

// newFrame writes the envelope with seq_no as its last member.
func newFrame(topic string, e contract.Event, s contract.Stamp, seq uint64) *frame {
	text := e.Envelope(s)
	text = append(text[:len(text)-1], `, "seq_no": `...)
	text = append(strconv.AppendUint(text, seq, 10), '}')
	return &frame{topic: topic, text: text}
}

// errClosed refuses clients while the hub closes, errFull when it is full.
var (
	errClosed = errors.New("the hub is closed")
	errFull   = errors.New("the hub has no room for another client")
)

// reserve counts a client that is about to shake hands; release undoes it.
func (h *Hub) reserve() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return errClosed
	case len(h.joined)+h.forming >= h.cfg.Clients:
		return errFull
	}
	h.forming++
	h.clients.Add(1)
	return nil
}

// release ends what reserve began; the client has left or never joined.
func (h *Hub) release() { h.clients.Done() }

// join makes c get events; false when the hub closed meanwhile.
func (h *Hub) join(c *client) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forming--
	if h.closed || c == nil {
		return false
	}
	h.joined[c] = struct{}{}
	h.metrics.count(h.joined)
	return true
}

func (h *Hub) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.joined, c)
	h.metrics.left.Inc()
	h.metrics.count(h.joined)
}

// Close ends every client with status 1012, once what waits for it is sent or
// ctx ends, refuses new ones and waits for all of them.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	for c := range h.joined {
		c.queue.close()
	}
	h.mu.Unlock()
	done := make(chan struct{})
	go func() { h.clients.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	for c := range h.joined {
		c.abort()
	}
	h.mu.Unlock()
	<-done
	return ctx.Err()
}

// A window remembers the last ids.
type window struct {
	ids  map[string]struct{}
	ring []string
	next int
}

func newWindow(n int) window { return window{ids: make(map[string]struct{}), ring: make([]string, n)} }

// seen says whether id is remembered, and remembers it. An empty id is never.
func (w *window) seen(id string) bool {
	if id == "" {
		return false
	}
	if _, ok := w.ids[id]; ok {
		return true
	}
	delete(w.ids, w.ring[w.next])
	w.ids[id] = struct{}{}
	w.ring[w.next] = id
	w.next = (w.next + 1) % len(w.ring)
	return false
}
