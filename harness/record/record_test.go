package record_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func sample() *record.Run {
	r := &record.Run{
		ID: "20260102T030405Z-ab12", Started: began, Ended: began.Add(time.Minute),
		Plan:     record.Plan{Profile: "smoke", Seed: math.MaxUint64, SUT: "reference", HeapCap: 128 << 20, Rate: 1000},
		Env:      record.Env{Class: "linux-amd64-x-2c-24g-go1.26-embedded", Cores: 2},
		Provider: record.Provider{Kind: "embedded", Reason: "asked for"},
		SUT:      record.SUT{Name: "reference", Processes: []record.SUTProcess{{Name: "gateway", HeapCap: 128 << 20}, {Name: "dagmanager"}}},
		Contract: []record.Outcome{{ID: "GW-1", Status: record.Passed}, {ID: "GW-2", Status: record.Skipped, Reason: "no graph"}},
		Load: &load.Result{
			Version: load.ResultVersion, Started: began, Window: 10 * time.Second,
			Ledger:    load.Ledger{Offered: 10, Answered: 8, Lost: 1, Dropped: 1, Accepted: 7, Rejected: 1},
			Classes:   map[string]load.Class{"all": {N: 8, Latency: load.Quantiles{P50: 1, P95: 2, P99: 3, P999: 4}, Lag: load.Quantiles{P99: 7}}},
			Generator: load.Quantiles{P99: 0.1},
		},
		Audit: &record.Audit{Accepted: 7, Lost: []record.Finding{{ID: "s1", What: "no record"}, {ID: "s0", What: "no record", WarmUp: true}}},
		Series: []record.Series{
			{Name: "heap_live_bytes", Process: "gateway", Unit: record.Bytes, Points: [][2]float64{{0, 10}, {1, 30}, {2, 20}}},
			{Name: "heap_live_bytes", Process: "dagmanager", Unit: record.Bytes, Points: [][2]float64{{0, 99}}},
		},
		Complexity: &record.Complexity{Limit: 10, Funcs: []record.Func{{Name: "a", CC: 11}, {Name: "b", CC: 3}}},
	}
	record.SetDerived(r)
	return r
}

