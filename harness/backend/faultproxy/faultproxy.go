// Package faultproxy puts a proxy on 127.0.0.1 before every server of a
// backend provider, so that the network between a SUT and its servers can be
// cut, swallow everything, be late or be narrow, and heal on the same port. It
// is the one home of toxiproxy, which runs in this process. The harness's own
// clients go around the proxies by backend.Set.Dial.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"qmtl.internal/plumbline/harness/backend"
)

// Provider starts the servers of another provider, each behind a proxy. The
// Set tells the addresses of the proxies.
type Provider struct {
	backend.Provider
}

// Start starts the proxies with the servers; closing the Set ends them last,
// so that nobody is cut off while the servers leave.
func (p Provider) Start(ctx context.Context, o backend.Options) (*backend.Set, error) {
	if o.Front != nil {
		return nil, errors.New("fault proxies: something stands before the servers already")
	}
	s := &stand{
		api:    toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()),
		fronts: map[string]*front{}, direct: map[string]string{},
	}
	o.Front = s.open
	set, err := p.Provider.Start(ctx, o)
	if err != nil {
		s.close()
		return nil, err
	}
	var more backend.Faults
	for _, f := range s.fronts {
		more = append(more, f.faults()...)
	}
	set.Behind(s.direct, more)
	set.Wrap(s.fault, func(context.Context) error { s.close(); return nil })
	return set, nil
}

// stand is the proxies of one Set.
type stand struct {
	api *toxiproxy.ApiServer

	mu     sync.Mutex        // while servers start side by side
	fronts map[string]*front // by server
	direct map[string]string // proxy to server, host:port
}

// open puts a proxy before a server. A server that is started anew on another
// address, since its port was taken, gets another proxy in place of the first.
func (s *stand) open(server, addr string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.fronts[server]; old != nil {
		old.close()
		delete(s.direct, old.proxy.Listen)
	}
	f := &front{server: server, proxy: toxiproxy.NewProxy(s.api, server, "127.0.0.1:0", addr)}
	if err := f.proxy.Start(); err != nil {
		return "", fmt.Errorf("proxy before %s: %w", server, err)
	}
	s.fronts[server], s.direct[f.proxy.Listen] = f, addr
	return f.proxy.Listen, nil
}

func (s *stand) close() {
	for _, f := range s.fronts {
		f.close()
	}
}

// fault is a fault of the provider's own, as the SUT sees it behind the
// proxy: when a server has gone, connections to it are refused, not accepted
// and closed.
func (s *stand) fault(own backend.Fault) backend.Fault {
	f := s.fronts[own.Server]
	gone := own.Name == backend.FaultStop || own.Name == backend.FaultKill
	if f == nil || !gone {
		return own
	}
	apply := own.Apply
	own.Apply = func(ctx context.Context) (func(context.Context) error, error) {
		heal, err := apply(ctx)
		f.refuse()
		return func(ctx context.Context) error {
			opened := f.admit(ctx)
			if heal == nil {
				return opened
			}
			return errors.Join(opened, heal(ctx))
		}, err
	}
	return own
}

// faults are the harms of the network between the SUT and one server.
func (f *front) faults() backend.Faults {
	return backend.Faults{
		{Server: f.server, Name: backend.FaultCut, Apply: f.broken(backend.FaultCut, "reset_peer", "upstream")},
		{Server: f.server, Name: backend.FaultBlackHole, Apply: f.broken(backend.FaultBlackHole, "timeout", "upstream", "downstream")},
		f.shaped(backend.FaultLatency, backend.Params{}),
		f.shaped(backend.FaultBandwidth, backend.Params{}),
	}
}

// shaped is latency or bandwidth with parameters.
func (f *front) shaped(name string, p backend.Params) backend.Fault {
	return backend.Fault{
		Server: f.server, Name: name,
		Apply: func(ctx context.Context) (func(context.Context) error, error) { return f.shape(ctx, name, p) },
		Tune: func(p backend.Params) (backend.Fault, error) {
			if err := fits(name, p); err != nil {
				return backend.Fault{}, fmt.Errorf("fault %s of %s: %w", name, f.server, err)
			}
			return f.shaped(name, p), nil
		},
	}
}

// fits refuses parameters that mean nothing.
func fits(name string, p backend.Params) error {
	var wrong []string
	say := func(when bool, what string) {
		if when {
			wrong = append(wrong, what)
		}
	}
	say(min(p.Latency, p.Jitter) < 0 || p.Rate < 0, "latency, jitter and rate must not be negative")
	say(p.Tail != 0 && p.Tail <= 1, "tail must be above 1, or the jitter has no mean")
	switch name {
	case backend.FaultLatency:
		say(p.Rate != 0, "latency takes no rate")
	case backend.FaultBandwidth:
		p.Rate, p.Seed = 0, 0
		say(p != (backend.Params{}), "bandwidth takes a rate only")
	}
	if len(wrong) == 0 {
		return nil
	}
	return backend.Usagef("%s", strings.Join(wrong, "; "))
}
