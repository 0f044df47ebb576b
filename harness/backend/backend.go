// Package backend provides the Kafka, Redis and graph store that a SUT needs,
// and takes them away again. Every way to get them is a Provider; what a
// Provider gives is a Set of addresses. The package starts nothing twice,
// leaves nothing behind and never stops what it did not start.
package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// The kinds of provider, as in design section 4. The kind is part of the
// environment class of a run.
const (
	KindAuto       = "auto" // a wish only: never the Kind of a Set
	KindEmbedded   = "embedded"
	KindContainers = "containers"
	KindExternal   = "external"
)

// ErrUsage is in the chain of every error that a person mends by asking for
// something else; all other errors mean that a backend or the machine failed.
var ErrUsage = errors.New("usage")

// usageError keeps the text free of the sentinel's.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == ErrUsage }
func (e usageError) Unwrap() error        { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// Usagef makes an error with ErrUsage in its chain, for packages that provide
// backends.
func Usagef(format string, a ...any) error { return usagef(format, a...) }

// Options of one start. The zero value of each field is usable.
type Options struct {
	RunID  string // names what the run creates; "" is allowed for embedded only
	LogDir string // where servers with logs of their own put them; "" keeps none
	Log    *slog.Logger
	// Front, when not nil, puts something between the SUT and a server: it is
	// told the server's name (kafka, redis, neo4j) and own address, host:port,
	// once that is known, and returns the address by which the SUT shall reach
	// it. The Set then tells that one, and Kafka advertises it. An external
	// Kafka advertises its own address, so it is never asked for.
	Front func(server, addr string) (string, error)
}

// FrontOf is what Front says about a server, addr without one.
func (o Options) FrontOf(server, addr string) (string, error) {
	if o.Front == nil {
		return addr, nil
	}
	return o.Front(server, addr)
}

// Logger is o.Log, or one that discards.
func (o Options) Logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Provider starts backends. Start returns only when every server has done a
// real operation, or with an error and nothing left running. The control
// topics (ControlTopics, behind Set.Prefix) exist when it returns. The
// context bounds the start; the Set lives on after it.
type Provider interface {
	Start(ctx context.Context, o Options) (*Set, error)
}

// ControlTopics are the topics that no service creates (contract/controlbus.md
// 1.1, contract/gateway.md 3.2): the commit log, the control bus and its
// acknowledgements, one partition each.
func ControlTopics() []string {
	return []string{
		"gateway.ingest", "activation", "policy", "queue", "sentinel_weight",
		"rebalancing_planned", "control.activation.ack",
	}
}

// Set is a group of running backends. An address is host:port; the graph's is
// a bolt:// URL. "" says that the Set has no such server.
type Set struct {
	Kind     string // embedded, containers, external
	Reason   string // why this kind; Choose gives the text
	Kafka    string
	Redis    string
	Neo4j    string
	Prefix   string            // put before the name of every control topic
	Versions map[string]string // server name to version

	faults Faults
	direct map[string]string // address of a front to that of its server

	closing sync.Once
	undo    func(context.Context) error
	closed  error // valid once closing is done
}

// Assemble is for providers: it gives s its undo, which Close calls once, and
// its faults. A nil undo is allowed.
func Assemble(s *Set, undo func(context.Context) error, faults Faults) *Set {
	s.undo, s.faults = undo, faults
	return s
}

// Behind notes where the servers of s really are: address that the Set tells
// to own address, both host:port. The one who put something between calls it
// before the Set is used, and adds what harm that allows.
func (s *Set) Behind(direct map[string]string, more Faults) {
	s.direct, s.faults = direct, append(s.faults, more...)
}

// Wrap replaces every fault of s by what change makes of it, and adds a step
// to the end of Close.
func (s *Set) Wrap(change func(Fault) Fault, last func(context.Context) error) {
	faults := make(Faults, len(s.faults))
	for i, f := range s.faults {
		faults[i] = change(f)
	}
	undo := s.undo
	s.faults, s.undo = faults, func(ctx context.Context) error {
		var err error
		if undo != nil {
			err = undo(ctx)
		}
		return errors.Join(err, last(ctx))
	}
}

// Dial connects to a server of s at the address that s tells, but goes around
// what stands before it: a harness must see the stores while the SUT does not.
// Kafka clients need it as their dialer, since they follow what the broker
// advertises. Other addresses are dialled as they are.
func (s *Set) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if own, ok := s.direct[addr]; ok {
		addr = own
	}
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, addr)
}

// Topic is the name that a control topic bears in this Set.
func (s *Set) Topic(control string) string { return s.Prefix + control }

// Close takes away what the provider started or created, newest first. It
// works after ctx was cancelled, may be called again and then gives the same
// answer.
func (s *Set) Close(ctx context.Context) error {
	s.closing.Do(func() {
		if s.undo != nil {
			s.closed = s.undo(context.WithoutCancel(ctx))
		}
	})
	return s.closed
}

// Faults tells which harm this Set can do to its own servers.
func (s *Set) Faults() Faults { return s.faults }

// Unwind collects undo steps and runs them newest first. The zero value is
// empty. It is not safe for concurrent use.
type Unwind []func(context.Context) error

// Add registers one step; nil is ignored. Call it before looking at the error
// of what it undoes: a half-started backend is a started backend.
func (u *Unwind) Add(f func(context.Context) error) {
	if f != nil {
		*u = append(*u, f)
	}
}

// Run runs all steps whatever happens to ctx, joins their errors and empties u.
func (u *Unwind) Run(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i := len(*u) - 1; i >= 0; i-- {
		errs = append(errs, (*u)[i](ctx))
	}
	*u = nil
	return errors.Join(errs...)
}
