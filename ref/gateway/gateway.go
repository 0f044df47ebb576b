// Package gateway is the HTTP side of the reference Gateway: routes, wiring and
// the answers to errors. What a submission goes through is in package submit,
// the state of dependencies in package health.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/gateway/degrade"
	"qmtl.internal/plumbline/ref/gateway/fills"
	"qmtl.internal/plumbline/ref/gateway/health"
	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/gateway/rebalance"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/gateway/world"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Gateway answers the HTTP requests of gateway.md section 1 that this slice
// covers. It is safe for concurrent use.
type Gateway struct {
	log      *slog.Logger
	pipeline *submit.Pipeline
	proxy    *world.Proxy
	fills    *fills.Handler
	orders   *rebalance.Handler
	monitor  *health.Monitor
	level    *degrade.Driver
	trades   *pretrade
	metrics  prometheus.Gatherer
	events   *hub.Hub    // WebSocket upgrades of /ws
	stream   *hub.Stream // and of /ws/evt, with its tokens
	doors    *admission  // of submissions
	others   *admission  // of other requests with a body
	rooms    rooms       // for bodies
	maxBody  int64
	guard    bool   // the live guard is on, as /status says
	document []byte // /openapi.json
	failures service.Throttle
}

// Handler gives the routes.
func (g *Gateway) Handler() http.Handler {
	return g.recovered(g.upgrades(g.level.Gate(g.routes())))
}

// routes are those of the table in package openapi.
func (g *Gateway) routes() *router {
	rt := &router{}
	rt.add(http.MethodPost, "/strategies", g.submit(http.StatusAccepted, g.pipeline.Submit))
	rt.add(http.MethodPost, "/strategies/dry-run", g.submit(http.StatusOK, g.pipeline.DryRun))
	rt.add(http.MethodGet, "/strategies/{strategy_id}/status", g.strategyStatus)
	rt.add(http.MethodPost, "/strategies/{strategy_id}/history", g.bounded(g.history()))
	rt.add(http.MethodGet, "/queues/by_tag", g.queuesByTag)
	rt.add(http.MethodPost, "/fills", g.bounded(g.fills.ServeHTTP))
	rt.add(http.MethodPost, "/events/subscribe", g.bounded(g.stream.Subscribe))
	rt.add(http.MethodGet, "/events/jwks", g.stream.JWKS)
	rt.add(http.MethodGet, "/events/schema", g.stream.Schema)
	rt.add(http.MethodPost, "/rebalancing/execute", g.bounded(g.orders.ServeHTTP))
	for _, one := range g.proxy.Routes() {
		rt.add(one.Method, one.Path, g.bounded(one.Handler))
	}
	rt.add(http.MethodGet, "/health", g.health)
	rt.add(http.MethodGet, "/status", g.status)
	rt.add(http.MethodGet, "/metrics", g.exposition)
	rt.add(http.MethodGet, "/openapi.json", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, g.document) })
	return rt
}

// upgrades takes WebSocket handshakes to the hub and the stream; for any other
// request their paths do not exist.
func (g *Gateway) upgrades(next http.Handler) http.Handler {
	sockets := map[string]http.Handler{"/ws": g.events, "/ws/evt": g.stream}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if socket := sockets[r.URL.Path]; socket != nil && r.Header.Get("Upgrade") != "" {
			socket.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// submit reads a submission, hands it on and answers with the acknowledgement.
func (g *Gateway) submit(status int, accept func(context.Context, *submit.Request) (*submit.Ack, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ack, err := g.accepted(w, r, accept)
		if err != nil {
			g.answerError(w, r, err)
			return
		}
		answerJSON(w, status, ack.AppendJSON(make([]byte, 0, 1<<10)))
	}
}

func (g *Gateway) strategyStatus(w http.ResponseWriter, r *http.Request) {
	state, err := g.pipeline.Registry.State(r.Context(), r.PathValue("strategy_id"))
	switch {
	case err != nil:
		g.answerError(w, r, err)
	case state == "":
		answerProblem(w, contract.StrategyNotFound())
	default:
		answerValue(w, pyjson.OfObject(pyjson.Member{Key: "status", Value: pyjson.OfString(string(state))}))
	}
}

func answerValue(w http.ResponseWriter, v pyjson.Value) {
	answerJSON(w, http.StatusOK, pyjson.Append(nil, v, pyjson.Compact))
}

// queuesByTag answers a tag query; without a DAG Manager the list is empty.
func (g *Gateway) queuesByTag(w http.ResponseWriter, r *http.Request) {
	given := r.URL.Query()
	query, err := tagQuery(given)
	if err != nil {
		g.answerError(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.pipeline.Limits.Lookups)
	defer cancel()
	domain := dag.ResolveDomain(last(given, "execution_domain"))
	queues, err := g.pipeline.DagManager.Queues(ctx, query, last(given, "world_id"), domain)
	if err != nil {
		g.log.Debug("queues by tag", "error", err)
	}
	answerJSON(w, http.StatusOK, append(submit.AppendQueues([]byte(`{"queues":`), queues), '}'))
}

// last gives the last of a repeated parameter, "" when there is none.
func last(given url.Values, name string) string {
	all := given[name]
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// tagQuery reads the parameters of a tag query; the error names all that are
// missing or wrong.
func tagQuery(given url.Values) (contract.TagQuery, error) {
	var errs []model.FieldError
	fail := func(name, errType string, input pyjson.Value) {
		errs = append(errs, model.FieldError{Type: errType, Loc: []pyjson.Value{pyjson.OfString(name)}, Input: input})
	}
	if !given.Has("tags") {
		fail("tags", "missing", pyjson.Value{})
	}
	interval, errType := int64(0), "missing"
	input := pyjson.Value{}
	if given.Has("interval") {
		sent := last(given, "interval")
		input = pyjson.OfString(sent)
		interval, errType = seconds(sent)
	}
	if errType != "" {
		fail("interval", errType, input)
	}
	if errs != nil {
		return contract.TagQuery{}, model.Unprocessable("query", errs...)
	}
	return contract.TagQuery{
		Tags:      contract.SplitTagText(last(given, "tags")),
		MatchMode: contract.MatchMode(last(given, "match_mode")),
		Interval:  &interval,
	}, nil
}

func seconds(sent string) (int64, string) {
	digits, errType := model.LaxIntText(sent)
	if errType != "" {
		return 0, errType
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, "int_parsing_size" // more than the DAG Manager can be asked for
	}
	return n, ""
}

func (g *Gateway) health(w http.ResponseWriter, r *http.Request) {
	answerValue(w, g.monitor.Report(r.Context()).JSON())
}

// status is health and the process's own state.
func (g *Gateway) status(w http.ResponseWriter, r *http.Request) {
	answerValue(w, g.monitor.Report(r.Context()).JSON(
		pyjson.Member{Key: "degrade_level", Value: pyjson.OfString(g.level.Level().String())},
		pyjson.Member{Key: "enforce_live_guard", Value: pyjson.OfBool(g.guard)},
		pyjson.Member{Key: "pretrade", Value: g.trades.value()}))
}

// exposition serves the metrics under the media type of the original.
func (g *Gateway) exposition(w http.ResponseWriter, r *http.Request) {
	families, err := g.metrics.Gather()
	if err != nil {
		g.answerError(w, r, fmt.Errorf("metrics: %w", err))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	enc := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return // the client left
		}
	}
}

// healthEvery is the pause between the two attempts of a DAG Manager probe.
const healthEvery = 100 * time.Millisecond
