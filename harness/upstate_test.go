package harness

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/backend"
)

// owner starts a process that stands for an owner of an up.
func owner(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func noContainers(t *testing.T) func(context.Context, string) (int, error) {
	return func(_ context.Context, id string) (int, error) {
		t.Errorf("containers of %s were asked for", id)
		return 0, nil
	}
}

func stateOf(cmd *exec.Cmd, kind string) *upState {
	return &upState{Version: upVersion, RunID: "up-1", Provider: kind, Owner: processOf("plumbline", cmd.Process.Pid)}
}

func TestDownOfNothing(t *testing.T) {
	if how, err := Down(t.Context(), t.TempDir(), noContainers(t)); how != "" || err != nil {
		t.Errorf("Down = %q, %v", how, err)
	}
}

func TestDownStopsTheOwnerAndWhatOutlivedIt(t *testing.T) {
	dir := t.TempDir()
	o, left := owner(t, "exec sleep 60"), owner(t, "exec sleep 60")
	s := stateOf(o, backend.KindEmbedded)
	s.Processes = []process{processOf("gateway", left.Process.Pid)}
	if err := s.claim(dir); err != nil {
		t.Fatal(err)
	}
	how, err := Down(t.Context(), dir, noContainers(t))
	if err != nil || !strings.HasPrefix(how, "stopped pid ") {
		t.Errorf("Down = %q, %v", how, err)
	}
	if s.Owner.lives() || !s.Processes[0].gone(t.Context(), 5*time.Second) {
		t.Error("the owner or its process lives")
	}
	if how, err := Down(t.Context(), dir, noContainers(t)); how != "" || err != nil {
		t.Errorf("a second Down = %q, %v", how, err)
	}
}

// A pid that was used again belongs to somebody else.
func TestDownLeavesAStrangerWithTheSamePidAlone(t *testing.T) {
	dir := t.TempDir()
	stranger := owner(t, "exec sleep 60")
	s := stateOf(stranger, backend.KindEmbedded)
	s.Owner.Start = "1"
	s.Processes = []process{{Name: "gateway", PID: stranger.Process.Pid, Start: "1"}}
	if err := s.claim(dir); err != nil {
		t.Fatal(err)
	}
	how, err := Down(t.Context(), dir, noContainers(t))
	if err != nil || !strings.Contains(how, "had ended already") {
		t.Errorf("Down = %q, %v", how, err)
	}
	if !processOf("", stranger.Process.Pid).lives() {
		t.Error("a stranger was ended")
	}
}

func TestAnOwnerThatDoesNotStopIsKilled(t *testing.T) {
	o := owner(t, `trap "" TERM; echo; sleep 60 & wait; wait`)
	s := stateOf(o, backend.KindEmbedded)
	time.Sleep(200 * time.Millisecond) // until it has set its trap
	how, err := s.endOwner(t.Context(), 300*time.Millisecond)
	if err != nil || !strings.HasPrefix(how, "killed pid ") || s.Owner.lives() {
		t.Errorf("endOwner = %q, %v; lives %v", how, err, s.Owner.lives())
	}
}

func TestAProcessThatHadEndedWhenItWasNotedDoesNotLive(t *testing.T) {
	if gone := processOf("gateway", 1<<29); gone.lives() {
		t.Errorf("%+v lives", gone)
	}
}

func TestDownRemovesContainersOfThatRunOnly(t *testing.T) {
	dir := t.TempDir()
	o := owner(t, "exec sleep 60")
	s := stateOf(o, backend.KindContainers)
	if err := s.claim(dir); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no Docker")
	if _, err := Down(t.Context(), dir, func(context.Context, string) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("Down = %v; want what kept the containers", err)
	}
	how, err := Down(t.Context(), dir, func(_ context.Context, id string) (int, error) { return len(id), nil })
	if err != nil || !strings.HasSuffix(how, "removed 4 containers that it left") {
		t.Errorf("Down = %q, %v", how, err)
	}
}

func TestOneUpAFolder(t *testing.T) {
	dir := t.TempDir()
	o := owner(t, "exec sleep 60")
	first, second := stateOf(o, backend.KindEmbedded), stateOf(o, backend.KindEmbedded)
	second.RunID = "up-2"
	if err := first.claim(dir); err != nil {
		t.Fatal(err)
	}
	if err := second.claim(dir); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "plumbline down ends it") {
		t.Errorf("a second claim = %v", err)
	}
	if err := second.create(dir); !errors.Is(err, ErrUsage) {
		t.Errorf("a claim at the same moment = %v", err)
	}
	if err := second.forget(dir); err != nil {
		t.Error(err)
	}
	if s, err := readUp(dir); err != nil || s == nil || s.RunID != "up-1" {
		t.Errorf("after the stranger's forget: %+v, %v", s, err)
	}
}

func TestTheNextUpClearsWhatAKilledOneLeft(t *testing.T) {
	dir := t.TempDir()
	o, left := owner(t, "exec sleep 60"), owner(t, "exec sleep 60")
	first, second := stateOf(o, backend.KindEmbedded), stateOf(left, backend.KindEmbedded)
	first.Processes, second.RunID = []process{processOf("gateway", left.Process.Pid)}, "up-2"
	if err := first.claim(dir); err != nil {
		t.Fatal(err)
	}
	_ = o.Process.Kill()
	_ = o.Wait()
	if err := second.claim(dir); err != nil {
		t.Errorf("claim after the owner's death = %v", err)
	}
	if !first.Processes[0].gone(t.Context(), 5*time.Second) {
		t.Error("what outlived the killed owner runs")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

func TestBrokenStateIsToldAndKept(t *testing.T) {
	for _, text := range []string{"", "{", "{}", `{"version":1,"run_id":"x"}`, `{"version":9,"run_id":"x","owner":{"name":"p","pid":99,"start":"1"}}`, `{"surprise":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(upPath(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Down(t.Context(), dir, noContainers(t)); err == nil || !strings.Contains(err.Error(), "up.json") || !strings.Contains(err.Error(), "then delete the file") {
			t.Errorf("Down on %q = %v", text, err)
		}
		if _, err := os.Stat(upPath(dir)); err != nil {
			t.Error(err)
		}
	}
}

func TestBackgroundThatEndsEarlyTellsItsLastWords(t *testing.T) {
	for script, want := range map[string]BackgroundError{
		"echo starting; echo 'plumbline: no Docker here' >&2; exit 3": {3, "no Docker here"},
		"echo odd; exit 2": {2, "see "}, "exit 2": {2, "up ended with exit code 2 and left no word"},
	} {
		_, err := UpInBackground(t.Context(), t.TempDir(), "/bin/sh", "-c", script)
		var ended *BackgroundError
		if !errors.As(err, &ended) || ended.Code != want.Code || !strings.HasPrefix(ended.Text, want.Text) {
			t.Errorf("%s: %v; want %+v", script, err, want)
		}
	}
	if _, err := UpInBackground(t.Context(), t.TempDir(), "/bin/sh", "-c", "exit 0"); err == nil || !strings.Contains(err.Error(), "ended before it served") {
		t.Errorf("exit 0 = %v", err)
	}
}

func TestBackgroundIsStoppedWhenNobodyWaitsAnyMore(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := UpInBackground(ctx, t.TempDir(), "/bin/sh", "-c", "exec sleep 60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("UpInBackground = %v", err)
	}
}
