package neighbour

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The ways in which a WorldService can fail to answer.
const (
	FailReset = "reset" // the connection is reset without a byte
	FailHang  = "hang"  // nothing is ever answered
	FailCut   = "cut"   // the answer breaks off in its middle
)

// A Rule is what a WorldService does with calls of one kind.
type Rule struct {
	// On is METHOD /path, where a segment {name} stands for any one segment;
	// "*" is every call, those for health included.
	On string
	// Where narrows it down further; nil: no further.
	Where func(Call) bool
	Times int // uses after which the rule no longer counts; 0: it always does

	Delay   time.Duration // before anything is answered
	Fail    string        // "" or one of the ways to fail
	Status  int           // 0: 200
	Headers map[string]string
	Body    []byte // nil: none
}

// Check tells what is wrong with r, nil for nothing.
func (r Rule) Check() error {
	if r.On != "*" {
		if err := checkOn(r.On); err != nil {
			return err
		}
	}
	if !slices.Contains([]string{"", FailReset, FailHang, FailCut}, r.Fail) {
		return fmt.Errorf("fail %q: want %s, %s or %s", r.Fail, FailReset, FailHang, FailCut)
	}
	return nil
}

func checkOn(on string) error {
	method, path, ok := strings.Cut(on, " ")
	if !ok || method == "" || strings.ToUpper(method) != method || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("on %q: want a method and a path, as in GET /worlds/{world}/decide, or *", on)
	}
	return nil
}

// A Call is one request as it came.
type Call struct {
	Method  string
	Path    string // unescaped
	Query   map[string][]string
	Headers http.Header
	Body    []byte
	Ruled   bool // some rule covered it
}

// Is tells whether c is of the kind that on names, as in Rule.On.
func (c Call) Is(on string) bool {
	if on == "*" {
		return true
	}
	method, path, _ := strings.Cut(on, " ")
	if method != c.Method {
		return false
	}
	want, have := strings.Split(path, "/"), strings.Split(c.Path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool {
		return w == h || strings.HasPrefix(w, "{") && strings.HasSuffix(w, "}") && h != ""
	})
}

// Health is the call by which gateways see whether a WorldService lives.
const Health = "GET /health"

// WorldService answers HTTP on loopback by its script. Its methods may be
// called from any goroutine.
type WorldService struct {
	url     string
	server  *http.Server
	life    context.Context
	end     context.CancelCauseFunc
	serving sync.WaitGroup // the acceptor and every answer

	mu     sync.Mutex
	closed bool   // guarded by mu; no answer may begin any more
	script []Rule // guarded by mu
	tally  *tally // guarded by mu; of script
	calls  []Call // guarded by mu
}

// StartWorldService starts one that knows no rule. Close must be called.
func StartWorldService(ctx context.Context) (*WorldService, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("worldservice: %w", err)
	}
	w := &WorldService{url: "http://" + l.Addr().String(), tally: &tally{}}
	w.life, w.end = context.WithCancelCause(context.WithoutCancel(ctx))
	w.server = &http.Server{Handler: http.HandlerFunc(w.serve), ReadHeaderTimeout: 10 * time.Second}
	w.serving.Go(func() { _ = w.server.Serve(l) }) // ends with ErrServerClosed
	return w, nil
}

// URL is its base address.
func (w *WorldService) URL() string { return w.url }

// Script replaces all rules. The error names every rule that is wrong; then
// nothing was replaced.
func (w *WorldService) Script(rules []Rule) error {
	var errs []error
	for i, r := range rules {
		if err := r.Check(); err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.script, w.tally = slices.Clone(rules), &tally{used: make([]int, len(rules))}
	return nil
}

// Calls are the calls so far, in the order in which they came.
func (w *WorldService) Calls() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Forget drops the calls so far.
func (w *WorldService) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = nil
}

// Close ends every connection and waits until nothing is answered any more.
func (w *WorldService) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.end(errClosed)
	err := w.server.Close()
	w.serving.Wait()
	return err
}

// serve answers one call. The body is read first: only then does net/http
// notice that the caller has gone.
func (w *WorldService) serve(rw http.ResponseWriter, r *http.Request) {
	if !w.begin() {
		return
	}
	defer w.serving.Done()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has gone
	}
	rule := w.note(Call{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Headers: r.Header, Body: body})
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(w.life, func() { cancel(errClosed) })()
	late := pause(ctx, rule.Delay)
	if rule.Fail == FailHang {
		<-ctx.Done()
	}
	if late != nil || rule.Fail == FailHang || rule.Fail == FailReset {
		reset(rw)
		return
	}
	answer(rw, rule)
}

// begin counts one more answer, unless there shall be none.
func (w *WorldService) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.serving.Add(1)
	}
	return !w.closed
}

// note remembers a call and finds what is to be done with it.
func (w *WorldService) note(c Call) Rule {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.tally.next(
		func(i int) bool { return c.Is(w.script[i].On) && (w.script[i].Where == nil || w.script[i].Where(c)) },
		func(i int) int { return w.script[i].Times },
	)
	c.Ruled = i >= 0
	w.calls = append(w.calls, c)
	switch {
	case c.Ruled:
		return w.script[i]
	case c.Is(Health):
		return Rule{Body: []byte(`{"status":"ok"}`)}
	}
	return Rule{Status: http.StatusNotFound, Body: []byte(`{"detail":"no rule of the script covers this call"}`)}
}

// reset ends the connection so that the caller gets no answer at all.
func reset(rw http.ResponseWriter) {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // net/http then ends the connection itself
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the end would be a polite one
	}
	_ = conn.Close()
}

func answer(rw http.ResponseWriter, rule Rule) {
	if rule.Body != nil {
		rw.Header().Set("Content-Type", "application/json")
	}
	for k, v := range rule.Headers {
		rw.Header().Set(k, v)
	}
	body := rule.Body
	if rule.Fail == FailCut {
		rw.Header().Set("Content-Length", fmt.Sprint(len(body)+1))
	}
	if rule.Status != 0 {
		rw.WriteHeader(rule.Status)
	}
	_, _ = rw.Write(body) // a caller that has gone reads no answer
}
