package load

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDirKeepsWhatReadersFind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var ev *Evidence
	var seen []Outcome
	synctest.Test(t, func(t *testing.T) {
		d, err := CreateDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := virtual(100)
		c.Observe = func(o Outcome) error { seen = append(seen, o); return d.Observe(o) }
		if ev, err = Offer(t.Context(), c, sleepy(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(ev); err != nil {
			t.Fatal(err)
		}
	})
	r, err := ReadResult(filepath.Join(dir, ResultFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&ev.Result, r, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the result changed on its way through the file (-written +read):\n%s", diff)
	}
	if read := readOutcomes(t, dir); !slices.Equal(read, seen) || len(read) != 300 {
		t.Errorf("read %d outcomes; want the %d that were seen", len(read), len(seen))
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 3 {
		t.Errorf("files %v, %v; want three", left, err)
	}
}

func readOutcomes(t *testing.T, dir string) (all []Outcome) {
	t.Helper()
	err := EachOutcome(filepath.Join(dir, OutcomesFile), func(o Outcome) error { all = append(all, o); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDirLeavesNoResultOfAnotherRun(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{ResultFile, TimingsFile, OutcomesFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadResult(filepath.Join(dir, ResultFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadResult = %v; want that it does not exist", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, OutcomesFile)); err != nil || len(b) != 0 {
		t.Errorf("outcomes %q, %v; want none", b, err)
	}
}

func TestDirSaysWhatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateDir(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("CreateDir = %v; want the name", err)
	}
	d, err := CreateDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.file.Close(); err != nil { // as good as a full disk
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		err = d.Observe(Outcome{Key: strings.Repeat("x", 1000)})
	}
	if !strings.Contains(err.Error(), OutcomesFile) || d.Close(&Evidence{}) == nil {
		t.Errorf("Observe = %v; want the name, and an error of Close as well", err)
	}
	if _, err := os.Stat(filepath.Join(d.path, ResultFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a result was written beside spoilt outcomes: %v", err)
	}
}

func TestReadResultRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{`:             "unexpected end",
		`{"version":2}`: "version 2, want 1",
		`{"version":1,"ledger":{"offered":3,"answered":2,"accepted":2}}`:         "offered 3",
		`{"version":1,"warm_up_ledger":{"offered":2,"answered":2,"accepted":1}}`: "answered 2",
	} {
		file := filepath.Join(t.TempDir(), ResultFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadResult(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("ReadResult of %s = %v; want %q and the name", text, err, want)
		}
	}
}

func TestEachOutcomeSaysWhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), OutcomesFile)
	if err := os.WriteFile(file, []byte("{\"i\":1}\n{\"i\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := EachOutcome(file, func(Outcome) error { n++; return nil })
	if n != 1 || err == nil || !strings.Contains(err.Error(), "entry 2") {
		t.Errorf("EachOutcome = %v after %d; want an error at entry 2", err, n)
	}
	stop := errors.New("enough")
	if err := EachOutcome(file, func(Outcome) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("EachOutcome = %v; want the error of its function", err)
	}
}

// Sixty-four logs merge to what one recorder would have seen, bucket for bucket.
func TestMergedLogsEqualTheUnion(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	union, merged := Timings{}, Timings{}
	for range 64 {
		shard := Timings{}
		for range 500 {
			class := [...]string{"a", "b"}[rng.IntN(2)]
			lag, service := time.Duration(rng.ExpFloat64()*1e5), time.Duration(rng.ExpFloat64()*1e8)
			for _, ts := range []Timings{shard, union} {
				put(ts.of(class).Lag, lag)
				put(ts.of(class).Service, service)
				put(ts.of(class).Latency, lag+service)
			}
		}
		var log bytes.Buffer
		if err := WriteTimings(&log, time.Unix(1, 0), time.Unix(2, 0), shard); err != nil {
			t.Fatal(err)
		}
		if err := ReadTimings(&log, merged); err != nil {
			t.Fatal(err)
		}
	}
	for class, want := range union {
		for _, p := range want.pairs(merged.of(class)) {
			if !p[0].Equals(p[1]) {
				t.Errorf("class %s: merged %v observations; union %v", class, p[1].TotalCount(), p[0].TotalCount())
			}
		}
	}
}

func TestValuesBeyondTheLayoutAreClamped(t *testing.T) {
	h := newHistogram()
	put(h, -time.Second)
	put(h, time.Hour)
	if h.TotalCount() != 2 || h.Min() != 0 || h.Max() < highest {
		t.Errorf("%d observations from %d to %d; want two, clamped", h.TotalCount(), h.Min(), h.Max())
	}
}

func TestReadTimingsRefusesStrangers(t *testing.T) {
	var log bytes.Buffer
	w := hdrhistogram.NewHistogramLogWriter(&log)
	h := newHistogram()
	put(h, time.Second)
	h.SetTag("a/length")
	if err := errors.Join(w.OutputLogFormatVersion(), w.OutputIntervalHistogram(h)); err != nil {
		t.Fatal(err)
	}
	if err := ReadTimings(&log, Timings{}); err == nil || !strings.Contains(err.Error(), "a/length") {
		t.Errorf("ReadTimings = %v; want it to name the tag", err)
	}
}
