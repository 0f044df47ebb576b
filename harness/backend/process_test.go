package backend

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestProcessStart(t *testing.T) {
	me := ProcessStart(os.Getpid())
	if me == "" || me == "?" || me != ProcessStart(os.Getpid()) {
		t.Errorf("own start = %q", me)
	}
	if got := ProcessStart(1 << 29); got != "" {
		t.Errorf("start of no process = %q", got)
	}
}

// sleeper runs under a name that looks like the fields behind it.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	odd := exec.Command("sh", "-c", `cp "$(command -v sleep)" "$0/a) R 1" && exec "$0/a) R 1" 60`, t.TempDir())
	if err := odd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", odd.Process.Pid)); string(comm) == "a) R 1\n" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return odd
}

func TestProcessStartOfAnOddName(t *testing.T) {
	me, odd := ProcessStart(os.Getpid()), sleeper(t)
	if got := ProcessStart(odd.Process.Pid); len(got) < len(me)-1 {
		t.Errorf("start of a process with an odd name = %q; mine is %q", got, me)
	}
	// Killed, and not waited for yet: it has ended.
	if err := odd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := false
	for range 100 {
		if ended = ProcessStart(odd.Process.Pid) == ""; ended {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !ended {
		t.Error("a process that was killed and not waited for counts as running")
	}
	_ = odd.Wait()
}
