package world

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// neighbour is a WorldService that answers as told and remembers what it was
// asked.
type neighbour struct {
	url string

	mu     sync.Mutex
	asked  []asked          // guarded by mu; health is not among them
	answer http.HandlerFunc // guarded by mu
}

type asked struct {
	method, target, body string
	header               http.Header
}

func newService(t *testing.T, answer http.HandlerFunc) *neighbour {
	t.Helper()
	s := &neighbour{answer: answer}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *neighbour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	if r.URL.Path != "/health" {
		s.asked = append(s.asked, asked{r.Method, r.URL.RequestURI(), string(body), r.Header})
	}
	answer := s.answer
	s.mu.Unlock()
	if r.URL.Path != "/health" {
		answer(w, r)
	}
}

func (s *neighbour) tell(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// seen gives what was asked since the last time.
func (s *neighbour) seen() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.asked
	s.asked = nil
	return all
}

// say answers with a status, a body and headers by turns.
func say(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// dawdle answers when the asker is gone.
func dawdle(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// drop closes the connection instead of an answer.
func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type stand struct {
	*Client
	ws    *neighbour
	clock *clock
	reg   *prometheus.Registry
}

func newStand(t *testing.T, answer http.HandlerFunc, changes ...func(*Config)) *stand {
	t.Helper()
	s := &stand{ws: newService(t, answer), clock: &clock{now: time.Unix(1e9, 0)}, reg: prometheus.NewRegistry()}
	cfg := Config{
		URL: s.ws.url, Metrics: s.reg, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: s.clock.read,
		Timeout: 5 * time.Second, HealthWait: 5 * time.Second, Budget: 30 * time.Second, // longer than a test machine stalls
	}
	for _, change := range changes {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.Client = c
	return s
}

// metric gives the value of a family without labels.
func (s *stand) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no family %s", name)
	return 0
}

func (s *stand) downgrades(reason string) float64 {
	return value(s.metrics.downgrades.WithLabelValues(reason))
}

func parse(t *testing.T, raw json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func compact(v pyjson.Value) string { return string(pyjson.Append(nil, v, pyjson.Compact)) }

func textOf(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

func TestAugmentVectorsOfTheCaches(t *testing.T) {
	ran := map[string]int{}
	vectors.Run(t, "world_payload_augment", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		op := textOf(in, "op")
		ran[op]++
		switch op {
		case "stale_decision":
			got, _ := staleDecision(textOf(in, "world_id"), in.Member("payload"))
			if g, want := string(pyjson.Append(nil, got, pyjson.Spaced|pyjson.ASCII)), textOf(out, "json"); g != want {
				t.Errorf("%s\nwant %s", g, want)
			}
		case "decide_ttl":
			want, _ := out.Member("ttl").Int64()
			if got := decideTTL(in.Member("body"), textOf(in, "cache_control")); got != time.Duration(want)*time.Second {
				t.Errorf("%s, want %ds", got, want)
			}
		case "cache_key":
			if got, want := decisionKey(textOf(in, "world_id"), pyjson.Strip(textOf(in, "as_of"))), textOf(out, "key"); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		case "activation", "decision": // ref/dag
		default:
			t.Fatalf("unknown op %q", op)
		}
	})
	for _, op := range []string{"stale_decision", "decide_ttl", "cache_key"} {
		if ran[op] == 0 {
			t.Errorf("no vector of op %s", op)
		}
	}
}

func TestNegotiationVectors(t *testing.T) {
	ran := 0
	vectors.Run(t, "rebalance_orders", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		number := func(key string, or int64) int64 {
			if n, ok := in.Member(key).Int64(); ok {
				return n
			}
			return or
		}
		switch textOf(in, "op") {
		case "payload_variants":
			ran++
			var got []pyjson.Value
			for _, try := range planTries(number("schema_version", number("configured", 1)), number("fallback_schema_version", 1), in.Member("body")) {
				got = append(got, pyjson.OfArray(pyjson.OfInt(try.version), try.body))
			}
			if g, want := compact(pyjson.OfArray(got...)), compact(out.Member("attempts")); g != want {
				t.Errorf("%s, want %s", g, want)
			}
		case "retry_on_status":
			ran++
			err := &Refusal{Status: int(number("status", 0))}
			if got, want := otherVersion(number("version", 1), err), out.Member("retry").IsTrue(); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		}
	})
	if ran == 0 {
		t.Error("no vector of the negotiation")
	}
}

// peek gives what was asked, and leaves it for seen.
func (s *neighbour) peek() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}
