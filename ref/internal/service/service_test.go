package service_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a bytes.Buffer that a service may write while a test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run is one life of a service: what it printed and how it ended.
type run struct {
	out, err buffer
	code     chan int
	stop     context.CancelFunc
}

func start(t *testing.T, spec service.Spec, env map[string]string, args ...string) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{code: make(chan int, 1), stop: cancel}
	w := service.IO{Args: args, Getenv: func(k string) string { return env[k] }, Out: &r.out, Err: &r.err}
	go func() { r.code <- service.Run(ctx, w, spec) }()
	t.Cleanup(cancel)
	return r
}

func (r *run) ready(t *testing.T) contract.Ready {
	t.Helper()
	for range 500 {
		if line, _, ok := strings.Cut(r.out.String(), "\n"); ok {
			got, err := contract.ParseReady([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no ready line; log:\n%s", r.err.String())
	return contract.Ready{}
}

func hello(ctx context.Context, rt *service.Runtime) error {
	return rt.ServeHTTP("http", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
	}))
}

func TestReadyLineNamesAddressesThatAnswer(t *testing.T) {
	r := start(t, service.Spec{Name: "greeter", Start: hello}, nil)
	ready := r.ready(t)
	if ready.Service != "greeter" || ready.PID == 0 {
		t.Errorf("ready = %+v", ready)
	}
	if got := get(t, "http://"+ready.Addresses["http"]); got != "hello" {
		t.Errorf("http address answered %q", got)
	}
	metrics := get(t, "http://"+ready.Addresses["admin"]+"/metrics")
	for _, family := range []string{
		"go_gc_heap_live_bytes", "go_memory_classes_heap_objects_bytes", "go_memory_classes_total_bytes",
		"go_cpu_classes_gc_total_cpu_seconds_total", "process_resident_memory_bytes",
	} {
		if !strings.Contains(metrics, "\n"+family+" ") {
			t.Errorf("/metrics lacks %s", family)
		}
	}
	if got := get(t, "http://"+ready.Addresses["admin"]+"/debug/pprof/goroutine?debug=1"); !strings.Contains(got, "goroutine profile") {
		t.Errorf("pprof answered %.80q", got)
	}
	r.stop()
	if code := <-r.code; code != service.ExitOK {
		t.Errorf("exit code %d after a stop; log:\n%s", code, r.err.String())
	}
}

// handOver makes two goroutines wait for each other until stop is closed.
func handOver(stop <-chan struct{}) {
	baton := make(chan struct{})
	go func() {
		defer close(baton)
		for {
			select {
			case <-stop:
				return
			case baton <- struct{}{}:
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	for range baton {
	}
}

func TestWaitsAreRecordedWhileSomebodyAsks(t *testing.T) {
	r := start(t, service.Spec{Name: "greeter", Start: hello}, nil)
	pprof := "http://" + r.ready(t).Addresses["admin"] + "/debug/pprof/"
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); handOver(stop) }()
	if got := get(t, pprof+"block?debug=1"); strings.Contains(got, "handOver") {
		t.Errorf("waits were recorded before anybody asked:\n%s", got)
	}
	if got := get(t, pprof+"mutex?seconds=1"); got == "" {
		t.Error("the mutex profile of a second is empty")
	}
	if got := get(t, pprof+"block?seconds=1"); got == "" {
		t.Error("the block profile of a second is empty")
	}
	close(stop)
	<-done
	if got := get(t, pprof+"block?debug=1"); !strings.Contains(got, "handOver") {
		t.Errorf("no wait was recorded within two seconds of waiting:\n%s", got)
	}
	r.stop()
	if code := <-r.code; code != service.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestStopWaitsForRequestsInFlight(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := start(t, service.Spec{Name: "slow", Start: func(_ context.Context, rt *service.Runtime) error {
		return rt.ServeHTTP("http", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			io.WriteString(w, "done")
		}))
	}}, nil)
	url := "http://" + r.ready(t).Addresses["http"]
	body := make(chan string, 1)
	go func() { body <- get(t, url) }()
	<-entered
	r.stop()
	close(release)
	if got := <-body; got != "done" {
		t.Errorf("request in flight got %q", got)
	}
	if code := <-r.code; code != service.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestDrainLimitEndsTheWait(t *testing.T) {
	release := make(chan struct{})
	r := start(t, service.Spec{Name: "stuck", Start: func(_ context.Context, rt *service.Runtime) error {
		rt.Go("stuck part", func(context.Context) error { <-release; return nil })
		return nil
	}}, nil, "--drain", "20ms")
	r.ready(t)
	r.stop()
	if code := <-r.code; code != service.ExitFail || !strings.Contains(r.err.String(), "a part still ran after 20ms") {
		t.Errorf("exit code %d, log:\n%s", code, r.err.String())
	}
	close(release)
}

func TestEveryUsageMistakeAtOnceOnOneLine(t *testing.T) {
	var n int
	spec := service.Spec{
		Name:  "greeter",
		Flags: func(fs *service.FlagSet) { fs.IntVar(&n, "count", 1, "how many") },
		Check: func() []error { return []error{nil, errors.New("--count: too odd")} },
		Start: hello,
	}
	env := map[string]string{"PLUMBLINE_GREETER_LOG_LEVEL": "loud"}
	r := start(t, spec, env, "--nope", "x", "--count", "many", "--admin-listen", "here")
	if code := <-r.code; code != service.ExitUsage {
		t.Errorf("exit code %d, want %d", code, service.ExitUsage)
	}
	got := r.err.String()
	for _, want := range []string{"-nope", `"many"`, `"here"`, "PLUMBLINE_GREETER_LOG_LEVEL", "too odd"} {
		if !strings.Contains(got, want) {
			t.Errorf("message lacks %s: %s", want, got)
		}
	}
	if strings.Count(got, "\n") != 1 || r.out.String() != "" {
		t.Errorf("want one line on stderr and nothing on stdout, got %q and %q", got, r.out.String())
	}
}

func TestFlagWinsOverEnvironment(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{{nil, 7}, {[]string{"--count", "9"}, 9}} {
		var n int
		spec := service.Spec{
			Name:  "greeter",
			Flags: func(fs *service.FlagSet) { fs.IntVar(&n, "count", 1, "how many") },
			Start: hello,
		}
		r := start(t, spec, map[string]string{"PLUMBLINE_GREETER_COUNT": "7"}, c.args...)
		r.ready(t)
		r.stop()
		if <-r.code; n != c.want {
			t.Errorf("args %v: count = %d, want %d", c.args, n, c.want)
		}
	}
}

func TestFailedStartUndoesAndExitsOne(t *testing.T) {
	undone := false
	r := start(t, service.Spec{Name: "broken", Start: func(_ context.Context, rt *service.Runtime) error {
		rt.OnStop("half", func(context.Context) error { undone = true; return nil })
		return fmt.Errorf("redis 127.0.0.1:1: %w", errors.New("refused"))
	}}, nil)
	if code := <-r.code; code != service.ExitFail || !undone {
		t.Errorf("exit code %d, undone %v", code, undone)
	}
	if got := r.err.String(); got != "broken: start: redis 127.0.0.1:1: refused\n" {
		t.Errorf("message %q", got)
	}
}

func TestPortInUseSaysSo(t *testing.T) {
	first := start(t, service.Spec{Name: "first", Start: hello}, nil)
	addr := first.ready(t).Addresses["admin"]
	second := start(t, service.Spec{Name: "second", Start: hello}, nil, "--admin-listen", addr)
	if code := <-second.code; code != service.ExitFail || !strings.Contains(second.err.String(), "in use") {
		t.Errorf("exit code %d, log %q", code, second.err.String())
	}
	first.stop()
	<-first.code
}

func TestDeadPartEndsTheService(t *testing.T) {
	r := start(t, service.Spec{Name: "brittle", Start: func(_ context.Context, rt *service.Runtime) error {
		rt.Go("pump", func(context.Context) error { return errors.New("burst") })
		return nil
	}}, nil)
	if code := <-r.code; code != service.ExitFail || !strings.Contains(r.err.String(), "brittle: pump: burst") {
		t.Errorf("exit code %d, log:\n%s", code, r.err.String())
	}
}

func TestHelpExitsZero(t *testing.T) {
	r := start(t, service.Spec{Name: "greeter", Start: hello}, nil, "--help")
	if code := <-r.code; code != service.ExitOK || !strings.Contains(r.out.String(), "admin-listen") {
		t.Errorf("exit code %d, out %q", code, r.out.String())
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestThrottleLetsOneASecondPassAndCountsTheRest(t *testing.T) {
	var th service.Throttle
	now := time.Unix(100, 0)
	for i, want := range []struct {
		after  time.Duration
		unsaid int
		ok     bool
	}{{0, 0, true}, {time.Millisecond, 0, false}, {time.Millisecond, 0, false}, {time.Second, 2, true}, {time.Second, 0, true}} {
		now = now.Add(want.after)
		if unsaid, ok := th.Pass(now); unsaid != want.unsaid || ok != want.ok {
			t.Errorf("event %d: %d, %v; want %d, %v", i, unsaid, ok, want.unsaid, want.ok)
		}
	}
}
