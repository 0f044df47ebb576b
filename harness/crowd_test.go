package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/crowd"
	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
	"qmtl.internal/plumbline/harness/audit"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/probe"
	"qmtl.internal/plumbline/harness/sut"
)

// crowded is how many clients come at once, and idle how many others are only
// there.
const crowded, idle = 5000, 10_000

// descriptors are the files that the test and the gateway each have open.
func descriptors(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		t.Skipf("allowed: too few open files here: needs %d, the limit is %d (ulimit -Hn)", n, limit.Cur)
	}
}

// reference starts the reference beside servers in this process.
func reference(t *testing.T) (audit.World, *sut.Instance) {
	t.Helper()
	bin := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../ref/cmd/gateway", "../ref/cmd/dagmanager").CombinedOutput(); err != nil {
		t.Fatalf("building the reference: %v\n%s", err, out)
	}
	set, err := backend.Embedded{}.Start(t.Context(), backend.Options{RunID: "crowd"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close(context.Background()) })
	d, err := sut.Load("reference")
	if err != nil {
		t.Fatal(err)
	}
	in, err := sut.Start(t.Context(), d, sut.Options{Backends: set, BinDir: bin, LogDir: t.TempDir(), RunID: "crowd"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Stop(context.Background()); err != nil {
			t.Errorf("stopping the reference: %v", err)
		}
	})
	return audit.World{Kafka: set.Kafka, Redis: set.Redis, CommitLog: set.Prefix + "gateway.ingest"}, in
}

// rss is the resident memory of the gateway in bytes.
func rss(t *testing.T, in *sut.Instance) int64 {
	t.Helper()
	for _, p := range in.Processes() {
		if p.Name != "gateway" {
			continue
		}
		bytes, err := probe.ResidentBytes(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		return int64(bytes)
	}
	t.Fatal("no gateway runs")
	return 0
}

// Beside 10,000 connections that say nothing, 5,000 clients that submit at the
// same moment, each over its own connection, are all acknowledged, and what was
// acknowledged is stored once.
func TestACrowdIsAnsweredBesideIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("15,000 connections; run without -short")
	}
	descriptors(t, crowded+idle+500)
	w, in := reference(t)
	before, err := audit.Look(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	dial, err := crowd.To(in.Endpoints().Gateway, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bystanders(t, in, dial).Close()
	outcomes := storm(t, dial)
	t.Logf("resident memory %d MiB after %d clients at once", rss(t, in)>>20, crowded)
	got, err := audit.Run(t.Context(), w, before, outcomes)
	if err != nil {
		t.Fatal(err)
	}
	if got.Accepted != crowded || got.Records != crowded || got.Registered != crowded || len(got.Lost)+len(got.Duplicates)+len(got.Orphans) > 0 {
		t.Errorf("%d acknowledged, %d records, %d registered; lost %v, doubled %v, orphans %v",
			got.Accepted, got.Records, got.Registered, got.Lost, got.Duplicates, got.Orphans)
	}
}

// bystanders connect and say nothing; what each costs the gateway is bounded.
func bystanders(t *testing.T, in *sut.Instance, dial crowd.Dial) crowd.Connections {
	t.Helper()
	alone := rss(t, in)
	quiet, err := crowd.Gather(t.Context(), idle, dial)
	if err != nil {
		t.Fatal(err)
	}
	beside := rss(t, in)
	t.Logf("resident memory %d MiB alone, %d MiB beside %d idle connections", alone>>20, beside>>20, idle)
	if each := (beside - alone) / idle; each > 32<<10 {
		t.Errorf("an idle connection takes %d bytes", each)
	}
	return quiet
}

// storm lets the crowd submit, wants a 202 for each and gives the outcomes.
func storm(t *testing.T, dial crowd.Dial) *bytes.Buffer {
	t.Helper()
	all, err := crowd.Gather(t.Context(), crowded, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	w, err := workload.New(workload.Options{Profile: crowd.Profile(crowded), Seed: 1, Tag: "crowd"})
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := crowd.Submit(t.Context(), all, w, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	other := map[string]int{}
	for _, o := range outcomes {
		if o.Fate != load.Accepted {
			other[string(o.Fate)+": "+o.Error]++
		}
		if err := json.NewEncoder(&lines).Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	if len(other) > 0 {
		t.Errorf("answers that are no acknowledgement: %v", other)
	}
	q := load.ClassOf(outcomes).Latency
	t.Logf("answered within p50 %.0f ms, p99 %.0f ms", q.P50, q.P99)
	return &lines
}
