package k6x_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// gateway answers submissions as the contract says, from memory.
type gateway struct {
	mu    sync.Mutex
	first map[string]string // strategy_id by DAG hash
	calls atomic.Int64
	spoil func(n int64, w http.ResponseWriter) bool // may answer instead
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := g.calls.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/strategies" || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	if g.spoil != nil && g.spoil(n, w) {
		return
	}
	status, answer := g.answer(body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, answer)
}

func (g *gateway) answer(body []byte) (int, string) {
	v, err := pyjson.Parse(body)
	if err != nil {
		return 422, err.Error()
	}
	text, _ := v.Get("dag_json")
	dag, err := contract.DecodeDAG(text.Text())
	if err != nil {
		return 400, err.Error()
	}
	crc, _ := v.Get("node_ids_crc32")
	queues := []string{}
	nodes, _ := dag.Get("nodes")
	for _, n := range nodes.Elems() {
		if typ, _ := n.Get("node_type"); typ.Text() == contract.TagQueryType {
			id, _ := n.Get("node_id")
			queues = append(queues, strconv.Quote(id.Text())+":[]")
		}
	}
	id := uuid.NewString()
	if old, dup := g.register(contract.DAGHash(dag), id); dup {
		return 409, fmt.Sprintf(`{"detail":{"code":"E_DUPLICATE","strategy_id":%q}}`, old)
	}
	return 202, fmt.Sprintf(`{"strategy_id":%q,"queue_map":{%s},"sentinel_id":"%s-sentinel","node_ids_crc32":%s,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`,
		id, strings.Join(queues, ","), id, crc.Text())
}

func (g *gateway) register(hash, id string) (first string, dup bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.first[hash]; ok {
		return old, true
	}
	g.first[hash] = id
	return id, false
}

func serve(t *testing.T, g *gateway) (url string) {
	t.Helper()
	g.first = map[string]string{}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	return s.URL
}

// k6 runs the built binary. It returns the exit code and what was printed.
type k6 struct {
	bin, root string
}

func (k k6) command(ctx context.Context, env map[string]string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.bin, append([]string{"run", "--quiet", "--no-usage-report", "--address", "127.0.0.1:0"}, args...)...)
	cmd.Dir = k.root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = append(os.Environ(), "PLUMBLINE_PROFILE=bench/profiles/tiny.json", "PLUMBLINE_WARMUP=500ms", "PLUMBLINE_WINDOW=1500ms")
	for name, v := range env {
		cmd.Env = append(cmd.Env, name+"="+v)
	}
	return cmd
}

// submit runs submit.js.
func (k k6) submit(t *testing.T, ctx context.Context, env map[string]string, args ...string) (code int, output string) {
	t.Helper()
	return k.run(t, ctx, env, append(args, "bench/scripts/submit.js")...)
}

