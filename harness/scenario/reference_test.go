package scenario_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/faultproxy"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/scenarios"
)

var only = flag.String("only", "", "run these shipped scenarios only (comma separated patterns)")

// The shipped scenarios hold on the reference, as separate processes on
// embedded backends. The slow ones are left to `plumbline contract`.
func TestReferenceKeepsTheContract(t *testing.T) {
	env := reference(t)
	all, err := scenario.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	if *only != "" {
		if all, err = scenario.Select(all, strings.Split(*only, ",")...); err != nil {
			t.Fatal(err)
		}
	} else {
		all = withoutSlow(all)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	for _, o := range scenario.Run(ctx, env, all) {
		if o.Status == record.Skipped && strings.HasPrefix(o.Reason, "class original ") {
			continue
		}
		if o.Status == record.Passed {
			t.Logf("%-15s passed %7.0f ms", o.ID, o.DurationMS)
			continue
		}
		t.Errorf("%s is %s: %s\n%s", o.ID, o.Status, o.Reason, steps(o))
	}
}

// withoutSlow leaves out what takes longer than a unit test may, and what asks
// for a graph database, which embedded backends do not have.
func withoutSlow(all []scenario.Scenario) []scenario.Scenario {
	var out []scenario.Scenario
	for _, s := range all {
		if s.ID != "D05" && s.ID != "D06" && s.ID != "D27" && s.ID != "REF-GW-ORPHAN" && s.ID != "D39" && s.ID != "REF-D40" && s.ID != "REF-DM-BRK-001" {
			out = append(out, s)
		}
	}
	return out
}

func steps(o record.Outcome) string {
	var b strings.Builder
	for _, s := range o.Steps {
		fmt.Fprintf(&b, "  %s:%d: %s\n  %s\n  saw %.600s\n", o.File, s.Line, s.Action, s.Problems, s.Observed)
	}
	return b.String()
}

// reference builds and starts both services.
func reference(t *testing.T) scenario.Env {
	t.Helper()
	set, in := launched(t, built(t), nil)
	e := in.Endpoints()
	kid, key := in.EventKey()
	return scenario.Env{
		EventKID: kid, EventKey: key, Classes: []scenario.Class{scenario.Strict, scenario.Lenient, scenario.Reference},
		Gateway: e.Gateway, DagManager: e.DagManager, DagManagerHTTP: e.DagManagerHTTP, Kafka: set.Kafka, Redis: set.Redis,
		Provider: set.Kind, RunID: "test", Seed: 1, TopicPrefix: set.Prefix,
		Faults: append(set.Faults(), in.Faults()...), Dial: set.Dial, Beside: in.Beside(), BesideDagManager: in.BesideDagManager(), Starts: in.Starts(),
	}
}

// built gives the folder of the reference's binaries.
func built(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../../ref/cmd/gateway", "../../ref/cmd/dagmanager")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the reference: %v\n%s", err, out)
	}
	return bin
}

// launched starts the reference on set, or on backends of its own for nil.
func launched(t *testing.T, bin string, set *backend.Set) (*backend.Set, *sut.Instance) {
	t.Helper()
	logs := t.TempDir()
	var err error
	if set == nil {
		set, err = faultproxy.Provider{Provider: backend.Embedded{}}.Start(t.Context(), backend.Options{RunID: "test", LogDir: logs, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = set.Close(context.Background()) })
	}
	d, err := sut.Load("reference")
	if err != nil {
		t.Fatal(err)
	}
	in, err := sut.Start(t.Context(), d, sut.Options{Backends: set, BinDir: bin, LogDir: logs, RunID: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Stop(context.Background()); err != nil {
			t.Errorf("stopping the reference: %v", err)
		}
		if t.Failed() {
			keepLogs(t, logs)
		}
	})
	return set, in
}

func keepLogs(t *testing.T, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && len(b) > 0 {
			t.Logf("%s ends with\n%s", filepath.Base(f), b[max(0, len(b)-1500):])
		}
	}
}
