package world

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Proxy passes requests on to a WorldService (gateway.md 1.13). All fields are
// set before first use.
type Proxy struct {
	Client  *Client // nil: every route answers that there is none
	Guard   bool    // the live guard is on
	Version int64   // schema version of rebalancing plans to ask for
	MaxBody int64   // bytes
}

// A Route is one method and path of the proxy; in the path a segment {name}
// stands for any one segment.
type Route struct {
	Method, Path string
	Handler      http.HandlerFunc
}

// route says how a request is passed on.
type route struct {
	method, path string
	body         bool     // an object is required
	guard        bool     // only with X-Allow-Live while the live guard is on
	query        []string // parameters that are passed on, the missing ones empty
	call         func(p *Proxy, r *request) (Answer, error)
	status       int // of success; 0 means 200
}

// routes are in the order in which the original tries them.
func routes() []route {
	const (
		w    = "/worlds/{world_id}"
		runs = w + "/strategies/{strategy_id}/runs"
		run  = runs + "/{run_id}"
		live = w + "/promotions/live"
	)
	get, post, put := http.MethodGet, http.MethodPost, http.MethodPut
	return []route{
		{method: post, path: "/rebalancing/plan", body: true, call: (*Proxy).plan},
		{method: get, path: "/allocations", query: []string{"world_id"}, call: (*Proxy).withoutBlanks},
		{method: post, path: "/worlds", body: true},
		{method: get, path: "/worlds"},
		{method: get, path: w},
		{method: get, path: w + "/describe"},
		{method: put, path: w, body: true},
		{method: http.MethodDelete, path: w, status: http.StatusNoContent, call: (*Proxy).bodiless},
		{method: post, path: w + "/policies", body: true},
		{method: get, path: w + "/policies"},
		{method: post, path: w + "/set-default", body: true},
		{method: post, path: w + "/bindings", body: true},
		{method: get, path: w + "/bindings"},
		{method: post, path: w + "/decisions", body: true},
		{method: get, path: w + "/decisions"},
		{method: put, path: w + "/activation", body: true},
		{method: get, path: w + "/audit"},
		{method: get, path: w + "/decide", query: []string{"as_of"}, call: (*Proxy).decide},
		{method: get, path: w + "/activation", query: []string{"strategy_id", "side"}, call: (*Proxy).activation},
		{method: get, path: w + "/{topic}/state_hash"},
		{method: post, path: w + "/evaluate", body: true},
		{method: get, path: runs},
		{method: get, path: run},
		{method: get, path: run + "/metrics"},
		{method: get, path: run + "/history"},
		{method: post, path: run + "/override", body: true},
		{method: post, path: run + "/ex-post-failures", body: true},
		{method: post, path: live + "/approve", body: true},
		{method: post, path: live + "/reject", body: true},
		{method: get, path: live + "/plan", query: []string{"strategy_id", "run_id"}},
		{method: get, path: live + "/candidates", query: []string{"limit", "include_plan"}},
		{method: get, path: w + "/campaign/status", query: []string{"strategy_id"}},
		{method: post, path: w + "/campaign/tick", body: true, query: []string{"strategy_id"}},
		{method: post, path: live + "/apply", body: true, guard: true},
		{method: post, path: live + "/auto-apply", body: true, guard: true},
		{method: post, path: w + "/apply", body: true, guard: true},
	}
}

// Routes gives every route of the proxy.
func (p *Proxy) Routes() []Route {
	var all []Route
	for _, one := range routes() {
		all = append(all, Route{one.method, one.path, func(w http.ResponseWriter, r *http.Request) { p.pass(w, r, one) }})
	}
	return all
}

// request is a request that is passed on.
type request struct {
	*http.Request
	route  route
	call   Call
	header http.Header
}

// pass takes a request to the WorldService and its answer back.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, to route) {
	body, err := p.admit(w, r, to)
	if err != nil {
		answerError(w, err)
		return
	}
	header, correlation := identity(r.Header)
	w.Header().Set("X-Correlation-Id", correlation)
	call := to.call
	if call == nil {
		call = (*Proxy).plain
	}
	answer, err := call(p, &request{Request: r, route: to, header: header, call: Call{
		Method: to.method, Path: r.URL.EscapedPath(), Query: passedOn(r, to.query), Header: header, Body: body,
	}})
	if err != nil {
		answerError(w, err)
		return
	}
	if to.status == http.StatusNoContent {
		w.WriteHeader(to.status)
		return
	}
	if answer.Stale {
		w.Header().Set("Warning", "110 - Response is stale")
		w.Header().Set("X-Stale", "true")
	}
	answerJSON(w, http.StatusOK, answer.Body)
}

// Disabled is the answer of a Gateway without WorldService.
func Disabled() *contract.Problem {
	return &contract.Problem{Status: http.StatusServiceUnavailable, Detail: pyjson.OfString("WorldService disabled")}
}

// NotAllowed is the answer of the live guard.
func NotAllowed() *contract.Problem {
	return &contract.Problem{Status: http.StatusForbidden, Detail: pyjson.OfObject(
		pyjson.Member{Key: "code", Value: pyjson.OfString(contract.CodePermissionDenied)},
		pyjson.Member{Key: "message", Value: pyjson.OfString("live trading not allowed")})}
}

// Allowed says whether the caller asks to trade live.
func Allowed(h http.Header) bool { return h.Get("X-Allow-Live") == "true" }

// admit checks a request in the framework's order: its JSON, the WorldService,
// the model of its body, the guard.
func (p *Proxy) admit(w http.ResponseWriter, r *http.Request, to route) (pyjson.Value, error) {
	t := model.Type(nil)
	if to.body {
		t = model.Dict
	}
	body, err := Body(w, r, p.MaxBody, p.Client != nil, t)
	if err != nil {
		return pyjson.Value{}, err
	}
	if to.guard && p.Guard && !Allowed(r.Header) {
		return pyjson.Value{}, NotAllowed()
	}
	return body, nil
}

