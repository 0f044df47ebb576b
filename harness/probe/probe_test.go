package probe

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// admin serves what a Go service serves: this very test's runtime.
func admin(t *testing.T) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
		collectors.MetricsGC, collectors.MetricsMemory, collectors.MetricsAll)))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return serve(t, mux)
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// watched runs a watch for a while and gives its series by name.
func watched(t *testing.T, target Target, o Options) (map[string]record.Series, map[string]string) {
	t.Helper()
	target.Process = "gateway"
	w := Watch(t.Context(), []Target{target}, o)
	time.Sleep(120 * time.Millisecond)
	series, absent := w.Stop()
	by := map[string]record.Series{}
	for _, s := range series {
		by[s.Name] = s
	}
	return by, absent
}

func TestWatchReadsEverySeriesOfAGoProcess(t *testing.T) {
	usage := filepath.Join(t.TempDir(), "usage")
	if err := os.WriteFile(usage, []byte("12345678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	by, absent := watched(t, Target{PID: Fixed(os.Getpid()), Admin: admin(t), Usage: usage},
		Options{Every: 20 * time.Millisecond, Since: time.Now().Add(-time.Hour)})
	if len(absent) > 0 {
		t.Fatalf("absent: %v", absent)
	}
	for _, name := range append(kernelSeries(), runtimeSeries()...) {
		checkSeries(t, by[name])
	}
	if got := by[Cgroup].Points[0][1]; got != 12345678 {
		t.Errorf("cgroup = %v", got)
	}
	if rss, peak := last(by[RSS]), last(by[RSSPeak]); rss > peak {
		t.Errorf("RSS %v over its peak %v", rss, peak)
	}
	if live, total := last(by[HeapLive]), last(by[GoTotal]); live <= 0 || live > total {
		t.Errorf("live heap %v, total %v", live, total)
	}
}

func last(s record.Series) float64 { return s.Points[len(s.Points)-1][1] }

func checkSeries(t *testing.T, s record.Series) {
	t.Helper()
	if len(s.Points) < 2 || s.Process != "gateway" || s.Unit == "" {
		t.Errorf("series %+v; want points, a process and a unit", s)
		return
	}
	if s.Points[0][0] < 3600 || !slices.IsSortedFunc(s.Points, func(a, b [2]float64) int {
		if a[0] < b[0] {
			return -1
		}
		return 1
	}) {
		t.Errorf("times of %s do not count from Since: %v", s.Name, s.Points)
	}
}

func TestUnits(t *testing.T) {
	for name, want := range map[string]record.Unit{RSS: record.Bytes, CPU: record.Seconds, GCCPU: record.Seconds, Goroutines: record.Count} {
		if got := unitOf(name); got != want {
			t.Errorf("unitOf(%s) = %s; want %s", name, got, want)
		}
	}
}

func TestAbsentIsNotZero(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	python := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "# TYPE x counter\nx{a=\"b\"} 1\n") }))
	broken := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "no metrics") }))
	refusing := serve(t, http.NotFoundHandler())
	for _, c := range []struct {
		name   string
		target Target
		absent map[string]string
	}{
		{"attached", Target{}, map[string]string{RSS: "not run by plumbline", CPU: "not run by plumbline", Cgroup: "no memory cgroup", HeapLive: "no admin address"}},
		{"not running", Target{PID: Fixed(0)}, map[string]string{RSSPeak: "not running"}},
		{"gone", Target{PID: Fixed(1 << 30), Usage: "/no/such"}, map[string]string{RSS: "/proc/1073741824/status", CPU: "/proc/1073741824/stat", Cgroup: "/no/such"}},
		{"nobody listens", Target{Admin: ln.Addr().String()}, map[string]string{HeapLive: "refused", Goroutines: "refused"}},
		{"no Go process", Target{Admin: python}, map[string]string{HeapLive: "has no go_gc_heap_live_bytes"}},
		{"no metrics", Target{Admin: broken}, map[string]string{HeapLive: "/metrics: text format parsing error"}},
		{"not found", Target{Admin: refusing}, map[string]string{GCCPU: "404 Not Found"}},
	} {
		by, absent := watched(t, c.target, Options{Every: 20 * time.Millisecond})
		for name, want := range c.absent {
			if _, ok := by[name]; ok || !strings.Contains(absent[name+"/gateway"], want) {
				t.Errorf("%s: %s has points %v, reason %q; want none, because %q", c.name, name, by[name].Points, absent[name+"/gateway"], want)
			}
		}
	}
}

func TestASlowAdminDoesNotHoldUpTheRest(t *testing.T) {
	release := make(chan struct{})
	slow := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	w := Watch(ctx, []Target{
		{Process: "slow", PID: Fixed(os.Getpid()), Admin: slow}, {Process: "quick", PID: Fixed(os.Getpid())},
	}, Options{Every: 10 * time.Millisecond})
	time.Sleep(100 * time.Millisecond)
	cancel()
	series, absent := w.Stop()
	again, _ := w.Stop()
	if len(again) != len(series) {
		t.Errorf("second Stop gives %d series; want %d", len(again), len(series))
	}
	points := map[string]int{}
	for _, s := range series {
		points[s.Name+"/"+s.Process] = len(s.Points)
	}
	if points["rss_bytes/quick"] < 3 || points["rss_bytes/slow"] < 3 || !strings.Contains(absent["goroutines/slow"], "deadline") {
		t.Errorf("points %v, absent %v", points, absent)
	}
}

func TestRestartedProcessIsFollowed(t *testing.T) {
	pid := 0
	s := newSampler(Target{PID: func() int { return pid }}, Options{Log: slog.New(slog.DiscardHandler)}, kernelSeries(), (*sampler).sampleKernel)
	s.sampleProc()
	pid = os.Getpid()
	s.sampleProc()
	if n := len(s.points[RSS]); n != 1 {
		t.Errorf("%d points; want 1, of the second life", n)
	}
}

func TestProfiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	files, err := Profiles(t.Context(), "gateway", admin(t), dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	var want []string
	for _, kind := range []string{"block.pb.gz", "cpu.pb.gz", "heap.pb.gz", "mutex.pb.gz", "trace.out"} {
		want = append(want, filepath.Join(dir, "gateway-"+kind))
	}
	if !slices.Equal(files, want) {
		t.Errorf("files = %q; want %q", files, want)
	}
	for _, file := range files[:4] { // the trace is not compressed
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || len(b) < 100 {
			t.Errorf("%s: %d bytes, %v", file, len(b), err)
		}
	}
}

func TestProfilesWriteNothingHalf(t *testing.T) {
	dir := t.TempDir()
	cut := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "half")
	}))
	files, err := Profiles(t.Context(), "gateway", cut, dir, 0)
	if err == nil || len(files) > 0 || !strings.Contains(err.Error(), "heap.pb.gz of gateway") {
		t.Errorf("Profiles = %q, %v", files, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := Profiles(t.Context(), "gateway", "", dir, 0); err == nil || !strings.Contains(err.Error(), "no admin address") {
		t.Errorf("Profiles without an address = %v", err)
	}
}
