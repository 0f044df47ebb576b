package faultproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"

	"qmtl.internal/plumbline/harness/backend"
)

// front is the proxy before one server.
type front struct {
	server string

	mu       sync.Mutex       // one change at a time
	proxy    *toxiproxy.Proxy // changed under mu
	refusing int              // guarded by mu; holders of refuse
	closed   bool             // guarded by mu
}

func (f *front) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.proxy.Stop()
}

// refuse ends every connection and refuses new ones until admit.
func (f *front) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusing++
	f.proxy.Stop()
}

func (f *front) admit(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusing--
	return f.listen(ctx)
}

// listen serves the proxy's port again, where nothing speaks against it.
// Somebody may just pass through the port. mu is held.
func (f *front) listen(ctx context.Context) error {
	if f.refusing > 0 || f.closed {
		return nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		err := f.proxy.Start()
		if err == nil || errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || tries == 100 || ctx.Err() != nil {
			return fmt.Errorf("proxy before %s: %w", f.server, err)
		}
		<-tick.C
	}
}

// broken gives the Apply of a fault under which no connection works: those
// there are end, and new ones fare as the toxic says. What was on its way is
// dropped, at the beginning and at the end.
func (f *front) broken(name, toxic string, streams ...string) func(context.Context) (func(context.Context) error, error) {
	set := func(ctx context.Context, change func(stream string) error) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.proxy.Stop()
		var errs []error
		for _, s := range streams {
			errs = append(errs, change(s))
		}
		return errors.Join(append(errs, f.listen(ctx))...)
	}
	add := func(stream string) error { return f.add(name, toxic, stream, struct{}{}) }
	drop := func(stream string) error { return f.drop(name, stream) }
	return func(ctx context.Context) (func(context.Context) error, error) {
		if err := set(ctx, add); err != nil {
			return nil, errors.Join(err, set(ctx, drop))
		}
		return func(ctx context.Context) error { return set(ctx, drop) }, nil
	}
}

// shape makes both ways late or narrow; the connections there are live on.
func (f *front) shape(_ context.Context, name string, p backend.Params) (func(context.Context) error, error) {
	registerShape()
	f.mu.Lock()
	defer f.mu.Unlock()
	a := attributes(name, p)
	var errs []error
	for _, s := range both {
		errs = append(errs, f.add(name, shapeType, s, a))
	}
	heal := func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		var errs []error
		for _, s := range both {
			errs = append(errs, f.drop(name, s))
		}
		return errors.Join(errs...)
	}
	return heal, errors.Join(errs...)
}

var both = []string{"upstream", "downstream"}

func (f *front) add(name, toxic, stream string, attributes any) error {
	text, err := json.Marshal(map[string]any{
		"name": name + "_" + stream, "type": toxic, "stream": stream, "toxicity": 1, "attributes": attributes,
	})
	if err != nil {
		return err
	}
	if _, err := f.proxy.Toxics.AddToxicJson(strings.NewReader(string(text))); err != nil {
		return fmt.Errorf("fault %s of %s: %w", name, f.server, err)
	}
	return nil
}

// drop is content with a toxic that was never there.
func (f *front) drop(name, stream string) error {
	err := f.proxy.Toxics.RemoveToxic(context.Background(), name+"_"+stream)
	if err != nil && !errors.Is(err, toxiproxy.ErrToxicNotFound) {
		return fmt.Errorf("heal %s of %s: %w", name, f.server, err)
	}
	return nil
}

// registerShape makes the shape known to toxiproxy, which finds its toxics by
// name. Doing so again changes nothing.
func registerShape() { toxics.Register(shapeType, new(shape)) }