func (k k6) run(t *testing.T, ctx context.Context, env map[string]string, args ...string) (code int, output string) {
	t.Helper()
	cmd := k.command(ctx, env, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// TestK6 builds our k6 once and drives it as people do.
func TestK6(t *testing.T) {
	if testing.Short() {
		t.Skip("builds k6")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	k := k6{bin: filepath.Join(t.TempDir(), "k6"), root: root}
	if out, err := exec.Command("go", "build", "-o", k.bin, "../cmd/k6").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Run("a good run passes and leaves its evidence", k.testGood)
	t.Run("an unexpected answer crosses a threshold", k.testUnexpected)
	t.Run("an interrupt keeps the evidence so far", k.testInterrupt)
	t.Run("instances share the schedule by execution segments", k.testSegments)
	t.Run("mistakes are named", k.testMistakes)
	t.Run("results that cannot be kept end the run", k.testUnwritable)
	t.Run("our executor keeps the number of a dropped slot", k.testArrivalRate)
	t.Run("begin and end on k6's executor say what they hang on", k.testEstimated)
	t.Run("a script's abort ends our executor", k.testAbort)
	t.Run("mistakes in the executor's options are named", k.testArrivalMistakes)
	t.Run("sub-metrics reach summary, JSON and Prometheus", k.testSubMetrics)
}

func (k k6) testGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "load")
	g := &gateway{}
	code, out := k.submit(t, t.Context(), map[string]string{"PLUMBLINE_TARGET": serve(t, g), "PLUMBLINE_OUT": dir,
		"PLUMBLINE_SEED": "18446744073709551615", "PLUMBLINE_RUN_ID": "test-run", "PLUMBLINE_WINDOW": "3s"})
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	r := result(t, dir)
	checkLedgers(t, r)
	if r.Seed != 1<<64-1 || r.Tag != "test-run" || r.Profile != "tiny" || r.Rate != 200 || g.calls.Load() != 655 {
		t.Errorf("result %+v after %d calls", r, g.calls.Load())
	}
	checkTimings(t, dir, r)
	checkSummary(t, dir, r)
	if !strings.Contains(out, "offered 600, accepted") {
		t.Errorf("printed %s", out)
	}
	if outs := outcomes(t, dir); len(outs) != 655 || !strings.HasPrefix(outs[0].Key, "test-run-18446744073709551615-") {
		t.Errorf("%d outcomes, first %+v", len(outs), outs[0])
	}
}

func checkLedgers(t *testing.T, r *load.Result) {
	t.Helper()
	l := r.Ledger
	if l.Offered != 600 || l.Accepted+l.Rejected != 600 || l.Rejected == 0 || r.WarmUpLedger.Answered != 55 {
		t.Errorf("ledgers %+v, %+v; unexpected %v", l, r.WarmUpLedger, r.Unexpected)
	}
}

func result(t *testing.T, dir string) *load.Result {
	t.Helper()
	r, err := load.ReadResult(filepath.Join(dir, load.ResultFile))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func outcomes(t *testing.T, dir string) (all []load.Outcome) {
	t.Helper()
	if err := load.EachOutcome(filepath.Join(dir, load.OutcomesFile), func(o load.Outcome) error {
		all = append(all, o)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func checkTimings(t *testing.T, dir string, r *load.Result) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, load.TimingsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ts := load.Timings{}
	if err := load.ReadTimings(f, ts); err != nil {
		t.Fatal(err)
	}
	for class, timing := range ts {
		if timing.Class() != r.Classes[class] {
			t.Errorf("class %s: histogram %+v; result %+v", class, timing.Class(), r.Classes[class])
		}
	}
	if all, err := ts.Union(); err != nil || all.Class() != r.Classes[load.All] {
		t.Errorf("all: %v, %v; result %+v", all, err, r.Classes[load.All])
	}
}

func checkSummary(t *testing.T, dir string, r *load.Result) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "k6-summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Metrics map[string]struct {
			Values map[string]float64 `json:"values"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	l := r.Ledger
	for name, want := range map[string]int64{"offered": l.Offered, "accepted": l.Accepted, "rejected": l.Rejected,
		"unexpected": l.Unexpected, "lost": l.Lost, "dropped": l.Dropped, "answered": l.Answered, "latency": l.Answered} {
		if got := s.Metrics["plumbline_"+name].Values["count"]; got != float64(want) {
			t.Errorf("k6 counts %s %v; the ledger %d", name, got, want)
		}
	}
}

func (k k6) testUnexpected(t *testing.T) {
	dir := t.TempDir()
	g := &gateway{spoil: func(n int64, w http.ResponseWriter) bool {
		if n == 200 {
			http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		}
		return n == 200
	}}
	code, out := k.submit(t, t.Context(), map[string]string{"PLUMBLINE_TARGET": serve(t, g), "PLUMBLINE_OUT": dir})
	r := result(t, dir)
	if code != 99 || r.Ledger.Unexpected != 1 || r.Unexpected["500"] != 1 || len(r.Samples) != 1 || r.Samples[0].Status != 500 {
		t.Errorf("exit code %d, ledger %+v, samples %+v\n%s", code, r.Ledger, r.Samples, out)
	}
}

func (k k6) testInterrupt(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &gateway{spoil: func(n int64, _ http.ResponseWriter) bool {
		if n == 300 {
			cancel()
		}
		return false
	}}
	code, out := k.submit(t, ctx, map[string]string{"PLUMBLINE_TARGET": serve(t, g), "PLUMBLINE_OUT": dir, "PLUMBLINE_WINDOW": "60s"})
	r := result(t, dir)
	if code != 105 || r.Aborted == "" || r.Ledger.Offered < 200 || r.Ledger.Offered > 2000 || r.Ledger.InFlight != 0 {
		t.Errorf("exit code %d, aborted %q, ledger %+v\n%s", code, r.Aborted, r.Ledger, out)
	}
	checkTimings(t, dir, r)
}

func (k k6) testSegments(t *testing.T) {
	const sequence = "0,1/2,5/6,1"
	segments := []string{"0:1/2", "1/2:5/6", "5/6:1"}
	env := map[string]string{"PLUMBLINE_TARGET": serve(t, &gateway{}), "PLUMBLINE_RUN_ID": "shared", "PLUMBLINE_INSTANCES": "6",
		"PLUMBLINE_START_AT": strconv.FormatInt(time.Now().Add(10*time.Second).UnixMilli(), 10)}
	dirs := make([]string, len(segments))
	var wg sync.WaitGroup
	for i, segment := range segments {
		dirs[i] = t.TempDir()
		own := map[string]string{"PLUMBLINE_OUT": dirs[i]}
		for name, v := range env {
			own[name] = v
		}
		wg.Go(func() {
			if code, out := k.submit(t, t.Context(), own, "--execution-segment", segment, "--execution-segment-sequence", sequence); code != 0 {
				t.Errorf("segment %s: exit code %d\n%s", segment, code, out)
			}
		})
	}
	wg.Wait()
	checkShares(t, dirs)
	k.checkMerge(t, dirs)
}

func (k k6) checkMerge(t *testing.T, dirs []string) {
	t.Helper()
	merged := filepath.Join(t.TempDir(), "merged")
	merge := append([]string{"x", "plumbline-merge", "--out", merged}, dirs...)
	if out, err := exec.Command(k.bin, merge...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := result(t, merged); r.Ledger.Offered != 300 || r.WarmUpLedger.Offered != 55 || len(outcomes(t, merged)) != 355 {
		t.Errorf("merged %+v, %+v; want 300 offered after 55", r.Ledger, r.WarmUpLedger)
	}
	if out, err := exec.Command(k.bin, append(merge, dirs[0])...).CombinedOutput(); err == nil {
		t.Errorf("merging one instance twice passed:\n%s", out)
	}
	if out, err := exec.Command(k.bin, "x", "plumbline-merge", "--out", dirs[0], dirs[0], dirs[1]).CombinedOutput(); err == nil || len(outcomes(t, dirs[0])) != 178 {
		t.Errorf("merging over an instance: %v, %d outcomes left of 178\n%s", err, len(outcomes(t, dirs[0])), out)
	}
}

// checkShares holds the three instances together against the whole schedule.
func checkShares(t *testing.T, dirs []string) {
	t.Helper()
	var indexes, sizes []int64
	for _, dir := range dirs {
		all := outcomes(t, dir)
		sizes = append(sizes, int64(len(all)))
		for _, o := range all {
			indexes = append(indexes, o.Index)
		}
	}
	slices.Sort(indexes)
	if !slices.Equal(sizes, []int64{178, 118, 59}) {
		t.Errorf("instances offered %v; want halves, thirds and sixths of 355", sizes)
	}
	if n := len(indexes); n != 355 || indexes[0] != 0 || indexes[n-1] != 354 || len(slices.Compact(indexes)) != 355 {
		t.Errorf("%d indexes; want 0 to 354, each once", n)
	}
}

func (k k6) testMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"no target":   {map[string]string{"PLUMBLINE_TARGET": ""}, "PLUMBLINE_TARGET"},
		"odd target":  {map[string]string{"PLUMBLINE_TARGET": "localhost:80"}, "PLUMBLINE_TARGET"},
		"no profile":  {map[string]string{"PLUMBLINE_PROFILE": "bench/profiles/none.json"}, "none.json"},
		"odd rate":    {map[string]string{"PLUMBLINE_RATE": "fast"}, "PLUMBLINE_RATE"},
		"odd seed":    {map[string]string{"PLUMBLINE_SEED": "-1"}, "seed"},
		"odd run id":  {map[string]string{"PLUMBLINE_RUN_ID": "a b"}, "tag"},
		"start is up": {map[string]string{"PLUMBLINE_START_AT": "1000"}, "has passed"},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"PLUMBLINE_TARGET": "http://127.0.0.1:1"}
			for name, v := range c.env {
				env[name] = v
			}
			code, out := k.submit(t, t.Context(), env)
			if code != 107 && code != 108 || !strings.Contains(out, c.want) {
				t.Errorf("exit code %d; want 107 or 108, and %q in\n%s", code, c.want, out)
			}
		})
	}
}

func (k k6) testUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := &gateway{}
	code, out := k.submit(t, t.Context(), map[string]string{"PLUMBLINE_TARGET": serve(t, g), "PLUMBLINE_OUT": file})
	if code != 108 || !strings.Contains(out, file) || g.calls.Load() != 0 {
		t.Errorf("exit code %d after %d calls; want 108, none, and the name in\n%s", code, g.calls.Load(), out)
	}
}

// summary runs health.js and returns k6's exported summary.
func (k k6) summary(t *testing.T, env map[string]string, args ...string) (code int, output string, metrics map[string]map[string]float64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "summary.json")
	code, output = k.run(t, t.Context(), env, append(args, "--summary-export", file, "bench/scripts/health.js")...)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; exit code %d\n%s", err, code, output)
	}
	var s struct {
		Metrics map[string]map[string]any `json:"metrics"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	metrics = map[string]map[string]float64{}
	for name, values := range s.Metrics {
		metrics[name] = map[string]float64{}
		for stat, v := range values {
			if f, ok := v.(float64); ok {
				metrics[name][stat] = f
			}
		}
	}
	return code, output, metrics
}

// slow answers after d.
func slow(t *testing.T, d time.Duration) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(d) }))
	t.Cleanup(s.Close)
	return s.URL
}

