package hub

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"
)

// inboundLimit is the largest frame that a client may send.
const inboundLimit = 16 << 20

// ServeHTTP is the endpoint /ws: no authentication, every topic, every world.
// What a client sends is read and ignored.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.Serve(w, r, Filter{}) }

// Serve upgrades r and sends it the events that pass the filter, until the
// client goes or the hub closes. A hub that is closed or full answers 503.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, f Filter) {
	h.upgrade(w, r, f, &session{joined: func() {}, left: func() {}})
}

// A session is what an endpoint does beside handing out events.
type session struct {
	joined, left func()
	greet        func(context.Context, *websocket.Conn) error                  // nil: nothing is sent first
	inbound      func(context.Context, *client, *websocket.Conn, []byte) error // nil: texts are ignored
}

func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, f Filter, s *session) {
	if err := h.reserve(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer h.release()
	// Any origin may listen: the endpoint has no credentials to steal.
	socket := &socketWriter{ResponseWriter: w}
	conn, err := websocket.Accept(socket, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		h.join(nil)
		h.cfg.Log.Debug("ws_handshake_refused", "remote", r.RemoteAddr, "error", err)
		return
	}
	h.serve(context.WithoutCancel(r.Context()), conn, socket.pipe, f, s)
}

// A client is one connection. Three goroutines serve it: the request's own one
// writes, one reads, one pings.
type client struct {
	filter Filter
	rate   *rate.Limiter // nil: as fast as it reads
	queue  *queue
	abort  context.CancelFunc
}

func (h *Hub) newClient(f Filter, abort context.CancelFunc) *client {
	c := &client{filter: f, queue: newQueue(h.cfg.QueueFrames, h.cfg.QueueBytes), abort: abort}
	if h.cfg.RatePerSec > 0 {
		c.rate = rate.NewLimiter(rate.Limit(h.cfg.RatePerSec), h.cfg.RatePerSec)
	}
	return c
}

func (h *Hub) serve(ctx context.Context, conn *websocket.Conn, out *pipe, f Filter, s *session) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, out.abort) // whoever is in the middle of a write, too
	defer conn.CloseNow()             // a second close does nothing
	conn.SetReadLimit(inboundLimit)
	c := h.newClient(f, cancel)
	if !h.join(c) {
		_ = conn.Close(websocket.StatusServiceRestart, "")
		return
	}
	s.joined()
	defer s.left()
	var helpers sync.WaitGroup
	helpers.Go(func() { defer cancel(); c.receive(ctx, conn, s.inbound) })
	helpers.Go(func() { defer cancel(); keepAlive(ctx, conn, h.cfg.PingEvery) })
	err := c.send(ctx, conn, out, s.greet)
	h.leave(c)
	if err == nil { // the hub closes: say so, within one ping's time
		limit := time.AfterFunc(h.cfg.PingEvery, cancel)
		_ = conn.Close(websocket.StatusServiceRestart, "")
		limit.Stop()
	}
	h.cfg.Log.Debug("ws_disconnected", "error", err)
	cancel()
	_ = conn.CloseNow()
	helpers.Wait()
}

// send greets the client, then writes to it until the end.
func (c *client) send(ctx context.Context, conn *websocket.Conn, out *pipe, greet func(context.Context, *websocket.Conn) error) error {
	if greet != nil {
		if err := greet(ctx, conn); err != nil {
			return err
		}
	}
	return c.write(ctx, conn, out)
}

// atOnce is how many frames go out in one write at most.
const atOnce = 64

// write sends what waits, in order, many frames at once where many wait. Nil
// means that the queue was closed and is empty.
func (c *client) write(ctx context.Context, conn *websocket.Conn, out *pipe) error {
	room := make([]*frame, atOnce)
	for {
		frames, err := c.queue.pop(ctx, room)
		if err != nil || len(frames) == 0 {
			return err
		}
		if len(frames) > 1 {
			out.hold()
		}
		for i, f := range frames {
			if err := conn.Write(ctx, websocket.MessageText, f.text); err != nil {
				return err
			}
			frames[i] = nil
		}
		if err := out.release(); err != nil {
			return err
		}
	}
}

// receive reads what the client sends, which also answers pings and sees the
// client go.
func (c *client) receive(ctx context.Context, conn *websocket.Conn, inbound func(context.Context, *client, *websocket.Conn, []byte) error) {
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			return
		}
		if inbound == nil {
			if _, err = io.Copy(io.Discard, r); err != nil {
				return
			}
			continue
		}
		if kind != websocket.MessageText {
			_ = conn.Close(websocket.StatusUnsupportedData, "text only")
			return
		}
		text, err := io.ReadAll(r)
		if err != nil || inbound(ctx, c, conn, text) != nil {
			return
		}
	}
}

// keepAlive pings until a pong is overdue. Writes share the connection, so a
// client that stopped reading is overdue too.
func keepAlive(ctx context.Context, conn *websocket.Conn, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		pong, cancel := context.WithTimeout(ctx, every)
		err := conn.Ping(pong)
		cancel()
		if err != nil {
			return
		}
	}
}

// A queue holds the frames that wait for one client, bounded in number and in
// bytes; what does not fit pushes out the oldest.
type queue struct {
	maxFrames, maxBytes int
	wake                chan struct{} // holds one token while something changed

	mu     sync.Mutex
	frames []*frame // a ring that grows up to maxFrames
	head   int
	n      int
	bytes  int
	closed bool
}

func newQueue(frames, bytes int) *queue {
	return &queue{maxFrames: frames, maxBytes: bytes, wake: make(chan struct{}, 1)}
}

// push appends f and says how many older frames it pushed out.
func (q *queue) push(f *frame) (lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n > 0 && (q.n >= q.maxFrames || q.bytes+len(f.text) > q.maxBytes) {
		q.take()
		lost++
	}
	if q.n == len(q.frames) {
		q.grow()
	}
	q.frames[(q.head+q.n)%len(q.frames)] = f
	q.n++
	q.bytes += len(f.text)
	q.signal()
	return lost
}

// take removes the oldest frame.
func (q *queue) take() *frame {
	f := q.frames[q.head]
	q.frames[q.head] = nil
	q.head = (q.head + 1) % len(q.frames)
	q.n--
	q.bytes -= len(f.text)
	return f
}

func (q *queue) grow() {
	bigger := make([]*frame, min(max(2*len(q.frames), 16), max(q.maxFrames, 1)))
	for i := range q.n {
		bigger[i] = q.frames[(q.head+i)%len(q.frames)]
	}
	q.frames, q.head = bigger, 0
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close lets pop give nil once the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// pop waits for the oldest frames and gives as many as wait and room holds;
// none without an error when the queue is closed and empty. Only one goroutine
// pops.
func (q *queue) pop(ctx context.Context, room []*frame) ([]*frame, error) {
	for {
		q.mu.Lock()
		n := min(q.n, len(room))
		for i := range n {
			room[i] = q.take()
		}
		closed := q.closed
		q.mu.Unlock()
		if n > 0 || closed {
			return room[:n], nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-q.wake:
		}
	}
}
