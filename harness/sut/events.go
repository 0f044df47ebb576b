package sut

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// events relays WebSockets message by message, so that rules can change the
// order and the fields of what the Gateway sends. Other sockets pass through
// the ordinary proxy as bytes.
type events struct {
	upstream *url.URL
	reorder  *share
	edits    []Rule
	log      *slog.Logger

	ctx    context.Context // ends every relay
	cancel context.CancelFunc
	open   sync.WaitGroup
}

func newEvents(upstream *url.URL, reorder *share, edits []Rule, log *slog.Logger) *events {
	e := &events{upstream: upstream, reorder: reorder, edits: edits, log: log}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

func (e *events) wanted() bool { return e.reorder != nil || len(e.edits) > 0 }

// close ends all relays and waits for them.
func (e *events) close() {
	e.cancel()
	e.open.Wait()
}

// ServeHTTP joins one client with the Gateway.
func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.open.Add(1)
	defer e.open.Done()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	header := r.Header.Clone()
	for key := range header {
		if strings.HasPrefix(key, "Sec-Websocket-") || key == "Upgrade" || key == "Connection" {
			header.Del(key) // the dialer writes its own
		}
	}
	to := *e.upstream
	to.Path, to.RawQuery = r.URL.Path, r.URL.RawQuery
	gateway, resp, err := websocket.Dial(ctx, to.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{}}, // no proxy of the environment's
		HTTPHeader: header, Host: r.Host, Subprotocols: r.Header.Values("Sec-Websocket-Protocol"),
	})
	if err != nil {
		refuse(w, resp)
		return
	}
	defer gateway.CloseNow()
	client, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{gateway.Subprotocol()}})
	if err != nil {
		return // Accept has answered
	}
	defer client.CloseNow()
	for _, c := range []*websocket.Conn{gateway, client} {
		c.SetReadLimit(-1)
	}
	e.relay(ctx, cancel, gateway, client)
}

// refuse gives the client the Gateway's own refusal.
func refuse(w http.ResponseWriter, resp *http.Response) {
	if resp == nil {
		hangUp(w)
		return
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	copyAnswer(w, resp)
}

func (e *events) relay(ctx context.Context, cancel context.CancelFunc, gateway, client *websocket.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		defer cancel()
		messages := make(chan frame)
		var reading sync.WaitGroup
		reading.Go(func() { read(ctx, gateway, messages) })
		end := e.send(ctx, client, messages)
		passClose(client, end)
		cancel()
		reading.Wait()
	})
	both.Go(func() {
		defer cancel()
		for {
			kind, b, err := client.Read(ctx)
			if err != nil {
				passClose(gateway, err)
				return
			}
			if gateway.Write(ctx, kind, b) != nil {
				return
			}
		}
	})
	both.Wait()
}

// frame is one message, or the end of them.
type frame struct {
	kind websocket.MessageType
	b    []byte
	err  error
}

func read(ctx context.Context, from *websocket.Conn, to chan<- frame) {
	for {
		kind, b, err := from.Read(ctx)
		select {
		case to <- frame{kind, b, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// send passes messages on, some of them in changed order, until the last. A
// message that has no successor in time goes on alone.
func (e *events) send(ctx context.Context, to *websocket.Conn, from <-chan frame) error {
	var kept *frame
	limit := time.NewTimer(time.Hour)
	limit.Stop()
	defer limit.Stop()
	for {
		var next frame
		select {
		case next = <-from:
		case <-limit.C:
			if err := e.write(ctx, to, kept); err != nil {
				return err
			}
			kept = nil
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		if kept == nil && next.err == nil && e.reorder.take() {
			kept = &next
			limit.Reset(hold)
			continue
		}
		limit.Stop()
		if err := e.pair(ctx, to, next, kept); err != nil {
			return err
		}
		kept = nil
	}
}

// pair writes a message and then the one that was kept for it. After the end
// of messages only the kept one is left to write.
func (e *events) pair(ctx context.Context, to *websocket.Conn, next frame, kept *frame) error {
	if next.err == nil {
		if err := e.write(ctx, to, &next); err != nil {
			return err
		}
	}
	if kept != nil {
		if err := e.write(ctx, to, kept); err != nil {
			return err
		}
	}
	return next.err
}

func (e *events) write(ctx context.Context, to *websocket.Conn, f *frame) error {
	b := f.b
	if len(e.edits) > 0 {
		if edited, err := editJSON(b, e.edits); err == nil {
			b = edited // what is no JSON stays as it is
		}
	}
	return to.Write(ctx, f.kind, b)
}

// passClose closes a connection the way the other one was closed.
func passClose(c *websocket.Conn, err error) {
	if code := websocket.CloseStatus(err); code > 0 && code != websocket.StatusNoStatusRcvd && code != websocket.StatusAbnormalClosure {
		_ = c.Close(code, "") // a peer that left needs no close
	}
}