// Three VUs of 15 ms serve half of what is due. With the numbers of the dropped
// slots given to later ones, due times would run ahead by a second.
func (k k6) testArrivalRate(t *testing.T) {
	code, out, m := k.summary(t, map[string]string{"PLUMBLINE_TARGET": slow(t, 15*time.Millisecond),
		"PLUMBLINE_RATE": "1000", "PLUMBLINE_WINDOW": "4s", "PLUMBLINE_VUS": "10"})
	dropped, done := m["dropped_iterations"]["count"], m["iterations"]["count"]
	if code != 99 || dropped+done != 4000 || dropped < 1300 {
		t.Errorf("exit code %d, %v dropped + %v done; want 99, 4000 in all\n%s", code, dropped, done, out)
	}
	lag, latency := m["plumbline_lag"], m["plumbline_latency"]
	if lag["count"] != done || lag["min"] < 0 || lag["med"] > 200 || latency["med"] < 15 || latency["med"] > 300 {
		t.Errorf("lag %v, latency %v; want due times that do not shift", lag, latency)
	}
	if strings.Contains(out, "valid only while") {
		t.Errorf("a warning about due times:\n%s", out)
	}
}

func (k k6) testEstimated(t *testing.T) {
	code, out, m := k.summary(t, map[string]string{"PLUMBLINE_TARGET": slow(t, 0), "PLUMBLINE_EXECUTOR": "constant-arrival-rate",
		"PLUMBLINE_RATE": "100", "PLUMBLINE_WINDOW": "1s"})
	// A busy machine may drop a few.
	done, dropped := m["iterations"]["count"], m["dropped_iterations"]["count"]
	if n := m["plumbline_latency"]["count"]; n < 1 || n != done || done+dropped < 100 || done+dropped > 101 || (code == 0) != (dropped == 0) {
		t.Errorf("exit code %d, %v latencies, %v dropped; want 100 in all\n%s", code, n, dropped, out)
	}
	if !strings.Contains(out, "valid only while dropped_iterations is 0") {
		t.Errorf("no warning about due times:\n%s", out)
	}
}

