// Package fills takes in what brokers executed: POST /fills (gateway.md 1.11).
// Each fill comes as a CloudEvent, from somebody with a token or a signature,
// and goes to the topic trade.fills; it is accepted once Kafka has it.
package fills

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/internal/metric"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Audience is the aud of tokens that let their bearer report fills.
const Audience = "fills"

// Topic is where accepted fills go.
const Topic = "trade.fills"

// Claims reads a token of Audience and gives its claims, or why it is refused.
type Claims func(token string, now time.Time) (map[string]any, error)

// Config is what a Handler works with.
type Config struct {
	Claims      Claims
	Secret      string      // of signatures; "" means that none is valid
	Producer    *kgo.Client // nil: accepted fills go nowhere
	Limit       time.Duration
	Fingerprint string // value of the header rfp
	MaxBody     int64  // bytes
	Metrics     prometheus.Registerer
	Log         *slog.Logger
}

// Handler is POST /fills.
type Handler struct {
	cfg                Config
	model              model.Type
	accepted, rejected *metric.Counters
	failures           service.Throttle
}

// New makes a handler and registers its metrics.
func New(cfg Config) *Handler {
	return &Handler{
		cfg: cfg, model: fillModel(),
		accepted: metric.NewCounters(cfg.Metrics, "fills_accepted_total", "Fills that were accepted.", "world_id", "strategy_id"),
		rejected: metric.NewCounters(cfg.Metrics, "fills_rejected_total", "Fills that were refused.", "world_id", "strategy_id", "reason"),
	}
}

// fillModel is the data of a fill, unknown members left out.
func fillModel() model.Type {
	var fields []model.Field
	for _, f := range layout {
		t := f.kind
		if f.optional {
			t = model.Nullable(t)
		}
		fields = append(fields, model.Field{Key: f.key, Type: t, Optional: f.optional})
	}
	return model.Object(fields...)
}

// layout is the record of a fill: its members in order.
var layout = []struct {
	key      string
	kind     model.Type
	optional bool
}{
	{"order_id", model.Text, false}, {"client_order_id", model.Text, true}, {"correlation_id", model.Text, true},
	{"symbol", model.Text, false}, {"side", model.Text, false},
	{"quantity", model.StrictNumber, false}, {"price", model.StrictNumber, false},
	{"commission", model.StrictNumber, true}, {"slippage", model.StrictNumber, true}, {"market_impact", model.StrictNumber, true},
	{"tif", model.Text, true}, {"fill_time", model.StrictInteger, true}, {"status", model.Text, true},
	{"seq", model.StrictInteger, true}, {"etag", model.Text, true},
}

// unknown stands for ids that nobody gave.
const unknown = "unknown"

// reporter is on whose behalf a fill comes.
type reporter struct{ world, strategy string }

// rejection is a refusal and the label it is counted under.
type rejection struct {
	reason  string
	by      reporter
	problem *contract.Problem
}

func (r *rejection) Error() string { return r.problem.Error() }

func refuse(reason string, by reporter, status int, code string, more ...pyjson.Member) error {
	detail := append([]pyjson.Member{{Key: "code", Value: pyjson.OfString(code)}}, more...)
	return &rejection{reason, by, &contract.Problem{Status: status, Detail: pyjson.OfObject(detail...)}}
}

// ServeHTTP answers 202 to a fill that was stored.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.take(w, r)
	var (
		rejected *rejection
		problem  *contract.Problem
	)
	switch {
	case err == nil:
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
		return
	case errors.As(err, &rejected):
		h.rejected.With(rejected.by.world, rejected.by.strategy, rejected.reason).Inc()
		problem = rejected.problem
	case errors.As(err, &problem):
	default:
		if unsaid, ok := h.failures.Pass(time.Now()); ok {
			h.cfg.Log.Warn("fill not stored", "error", err, "more_unsaid", unsaid)
		}
		problem = unstored()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(problem.Status)
	_, _ = w.Write(problem.Body()) // a client that left reads no answer
}

// unstored is the answer when Kafka did not take a fill, which may be repeated.
func unstored() *contract.Problem {
	return &contract.Problem{Status: http.StatusServiceUnavailable, Detail: pyjson.OfObject(
		pyjson.Member{Key: "code", Value: pyjson.OfString("E_FILLS")},
		pyjson.Member{Key: "message", Value: pyjson.OfString("fill log unavailable")})}
}

