package hub

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// StreamConfig says what /events/subscribe tells; what is zero takes the
// original's default.
type StreamConfig struct {
	URL      string        // where the stream is, as a client reaches it
	Fallback string        // where everything is, without a token
	TTL      time.Duration // of a token; 300 s

	// Subscribed hears of every subscription that was granted. May be nil.
	Subscribed func(world string)

	// Snapshot gives what a client gets first, beside the stream, for the
	// parameters of its handshake. Nil: nothing.
	Snapshot func(ctx context.Context, asked url.Values, grant Grant) []contract.Event
}

// Stream is the event stream behind tokens: POST /events/subscribe,
// GET /events/jwks and the WebSocket /ws/evt.
type Stream struct {
	hub  *Hub
	keys *Keys
	cfg  StreamConfig

	connections, disconnects, refused            prometheus.Counter
	heartbeats, acks, refreshes, failedRefreshes prometheus.Counter
}

const (
	defaultTTL = 300 * time.Second
	bodyLimit  = 1 << 20
)

// NewStream puts a stream in front of h; its metrics go where the hub's went.
func NewStream(h *Hub, keys *Keys, cfg StreamConfig) (*Stream, error) {
	if cfg.TTL <= 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.URL == "" {
		cfg.URL = "wss://gateway/ws/evt"
	}
	if cfg.Fallback == "" {
		cfg.Fallback = "wss://gateway/ws"
	}
	s := &Stream{hub: h, keys: keys, cfg: cfg}
	var errs []error
	for _, c := range []struct {
		to         *prometheus.Counter
		name, help string
	}{
		{&s.connections, "ws_connections_total", "Clients of /ws/evt that were accepted."},
		{&s.disconnects, "ws_disconnects_total", "Clients of /ws/evt that left, whatever the reason."},
		{&s.refused, "ws_auth_failures_total", "Clients of /ws/evt without a valid token."},
		{&s.heartbeats, "ws_heartbeats_total", "Messages of clients that ask for nothing."},
		{&s.acks, "ws_acks_total", "Acknowledgements of clients."},
		{&s.refreshes, "ws_refreshes_total", "Refreshes that clients asked for."},
		{&s.failedRefreshes, "ws_refresh_failures_total", "Refreshes with an invalid token."},
	} {
		*c.to = prometheus.NewCounter(prometheus.CounterOpts{Name: c.name, Help: c.help})
		errs = append(errs, register(h.cfg.Metrics, c.to))
	}
	return s, errors.Join(errs...)
}

// Subscribe is POST /events/subscribe (gateway.md 1.8): a token for the topics
// of a strategy, and where to take it.
func (s *Stream) Subscribe(w http.ResponseWriter, r *http.Request) {
	req, err := readSubscription(w, r)
	if problem := (*contract.Problem)(nil); errors.As(err, &problem) {
		writeJSON(w, problem.Status, problem.Body())
		return
	}
	now := s.hub.cfg.Now()
	token, err := s.keys.Sign(req.world, req.strategy, req.topics, now, s.cfg.TTL)
	if err != nil {
		s.hub.cfg.Log.Error("event_token_failed", "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	if s.cfg.Subscribed != nil {
		s.cfg.Subscribed(req.world)
	}
	topics := make([]pyjson.Value, len(req.topics))
	for i, t := range req.topics {
		topics[i] = pyjson.OfString(t)
	}
	writeJSON(w, http.StatusOK, pyjson.Append(nil, object(
		"stream_url", pyjson.OfString(s.cfg.URL), "token", pyjson.OfString(token), "topics", pyjson.OfArray(topics...),
		"expires_at", pyjson.OfString(contract.ISOTime(now.Add(s.cfg.TTL), "Z")),
		"fallback_url", pyjson.OfString(s.cfg.Fallback)), pyjson.ASCII))
}

// JWKS is GET /events/jwks.
func (s *Stream) JWKS(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.keys.JWKS())
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone reads no answer
}

type subscription struct {
	world, strategy string
	topics          []string
}

// subscriptionModel is the body of POST /events/subscribe.
var subscriptionModel = model.Object(
	model.Field{Key: "world_id", Type: model.Text},
	model.Field{Key: "strategy_id", Type: model.Text},
	model.Field{Key: "topics", Type: model.ListOf(model.Text), Optional: true},
)

