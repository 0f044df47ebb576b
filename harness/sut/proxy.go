package sut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// tampering is what a proxy needs to know.
type tampering struct {
	upstream string // URL of the Gateway
	rules    []Rule
	seed     uint64
	kafka    string // host:port; "" unless a rule needs it
	topic    string // of the commit log; "": gateway.ingest
	log      *slog.Logger
}

// hold is the longest that reorder keeps something back.
const hold = 100 * time.Millisecond

// proxy stands before a Gateway and does wrong by rules. What no rule touches
// passes byte for byte.
type proxy struct {
	tampering
	url     string
	server  *http.Server
	serving chan struct{} // closed when the server has ended
	ended   error         // valid once serving is closed
	forward *httputil.ReverseProxy
	events  *events
	doubler *doubler // nil without a rule
	delay   time.Duration
	edits   []Rule

	lose, double, reorder *share

	mu   sync.Mutex
	rng  *rand.Rand      // guarded by mu
	held []chan struct{} // guarded by mu; each is closed when a submission has passed it
}

// newProxy listens on a free port of 127.0.0.1 until close.
func newProxy(ctx context.Context, t tampering) (*proxy, error) {
	upstream, err := url.Parse(t.upstream)
	if err != nil {
		return nil, usagef("tampering proxy: gateway %q: %w", t.upstream, err)
	}
	if t.topic == "" {
		t.topic = "gateway.ingest"
	}
	p := &proxy{
		tampering: t, serving: make(chan struct{}),
		lose:    newShare(t.rules, TamperLose, t.seed),
		double:  newShare(t.rules, TamperDouble, t.seed),
		reorder: newShare(t.rules, TamperReorder, t.seed),
		rng:     rand.New(rand.NewPCG(t.seed, 1)),
	}
	for _, r := range t.rules {
		p.delay += r.Delay
		if r.Field != "" {
			p.edits = append(p.edits, r)
		}
	}
	if p.double != nil {
		if p.doubler, err = newDoubler(t.kafka, t.topic); err != nil {
			return nil, err
		}
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("tampering proxy: %w", err)
	}
	p.serve(ln, upstream)
	return p, nil
}

func (p *proxy) serve(ln net.Listener, upstream *url.URL) {
	p.url = "http://" + ln.Addr().String()
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.Out.Host = r.In.Host // redirects name it
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			if len(p.edits) > 0 {
				r.Out.Header.Del("Accept-Encoding") // answers must be readable; the transport asks for none
			}
		},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024, MaxIdleConns: 1024, IdleConnTimeout: time.Minute,
			DisableCompression: true,
		},
		BufferPool:     &buffers{},
		ModifyResponse: p.answer,
		ErrorHandler:   p.unreachable,
		ErrorLog:       slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		FlushInterval:  -1,
	}
	p.events = newEvents(upstream, p.reorder, p.edits, p.log)
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	go func() {
		defer close(p.serving)
		p.ended = p.server.Serve(ln)
	}()
	p.log.Info("tampering proxy stands before the gateway", "url", p.url, "upstream", p.upstream, "rules", ruleTexts(p.rules))
}

func ruleTexts(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.String())
	}
	return out
}

// close ends the server, its connections and its Kafka clients.
func (p *proxy) close() error {
	err := p.server.Close()
	<-p.serving
	p.events.close()
	if t, ok := p.forward.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	if p.doubler != nil {
		p.doubler.close()
	}
	if !errors.Is(p.ended, http.ErrServerClosed) {
		err = errors.Join(err, p.ended)
	}
	if err != nil {
		return fmt.Errorf("tampering proxy: %w", err)
	}
	return nil
}

// ServeHTTP lets one request through, or not.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case isSubmission(r):
		p.submission(w, r)
	case isWebSocket(r) && p.events.wanted():
		p.events.ServeHTTP(w, r)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

func isSubmission(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.TrimSuffix(r.URL.Path, "/") == "/strategies"
}

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

func (p *proxy) submission(w http.ResponseWriter, r *http.Request) {
	lose, double, late := p.lose.take(), p.double.take(), p.reorder.take()
	switch {
	case lose:
		p.pretend(w, r)
	case double:
		p.twice(w, r)
	case late:
		p.waitForNext(r.Context())
		p.forward.ServeHTTP(w, r)
	default:
		p.forward.ServeHTTP(w, r)
		p.passed()
	}
}

