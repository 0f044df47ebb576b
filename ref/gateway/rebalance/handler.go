package rebalance

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"qmtl.internal/plumbline/ref/gateway/world"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Handler is POST /rebalancing/execute. All fields are set before first use.
type Handler struct {
	Executor *Executor
	Guard    bool  // the live guard is on
	MaxBody  int64 // bytes
	Logger   *slog.Logger

	failures service.Throttle
}

// ServeHTTP answers with the orders.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := h.execute(w, r)
	status, body := http.StatusOK, pyjson.Append(nil, answer, pyjson.Compact)
	if err != nil {
		problem := h.problem(err)
		status, body = problem.Status, problem.Body()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left reads no answer
}

// problem gives the answer to an error; one that hides a cause is logged.
func (h *Handler) problem(err error) *contract.Problem {
	var problem *contract.Problem
	plain := errors.As(err, &problem) && err == error(problem)
	if unsaid, ok := h.failures.Pass(time.Now()); !plain && ok {
		h.Logger.Warn("rebalancing failed", "error", err, "more_unsaid", unsaid)
	}
	return world.Problem(err)
}

func (h *Handler) execute(w http.ResponseWriter, r *http.Request) (pyjson.Value, error) {
	request, err := world.Body(w, r, h.MaxBody, h.Executor.Worlds != nil, Model())
	if err != nil {
		return pyjson.Value{}, err
	}
	o := options(r)
	switch {
	case Mode(request.Member("mode")) == "hybrid":
		return pyjson.Value{}, refuse(http.StatusNotImplemented, codeMode, "Hybrid mode is not implemented yet. Use mode='scaling' or 'overlay'.")
	case o.Submit && h.Guard && !world.Allowed(r.Header):
		return pyjson.Value{}, world.NotAllowed()
	}
	return h.Executor.Execute(r.Context(), request, o)
}

func options(r *http.Request) Options {
	given := r.URL.Query()
	last := func(name string) string {
		all := given[name]
		if len(all) == 0 {
			return ""
		}
		return all[len(all)-1]
	}
	return Options{Submit: truthy(last("submit")), SharedAccount: yes(last("shared_account")), PerStrategy: yes(last("per_strategy"))}
}

// truthy is how submit is read, yes how the others are.
func truthy(s string) bool {
	s = pyjson.Strip(s)
	return yes(s) || pyjson.Lower(s) == "on"
}

func yes(s string) bool {
	switch pyjson.Lower(s) {
	case "1", "true", "yes":
		return true
	default:
		return false
	}
}
