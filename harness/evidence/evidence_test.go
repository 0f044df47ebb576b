package evidence_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/evidence"
	"qmtl.internal/plumbline/harness/record"
)

// answered is a request that is answered at once; every tenth is refused.
type answered struct{ i int64 }

func (answered) Request(i int64) load.Request { return answered{i} }
func (answered) Class() string                { return "plain" }
func (answered) Key() string                  { return "" }
func (answered) Send(context.Context) error   { time.Sleep(time.Microsecond); return nil }
func (a answered) Reply() load.Reply {
	if a.i%10 == 9 {
		return load.Reply{Fate: load.Rejected, Status: 409}
	}
	return load.Reply{Fate: load.Accepted, Status: 202, ID: "s"}
}

// offered is a run directory with the files of a real load, and its record.
func offered(t *testing.T) (string, *record.Run) {
	t.Helper()
	dir := t.TempDir()
	d, err := load.CreateDir(filepath.Join(dir, evidence.Folder))
	if err != nil {
		t.Fatal(err)
	}
	c := load.Config{Schedule: load.Constant{Rate: 500, For: 400 * time.Millisecond}, WarmUp: 100 * time.Millisecond,
		Window: 300 * time.Millisecond, MaxInFlight: 50, Drain: time.Second, Observe: d.Observe}
	ev, err := load.Offer(t.Context(), c, answered{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(ev); err != nil {
		t.Fatal(err)
	}
	result, err := load.ReadResult(filepath.Join(dir, evidence.Folder, load.ResultFile))
	if err != nil {
		t.Fatal(err)
	}
	return dir, &record.Run{Load: result}
}

func TestFilesSpeakForTheirRecord(t *testing.T) {
	dir, r := offered(t)
	if e := evidence.Of(dir, r); len(e.Against) > 0 || e.Requests != 200 {
		t.Errorf("Of = %+v; want 200 requests and nothing against", e)
	}
	if e := evidence.Of(dir, &record.Run{}); e != nil {
		t.Errorf("Of a record without a load = %+v", e)
	}
}

func TestFilesThatContradictTheirRecord(t *testing.T) {
	edit := func(file, old, new string) func(t *testing.T, dir string, _ *record.Run) {
		return func(t *testing.T, dir string, _ *record.Run) {
			path := filepath.Join(dir, evidence.Folder, file)
			b, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(b), old) {
				t.Fatalf("%s has no %q: %v", file, old, err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(file string) func(t *testing.T, dir string, _ *record.Run) {
		return func(t *testing.T, dir string, _ *record.Run) {
			if err := os.Remove(filepath.Join(dir, evidence.Folder, file)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, r *record.Run)
		want  string
	}{
		"no requests":     {remove(load.OutcomesFile), "outcomes.jsonl: no such file"},
		"no histograms":   {remove(load.TimingsFile), "latency.hlog: no such file"},
		"no report":       {remove(load.ResultFile), "load.json: no such file"},
		"a forged record": {func(_ *testing.T, _ string, r *record.Run) { r.Load.Ledger.Rejected++; r.Load.Ledger.Accepted-- }, "something else"},
		"a forged quantile": {func(_ *testing.T, _ string, r *record.Run) {
			c := r.Load.Classes["all"]
			c.Latency.P99 = 0.1
			r.Load.Classes["all"] = c
		}, "class all"},
		"another second":          {func(_ *testing.T, _ string, r *record.Run) { r.Load.Seconds[0].P99 = 0.1 }, "other seconds"},
		"an earlier generator":    {func(_ *testing.T, _ string, r *record.Run) { r.Load.Generator.P99 = 0 }, "lateness"},
		"a lost one more":         {edit(load.OutcomesFile, `"fate":"accepted","status":202,"id":"s"`, `"fate":"lost"`), "add up to"},
		"a lost one as a refusal": {edit(load.OutcomesFile, `"fate":"rejected","status":409`, `"fate":"rejected"`), "booked as answered with status 0"},
		"a refusal as accepted":   {edit(load.OutcomesFile, `"fate":"accepted","status":202,"id":"s"`, `"fate":"accepted","status":409`), "no acknowledgement"},
		"a failure as a refusal":  {edit(load.OutcomesFile, `"fate":"rejected","status":409`, `"fate":"rejected","status":503`), "no refusal"},
		"the wrong side":          {edit(load.OutcomesFile, `"window":false`, `"window":true`), "wrong side"},
		"cut off":                 {edit(load.OutcomesFile, "}\n", "}\n{"), "outcomes.jsonl"},
	} {
		dir, r := offered(t)
		c.spoil(t, dir, r)
		e := evidence.Of(dir, r)
		if got := strings.Join(e.Against, "\n"); !strings.Contains(got, c.want) || strings.Contains(got, dir) {
			t.Errorf("%s: against the record: %q; want %q and no path of this machine", name, got, c.want)
		}
	}
}