// waitForNext holds a submission back until another has passed.
func (p *proxy) waitForNext(ctx context.Context) {
	mine := make(chan struct{})
	p.mu.Lock()
	p.held = append(p.held, mine)
	p.mu.Unlock()
	limit := time.NewTimer(hold)
	defer limit.Stop()
	select {
	case <-mine:
		return
	case <-limit.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = slices.DeleteFunc(p.held, func(c chan struct{}) bool { return c == mine })
}

// passed lets the submissions go that were held back for this one.
func (p *proxy) passed() {
	if p.reorder == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.held {
		close(c)
	}
	p.held = nil
}

// pretend answers a submission as a Gateway would that accepted it
// (contract/gateway.md 1.3). One that could not be accepted is let through:
// its refusal is no acknowledgement, so nothing would be lost.
func (p *proxy) pretend(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "tampering proxy: "+err.Error(), http.StatusBadRequest)
		return
	}
	var s struct {
		DAG   *string          `json:"dag_json"`
		CRC   *json.RawMessage `json:"node_ids_crc32"`
		World []string         `json:"world_ids"`
	}
	if json.Unmarshal(body, &s) != nil || s.DAG == nil || s.CRC == nil || len(s.World) == 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.forward.ServeHTTP(w, r)
		return
	}
	id := p.uuid()
	p.log.Debug("tampering proxy loses a submission", "strategy_id", id)
	answer := fmt.Sprintf(`{"strategy_id":%q,"queue_map":{},"sentinel_id":"%s-sentinel","node_ids_crc32":%s,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`,
		id, id, *s.CRC)
	made := &http.Response{
		StatusCode: http.StatusAccepted, Request: r, Body: io.NopCloser(strings.NewReader(answer)),
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(answer))}},
	}
	if err := p.answer(made); err != nil {
		p.unreachable(w, r, err)
		return
	}
	copyAnswer(w, made)
}

func copyAnswer(w http.ResponseWriter, made *http.Response) {
	for key, value := range made.Header {
		w.Header()[key] = value
	}
	w.WriteHeader(made.StatusCode)
	_, _ = io.Copy(w, made.Body) // a client that left needs no answer
}

// uuid is a version 4 UUID drawn by seed.
func (p *proxy) uuid() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var id uuid.UUID
	for i := range id {
		id[i] = byte(p.rng.Uint32())
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

// twice lets a submission through, and when it was accepted gives it a second
// effect before its answer goes on.
func (p *proxy) twice(w http.ResponseWriter, r *http.Request) {
	from, err := p.doubler.end(r.Context())
	if err != nil {
		p.log.Warn("tampering proxy cannot double a submission", "error", err)
		p.forward.ServeHTTP(w, r)
		return
	}
	seen := &recorder{ResponseWriter: w}
	p.forward.ServeHTTP(seen, r)
	if seen.status == 0 {
		return // no answer came, and the connection has ended
	}
	var accepted struct {
		ID string `json:"strategy_id"`
	}
	if seen.status == http.StatusAccepted && json.Unmarshal(seen.body.Bytes(), &accepted) == nil {
		if err := p.doubler.again(r.Context(), from, accepted.ID); err != nil {
			p.log.Warn("tampering proxy cannot double a submission", "strategy_id", accepted.ID, "error", err)
		}
	}
	w.WriteHeader(seen.status)
	_, _ = w.Write(seen.body.Bytes()) // a client that left needs no answer
}

// recorder keeps an answer back.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) Flush()                      {}
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer tampers with one answer on its way back.
func (p *proxy) answer(resp *http.Response) error {
	if p.delay > 0 && resp.StatusCode != http.StatusSwitchingProtocols {
		if err := sleep(resp.Request.Context(), p.delay); err != nil {
			return err
		}
	}
	if len(p.edits) == 0 || resp.Request.Method == http.MethodHead || !strings.Contains(resp.Header.Get("Content-Type"), "json") {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if edited, err := editJSON(body, p.edits); err == nil {
		body = edited // what is no JSON stays as it is
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unreachable passes on that the Gateway did not answer: the client sees its
// connection end, as it would without the proxy.
func (p *proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	p.log.Debug("gateway did not answer the tampering proxy", "path", r.URL.Path, "error", err)
	hangUp(w)
}

// hangUp ends the connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusBadGateway) // HTTP/2 has no connection to end
		return
	}
	conn.Close()
}

// buffers lends the proxy its copy buffers.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if x, ok := b.pool.Get().(*[]byte); ok {
		return *x
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(x []byte) { b.pool.Put(&x) }
