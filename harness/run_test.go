package harness

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1048576": 1 << 20, "128MiB": 128 << 20, "64 KiB": 64 << 10, "2GiB": 2 << 30} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "128MB", "9999999GiB", "1e3"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d; want an error", text, got)
		}
	}
}

// child is an execution whose load generator is a shell script.
func child(t *testing.T, script string) (*execution, *exec.Cmd) {
	t.Helper()
	x := &execution{checked: &checked{Plan: Plan{Progress: func(Event) {}}, starve: 1}, run: &record.Run{}}
	return x, exec.Command("sh", "-c", script)
}

func TestDriveTellsHowTheGeneratorEnded(t *testing.T) {
	for script, want := range map[string]string{"exit 0": "", "exit 99": "", "exit 7": "exit status 7", "kill -9 $$": "killed"} {
		x, cmd := child(t, script)
		err := x.drive(t.Context(), cmd)
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("drive(%s) = %v; want %q", script, err, want)
		}
	}
}

// A generator is asked to leave with its whole group, and leaves its evidence.
func TestDriveAsksBeforeItKills(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "asked")
	x, cmd := child(t, `trap 'echo yes > '"$MARK"'; exit 0' INT; sleep 60 & wait`)
	cmd.Env = append(os.Environ(), "MARK="+mark)
	cause := errors.New("the SUT died")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(cause) })
	if err := x.drive(ctx, cmd); !errors.Is(err, cause) {
		t.Errorf("drive = %v; want the cause", err)
	}
	if b, err := os.ReadFile(mark); err != nil || string(b) != "yes\n" {
		t.Errorf("the generator was not asked: %q, %v", b, err)
	}
}

func TestStarvedGeneratorStillEnds(t *testing.T) {
	x, cmd := child(t, "i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; exit 3")
	x.starve = 0.2
	if err := x.drive(t.Context(), cmd); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("drive = %v; want exit status 3", err)
	}
}

func TestReadLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                                     "broken",
		"{":                                    "broken",
		`{"version":9}`:                        "version 9",
		`{"surprise":1}`:                       "surprise",
		`{"version":1,"ledger":{"offered":1}}`: "ledger",
	} {
		path := filepath.Join(dir, "load.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readLoad(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("readLoad(%s) = %v; want an error naming %q", text, err, want)
		}
	}
	if _, err := readLoad(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("readLoad(missing) = %v", err)
	}
}

func TestRevisionOfNoRepository(t *testing.T) {
	if c := revision(t.Context(), t.TempDir()); c.Revision != "" || c.Dirty {
		t.Errorf("revision of a plain folder = %+v; want none", c)
	}
}
