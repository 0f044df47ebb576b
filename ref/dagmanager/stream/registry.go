package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Errors of Run besides those of the context and of the sender.
var (
	ErrNeverAcked = errors.New("client did not acknowledge diff chunk")
	ErrTooMany    = errors.New("too many diff streams are open")
)

// Options are the limits of all streams of a process. A zero field takes its
// default.
type Options struct {
	Window     int           // chunks that may be unacknowledged; 10
	AckTimeout time.Duration // how long to wait for an acknowledgement; 30 s
	Replay     time.Duration // how often what is unacknowledged is sent again meanwhile; 1 s
	MaxStreams int           // streams at a time; 10000
	MaxBytes   int64         // of the answers of all streams together; 256 MiB
	OnReplay   func(n int)   // told how many chunks are sent again; may be nil
}

func (o Options) withDefaults() Options {
	set(&o.Window, 10)
	set(&o.AckTimeout, 30*time.Second)
	set(&o.Replay, time.Second)
	set(&o.MaxStreams, 10000)
	set(&o.MaxBytes, 256<<20)
	if o.OnReplay == nil {
		o.OnReplay = func(int) {}
	}
	return o
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Identity says whose stream it is, or whose acknowledgement. Streams of one
// sentinel may be many at a time; Peer and Token tell them apart.
type Identity struct {
	SentinelID string
	Peer       string // the connection, as the transport names it
	Token      string // given to the client with the stream; "" when it does not send it back
}

// Registry routes acknowledgements to the streams that wait for them. It is safe
// for concurrent use.
type Registry struct {
	opts    Options
	mu      sync.Mutex
	streams map[string][]*stream // by sentinel id, oldest first
	open    int
	bytes   int64 // of the answers of open streams
	senders sync.WaitGroup
}

// NewRegistry returns a registry without streams.
func NewRegistry(o Options) *Registry {
	return &Registry{opts: o.withDefaults(), streams: map[string][]*stream{}}
}

// stream is one answer on its way. Its fields are guarded by the registry.
type stream struct {
	who     Identity
	total   int
	bytes   int64
	sent    int   // chunks handed to the sender for the first time
	waiting []int // places of chunks that were sent and not acknowledged, ascending
	credit  int   // acknowledgements that came before the chunk
	late    bool  // chunks were sent again since the last acknowledgement
	acked   chan struct{}
	gone    <-chan struct{} // closed when the client has left
}

// left says that the client has cancelled the stream, so that no further
// acknowledgement can be meant for it.
func (s *stream) left() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// Open says how many streams are open.
func (r *Registry) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// Wait returns when no sender runs any more. Call it once no more Run begins.
func (r *Registry) Wait() { r.senders.Wait() }

// Run sends the chunks of an answer and returns nil when all were acknowledged.
// At most Window chunks are unacknowledged at a time; those are sent again every
// Replay, unchanged and in order, and when no acknowledgement came for
// AckTimeout (so after AckTimeout/Replay repetitions) the stream ends with
// ErrNeverAcked. send is called by one goroutine
// at a time, and never after it failed; it may still block when Run returns and
// must end when the transport ends the stream.
func (r *Registry) Run(ctx context.Context, who Identity, chunks []*pb.DiffChunk, send func(*pb.DiffChunk) error) error {
	s, err := r.begin(ctx, who, chunks)
	if err != nil {
		return err
	}
	defer r.end(s)
	w := r.sender(send)
	defer w.close()
	p := &pump{Registry: r, s: s, chunks: chunks, out: w}
	return p.run(ctx)
}

func (r *Registry) begin(ctx context.Context, who Identity, chunks []*pb.DiffChunk) (*stream, error) {
	var bytes int64
	for _, c := range chunks {
		bytes += int64(proto.Size(c))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.room(bytes); err != nil {
		return nil, err
	}
	r.open++
	r.bytes += bytes
	s := &stream{who: who, total: len(chunks), bytes: bytes, acked: make(chan struct{}, 1), gone: ctx.Done()}
	r.streams[who.SentinelID] = append(r.streams[who.SentinelID], s)
	return s, nil
}

func (r *Registry) end(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	r.bytes -= s.bytes
	id := s.who.SentinelID
	list := r.streams[id]
	at := slices.Index(list, s)
	if list = slices.Delete(list, at, at+1); len(list) == 0 {
		delete(r.streams, id)
		return
	}
	r.streams[id] = list
}

// Ack hands an acknowledgement to its stream and says whether one took it.
//
// The stream is the one that the token names. Without a token it is, on the same
// connection, the oldest of that sentinel that waits for a chunk with that
// number, else, since some clients number every chunk 0, the oldest that waits
// for any; streams that had to repeat themselves come last, so that a client
// that never acknowledges does not take what others are waiting for. When none
// on the connection waits, streams on other connections are tried likewise, for
// clients behind a proxy. What nobody waits for yet counts for a chunk to come.
func (r *Registry) Ack(who Identity, chunk uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.streams[who.SentinelID]
	if who.Token != "" {
		return deliver(list, func(s *stream) bool { return s.who.Token == who.Token }, int(chunk))
	}
	return deliver(list, func(s *stream) bool { return s.who.Peer == who.Peer }, int(chunk)) ||
		deliver(list, func(*stream) bool { return true }, int(chunk))
}

// uses are what an acknowledgement may be good for, best first.
var uses = []struct {
	late bool // streams that had to repeat themselves
	take func(*stream, int) bool
}{
	{false, (*stream).ackChunk}, {false, (*stream).ackOldest},
	{true, (*stream).ackChunk}, {true, (*stream).ackOldest},
	{false, (*stream).ackAhead}, {true, (*stream).ackAhead},
}

func deliver(list []*stream, mine func(*stream) bool, chunk int) bool {
	for _, use := range uses {
		for _, s := range list {
			if s.late == use.late && mine(s) && !s.left() && use.take(s, chunk) {
				return true
			}
		}
	}
	return false
}

func (s *stream) ackChunk(chunk int) bool {
	at, found := slices.BinarySearch(s.waiting, chunk)
	if found {
		s.settle(at)
	}
	return found
}

// ackOldest takes an acknowledgement that names no chunk: number 0, or, once
// chunks were sent again, one beyond the last, from a client that counts the
// repetitions too.
func (s *stream) ackOldest(chunk int) bool {
	counted := s.late && chunk >= s.total
	if chunk != 0 && !counted || len(s.waiting) == 0 {
		return false
	}
	s.settle(0)
	return true
}

// ackAhead takes an acknowledgement for a chunk to come; of one that was
// acknowledged before it is a repetition.
func (s *stream) ackAhead(chunk int) bool {
	if chunk != 0 && chunk < s.sent || s.sent+s.credit >= s.total {
		return false
	}
	s.credit++
	s.wake()
	return true
}

func (s *stream) settle(at int) {
	s.waiting = slices.Delete(s.waiting, at, at+1)
	s.late = false
	s.wake()
}

func (s *stream) wake() {
	select {
	case s.acked <- struct{}{}:
	default: // it is awake already
	}
}

// admit puts the next chunk into the window and gives its place; -1 when the
// window is full or all were sent.
func (r *Registry) admit(s *stream) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.sent == s.total || len(s.waiting) >= r.opts.Window {
		return -1
	}
	at := s.sent
	s.sent++
	if s.credit > 0 {
		s.credit--
		return at
	}
	s.waiting = append(s.waiting, at)
	return at
}

// tardy marks a stream that repeats itself and gives the places of its
// unacknowledged chunks.
func (r *Registry) tardy(s *stream) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.late = len(s.waiting) > 0
	return slices.Clone(s.waiting)
}

