package scenario

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// wsAction opens, watches, writes to or closes a named WebSocket.
type wsAction struct {
	Open     string            `json:"open"`
	Path     string            `json:"path"`
	Headers  map[string]string `json:"headers"`
	Ready    string            `json:"ready"`
	On       string            `json:"on"`
	Where    *any              `json:"where"`
	Frames   []any             `json:"frames"`
	AnyOrder bool              `json:"any_order"`
	Count    int               `json:"count"`
	Within   duration          `json:"within"`
	Settle   duration          `json:"settle"`
	Send     *any              `json:"send"`
	Binary   *string           `json:"send_base64"`
	Ended    bool              `json:"ended"`
	Close    string            `json:"close"`
	Abrupt   bool              `json:"abrupt"`
	Stalled  bool              `json:"stalled"`
}

func (a wsAction) validate() error {
	if err := exactlyOne(map[string]bool{"open": a.Open != "", "on": a.On != "", "close": a.Close != ""}, "open", "on", "close"); err != nil {
		return err
	}
	if a.On == "" {
		return nil
	}
	return exactlyOne(map[string]bool{"frames": a.Frames != nil, "count": a.Count > 0, "send": a.Send != nil, "send_base64": a.Binary != nil, "ended": a.Ended},
		"frames", "count", "send", "send_base64", "ended")
}

func (a wsAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	switch {
	case a.Open != "":
		_, judged := st.expect["status"]
		return a.open(ctx, x, judged)
	case a.Close != "":
		return nil, x.closeConn(a.Close, a.Abrupt)
	}
	c, err := x.conn(a.On)
	switch {
	case err != nil:
		return nil, err
	case a.Send != nil || a.Binary != nil:
		return nil, a.send(ctx, c)
	case a.Ended:
		return a.end(ctx, c)
	}
	return a.watch(ctx, x, c)
}

func (a wsAction) send(ctx context.Context, c *wsConn) error {
	if a.Send != nil {
		return c.ws.Write(ctx, websocket.MessageText, []byte(written(*a.Send)))
	}
	b, err := base64.StdEncoding.DecodeString(*a.Binary)
	if err != nil {
		return fmt.Errorf("send_base64: %w", err)
	}
	return c.ws.Write(ctx, websocket.MessageBinary, b)
}

// end waits until the server has ended the connection and shows its close code;
// -1 without one.
func (a wsAction) end(ctx context.Context, c *wsConn) (observation, error) {
	limited, cancel := context.WithTimeout(ctx, a.Within.or(5*time.Second))
	defer cancel()
	c.await(limited, func([]any) bool { return false })
	if err := c.ended(); err != nil {
		return observation{"close_code": count(int(websocket.CloseStatus(err)))}, nil
	}
	return nil, fmt.Errorf("ws %s: still open after %s; %s", a.On, a.Within.or(5*time.Second), c.state())
}