func write(t *testing.T, r *record.Run) (record.Dir, string) {
	t.Helper()
	d, err := record.Create(filepath.Join(t.TempDir(), "artifacts"), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteRun(r); err != nil {
		t.Fatal(err)
	}
	return d, d.Path(record.RunFile)
}

func TestWrittenRecordReadsBackTheSame(t *testing.T) {
	want := sample()
	d, _ := write(t, want)
	got, err := record.Read(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read(WriteRun(r)) differs (-want +got):\n%s", diff)
	}
	if left, _ := filepath.Glob(d.Path(".*")); len(left) > 0 {
		t.Errorf("temporary files were left: %v", left)
	}
}

func TestRunWithoutPartsReadsBack(t *testing.T) {
	r := &record.Run{ID: "x", Started: began, Ended: began, Partial: true, PartialReason: "no backend"}
	record.SetDerived(r)
	_, path := write(t, r)
	got, err := record.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range record.Derived() {
		if _, err := got.Metrics.Get(name); !errors.Is(err, record.ErrAbsent) {
			t.Errorf("Get(%s) = %v; want ErrAbsent", name, err)
		}
		if got.Absent[name] == "" {
			t.Errorf("metric %s is absent without a reason", name)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	_, path := write(t, sample())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(string(whole), old) {
			t.Fatalf("the sample has no %q", old)
		}
		return strings.Replace(string(whole), old, new, 1)
	}
	for name, c := range map[string]struct{ body, want string }{
		"nothing at all":       {"", "empty"},
		"a truncated file":     {string(whole[:len(whole)/2]), "cut off"},
		"one byte too few":     {string(whole[:len(whole)-2]), "cut off"},
		"NaN":                  {replace(`"p50_ms": 1,`, `"p50_ms": NaN,`), "NaN is not a number"},
		"Infinity":             {replace(`"p99_ms": 3,`, `"p99_ms": -Infinity,`), "-Infinity is not a number"},
		"a number out of any":  {replace(`"p99_ms": 3,`, `"p99_ms": 1e999,`), "1e999"},
		"two documents":        {string(whole) + "{}", "line"},
		"another version":      {replace(`"schema": 1`, `"schema": 2`), "schema version 2"},
		"no version":           {replace(`"schema": 1,`, ``), "no schema version"},
		"an unknown key":       {replace(`"partial": false`, `"partial": false, "partail_reason": "x"`), "partail_reason"},
		"a key in other case":  {replace(`"partial": false`, `"Partial": false`), "artial"},
		"a missing part":       {replace(`"partial": false,`, ``), "partial"},
		"an unknown status":    {replace(`"status": "passed"`, `"status": "fine"`), "status"},
		"a scenario twice":     {replace(`"id": "GW-2"`, `"id": "GW-1"`), "twice"},
		"a torn ledger":        {replace(`"dropped": 1`, `"dropped": 0`), "ledger"},
		"a ledger of another":  {replace(`"accepted": 7,`, `"accepted": 6,`), "ledger"},
		"an end before begin":  {replace(`"ended": "2026-01-02T03:05:05Z"`, `"ended": "2026-01-01T03:05:05Z"`), "before started"},
		"partial without why":  {replace(`"partial": false`, `"partial": true`), "partial_reason"},
		"text for a number":    {replace(`"p50_ms": 1,`, `"p50_ms": "1",`), "p50_ms"},
		"something not a run":  {`[1,2,3]`, "schema"},
		"null":                 {`null`, "schema"},
		"a list that is null":  {replace(`"contract": [`, `"contract": null, "x": [`), "contract"},
		"a point with 3 parts": {strings.Replace(string(whole), "0,\n", "0,\n5,\n", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := record.Decode([]byte(c.body))
			if !errors.Is(err, record.ErrBroken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Decode = %v; want ErrBroken naming %q", err, c.want)
			}
		})
	}
}

func TestReadTellsNoFileFromABrokenRun(t *testing.T) {
	if _, err := record.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, record.ErrBroken) {
		t.Errorf("Read(missing) = %v; want ErrNotExist only", err)
	}
	if _, err := record.Read(t.TempDir()); !errors.Is(err, record.ErrBroken) {
		t.Errorf("Read(directory without run.json) = %v; want ErrBroken", err)
	}
}

func TestWriteRunRefusesWhatIsNoNumber(t *testing.T) {
	r := sample()
	r.Load.Classes["all"] = load.Class{N: 1, Latency: load.Quantiles{P99: math.NaN()}}
	d := record.Dir{Root: t.TempDir(), ID: "."}
	err := d.WriteRun(r)
	if err == nil || !strings.Contains(err.Error(), "load.classes.all.latency.p99_ms") {
		t.Errorf("WriteRun = %v; want the place of the NaN", err)
	}
	if _, err := os.Stat(d.Path(record.RunFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("run.json was left behind: %v", err)
	}
}

func TestDerive(t *testing.T) {
	r := sample()
	want := map[string]float64{
		"contract_passed": 1, "contract_failed": 0, "contract_skipped": 1, "offered": 10, "answered": 8, "rejected": 1, "dropped": 1,
		"lost": 2, "duplicates": 0, "orphans": 0, "p50_ms": 1, "p95_ms": 2, "p99_ms": 3, "p999_ms": 4, "generator_lag_p99_ms": 0.1,
		"throughput_per_s": 0.8, "heap_peak_bytes": 30, "heap_cap_bytes": 128 << 20, "complexity_max": 11, "complexity_over_limit": 1,
	}
	for name, v := range want {
		if m, err := r.Metrics.Get(name); err != nil || m.Value != v {
			t.Errorf("metric %s = %v, %v; want %v", name, m.Value, err, v)
		}
	}
	if _, ok := r.Metrics["rss_peak_bytes"]; ok || r.Absent["rss_peak_bytes"] == "" {
		t.Errorf("rss_peak_bytes: want it absent with a reason, got %v, %q", r.Metrics["rss_peak_bytes"], r.Absent["rss_peak_bytes"])
	}
	if len(r.Metrics["p99_ms"].Warnings) == 0 {
		t.Error("p99 of 8 observations carries no warning")
	}
}

// summary.json has exactly the published keys, absent values as null.
func TestSummaryKeys(t *testing.T) {
	want := strings.Fields(`verdict exit_code provider environment_class commit contract_passed contract_failed contract_skipped
		offered answered rejected dropped lost duplicates orphans p50_ms p95_ms p99_ms p999_ms generator_lag_p99_ms throughput_per_s
		heap_peak_bytes heap_cap_bytes rss_peak_bytes complexity_max complexity_over_limit base`)
	b, err := json.Marshal(record.Summarize(sample(), record.Answer{Verdict: "pass"}))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, k := range want {
		if _, ok := got[k]; !ok {
			t.Errorf("summary has no key %s", k)
		}
	}
	if len(got) != len(want) {
		t.Errorf("summary has %d keys, want %d: %s", len(got), len(want), b)
	}
	if got["rss_peak_bytes"] != nil || got["base"] != nil || got["lost"] != 2.0 {
		t.Errorf("summary = %s; want rss_peak_bytes and base null, lost 2", b)
	}
}

func TestLatestMovesInOneStep(t *testing.T) {
	root := t.TempDir()
	for _, id := range []string{"a", "b"} {
		d, err := record.Create(root, id)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.PointLatest(); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(filepath.Join(root, "latest")); err != nil || to != id {
			t.Errorf("latest points at %q, %v; want %q", to, err, id)
		}
	}
	if _, err := record.Create(root, "a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a taken id = %v; want ErrExist", err)
	}
}

func TestCreateInAPlaceThatIsNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := record.Create(file, "a"); err == nil || !strings.Contains(err.Error(), "--artifacts") {
		t.Errorf("Create below a file = %v; want an error that says how to mend it", err)
	}
}

func TestClass(t *testing.T) {
	e := record.Env{OS: "linux", Arch: "amd64", CPU: "AMD EPYC(TM) 9B14", Cores: 2, MemBytes: 25_100_000_000, Go: "go1.26.8", Kernel: "6.1"}
	const want = "linux-amd64-amd.epyc.9b14-2c-24g-go1.26-embedded"
	if got := record.Class(e, "embedded"); got != want {
		t.Errorf("Class = %s; want %s", got, want)
	}
	same := e
	same.MemBytes, same.Go, same.Kernel = 24_900_000_000, "go1.26.9", "6.2"
	if got := record.Class(same, "embedded"); got != want {
		t.Errorf("Class after an update = %s; want %s", got, want)
	}
	if record.Class(e, "containers") == want {
		t.Error("Class does not tell the kinds of backends apart")
	}
	if got := record.Class(record.Env{OS: "plan9", Arch: "arm", Cores: 1, Go: "devel"}, ""); got != "plan9-arm-unknown-1c-unknown-devel-unknown" {
		t.Errorf("Class of an unknown machine = %s", got)
	}
	if m := record.Machine("embedded"); m.Class == "" || m.Cores < 1 {
		t.Errorf("Machine = %+v", m)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := record.Encode(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1,"load":{"ledger":{"offered":NaN}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := record.Decode(in)
		if err != nil {
			return
		}
		if err := record.Finite(r); err != nil {
			t.Errorf("a decoded record holds what is no number: %v", err)
		}
	})
}