// Body reads the body of a route that needs a WorldService and holds it to t,
// nil for a route without body. The error is a *contract.Problem: JSON that is
// none comes before Disabled, and that before all other mistakes.
func Body(w http.ResponseWriter, r *http.Request, limit int64, enabled bool, t model.Type) (pyjson.Value, error) {
	var (
		body pyjson.Value
		raw  []byte
		err  error
	)
	if t != nil {
		if raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, limit)); err != nil {
			return pyjson.Value{}, model.Unread(err, limit)
		}
		body, err = model.Body(r.Header.Get("Content-Type"), raw)
	}
	switch {
	case err != nil && len(raw) > 0:
		return pyjson.Value{}, err
	case !enabled:
		return pyjson.Value{}, Disabled()
	case t == nil || err != nil:
		return pyjson.Value{}, err
	}
	body, mistakes := model.Check(t, body)
	if mistakes != nil {
		return pyjson.Value{}, model.Unprocessable("body", mistakes...)
	}
	return body, nil
}

// passedOn gives the named parameters of a request.
func passedOn(r *http.Request, names []string) []Param {
	given := r.URL.Query()
	var params []Param
	for _, name := range names {
		all := given[name]
		value := ""
		if len(all) > 0 {
			value = all[len(all)-1]
		}
		params = append(params, Param{name, value})
	}
	return params
}

func (p *Proxy) plain(r *request) (Answer, error) {
	body, err := p.Client.JSON(r.Context(), r.call)
	return Answer{Body: body}, err
}

// bodiless: what the answer holds does not matter, and may be no JSON.
func (p *Proxy) bodiless(r *request) (Answer, error) {
	reply, err := p.Client.do(r.Context(), r.call)
	if err == nil {
		err = reply.refusal()
	}
	return Answer{}, err
}

func (p *Proxy) withoutBlanks(r *request) (Answer, error) {
	given := r.call.Query
	r.call.Query = nil
	for _, param := range given {
		if param.Value != "" {
			r.call.Query = append(r.call.Query, param)
		}
	}
	return p.plain(r)
}

func (p *Proxy) decide(r *request) (Answer, error) {
	return p.Client.Decide(r.Context(), r.PathValue("world_id"), r.call.Query[0].Value, r.header)
}

func (p *Proxy) activation(r *request) (Answer, error) {
	q := r.call.Query
	return p.Client.Activation(r.Context(), r.PathValue("world_id"), q[0].Value, q[1].Value, r.header)
}

func (p *Proxy) plan(r *request) (Answer, error) {
	plan, err := p.Client.Plan(r.Context(), p.Version, r.call.Body, r.header)
	return Answer{Body: plan.Body}, err
}

// identity is what the WorldService is told of the caller, and the new id of the
// exchange. The claims of a token are passed on, not vouched for.
func identity(h http.Header) (out http.Header, correlation string) {
	out = http.Header{}
	add := func(name, value string) {
		if value != "" && plainText(value) {
			out.Set(name, value)
		}
	}
	auth := h.Get("Authorization")
	add("Authorization", auth)
	if sub, claims, ok := callerOf(auth); ok {
		add("X-Caller-Sub", sub)
		add("X-Caller-Claims", claims)
	}
	add("X-World-Roles", h.Get("X-World-Roles"))
	correlation = strings.ReplaceAll(uuid.NewString(), "-", "")
	add("X-Correlation-Id", correlation)
	return out, correlation
}

// plainText: a header cannot carry control characters.
func plainText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
}

// callerOf reads subject and claims out of a bearer token, which nobody checks
// here.
func callerOf(auth string) (sub, claims string, ok bool) {
	scheme, token, _ := strings.Cut(auth, " ")
	parts := strings.Split(token, ".")
	if !strings.EqualFold(scheme, "bearer") || len(parts) < 2 {
		return "", "", false
	}
	raw, err := base64.URLEncoding.DecodeString(parts[1] + strings.Repeat("=", -len(parts[1])&3))
	if err != nil || !json.Valid(raw) {
		return "", "", false
	}
	v, err := pyjson.Parse(raw)
	if err != nil || v.Kind() != pyjson.Object {
		return "", "", false
	}
	if who := v.Member("sub"); !who.IsNull() {
		sub = who.Text()
	}
	return sub, string(pyjson.Append(nil, v, pyjson.Spaced|pyjson.ASCII)), true
}

func answerJSON(w http.ResponseWriter, status int, body pyjson.Value) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(pyjson.Append(nil, body, pyjson.Compact)) // a client that left reads no answer
}

// Problem gives the answer to an error of this package: a *contract.Problem as
// it is, a *Refusal mirrored, anything else as a WorldService that is away or
// talks nonsense.
func Problem(err error) *contract.Problem {
	var (
		problem *contract.Problem
		refused *Refusal
		syntax  *pyjson.SyntaxError
	)
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &refused):
		return &contract.Problem{Status: refused.Status, Detail: refused.Detail}
	case errors.As(err, &syntax):
		return &contract.Problem{Status: http.StatusBadGateway, Detail: pyjson.OfString("WorldService's answer is no JSON")}
	default:
		return &contract.Problem{Status: http.StatusServiceUnavailable, Detail: pyjson.OfString(ErrUnavailable.Error())}
	}
}

func answerError(w http.ResponseWriter, err error) {
	problem := Problem(err)
	if problem.Status == http.StatusNotModified {
		w.WriteHeader(problem.Status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(problem.Status)
	_, _ = w.Write(problem.Body()) // as above
}
