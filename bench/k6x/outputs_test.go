package k6x_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
)

// subMetrics is a script with a threshold on a sub-metric of ours.
const subMetrics = `import { begin, end } from 'k6/x/plumbline';
export const options = {
  scenarios: { a: { executor: 'plumbline-arrival-rate', rate: 50, duration: '2s', vus: 5 } },
  thresholds: { 'plumbline_latency{class:odd}': ['p(99)<60000'] },
  summaryTrendStats: ['med', 'p(99)', 'count'],
};
export default function () { begin(); end(__ITER % 2 ? 'odd' : 'even'); }`

// Sub-metrics of our metrics reach k6's summary, its JSON and the remote write
// of Prometheus.
func (k k6) testSubMetrics(t *testing.T) {
	dir := t.TempDir()
	script, points, summary := filepath.Join(dir, "sub.js"), filepath.Join(dir, "points.json"), filepath.Join(dir, "summary.json")
	if err := os.WriteFile(script, []byte(subMetrics), 0o600); err != nil {
		t.Fatal(err)
	}
	remote := &remoteWrite{}
	server := httptest.NewServer(remote)
	t.Cleanup(server.Close)
	code, out := k.run(t, t.Context(), map[string]string{"K6_PROMETHEUS_RW_SERVER_URL": server.URL, "K6_PROMETHEUS_RW_TREND_STATS": "p(99),count"},
		"--out", "json="+points, "--out", "experimental-prometheus-rw", "--summary-export", summary, script)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	if n := odd(t, points); n < 40 || n > 60 {
		t.Errorf("%d points of class odd in k6's JSON; want about 50", n)
	}
	var s struct {
		Metrics map[string]map[string]any `json:"metrics"`
	}
	if b, err := os.ReadFile(summary); err != nil || json.Unmarshal(b, &s) != nil {
		t.Fatalf("summary: %v", err)
	}
	if n, _ := s.Metrics["plumbline_latency{class:odd}"]["count"].(float64); n < 40 {
		t.Errorf("the summary has %v of class odd", s.Metrics["plumbline_latency{class:odd}"])
	}
	for _, want := range []string{"k6_plumbline_latency_p99", "class", "odd", "even"} {
		if !remote.saw(want) {
			t.Errorf("Prometheus was not told %q", want)
		}
	}
}

// odd counts the latencies of class odd in the file of k6's JSON output.
func odd(t *testing.T, file string) (n int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var p struct {
			Metric string `json:"metric"`
			Type   string `json:"type"`
			Data   struct {
				Time time.Time         `json:"time"`
				Tags map[string]string `json:"tags"`
			} `json:"data"`
		}
		if json.Unmarshal([]byte(line), &p) == nil && p.Metric == "plumbline_latency" && p.Type == "Point" && p.Data.Tags["class"] == "odd" {
			n++
		}
	}
	return n
}

// remoteWrite keeps what is written to it.
type remoteWrite struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (r *remoteWrite) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	plain, err := snappy.Decode(nil, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all.Write(plain)
}

func (r *remoteWrite) saw(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Contains(r.all.Bytes(), []byte(text))
}
