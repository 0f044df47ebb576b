package gateway

import (
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/ref/dagmanager"
)

// collector takes traces by OTLP over HTTP.
type collector struct {
	t     *testing.T
	url   string
	mu    sync.Mutex
	spans []span // guarded by mu
}

// span is one that was sent, with the service that it is of.
type span struct {
	*tracepb.Span
	service string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{t: t}
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	var sent coltracepb.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(text, &sent) != nil {
		c.t.Errorf("%s: %v", r.URL.Path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range sent.GetResourceSpans() {
		service := from.GetResource().GetAttributes()[0].GetValue().GetStringValue()
		for _, scope := range from.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, span{s, service})
			}
		}
	}
}

// of gives the spans of a trace by their names, each with its service before it.
func (c *collector) of(trace string) map[string]span {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]span{}
	for _, s := range c.spans {
		if hex.EncodeToString(s.GetTraceId()) == trace {
			all[s.service+": "+s.GetName()] = s
		}
	}
	return all
}

const (
	clientTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpan  = "00f067aa0ba902b7"
)

// submitTraced submits as a client that traces.
func (s *stand) submitTraced(body string) answer {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+"/strategies", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")
	return s.send(req)
}

func TestASubmissionIsOneTrace(t *testing.T) {
	c := newCollector(t)
	t.Run("services", func(t *testing.T) { // which send all that is left when they stop
		dm := runSpec(t, dagmanager.Spec(), "--otlp-endpoint", c.url).Addresses["grpc"]
		s := newStand(t, withKafka, withArgs("--otlp-endpoint", c.url, "--dagmanager", dm, "--diff-limit", "20s"))
		if a := s.submitTraced(body(oneNode("a"), "w")); a.status != http.StatusAccepted {
			t.Fatalf("%d %s", a.status, a.body)
		}
		wantTraceparent(t, s.records())
	})
	spans := c.of(clientTrace)
	parents := map[string]string{ // of each span that there must be
		"gateway: POST":      "",
		"gateway: normalise": "gateway: POST", "gateway: context": "gateway: POST", "gateway: seal": "gateway: POST", "gateway: register": "gateway: POST",
		"gateway: commitlog": "gateway: POST", "gateway: diff": "gateway: POST", "gateway: confirm": "gateway: POST", "gateway: bind": "gateway: POST",
		"gateway: gateway.ingest publish":                           "gateway: commitlog",
		"gateway: qmtl.services.dagmanager.DiffService/Diff":        "gateway: diff",
		"gateway: qmtl.services.dagmanager.DiffService/AckChunk":    "gateway: diff",
		"dagmanager: qmtl.services.dagmanager.DiffService/Diff":     "gateway: qmtl.services.dagmanager.DiffService/Diff",
		"dagmanager: qmtl.services.dagmanager.DiffService/AckChunk": "gateway: qmtl.services.dagmanager.DiffService/AckChunk",
		"dagmanager: lookup":                                        "dagmanager: qmtl.services.dagmanager.DiffService/Diff",
		"dagmanager: claim":                                         "dagmanager: qmtl.services.dagmanager.DiffService/Diff",
		"dagmanager: ensure":                                        "dagmanager: qmtl.services.dagmanager.DiffService/Diff",
		"dagmanager: confirm":                                       "dagmanager: qmtl.services.dagmanager.DiffService/Diff",
	}
	wantBelow(t, spans, parents)
}

// wantTraceparent: the headers of the commit log stay, the trace comes behind.
func wantTraceparent(t *testing.T, records []*kgo.Record) {
	t.Helper()
	if len(records) != 1 {
		t.Errorf("%d records", len(records))
	}
	for _, r := range records {
		h := r.Headers
		if len(h) != 2 || h[0].Key != "rfp" || h[1].Key != "traceparent" || !strings.HasPrefix(string(h[1].Value), "00-"+clientTrace+"-") {
			t.Errorf("headers %s", h)
		}
	}
}

// wantBelow looks for each span below its parent; "" is the client's.
func wantBelow(t *testing.T, spans map[string]span, parents map[string]string) {
	t.Helper()
	for name, parent := range parents {
		want := clientSpan
		if parent != "" {
			want = hex.EncodeToString(spans[parent].GetSpanId())
		}
		if got := hex.EncodeToString(spans[name].GetParentSpanId()); spans[name].Span == nil || got != want {
			t.Errorf("%s below %q, want it below %s %q; there are %v", name, got, parent, want, slices.Sorted(maps.Keys(spans)))
		}
	}
}

func TestAFailureIsInItsSpan(t *testing.T) {
	c := newCollector(t)
	t.Run("service", func(t *testing.T) {
		s := newStand(t, withArgs("--otlp-endpoint", c.url))
		s.accepted(body(oneNode("a"), "w"))
		if a := s.submitTraced(body(oneNode("a"), "w")); a.status != http.StatusConflict {
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
	spans := c.of(clientTrace)
	if got := spans["gateway: register"].GetStatus(); got.GetCode() != tracepb.Status_STATUS_CODE_ERROR || !strings.Contains(got.GetMessage(), "E_DUPLICATE") {
		t.Errorf("status %v", got)
	}
	if got := spans["gateway: seal"].GetStatus().GetCode(); got == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("seal %v", got)
	}
}

// A collector that is away must not hold up a request, nor the stop.
func TestTracesNeedNoCollector(t *testing.T) {
	s := newStand(t, withArgs("--otlp-endpoint", "http://127.0.0.1:1"))
	s.accepted(body(oneNode("a"), "w"))
}
