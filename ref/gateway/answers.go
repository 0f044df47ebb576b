package gateway

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func answerJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left is not our failure
}

func answerProblem(w http.ResponseWriter, p *contract.Problem) {
	answerJSON(w, p.Status, p.Body())
}

// answerError is the table "error → HTTP answer" of ref/DESIGN.md.
func (g *Gateway) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var problem *contract.Problem
	if errors.As(err, &problem) {
		answerProblem(w, problem)
		return
	}
	if unsaid, ok := g.failures.Pass(time.Now()); ok {
		g.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err, "more_unsaid", unsaid)
	}
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", retryAfter)
		answerProblem(w, unavailable("E_BUSY", errBusy.Error()))
	case errors.Is(err, submit.ErrCommitLog):
		answerProblem(w, contract.CommitLogUnavailable())
	case errors.Is(err, submit.ErrRegistry):
		answerProblem(w, unavailable("E_REGISTRY", submit.ErrRegistry.Error()))
	case errors.Is(err, submit.ErrPending):
		answerProblem(w, unavailable("E_PENDING", submit.ErrPending.Error()))
	default:
		answerInternal(w)
	}
}

// answerInternal is the answer to what nobody foresaw: text, not JSON, as the
// original's server gives it.
func answerInternal(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write([]byte(http.StatusText(http.StatusInternalServerError)))
}

// unavailable is an answer that a client may retry after.
func unavailable(code, message string) *contract.Problem {
	return &contract.Problem{Status: http.StatusServiceUnavailable, Detail: pyjson.OfObject(
		pyjson.Member{Key: "code", Value: pyjson.OfString(code)},
		pyjson.Member{Key: "message", Value: pyjson.OfString(message)})}
}

// recovered turns a panic into the answer 500 and a log line; the server lives on.
func (g *Gateway) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			failure := recover()
			if failure == nil {
				return
			}
			if failure == http.ErrAbortHandler {
				panic(failure) // the server's own way to drop a connection
			}
			g.log.Error("panic", "method", r.Method, "path", r.URL.Path, "panic", failure)
			answerInternal(w)
		}()
		next.ServeHTTP(w, r)
	})
}
