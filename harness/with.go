package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
)

// WithPlan is a program that needs servers.
type WithPlan struct {
	Provider string
	Backends backend.Candidates
	// Argv is the program and its arguments; {kafka}, {redis} and {neo4j} in them
	// stand for the addresses, which are empty where there is no such server.
	Argv     []string
	In       io.Reader
	Out, Err io.Writer
	Log      *slog.Logger
	Progress Progress
}

// With starts backends, runs a program beside them, and stops them when it has
// ended. The program finds the addresses in its arguments and, where there is
// such a server, in the environment as PLUMBLINE_TEST_KAFKA, PLUMBLINE_TEST_REDIS
// and PLUMBLINE_TEST_NEO4J. code is its exit code; an err says that it could not
// be run, or that something stayed behind.
func With(ctx context.Context, p WithPlan) (code int, err error) {
	if len(p.Argv) == 0 {
		return 0, usageError{errors.New("name a program behind --")}
	}
	provider, kind, reason, err := backend.Choose(ctx, p.Provider, p.Backends)
	if err != nil {
		return 0, err
	}
	p.Progress(Event{Stage: "backends", Text: kind + ": " + reason})
	logs, err := os.MkdirTemp("", "plumbline-with-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(logs)) }()
	id := record.NewID(time.Now(), "with"+strconv.FormatUint(rand.Uint64N(1<<20), 36))
	set, err := provider.Start(ctx, backend.Options{RunID: id, LogDir: logs, Log: p.Log})
	if err != nil {
		return 0, fmt.Errorf("backends: %w", err)
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, set.Close(stopping))
	}()
	return p.run(ctx, set)
}

// run runs the program; the end of ctx interrupts it, and kills it when it does
// not end soon.
func (p WithPlan) run(ctx context.Context, set *backend.Set) (int, error) {
	argv, env := addressed(p.Argv, set)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.In, p.Out, p.Err
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return ended.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", argv[0], err)
	}
	return 0, nil
}

// addressed puts the addresses of a Set into arguments and environment.
func addressed(argv []string, set *backend.Set) (args, env []string) {
	var pairs []string
	for _, s := range []struct{ name, addr string }{{"kafka", set.Kafka}, {"redis", set.Redis}, {"neo4j", set.Neo4j}} {
		pairs = append(pairs, "{"+s.name+"}", s.addr)
		if s.addr != "" {
			env = append(env, "PLUMBLINE_TEST_"+strings.ToUpper(s.name)+"="+s.addr)
		}
	}
	put := strings.NewReplacer(pairs...)
	for _, arg := range argv {
		args = append(args, put.Replace(arg))
	}
	return args, env
}