// open connects and, when asked, waits until the control bus is heard on the
// connection (controlbus.md 1.3: a consumer that joins late misses records).
// A refused handshake is an error, unless its status is judged.
func (a wsAction) open(ctx context.Context, x *execution, judged bool) (observation, error) {
	base, err := x.wire.gateway()
	if err != nil {
		return nil, err
	}
	path := cmp.Or(a.Path, "/ws")
	limited, cancel := context.WithTimeout(ctx, a.Within.or(10*time.Second))
	defer cancel()
	ws, resp, err := websocket.Dial(limited, "ws"+strings.TrimPrefix(base, "http")+path, &websocket.DialOptions{HTTPHeader: a.header(), HTTPClient: x.wire.http})
	if err != nil && judged && resp != nil {
		return observation{"status": count(resp.StatusCode)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ws %s: %w", path, dialError(resp, err))
	}
	c := newConn(ws, a.Stalled)
	x.shared.mu.Lock()
	before := x.shared.conns[a.Open]
	x.shared.conns[a.Open] = c
	x.shared.mu.Unlock()
	if before != nil {
		before.close(false)
	}
	o := observation{"frames": []any{}, "status": count(http.StatusSwitchingProtocols)}
	if a.Ready == "" {
		return o, nil
	}
	return o, x.probe(ctx, c, a.Ready, a.Within.or(60*time.Second))
}

// header leaves out empty values, as http does.
func (a wsAction) header() http.Header {
	h := http.Header{}
	for k, v := range a.Headers {
		if v != "" {
			h.Set(k, v)
		}
	}
	return h
}

func dialError(resp *http.Response, err error) error {
	if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	return err
}

// probe sends unique records until the frame of one of them arrives.
func (x *execution) probe(ctx context.Context, c *wsConn, topic string, limit time.Duration) error {
	cl, err := x.wire.broker()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no probe record on topic %s was relayed within %s", topic, limit))
	defer cancel()
	world := "probe-" + uuid.NewString()
	seen := partial{"data": partial{"world_id": equal{world}}}
	for n := 0; ; n++ {
		e := event{Type: "probe", Data: map[string]any{
			"version": count(1), "world_id": world, "etag": fmt.Sprintf("probe-%d", n), "checksum": fmt.Sprintf("probe-%d", n), "policy_version": count(n),
			"tags": []any{world}, "interval": count(60), "queues": []any{},
		}}
		a := produceAction{Topic: x.wire.topic(topic), Key: &world, Event: &e}
		r, err := a.record()
		if err != nil {
			return err
		}
		if err := cl.ProduceSync(limited, r).FirstErr(); err != nil {
			return errors.Join(err, context.Cause(limited))
		}
		patience, done := context.WithTimeout(limited, 200*time.Millisecond)
		got := c.await(patience, func(f []any) bool { return len(filterFrames(f, seen)) > 0 })
		done()
		if got {
			return nil
		}
		if limited.Err() != nil {
			return context.Cause(limited)
		}
		if err := c.ended(); err != nil {
			return err
		}
	}
}

// watch waits for the wanted frames and then on, for those that must not come.
func (a wsAction) watch(ctx context.Context, x *execution, c *wsConn) (observation, error) {
	x.shared.evaluated.Add(1)
	r := &report{}
	bad := func(_, what, mend string) { r.add("pattern", "%s; %s", what, mend) }
	var where pattern = anything{}
	if a.Where != nil {
		where = compile(*a.Where, "", bad)
	}
	wanted := compileList(a.Frames, "", bad)
	want := max(len(wanted), a.Count)
	if want > 0 {
		limited, cancel := context.WithTimeout(ctx, a.Within.or(5*time.Second))
		c.await(limited, func(f []any) bool { return len(filterFrames(f, where)) >= want })
		cancel()
	}
	if err := sleep(ctx, a.settling(want)); err != nil {
		return nil, err
	}
	found := filterFrames(c.take(), where)
	o := observation{"frames": found}
	if a.Count > 0 {
		compile(count(a.Count), "", bad).check(count(len(found)), "number of frames", r)
	} else if a.AnyOrder {
		set(wanted).check(found, "frames", r)
	} else {
		wanted.check(found, "frames", r)
	}
	if len(r.problems) > 0 {
		r.problems = append(r.problems, c.state())
		return o, errors.New(strings.Join(r.problems, "; "))
	}
	return o, nil
}

// settling is how long to look for frames that must not come.
func (a wsAction) settling(want int) time.Duration {
	if want == 0 {
		return a.Within.or(a.Settle.or(time.Second))
	}
	return a.Settle.or(200 * time.Millisecond)
}

func filterFrames(frames []any, where pattern) []any {
	out := []any{}
	for _, f := range frames {
		if matches(where, f) {
			out = append(out, f)
		}
	}
	return out
}

func (x *execution) conn(name string) (*wsConn, error) {
	x.shared.mu.Lock()
	defer x.shared.mu.Unlock()
	c, ok := x.shared.conns[name]
	if !ok {
		return nil, fmt.Errorf("ws: no connection %q is open", name)
	}
	return c, nil
}

func (x *execution) closeConn(name string, abrupt bool) error {
	c, err := x.conn(name)
	if err != nil {
		return err
	}
	c.close(abrupt)
	return nil
}

// closeAll ends what the scenario left open.
func (x *execution) closeAll() {
	x.shared.mu.Lock()
	conns := x.shared.conns
	x.shared.conns = map[string]*wsConn{}
	x.shared.mu.Unlock()
	for _, c := range conns {
		c.close(false)
	}
}

// wsConn keeps every frame of one connection; its reader ends with close.
type wsConn struct {
	ws      *websocket.Conn
	stop    context.CancelFunc
	done    chan struct{} // closed when the reader has ended
	stalled bool

	mu     sync.Mutex
	frames []any         // guarded by mu
	more   chan struct{} // closed and renewed with each frame; guarded by mu
	err    error         // why reading ended; guarded by mu
	taken  int           // frames that earlier steps have looked at; guarded by mu
}

// newConn owns ws. A stalled one reads nothing until it is closed.
func newConn(ws *websocket.Conn, stalled bool) *wsConn {
	ctx, stop := context.WithCancel(context.Background()) // ended by close
	ws.SetReadLimit(16 << 20)
	c := &wsConn{ws: ws, stop: stop, done: make(chan struct{}), more: make(chan struct{}), stalled: stalled}
	go c.read(ctx)
	return c
}

func (c *wsConn) read(ctx context.Context) {
	defer close(c.done)
	if c.stalled {
		<-ctx.Done()
	}
	for {
		_, b, err := c.ws.Read(ctx)
		c.mu.Lock()
		if err == nil {
			c.frames = append(c.frames, frameOf(b))
		} else {
			c.err = err
		}
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// frameOf is the frame's JSON, or its text.
func frameOf(b []byte) any {
	if v, err := parseJSON(b); err == nil {
		return v
	}
	return string(b)
}

// await waits until enough holds for the frames not yet taken.
func (c *wsConn) await(ctx context.Context, enough func([]any) bool) bool {
	for {
		c.mu.Lock()
		ok, ended, more := enough(c.frames[c.taken:]), c.err != nil, c.more
		c.mu.Unlock()
		if ok || ended {
			return ok
		}
		select {
		case <-more:
		case <-ctx.Done():
			return false
		}
	}
}

// take gives the frames since the last take.
func (c *wsConn) take() []any {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := c.frames[c.taken:]
	c.taken = len(c.frames)
	return fresh
}

func (c *wsConn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// state tells a reader of a failure what the connection is like.
func (c *wsConn) state() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Sprintf("the connection had ended after %d frames: %v", len(c.frames), c.err)
	}
	last := ""
	if n := len(c.frames); n > 0 {
		last = ", the last " + short(c.frames[n-1])
	}
	return fmt.Sprintf("%d frames had come in all%s", len(c.frames), last)
}

// close says good-bye, unless it is abrupt or nobody would read the answer.
func (c *wsConn) close(abrupt bool) {
	if abrupt || c.stalled {
		_ = c.ws.CloseNow() // gone already is as good
	} else {
		_ = c.ws.Close(websocket.StatusNormalClosure, "") // the peer may be gone already
	}
	c.stop()
	<-c.done
}
