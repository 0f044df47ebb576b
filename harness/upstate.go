package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
)

// upFile notes in the artifacts folder what Up started and who owns it.
const upFile = "up.json"

// upVersion is the version of the shape of up.json.
const upVersion = 1

// process is one process of this machine; with its start it is that one and not
// a later one with the same pid.
type process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func processOf(name string, pid int) process {
	return process{Name: name, PID: pid, Start: backend.ProcessStart(pid)}
}

// lives is false for a process that had ended when it was noted, too.
func (p process) lives() bool {
	return p.PID > 1 && p.Start != "" && p.Start == backend.ProcessStart(p.PID)
}

// signal does nothing to a process that has ended.
func (p process) signal(s syscall.Signal) error {
	if !p.lives() {
		return nil
	}
	if err := syscall.Kill(p.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%s (pid %d): %w", p.Name, p.PID, err)
	}
	return nil
}

// upState is up.json.
type upState struct {
	Version   int       `json:"version"`
	RunID     string    `json:"run_id"`   // label of its containers
	Provider  string    `json:"provider"` // kind
	Started   time.Time `json:"started"`
	Owner     process   `json:"owner"`     // its end ends the others
	Processes []process `json:"processes"` // of the SUT
	Running   *Running  `json:"running"`   // null until everything serves
}

func upPath(artifacts string) string { return filepath.Join(artifacts, upFile) }

// readUp gives nil where nothing was started.
func readUp(artifacts string) (*upState, error) {
	b, err := os.ReadFile(upPath(artifacts))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s upState
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(&s)
	if err == nil && (s.Version != upVersion || s.RunID == "" || s.Owner.PID <= 1 || s.Owner.Start == "") {
		err = fmt.Errorf("it is of version %d and names no run or no owner", s.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; nothing was ended: end what still runs by hand, then delete the file", upPath(artifacts), err)
	}
	return &s, nil
}

func (s *upState) encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// write replaces the state, whole or not at all.
func (s *upState) write(artifacts string) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	return record.WriteFile(upPath(artifacts), b)
}

// claim writes the state where there is none: of two that claim at once, one
// gets an error. What a dead owner left is ended first.
func (s *upState) claim(artifacts string) error {
	if err := os.MkdirAll(artifacts, 0o755); err != nil {
		return fmt.Errorf("artifacts folder: %w; make it writable or name another with --artifacts", err)
	}
	old, err := readUp(artifacts)
	if err != nil {
		return err
	}
	if old != nil && old.Owner.lives() {
		return usageError{fmt.Errorf("it is up already, since %s (pid %d); plumbline down ends it, another --artifacts folder stands beside it",
			old.Started.Local().Format(time.TimeOnly), old.Owner.PID)}
	}
	if old != nil {
		if err := errors.Join(old.killProcesses(), old.forget(artifacts)); err != nil {
			return err
		}
	}
	return s.create(artifacts)
}

func (s *upState) create(artifacts string) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s-%d", upPath(artifacts), os.Getpid())
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return errors.Join(fmt.Errorf("%w; make room, or name another folder with --artifacts", err), os.Remove(tmp))
	}
	err = os.Link(tmp, upPath(artifacts)) // fails where there is a file
	if errors.Is(err, fs.ErrExist) {
		err = usageError{errors.New("another plumbline up has just begun here; plumbline down ends it")}
	}
	return errors.Join(err, os.Remove(tmp))
}

// forget removes the state, unless it is another's by now.
func (s *upState) forget(artifacts string) error {
	now, err := readUp(artifacts)
	if err != nil || now == nil || now.RunID != s.RunID {
		return err
	}
	return os.Remove(upPath(artifacts))
}

// killProcesses ends what outlived its owner.
func (s *upState) killProcesses() error {
	var errs []error
	for _, p := range s.Processes {
		errs = append(errs, p.signal(syscall.SIGKILL))
	}
	return errors.Join(errs...)
}

// askedWithin is how long an owner may take to stop everything once asked.
const askedWithin = 2 * stopWithin

// Down ends what an Up that runs now, or was killed, started from this artifacts
// folder, and nothing else: the owner by pid and start, then what is left of its
// processes, then the containers that bear its run id, by removeRun. ended is
// what it ended in words, "" when nothing was up; calling it again is fine.
func Down(ctx context.Context, artifacts string, removeRun func(ctx context.Context, runID string) (int, error)) (ended string, err error) {
	s, err := readUp(artifacts)
	if err != nil || s == nil {
		return "", err
	}
	how, err := s.endOwner(ctx, askedWithin)
	if err != nil {
		return "", err
	}
	if err := s.killProcesses(); err != nil {
		return "", err
	}
	if s.Provider == backend.KindContainers {
		n, err := removeRun(ctx, s.RunID)
		if err != nil {
			return "", fmt.Errorf("containers of %s: %w", s.RunID, err)
		}
		if n > 0 {
			how += fmt.Sprintf(", removed %d containers that it left", n)
		}
	}
	return how, s.forget(artifacts)
}

// endOwner asks the owner to stop, and kills it when it does not within a time.
func (s *upState) endOwner(ctx context.Context, within time.Duration) (how string, err error) {
	if !s.Owner.lives() {
		return fmt.Sprintf("the owner (pid %d) had ended already", s.Owner.PID), nil
	}
	if err := s.Owner.signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	if s.Owner.gone(ctx, within) {
		return fmt.Sprintf("stopped pid %d and what it had started", s.Owner.PID), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err := s.Owner.signal(syscall.SIGKILL); err != nil {
		return "", err
	}
	if !s.Owner.gone(ctx, 5*time.Second) {
		return "", fmt.Errorf("pid %d does not end even when killed", s.Owner.PID)
	}
	return fmt.Sprintf("killed pid %d, which did not stop within %s", s.Owner.PID, within), nil
}

// gone waits until the process has ended, and tells whether it has.
func (p process) gone(ctx context.Context, within time.Duration) bool {
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.lives() {
		select {
		case <-ctx.Done():
			return !p.lives()
		case <-tick.C:
		}
	}
	return true
}
