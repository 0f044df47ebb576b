package sut

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"qmtl.internal/plumbline/harness/neighbour"
)

// configFile is the template of the file with what Starts is given.
const configFile = "config.file"

// Starts are the processes that the descriptor says how to start with a
// configuration file and nothing else (configured): those behind the endpoints
// gateway and dagmanager, by these names. An attached SUT has none.
func (in *Instance) Starts() neighbour.Starts {
	all := neighbour.Starts{}
	for role, endpoint := range map[string]string{"gateway": in.plan.Endpoints.Gateway, "dagmanager": in.plan.Endpoints.DagManager} {
		name, _ := processOf(endpoint)
		for _, p := range in.plan.Processes {
			if p.Name == name && len(p.Configured) > 0 {
				all[role] = func(ctx context.Context, config string, within time.Duration) (neighbour.Attempt, error) {
					return in.starter.attempt(ctx, p, config, within)
				}
			}
		}
	}
	return all
}

// attempt starts a process in a directory of its own, where its configuration is
// the only file, and waits for its end or for within. Its log stays.
func (s *starter) attempt(ctx context.Context, spec Spec, config string, within time.Duration) (seen neighbour.Attempt, err error) {
	dir, err := os.MkdirTemp(s.scratch, "start-")
	if err != nil {
		return seen, fmt.Errorf("process %s: %w", spec.Name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return seen, fmt.Errorf("process %s: %w", spec.Name, err)
	}
	own := *s
	own.scratch, own.values = dir, s.values.configured(dir, file)
	spec.Argv, spec.Ready, spec.HeapCap = spec.Configured, Ready{}, false
	l, _, err := own.prepare(spec)
	if err == nil {
		l.logFile, err = newLog(filepath.Join(s.logDir, "start"), spec.Name)
	}
	if err != nil {
		return seen, err
	}
	p, err := begin(l)
	if err != nil {
		return seen, err
	}
	seen.ExitCode, err = p.endWithin(ctx, within)
	seen.Text = ending(l.logFile, attemptBytes)
	return seen, err
}

// attemptBytes bounds what an Attempt tells of the output.
const attemptBytes = 64 << 10

// configured are v for one more process, with a directory and a file of its own.
func (v *values) configured(dir, file string) *values {
	fixed := maps.Clone(v.fixed)
	fixed["run.dir"], fixed[configFile] = dir, file
	return &values{fixed: fixed, getenv: v.getenv, listening: map[string]map[string]string{}}
}

// newLog makes a log file that nobody else has.
func newLog(dir, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("process %s: log: %w", name, err)
	}
	f, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return "", fmt.Errorf("process %s: log: %w", name, err)
	}
	return f.Name(), f.Close()
}

// endWithin waits for the end of the process and gives its exit code. One that
// still runs after limit is stopped; nil then.
func (p *process) endWithin(ctx context.Context, limit time.Duration) (*int, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return &p.code, nil
	case <-timer.C:
		return nil, p.end(ctx.Done())
	case <-ctx.Done():
		p.kill()
		return nil, context.Cause(ctx)
	}
}