// take goes through the steps of the contract in their order.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) error {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody))
	if err != nil {
		return model.Unread(err, h.cfg.MaxBody)
	}
	by := reporter{unknown, unknown}
	body, err := parse(raw)
	if err != nil {
		return unread(err, by)
	}
	if by, err = h.reporter(r.Header, raw, body); err != nil {
		return refuse("auth", reporter{unknown, unknown}, http.StatusUnauthorized, contract.CodeAuth)
	}
	if by.world == "" || by.strategy == "" {
		return refuse("missing_ids", by, http.StatusBadRequest, contract.CodeMissingIDs)
	}
	data := body.Member("data")
	if !body.Member("specversion").Truthy() || data.Kind() != pyjson.Object {
		return refuse("ce_required", by, http.StatusBadRequest, contract.CodeCERequired, pyjson.Member{
			Key: "message", Value: pyjson.OfString("CloudEvents 1.0 envelope required with 'data' object")})
	}
	fill, mistakes := model.Check(h.model, data)
	if mistakes != nil {
		return refuse("schema", by, http.StatusBadRequest, contract.CodeSchemaInvalid,
			pyjson.Member{Key: "errors", Value: model.Items(mistakes)})
	}
	if err := h.store(r.Context(), by, body, fill); err != nil {
		return err
	}
	h.accepted.With(by.world, by.strategy).Inc()
	return nil
}

// unread refuses a body that is no JSON, or too much of it.
func unread(err error, by reporter) error {
	var tooMuch *contract.Problem
	if errors.As(err, &tooMuch) {
		return tooMuch
	}
	return refuse("invalid_json", by, http.StatusBadRequest, contract.CodeInvalidJSON)
}

var errText = errors.New("not UTF-8")

func parse(raw []byte) (pyjson.Value, error) {
	if !utf8.Valid(raw) {
		return pyjson.Value{}, errText
	}
	return model.Parse(string(raw))
}

// errAuth: neither a token nor a signature that is valid.
var errAuth = errors.New("not authenticated")

// reporter finds out who reports: a bearer token counts alone when there is one,
// else the signature of the body.
func (h *Handler) reporter(header http.Header, raw []byte, body pyjson.Value) (reporter, error) {
	if token, ok := strings.CutPrefix(header.Get("Authorization"), "Bearer "); ok {
		claims, err := h.cfg.Claims(token, time.Now())
		if err != nil {
			return reporter{}, err
		}
		return reporter{claimed(claims, "world_id"), claimed(claims, "strategy_id")}, nil
	}
	if !h.signed(header.Get("X-Signature"), raw) {
		return reporter{}, errAuth
	}
	return reporter{named(header, "X-World-Id", body, "world_id"), named(header, "X-Strategy-Id", body, "strategy_id")}, nil
}

// signed: the signature is the lower-case hexadecimal HMAC-SHA256 of the body.
func (h *Handler) signed(signature string, raw []byte) bool {
	if signature == "" || h.cfg.Secret == "" {
		return false
	}
	mac := hmac.New(sha256.New, []byte(h.cfg.Secret))
	mac.Write(raw)
	return hmac.Equal([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(signature))
}

// claimed gives an id as idOf does.
func claimed(claims map[string]any, key string) string {
	v, there := claims[key]
	if !there {
		return unknown
	}
	id, _ := v.(string)
	return id
}

// idOf gives an id: "unknown" where there is none, "" where it is no text.
func idOf(from pyjson.Value, key string) string {
	v, there := from.Get(key)
	if !there {
		return unknown
	}
	id, _ := v.Str()
	return id
}

func named(header http.Header, name string, body pyjson.Value, key string) string {
	if given := header.Values(name); len(given) > 0 {
		return given[0]
	}
	return idOf(body, key)
}

// store writes a fill to Kafka and waits until it is there.
func (h *Handler) store(ctx context.Context, by reporter, envelope, fill pyjson.Value) error {
	if h.cfg.Producer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Limit)
	defer cancel()
	if err := h.cfg.Producer.ProduceSync(ctx, h.record(by, envelope, fill)).FirstErr(); err != nil {
		return fmt.Errorf("topic %s: %w", Topic, err)
	}
	return nil
}

func (h *Handler) record(by reporter, envelope, fill pyjson.Value) *kgo.Record {
	members := make([]pyjson.Member, len(layout))
	for i, f := range layout {
		members[i] = pyjson.Member{Key: f.key, Value: fill.Member(f.key)}
	}
	headers := []kgo.RecordHeader{{Key: "rfp", Value: []byte(h.cfg.Fingerprint)}}
	for _, name := range []string{"id", "type", "source", "time"} {
		if s, ok := envelope.Member(name).Str(); ok {
			headers = append(headers, kgo.RecordHeader{Key: "ce_" + name, Value: []byte(strings.ToValidUTF8(s, "\ufffd"))})
		}
	}
	key := strings.Join([]string{by.world, by.strategy, fill.Member("symbol").Text(), fill.Member("order_id").Text()}, "|")
	return &kgo.Record{
		Topic: Topic, Key: []byte(key), Headers: headers,
		Value: pyjson.Append(nil, pyjson.OfObject(members...), pyjson.Spaced|pyjson.ASCII),
	}
}
