// Package world is the Gateway's side of a WorldService (gateway.md 1.13,
// controlbus.md section 6): the client with its time limits, repetitions,
// breaker and caches, the routes that are passed on to it, and what its
// decisions do to a submission. A WorldService that is away or slow never fails
// a submission and never holds one for longer than Config.Budget.
package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Config says where a WorldService is and how long to wait for it; what is zero
// takes the default of DefaultConfig.
type Config struct {
	URL         string        // base address
	Timeout     time.Duration // of one attempt
	Attempts    int           // at most
	HealthWait  time.Duration // for its health between two attempts
	Budget      time.Duration // of a call with all its attempts
	BreakerOpen time.Duration // before an open breaker lets a trial through
	Entries     int           // most decisions, and most activations, that are remembered

	Metrics prometheus.Registerer
	Log     *slog.Logger
	Now     func() time.Time
}

func (c *Config) defaults() {
	set(&c.Timeout, 300*time.Millisecond)
	set(&c.Attempts, 3)
	set(&c.HealthWait, 400*time.Millisecond)
	set(&c.Budget, 2*time.Second)
	set(&c.BreakerOpen, 2*time.Second)
	set(&c.Entries, 10_000)
	if c.Now == nil {
		c.Now = time.Now
	}
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// breakerTrips is how many failed calls in a row open the breaker.
const breakerTrips = 3

// largestReply bounds what is read of an answer.
const largestReply = 64 << 20

// Client asks one WorldService. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    string
	http    *http.Client
	breaker *gobreaker.CircuitBreaker[*Reply]
	metrics *metrics

	decisions   *cache[decision]
	activations *cache[activation]
	asking      singleflight.Group // the decisions that submissions wait for
	silent      service.Throttle
}

// New makes a client and registers its metrics. Close ends its connections.
func New(cfg Config) (*Client, error) {
	cfg.defaults()
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("WorldService address %q: want http://HOST:PORT", cfg.URL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.Proxy = nil // it is a neighbour
	c := &Client{
		cfg: cfg, base: strings.TrimRight(cfg.URL, "/"),
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // an answer like any other
		}},
		decisions: newCache[decision](cfg.Entries), activations: newCache[activation](cfg.Entries),
	}
	if c.metrics, err = newMetrics(cfg.Metrics, c); err != nil {
		return nil, err
	}
	c.breaker = gobreaker.NewCircuitBreaker[*Reply](gobreaker.Settings{
		Name:        "worldservice",
		Timeout:     cfg.BreakerOpen,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakerTrips },
		IsExcluded:  func(err error) bool { return err != nil && !errors.Is(err, errDown) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				c.metrics.opened.Inc()
			}
		},
	})
	return c, nil
}

// Close ends idle connections; calls in flight are not waited for.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Open says whether the breaker refuses calls now.
func (c *Client) Open() bool { return c.breaker.State() == gobreaker.StateOpen }

// ErrUnavailable: there is no answer, be it that the WorldService cannot be
// reached, is too slow, or that the breaker is open.
var ErrUnavailable = errors.New("WorldService unavailable")

// errDown marks what the breaker counts.
var errDown = errors.New("WorldService down")

// A Refusal is an answer with a status of 300 or more.
type Refusal struct {
	Status int
	Detail pyjson.Value // what the answer says: its detail, its body, or its text
}

// Error names the status and the detail.
func (r *Refusal) Error() string {
	return fmt.Sprintf("WorldService answered %d: %.200s", r.Status, pyjson.Append(nil, r.Detail, pyjson.Compact))
}

// A Call is one request to the WorldService.
type Call struct {
	Method string
	Path   string // escaped
	Query  []Param
	Header http.Header
	Body   pyjson.Value // an object, or null for none
}

// A Param is one member of a query, in its place.
type Param struct{ Name, Value string }

// A Reply is an answer of any status.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON gives the body, null when there is none.
func (r *Reply) JSON() (pyjson.Value, error) {
	if r.Status == http.StatusNoContent || len(r.Body) == 0 {
		return pyjson.Value{}, nil
	}
	v, err := pyjson.Parse(r.Body)
	if err != nil {
		return pyjson.Value{}, fmt.Errorf("WorldService's answer: %w", err)
	}
	return v, nil
}