func (k k6) testAbort(t *testing.T) {
	script := filepath.Join(t.TempDir(), "abort.js")
	text := `import exec from 'k6/execution';
export const options = { scenarios: { a: { executor: 'plumbline-arrival-rate', rate: 100, duration: '60s', vus: 5 } } };
export default function () { if (exec.scenario.iterationInTest == 20) { exec.test.abort('enough of it'); } }`
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	code, out := k.run(t, t.Context(), nil, script)
	if code != 108 || !strings.Contains(out, "enough of it") || time.Since(before) > 40*time.Second {
		t.Errorf("exit code %d after %v; want 108 at once, and the reason in\n%s", code, time.Since(before), out)
	}
}

func (k k6) testArrivalMistakes(t *testing.T) {
	for options, want := range map[string]string{
		`rate: 0, duration: '1s', vus: 1`:          "rate: 0",
		`rate: 10, vus: 1`:                         "duration: 0s",
		`rate: 10, duration: '1s'`:                 "vus: 0",
		`rate: 10, duration: '1s', vus: 1, vuz: 2`: "vuz",
		`rate: 10, duration: 'soon', vus: 1`:       "soon",
	} {
		script := filepath.Join(t.TempDir(), "bad.js")
		text := "export const options = { scenarios: { a: { executor: 'plumbline-arrival-rate', " + options + " } } };\nexport default function () {}"
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out := k.run(t, t.Context(), nil, script); code == 0 || !strings.Contains(out, want) {
			t.Errorf("options %s: exit code %d; want an error with %q in\n%s", options, code, want, out)
		}
	}
}
