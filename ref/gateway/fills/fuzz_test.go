package fills

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// FuzzFill gives the handler any body from somebody who may report fills: it is
// accepted, or refused in words of JSON, and what is accepted makes a record
// that its readers can read.
func FuzzFill(f *testing.F) {
	const good = `{"specversion":"1.0","id":"i","type":"t","source":"s","time":"x","data":{"order_id":"o","symbol":"BTC","side":"buy","quantity":1,"price":2.5,"seq":3,"fill_time":null}}`
	for _, s := range []string{
		``, `{}`, `[]`, `null`, `"`, "\xff", good, strings.Replace(good, `"i"`, `"\ud800"`, 1), strings.Replace(good, `"BTC"`, `"\udfff"`, 1),
		strings.Replace(good, `2.5`, `1e400`, 1), strings.Replace(good, `2.5`, `NaN`, 1), strings.Replace(good, `3`, strings.Repeat("9", 4301), 1),
		strings.Replace(good, `"quantity":1`, `"quantity":`+strings.Repeat("9", 400), 1), `{"specversion":1,"data":{"data":[[[{}]]]}}`,
		strings.Replace(good, `"price":2.5`, `"price":2.5,"price":{}`, 1),
	} {
		f.Add([]byte(s), "w")
	}
	h := New(Config{
		Claims: func(token string, _ time.Time) (map[string]any, error) {
			return map[string]any{"world_id": token, "strategy_id": "s"}, nil
		},
		MaxBody: 1 << 20, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	f.Fuzz(func(t *testing.T, body []byte, world string) {
		r := httptest.NewRequest(http.MethodPost, "/fills", strings.NewReader(string(body)))
		r.Header.Set("Authorization", "Bearer "+world)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		answer, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code == http.StatusAccepted {
			wantReadable(t, h, body)
			return
		}
		if _, err := pyjson.Parse(answer); err != nil || !utf8.Valid(answer) || w.Code/100 != 4 {
			t.Errorf("answer %d %q: %v", w.Code, answer, err)
		}
	})
}

// wantReadable holds the record of an accepted body to JSON with every member.
func wantReadable(t *testing.T, h *Handler, body []byte) {
	t.Helper()
	envelope, err := parse(body)
	if err != nil {
		t.Fatalf("accepted though %v", err)
	}
	record := h.record(reporter{"w", "s"}, envelope, envelope.Member("data"))
	v, err := pyjson.Parse(record.Value)
	if err != nil || len(v.Members()) != len(layout) || !utf8.Valid(record.Key) {
		t.Errorf("record %q under key %q: %v", record.Value, record.Key, err)
	}
	for _, header := range record.Headers {
		if !utf8.Valid(header.Value) {
			t.Errorf("header %s: %q is no text", header.Key, header.Value)
		}
	}
}