// refusal gives the error of an answer that is none of success.
func (r *Reply) refusal() error {
	if r.Status < http.StatusMultipleChoices {
		return nil
	}
	return &Refusal{Status: r.Status, Detail: r.detail()}
}

func (r *Reply) detail() pyjson.Value {
	v, err := pyjson.Parse(r.Body)
	switch {
	case err == nil:
		if detail, ok := v.Get("detail"); ok {
			return detail
		}
		return v
	case len(r.Body) > 0:
		return pyjson.OfString(strings.ToValidUTF8(string(r.Body), "\uFFFD"))
	default:
		return pyjson.OfString("WorldService request failed")
	}
}

// JSON makes call and gives the body of its success. The error is a *Refusal, or
// wraps ErrUnavailable or that of ctx.
func (c *Client) JSON(ctx context.Context, call Call) (pyjson.Value, error) {
	reply, err := c.do(ctx, call)
	if err != nil {
		return pyjson.Value{}, err
	}
	if err := reply.refusal(); err != nil {
		return pyjson.Value{}, err
	}
	return reply.JSON()
}

// do makes a call with all its attempts, past a closed breaker only. Any answer
// is a success to the breaker, whatever its status.
func (c *Client) do(ctx context.Context, call Call) (*Reply, error) {
	reply, err := c.breaker.Execute(func() (*Reply, error) { return c.attempts(ctx, call) })
	switch {
	case err == nil:
		return reply, nil
	case ctx.Err() != nil && !errors.Is(err, errDown):
		return nil, fmt.Errorf("%s %s: %w", call.Method, call.Path, context.Cause(ctx))
	}
	if unsaid, ok := c.silent.Pass(time.Now()); ok {
		c.cfg.Log.Warn("no answer from WorldService", "method", call.Method, "path", call.Path, "error", err, "more_unsaid", unsaid)
	}
	return nil, fmt.Errorf("%s %s: %w: %w", call.Method, call.Path, ErrUnavailable, err)
}

// attempts repeats a call while there is no answer. Before each repetition the
// WorldService must look healthy.
func (c *Client) attempts(ctx context.Context, call Call) (*Reply, error) {
	body := []byte(nil)
	if !call.Body.IsNull() {
		body = pyjson.Append(nil, call.Body, pyjson.Compact)
	}
	limited, cancel := context.WithTimeout(ctx, c.cfg.Budget)
	defer cancel()
	for attempt := 1; ; attempt++ {
		reply, err := c.attempt(limited, call, body)
		switch {
		case err == nil:
			return reply, nil
		case ctx.Err() != nil: // the caller left; that says nothing of the other side
			return nil, context.Cause(ctx)
		case attempt >= c.cfg.Attempts || limited.Err() != nil || !c.waitHealthy(limited):
			return nil, fmt.Errorf("%w: %w", errDown, err)
		}
	}
}

func (c *Client) attempt(ctx context.Context, call Call, body []byte) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, call.Method, c.base+call.Path+query(call.Query), reader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range call.Header {
		req.Header[name] = values
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	begun := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, largestReply))
	if err != nil {
		return nil, err
	}
	c.metrics.answered(time.Since(begun))
	return &Reply{Status: resp.StatusCode, Header: resp.Header, Body: text}, nil
}

// reader keeps a nil body nil, which sends none.
func reader(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}

// query writes parameters in their order, also the empty ones.
func query(params []Param) string {
	var b strings.Builder
	for i, p := range params {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(url.QueryEscape(p.Name) + "=" + url.QueryEscape(p.Value))
	}
	return b.String()
}

// healthEvery is the pause between two looks at a WorldService that is not well.
const healthEvery = 100 * time.Millisecond

// waitHealthy asks for its health until it is well; false when it was not within
// HealthWait or ctx ended.
func (c *Client) waitHealthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HealthWait)
	defer cancel()
	for {
		if c.healthy(ctx) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(healthEvery):
		}
	}
}

func (c *Client) healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/health", nil)
	if err != nil {
		return false
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return resp.StatusCode == http.StatusOK
}
