package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// BackgroundError says with which words, and with which exit code, the process
// ended that UpInBackground had started.
type BackgroundError struct {
	Code int // exit code of the background process
	Text string
}

func (e *BackgroundError) Error() string { return e.Text }

// UpInBackground runs program with args, which must be an Up from this artifacts
// folder that stays in the foreground, in a session of its own, waits until it
// serves and returns its addresses; it then lives on until Down. Its output goes
// to <artifacts>/up.log. When it ends before it serves, the error is a
// *BackgroundError with its last words; when ctx ends, it is stopped first.
func UpInBackground(ctx context.Context, artifacts, program string, args ...string) (*Running, error) {
	if err := os.MkdirAll(artifacts, 0o755); err != nil {
		return nil, fmt.Errorf("artifacts folder: %w; make it writable or name another with --artifacts", err)
	}
	log := filepath.Join(artifacts, "up.log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of up: %w", err)
	}
	defer out.Close()
	from, err := out.Seek(0, 2)
	if err != nil {
		return nil, fmt.Errorf("log of up: %w", err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // neither Ctrl-C nor the end of this terminal reaches it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("up: %w", err)
	}
	child := processOf("plumbline", cmd.Process.Pid)
	r, err := awaitUp(ctx, artifacts, child)
	switch {
	case r != nil:
		return r, cmd.Process.Release()
	case err != nil:
		err = errors.Join(err, child.signal(syscall.SIGTERM))
		_ = cmd.Wait() // it was told to stop, and how it ended then says nothing
		return nil, err
	}
	return nil, endedEarly(cmd.Wait(), lastWords(log, from))
}

// awaitUp gives nil and no error when the child has ended.
func awaitUp(ctx context.Context, artifacts string, child process) (*Running, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for child.lives() {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
		s, err := readUp(artifacts)
		if err == nil && s != nil && s.Owner == child && s.Running != nil {
			return s.Running, nil
		}
	}
	return nil, nil
}

func endedEarly(err error, words string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("up ended before it served: %s", words)
	}
	if words == "" {
		words = fmt.Sprintf("up ended with exit code %d and left no word, as where a disk is full", exit.ExitCode())
	}
	return &BackgroundError{Code: exit.ExitCode(), Text: words}
}

// lastWords is the error with which the background process ended: what it wrote
// from the last line that begins with its name; "" when it wrote nothing.
func lastWords(log string, from int64) string {
	b, err := os.ReadFile(log)
	if err != nil || int64(len(b)) <= from {
		return ""
	}
	const name = "plumbline: "
	text := "\n" + string(bytes.TrimSpace(b[from:]))
	if i := strings.LastIndex(text, "\n"+name); i >= 0 {
		return text[i+1+len(name):]
	}
	return fmt.Sprintf("see %s", log)
}
