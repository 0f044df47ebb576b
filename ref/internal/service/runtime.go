package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/scenarios/contract"
)

// Runtime is what a service builds on: its log, its metrics, its listeners, and
// the owner of its goroutines and of what must be undone at the end.
type Runtime struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry
	TLS     *tls.Config // of the service's own listeners; nil: none

	life   context.Context // ends when the stop begins
	end    context.CancelFunc
	failed context.Context // ends, with a cause, when a part dies
	fail   context.CancelCauseFunc
	parts  sync.WaitGroup
	undo   []step            // newest last; used by Start's goroutine only
	addr   map[string]string // guarded by mu
	mu     sync.Mutex
}

type step struct {
	name string
	run  func(context.Context) error
}

func newRuntime(ctx context.Context, log *slog.Logger) *Runtime {
	rt := &Runtime{Log: log, Metrics: newRegistry(), addr: map[string]string{}}
	keep := context.WithoutCancel(ctx) // a signal ends parts through stop, not under them
	rt.life, rt.end = context.WithCancel(keep)
	rt.failed, rt.fail = context.WithCancelCause(keep)
	return rt
}

// Listen opens a TCP listener and remembers its address under role for the
// ready line. The caller owns the listener.
func (rt *Runtime) Listen(role, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s address: %w (is the port in use? port 0 chooses a free one)", role, err)
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.addr[role] = l.Addr().String()
	return l, nil
}

// Addresses are the host:port pairs that were opened, by role.
func (rt *Runtime) Addresses() map[string]string {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return maps.Clone(rt.addr)
}

// Limits of every HTTP server: a client that dawdles is cut off rather than kept.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 120 * time.Second
	headerBytes   = 64 << 10
)

// ServeHTTP listens on addr and serves h until the stop, which waits for
// requests in flight within the drain limit.
func (rt *Runtime) ServeHTTP(role, addr string, h http.Handler) error {
	l, err := rt.Listen(role, addr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		TLSConfig:         rt.tlsOf(role),
		ErrorLog:          slog.NewLogLogger(rt.Log.Handler(), slog.LevelDebug),
	}
	rt.OnStop(role+" server", func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		return err
	})
	rt.Go(role+" server", func(context.Context) error {
		if err := serve(srv, l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// tlsOf leaves out the admin address, which is for this machine's own eyes.
func (rt *Runtime) tlsOf(role string) *tls.Config {
	if role == adminRole || rt.TLS == nil {
		return nil
	}
	return rt.TLS.Clone()
}

func serve(srv *http.Server, l net.Listener) error {
	if srv.TLSConfig != nil {
		return srv.ServeTLS(l, "", "")
	}
	return srv.Serve(l)
}

const adminRole = "admin"

// Go runs part until it returns; its context ends when the stop begins. An
// error that is not the end of that context ends the service.
func (rt *Runtime) Go(name string, part func(context.Context) error) {
	rt.parts.Go(func() {
		err := part(rt.life)
		if err == nil || rt.life.Err() != nil {
			return
		}
		rt.fail(fmt.Errorf("%s: %w", name, err))
	})
}

// OnStop registers an undo. Undos run newest first, all within the drain limit,
// before the service waits for its parts.
func (rt *Runtime) OnStop(name string, undo func(context.Context) error) {
	rt.undo = append(rt.undo, step{name, undo})
}

// Life ends when the stop begins.
func (rt *Runtime) Life() context.Context { return rt.life }

// stop undoes everything and waits for the parts. Whatever outlasts the drain
// limit is named in the error.
func (rt *Runtime) stop(drain time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(rt.life), drain)
	defer cancel()
	rt.end()
	defer rt.fail(nil)
	var errs []error
	for i := len(rt.undo) - 1; i >= 0; i-- {
		if err := rt.undo[i].run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", rt.undo[i].name, err))
		}
	}
	done := make(chan struct{})
	go func() { rt.parts.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("stop: a part still ran after %s", drain))
	}
	return errors.Join(errs...)
}

func (rt *Runtime) ready(out io.Writer, name string) error {
	return contract.WriteReady(out, contract.Ready{Service: name, PID: os.Getpid(), Addresses: rt.Addresses()})
}