// state gives the places of the unacknowledged chunks, and whether all were sent.
func (r *Registry) state(s *stream) (waiting []int, sent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(s.waiting), s.sent == s.total
}

// writer sends chunks from a goroutine of its own, so that a client that does
// not read cannot hold the stream beyond its limits.
type writer struct {
	in   chan *pb.DiffChunk
	done chan error // one value, when the goroutine ends
}

func (r *Registry) sender(send func(*pb.DiffChunk) error) *writer {
	w := &writer{in: make(chan *pb.DiffChunk), done: make(chan error, 1)}
	r.senders.Go(func() {
		for c := range w.in {
			if c == nil { // nothing but the proof that the chunk before has left
				continue
			}
			if err := send(c); err != nil {
				w.done <- err
				return
			}
		}
		w.done <- nil
	})
	return w
}

func (w *writer) close() { close(w.in) }

// pump is the loop of one stream.
type pump struct {
	*Registry
	s      *stream
	chunks []*pb.DiffChunk
	out    *writer
	rounds int // how often chunks were sent again since the last acknowledgement
}

func (p *pump) run(ctx context.Context) error {
	tick := time.NewTicker(p.opts.Replay)
	defer tick.Stop()
	giveUp := time.NewTimer(p.opts.AckTimeout + p.opts.Replay) // a client that does not even read
	defer giveUp.Stop()
	for {
		if err := p.fill(ctx, giveUp); err != nil {
			return err
		}
		waiting, sent := p.state(p.s)
		if sent && len(waiting) == 0 {
			return p.drained(ctx, giveUp)
		}
		select {
		case <-p.s.acked:
			p.rounds = 0
			giveUp.Reset(p.opts.AckTimeout + p.opts.Replay)
			tick.Reset(p.opts.Replay)
		case <-tick.C:
			if err := p.replay(ctx, giveUp); err != nil {
				return err
			}
		case err := <-p.out.done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fill sends what the window admits.
func (p *pump) fill(ctx context.Context, giveUp *time.Timer) error {
	for at := p.admit(p.s); at >= 0; at = p.admit(p.s) {
		if err := p.put(ctx, giveUp, at); err != nil {
			return err
		}
	}
	return nil
}

// replay sends the unacknowledged chunks again, and ends the stream once they
// were sent as often as AckTimeout allows: counted, so that a busy process does
// not end a client early, nor repeat itself once more.
func (p *pump) replay(ctx context.Context, giveUp *time.Timer) error {
	waiting := p.tardy(p.s)
	p.opts.OnReplay(len(waiting))
	for _, at := range waiting {
		if err := p.put(ctx, giveUp, at); err != nil {
			return err
		}
	}
	p.rounds++
	if time.Duration(p.rounds)*p.opts.Replay < p.opts.AckTimeout {
		return nil
	}
	if err := p.drained(ctx, giveUp); err != nil {
		return err
	}
	return p.neverAcked(len(waiting))
}

func (p *pump) neverAcked(waiting int) error {
	return fmt.Errorf("%w of %s: %d of %d chunks for %s", ErrNeverAcked,
		p.s.who.SentinelID, waiting, len(p.chunks), p.opts.AckTimeout)
}

func (p *pump) put(ctx context.Context, giveUp *time.Timer, at int) error {
	select {
	case p.out.in <- p.chunks[at]:
		return nil
	case err := <-p.out.done:
		return err
	case <-giveUp.C:
		waiting, _ := p.state(p.s)
		return p.neverAcked(len(waiting))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drained waits for the last chunk to leave: acknowledgements may come ahead, and
// what comes after the end of a stream does not arrive.
func (p *pump) drained(ctx context.Context, giveUp *time.Timer) error {
	select {
	case p.out.in <- nil:
		return nil
	case err := <-p.out.done:
		return err
	case <-giveUp.C:
		return p.neverAcked(0)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Room is ErrTooMany when no further stream may be opened.
func (r *Registry) Room() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.room(1)
}

// room says whether an answer of that size may be opened; one alone always may.
// The caller holds the lock.
func (r *Registry) room(bytes int64) error {
	switch {
	case r.open >= r.opts.MaxStreams:
		return fmt.Errorf("%w: %d; try again later", ErrTooMany, r.open)
	case r.open > 0 && r.bytes+bytes > r.opts.MaxBytes:
		return fmt.Errorf("%w: %d that hold %d bytes; try again later", ErrTooMany, r.open, r.bytes)
	}
	return nil
}
