package sut

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/backend"
)

// configured is a SUT whose gateway can be started with a configuration only.
func configured(t *testing.T, argv ...string) (in *Instance, logs string) {
	t.Helper()
	logs = t.TempDir()
	gateway := spec("gateway", "serve", "127.0.0.1:0")
	gateway.Configured, gateway.Env = argv, map[string]string{"TOLD": "by ${backend.kafka}"}
	return launched(t, descriptor(spec("dm", "serve"), gateway), Options{LogDir: logs, Backends: &backend.Set{Kafka: "k:1"}}), logs
}

func TestAProcessIsStartedWithAConfigurationAndNothingElse(t *testing.T) {
	in, logs := configured(t, "sh", "-c", `cat "$0"; echo "$TOLD" >&2; ls; exit 7`, "${config.file}")
	got, err := in.Starts()["gateway"](t.Context(), "a: 1\n", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.ExitCode == nil || *got.ExitCode != 7 {
		t.Errorf("exit code %v, want 7", got.ExitCode)
	}
	if in.Err() != nil {
		t.Errorf("its end is the SUT's: %v", in.Err())
	}
	for _, want := range []string{"a: 1\n", "by k:1\n", "config.yml\n"} {
		if !strings.Contains(got.Text, want) {
			t.Errorf("%q lacks %q", got.Text, want)
		}
	}
	for pattern, want := range map[string]int{filepath.Join(logs, "start", "gateway-*.log"): 1, filepath.Join(in.starter.scratch, "start-*"): 0} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) != want {
			t.Errorf("it leaves %v, %v; want %d of %s", left, err, want, pattern)
		}
	}
}

func TestAProcessThatStillRunsIsStopped(t *testing.T) {
	for name, argv := range map[string][]string{
		"leaves":   {"${bin}/helper", "silent"},
		"is ready": {"${bin}/helper", "serve"},
	} {
		in, _ := configured(t, argv...)
		got, err := in.Starts()["gateway"](t.Context(), "", time.Second)
		if err != nil || got.ExitCode != nil || got.Text == "" {
			t.Errorf("%s: %+v, %v; want no exit code and what it wrote", name, got, err)
		}
	}
}

func TestAProcessThatWillNotLeaveIsKilledAndTold(t *testing.T) {
	in, _ := configured(t, "sh", "-c", `trap "" TERM; echo $$; sleep 60 & wait; wait`)
	for i := range in.plan.Processes {
		in.plan.Processes[i].StopWithin = "100ms"
	}
	if got, err := in.Starts()["gateway"](t.Context(), "", 500*time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAStartEndsWithTheRun(t *testing.T) {
	in, _ := configured(t, "${bin}/helper", "silent")
	over := errors.New("the run is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	if got, err := in.Starts()["gateway"](ctx, "", time.Minute); !errors.Is(err, over) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatCannotBeStartedIsAnError(t *testing.T) {
	for want, argv := range map[string][]string{
		"not found": {"no-such-program"},
		"no value":  {"${bin}/helper", "${beside.name}"},
	} {
		in, _ := configured(t, argv...)
		if got, err := in.Starts()["gateway"](t.Context(), "", time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v; want %s", got, err, want)
		}
	}
}

func TestOnlyWhatTheDescriptorDescribesIsStarted(t *testing.T) {
	in, _ := configured(t)
	if got := in.Starts(); len(got) != 0 {
		t.Errorf("%d processes", len(got))
	}
	if got := (&Instance{}).Starts(); len(got) != 0 {
		t.Errorf("an attached SUT starts %d processes", len(got))
	}
	for _, name := range []string{"reference", "original"} {
		d, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		all := (&Instance{plan: d}).Starts()
		if all["gateway"] == nil || all["dagmanager"] == nil {
			t.Errorf("%s starts %v", name, all)
		}
	}
}

func TestOfALongOutputTheEndIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 100)+"end"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ending(file, 5); got != "xxend" {
		t.Errorf("%q", got)
	}
}
