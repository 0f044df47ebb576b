package dagmanager

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// openAPI describes what httpHandler serves.
//
//go:embed openapi.json
var openAPI []byte

// httpHandler serves what dagmanager.md 6.8 has.
func (s *server) httpHandler() http.Handler {
	mux := http.NewServeMux()
	for path, route := range map[string]struct {
		method string
		handle http.HandlerFunc
	}{
		"/status":           {http.MethodGet, s.status},
		"/admin/gc-trigger": {http.MethodPost, s.triggerGC},
		"/openapi.json": {http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusOK, openAPI)
		}},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == route.method { // GET is not HEAD
				route.handle(w, r)
				return
			}
			w.Header().Set("Allow", route.method)
			writeJSON(w, http.StatusMethodNotAllowed, []byte(`{"detail":"Method Not Allowed"}`))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusNotFound, []byte(`{"detail":"Not Found"}`))
	})
	return s.metrics.http(mux)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	state, whole := s.storeState(r.Context()), stateOK
	if state != stateOK {
		whole = "degraded"
	}
	writeJSON(w, http.StatusOK, fmt.Appendf(nil, `{"status":%q,"neo4j":%q,"dagmanager":%q}`, whole, state, stateRunning))
}

// gcRequest is the body of POST /admin/gc-trigger. The id is required and says
// nothing.
var gcRequest = model.Object(model.Field{Key: "id", Type: model.Text})

// mostTrigger is the largest body in bytes.
const mostTrigger = 1 << 20

// triggerGC collects one batch of orphans and answers with the report; with
// ?dry_run=true it only says what it would do.
func (s *server) triggerGC(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostTrigger))
	if err == nil {
		_, err = model.Read(r.Header.Get("Content-Type"), body, gcRequest)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	dry := slices.Contains([]string{"1", "true"}, strings.ToLower(r.URL.Query().Get("dry_run")))
	report, err := s.collect(r.Context(), dry, true)
	if err != nil {
		s.log.Warn("garbage collection failed", "request_id", requestID(r.Context()), "error", err)
		answerStatus(w, err)
		return
	}
	answer, err := json.Marshal(map[string]any{"processed": report.Processed, "report": report})
	if err != nil {
		answerStatus(w, err)
		return
	}
	writeJSON(w, http.StatusAccepted, answer)
}

// refuse answers a body that is of no use.
func refuse(w http.ResponseWriter, err error) {
	var problem *contract.Problem
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &problem):
	case errors.As(err, &large):
		problem = coded(http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", fmt.Sprintf("the body has more than %d bytes", large.Limit))
	default:
		problem = model.Unreadable()
	}
	writeJSON(w, problem.Status, problem.Body())
}

// httpCodes are the statuses of HTTP for those of gRPC.
var httpCodes = map[codes.Code]int{
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.FailedPrecondition: http.StatusConflict,
	codes.Aborted:            http.StatusConflict,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.Unavailable:        http.StatusServiceUnavailable,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
	codes.Canceled:           499, // the client left
}

// answerStatus tells an error as gRPC would: its status one by one, its reason
// as the code.
func answerStatus(w http.ResponseWriter, err error) {
	st := status.Convert(statusOf(err))
	code, known := httpCodes[st.Code()]
	if !known {
		code = http.StatusInternalServerError
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	reason := st.Code().String()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	p := coded(code, reason, st.Message())
	writeJSON(w, p.Status, p.Body())
}

func coded(code int, reason, message string) *contract.Problem {
	return &contract.Problem{Status: code, Detail: pyjson.OfObject(
		pyjson.Member{Key: "code", Value: pyjson.OfString(reason)},
		pyjson.Member{Key: "message", Value: pyjson.OfString(message)})}
}

func writeJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that left reads no answer
}

// answered remembers the status of an answer.
type answered struct {
	http.ResponseWriter
	code int
}

func (a *answered) WriteHeader(code int) {
	a.code = code
	a.ResponseWriter.WriteHeader(code)
}

// http names, times and logs requests.
func (m *metrics) http(next *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		call := m.newCall(r.Header.Get(requestHeader), r.Header.Get(traceHeader))
		w.Header().Set(requestHeader, call.request)
		a := &answered{w, http.StatusOK}
		next.ServeHTTP(a, r.WithContext(call.into(r.Context())))
		_, route := next.Handler(r)
		m.httpTook.WithLabelValues(route, fmt.Sprint(a.code)).Observe(time.Since(start).Seconds())
		m.log.LogAttrs(r.Context(), call.level(a.code >= http.StatusInternalServerError), "request",
			call.attrs("path", r.URL.Path, fmt.Sprint(a.code), time.Since(start))...)
	})
}