// readSubscription reads and checks the body; the error is a *contract.Problem
// that lists every mistake.
func readSubscription(w http.ResponseWriter, r *http.Request) (subscription, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		return subscription{}, model.Unreadable()
	}
	body, err := model.Read(r.Header.Get("Content-Type"), b, subscriptionModel)
	if err != nil {
		return subscription{}, err
	}
	var req subscription
	req.world, _ = body.Member("world_id").Str()
	req.strategy, _ = body.Member("strategy_id").Str()
	req.topics = []string{}
	for _, t := range body.Member("topics").Elems() {
		topic, _ := t.Str()
		req.topics = append(req.topics, topic)
	}
	return req, nil
}

// ServeHTTP is the endpoint /ws/evt: the token of the header, else of the
// query, decides what the client gets. Without a valid one it is refused before
// the upgrade with 403 and no body.
func (s *Stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	grant, err := s.keys.Verify(tokenOf(r), Audience, s.hub.cfg.Now())
	if err != nil {
		s.refused.Inc()
		s.hub.cfg.Log.Info("ws_auth_failed", "remote", r.RemoteAddr, "error", err)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.hub.upgrade(w, r, Filter{Topics: grant.Topics, World: grant.World}, &session{
		joined:  func() { s.connections.Inc() },
		left:    func() { s.disconnects.Inc() },
		greet:   s.greet(r.URL.Query(), grant),
		inbound: s.inbound,
	})
}

// greet sends the snapshot, which is not numbered (controlbus.md 4.6).
func (s *Stream) greet(asked url.Values, grant Grant) func(context.Context, *websocket.Conn) error {
	if s.cfg.Snapshot == nil || len(grant.Topics) == 0 {
		return nil
	}
	return func(ctx context.Context, conn *websocket.Conn) error {
		for _, e := range s.cfg.Snapshot(ctx, asked, grant) {
			e.CorrelationID = uuid.NewString()
			text := e.Envelope(contract.Stamp{ID: uuid.NewString(), Time: s.hub.cfg.Now()})
			if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
				return err
			}
		}
		return nil
	}
}

// tokenOf gives the bearer token of the header, else the query's.
func tokenOf(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(token)
	}
	return r.URL.Query().Get("token")
}

// errRefresh ends a client whose new token is invalid.
var errRefresh = errors.New("refresh with an invalid token")

// inbound answers what a client of /ws/evt sends (controlbus.md 4.7).
func (s *Stream) inbound(ctx context.Context, c *client, conn *websocket.Conn, text []byte) error {
	v, err := pyjson.Parse(text)
	if err != nil {
		v = pyjson.Value{}
	}
	kind, _ := v.Member("type").Or(v.Member("event")).Str()
	switch kind {
	case "ack":
		s.acks.Inc()
		return s.reply(ctx, conn, "ack", pyjson.Member{Key: "last_id", Value: v.Member("last_id")})
	case "refresh":
		s.refreshes.Inc()
		return s.refresh(ctx, c, conn, v.Member("token"))
	default:
		s.heartbeats.Inc()
		return nil
	}
}

func (s *Stream) refresh(ctx context.Context, c *client, conn *websocket.Conn, token pyjson.Value) error {
	text, ok := token.Str()
	if !ok {
		return nil
	}
	grant, err := s.keys.Verify(text, Audience, s.hub.cfg.Now())
	if err != nil {
		s.failedRefreshes.Inc()
		s.hub.cfg.Log.Info("ws_refresh_failed", "error", err)
		return errors.Join(errRefresh, conn.Close(websocket.StatusPolicyViolation, ""))
	}
	s.hub.refilter(c, grant)
	return s.reply(ctx, conn, "refresh_ack")
}

func (s *Stream) reply(ctx context.Context, conn *websocket.Conn, kind string, more ...pyjson.Member) error {
	members := append([]pyjson.Member{
		{Key: "type", Value: pyjson.OfString(kind)},
		{Key: "ts", Value: pyjson.OfString(contract.ISOTime(s.hub.cfg.Now(), "+00:00"))},
	}, more...)
	return conn.Write(ctx, websocket.MessageText, pyjson.Append(nil, pyjson.OfObject(members...), pyjson.Spaced|pyjson.ASCII))
}

// refilter gives a client the topics of a new grant, and its world if it names
// one.
func (h *Hub) refilter(c *client, g Grant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.filter.Topics = g.Topics
	if g.World != nil {
		c.filter.World = g.World
	}
	h.metrics.count(h.joined)
}
