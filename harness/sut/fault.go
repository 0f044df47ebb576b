package sut

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"qmtl.internal/plumbline/harness/backend"
)

// Faults are the harm that can be done to each process: FaultKill (SIGKILL),
// FaultStop (SIGTERM) and FaultPause (SIGSTOP). Healing the first two starts
// the process again, by the same descriptor and on the same addresses where
// the descriptor can say so, and returns when it is ready; no other process is
// touched. None of them closes Dead. An attached SUT has no faults.
func (in *Instance) Faults() backend.Faults {
	in.mu.Lock()
	defer in.mu.Unlock()
	var all backend.Faults
	for _, name := range in.order {
		restart := func(ctx context.Context) error { return in.Restart(ctx, name) }
		all = append(all,
			fault(name, backend.FaultKill, func(context.Context) error { return in.Kill(name) }, restart),
			fault(name, backend.FaultStop, func(ctx context.Context) error { return in.halt(ctx, name) }, restart),
			fault(name, backend.FaultPause, func(ctx context.Context) error { return in.pause(ctx, name) },
				func(context.Context) error { return in.signal(name, syscall.SIGCONT) }),
		)
	}
	return all
}

func fault(process, name string, harm, heal func(context.Context) error) backend.Fault {
	return backend.Fault{Server: process, Name: name, Apply: func(ctx context.Context) (func(context.Context) error, error) {
		return heal, harm(ctx)
	}}
}

// pause stops a process and, where /proc tells, waits until each of its threads
// has stopped: until then it may still answer.
func (in *Instance) pause(ctx context.Context, name string) error {
	if err := in.signal(name, syscall.SIGSTOP); err != nil {
		return err
	}
	p, err := in.process(name)
	if err != nil {
		return err
	}
	for !stopped(p.pid) && !p.gone() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %s: not all of its threads have stopped: %w", name, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// stopped tells whether all threads of a process are stopped; true where nobody
// can say.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is well formed
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		// The state follows the name, which is in parentheses and may hold any.
		if i := bytes.LastIndexByte(b, ')'); i+2 < len(b) && b[i+2] != 'T' {
			return false
		}
	}
	return true
}

// halt asks a process to leave and waits until it has.
func (in *Instance) halt(ctx context.Context, name string) error {
	p, err := in.process(name)
	if err != nil {
		return err
	}
	return p.end(ctx.Done())
}

// signal sends sig to a process and its group. One that has ended is an error:
// what should have been harmed was not there.
func (in *Instance) signal(name string, sig syscall.Signal) error {
	p, err := in.process(name)
	if err != nil {
		return err
	}
	if p.gone() {
		return fmt.Errorf("process %s: does not run, so it gets no %s", name, sig)
	}
	if err := syscall.Kill(-p.pid, sig); err != nil {
		return fmt.Errorf("process %s: %s: %w", name, sig, err)
	}
	return nil
}
