// Package service is the life of a reference process: file, environment and
// flags into a configuration, listeners that choose their own ports, one ready line,
// an admin address with /metrics and /debug/pprof, and a stop that lets work in
// flight end. It knows nothing of what the process serves.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes of a service process.
const (
	ExitOK    = 0 // asked to stop, and stopped
	ExitFail  = 1 // did not start, or died while serving
	ExitUsage = 2 // flags or environment make no sense
)

// IO is everything of the outside world that a service touches besides the
// network.
type IO struct {
	Args     []string // without the program's name
	Getenv   func(string) string
	Out, Err io.Writer // Out carries the ready line only, Err the log
	// ReadFile reads the configuration file; nil: the file system's.
	ReadFile func(name string) ([]byte, error)
}

// Spec describes one service.
type Spec struct {
	// Name is the service's name in the ready line, the log and, in upper case
	// behind PLUMBLINE_, the prefix of its environment variables.
	Name string
	// Flags registers the service's own flags. Besides them every service has
	// --admin-listen, --config, --profile, --tls-cert, --tls-key,
	// --tls-client-ca, --log-level and --drain. It may be called more
	// than once, and each call puts the defaults back. May be nil.
	Flags func(*FlagSet)
	// About is what --help says besides flags; may be "".
	About string
	// Keys are further names of flags in the configuration file, with a dot
	// between a group and its member; "/telemetry.endpoint" stands outside of
	// the service's section. Each flag is a key of that section already, its
	// dashes as underscores.
	Keys map[string]Key
	// Env are further names of environment variables, with the flag that each
	// stands for; the flag's own variable wins.
	Env map[string]string
	// Beside are the sections of the configuration file that others read.
	Beside []string
	// Production are the flags that must not be empty in the profile prod.
	Production []string
	// Check says what is wrong with values that parsed (see Wrong); every
	// mistake is reported at once. May be nil.
	Check func() []error
	// Start opens what the service needs by way of rt and returns as soon as it
	// serves. What it handed to rt is undone by Run, also after an error.
	Start func(ctx context.Context, rt *Runtime) error
}

// Main runs spec as this process: the arguments, environment and streams are
// the process's own; SIGTERM and SIGINT begin a graceful stop, and a second
// signal ends the process at once. It returns the exit code.
func Main(spec Spec) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal finds the default handler
	return Run(ctx, IO{Args: os.Args[1:], Getenv: os.Getenv, Out: os.Stdout, Err: os.Stderr}, spec)
}

// Run lives the service's life until ctx ends or a part of it dies, and returns
// the exit code. Each failure is one line on w.Err. With the arguments "config
// check" it prints the configuration that would be in force instead.
func Run(ctx context.Context, w IO, spec Spec) int {
	if len(w.Args) > 0 && w.Args[0] == "config" {
		return configCommand(w, spec)
	}
	base, err := parse(w, spec)
	if errors.Is(err, errHelp) {
		return ExitOK
	}
	if err != nil {
		fmt.Fprintf(w.Err, "%s: %s (--help lists the flags)\n", spec.Name, oneLine(err))
		return ExitUsage
	}
	log := slog.New(slog.NewJSONHandler(w.Err, &slog.HandlerOptions{Level: base.level})).
		With("service", spec.Name)
	if err := live(ctx, w, spec, base.common, log); err != nil {
		fmt.Fprintf(w.Err, "%s: %s\n", spec.Name, oneLine(err))
		return ExitFail
	}
	return ExitOK
}

// live starts, announces, waits and stops; the undo of a half-done start is the
// same as that of a whole one.
func live(ctx context.Context, w IO, spec Spec, base *common, log *slog.Logger) (err error) {
	rt := newRuntime(ctx, log)
	defer func() { err = errors.Join(err, rt.stop(base.drain)) }()
	if err := begin(ctx, w, spec, base, rt); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while starting: not a failure
		}
		return fmt.Errorf("start: %w", err)
	}
	log.Info("ready", "addresses", rt.Addresses())
	select {
	case <-ctx.Done():
		log.Info("stopping", "drain", base.drain.String())
		return nil
	case <-rt.failed.Done():
		return context.Cause(rt.failed)
	}
}

func begin(ctx context.Context, w IO, spec Spec, base *common, rt *Runtime) error {
	var err error
	if rt.TLS, err = base.tls.config(); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if err := rt.ServeHTTP(adminRole, base.admin, adminMux(rt.Metrics)); err != nil {
		return err
	}
	if err := spec.Start(ctx, rt); err != nil {
		return err
	}
	return rt.ready(w.Out, spec.Name)
}

// drainDefault is how long requests in flight may take once a stop began.
const drainDefault = 10 * time.Second
