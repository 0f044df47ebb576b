// Package containers runs real Kafka, Redis and Neo4j in Docker, on ports of
// 127.0.0.1 that stay the same when a server is stopped and started again. It
// is the one home of testcontainers-go. What it starts it removes, and what a
// killed harness of this machine left behind it removes at the next start.
package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/harness/backend"
)

// Provider starts the three servers in parallel. The zero value is usable.
type Provider struct {
	Images    Images              // overrides, e.g. from flags
	ImageFile string              // overrides of lower rank, a YAML file of server: image; "": none
	Getenv    func(string) string // nil: os.Getenv
	// Within bounds the start of each server, pulling its image not counted;
	// 0: 90 s.
	Within time.Duration
}

var _ backend.ContainerProvider = Provider{}

func (p Provider) getenv() func(string) string {
	if p.Getenv != nil {
		return p.Getenv
	}
	return os.Getenv
}

func (p Provider) within() time.Duration {
	if p.Within > 0 {
		return p.Within
	}
	return 90 * time.Second
}

// Available tells whether Docker answers and the three images are here or can
// be pulled. It pulls nothing.
func (p Provider) Available(ctx context.Context) (string, error) {
	d, err := connect(ctx, p.getenv())
	if err != nil {
		return "", err
	}
	defer d.Close()
	names, err := p.names()
	if err != nil {
		return "", err
	}
	var missing []string
	var errs []error
	for _, s := range servers() {
		image, err := d.choose(ctx, s.name, names)
		errs = append(errs, err)
		if err == nil && !image.here {
			missing = append(missing, image.name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	found := "Docker " + d.version + " answers"
	if len(missing) > 0 {
		return found + "; to be pulled: " + strings.Join(missing, ", "), nil
	}
	return found + " and the images are here", nil
}

// Start starts the three servers and proves each with a real operation. On
// error nothing is left running, and the error of a server that died carries
// the end of its log.
func (p Provider) Start(ctx context.Context, o backend.Options) (_ *backend.Set, err error) {
	d, err := connect(ctx, p.getenv())
	if err != nil {
		return nil, err
	}
	var undo backend.Unwind
	undo.Add(func(context.Context) error { return d.Close() })
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx))
		}
	}()
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	if err := d.sweep(ctx, o.Logger()); err != nil {
		return nil, err
	}
	r := &run{docker: d, options: o, names: names, within: p.within(), labels: ownLabels(o.RunID)}
	undo.Add(r.remove)
	return r.start(ctx, undo.Run)
}

// run is one start of the three.
type run struct {
	docker  *docker
	options backend.Options
	names   Images
	within  time.Duration
	labels  map[string]string
}

func (r *run) start(ctx context.Context, undo func(context.Context) error) (*backend.Set, error) {
	all := servers()
	started := make([]*instance, len(all))
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range all {
		g.Go(func() (err error) {
			started[i], err = r.serve(gctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	set := &backend.Set{Kind: backend.KindContainers, Reason: "asked for", Versions: map[string]string{}}
	var faults backend.Faults
	for i, s := range all {
		s.put(set, started[i].told)
		set.Versions[s.name] = started[i].image.name
		faults = append(faults, started[i].faults()...)
	}
	if err := backend.CreateControlTopics(ctx, set.Kafka, ""); err != nil {
		return nil, err
	}
	return backend.Assemble(set, undo, faults), nil
}

// serve starts one server; when another process takes its port first, it tries
// another port.
func (r *run) serve(ctx context.Context, s server) (*instance, error) {
	image, err := r.docker.choose(ctx, s.name, r.names)
	if err != nil {
		return nil, err
	}
	if err := r.docker.pull(ctx, image, r.options.Logger()); err != nil {
		return nil, err
	}
	const tries = 5
	for range tries {
		var in *instance
		if in, err = r.try(ctx, s, image); err == nil || !portTaken(err) {
			return in, err
		}
	}
	return nil, fmt.Errorf("%s: %d ports in a row were taken by others: %w; are ports of this machine exhausted?", s.name, tries, err)
}

func (r *run) try(ctx context.Context, s server, image image) (*instance, error) {
	began := time.Now()
	addr, err := freeAddr()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	told, err := r.options.FrontOf(s.name, addr)
	if err != nil {
		return nil, err
	}
	in := &instance{server: s, image: image, addr: addr, told: told, docker: r.docker, within: r.within, runID: r.options.RunID}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, context.Cause(ctx))
	}
	// Not to be cut short: the daemon would go on, and the container appear
	// after what undoes this has looked for it.
	creating, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer stop()
	if in.id, err = create(creating, in, r.labels); err != nil {
		return nil, fmt.Errorf("%s: image %s: %w", s.name, image.name, err)
	}
	if err := in.ready(ctx); err != nil {
		return nil, err
	}
	r.options.Logger().Info("container serves", "server", s.name, "address", addr, "image", image.name,
		"after", time.Since(began).Round(10*time.Millisecond))
	return in, nil
}

// freeAddr is an address of 127.0.0.1 where nobody listens now. Docker binds
// it a moment later and says when somebody was faster.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("no free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

func portTaken(err error) bool {
	text := err.Error()
	return strings.Contains(text, "port is already allocated") || strings.Contains(text, "address already in use")
}

// remove saves the logs of this run's containers and removes them: by label,
// so that one whose creation was cut short goes too.
func (r *run) remove(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	found, err := r.docker.list(ctx, r.labels)
	if err != nil {
		return fmt.Errorf("containers of run %s: %w", r.options.RunID, err)
	}
	var g errgroup.Group
	for _, c := range found {
		g.Go(func() error {
			return errors.Join(r.keepLog(ctx, c), r.docker.remove(ctx, c.ID))
		})
	}
	return g.Wait()
}

func (r *run) keepLog(ctx context.Context, c summary) error {
	if r.options.LogDir == "" {
		return nil
	}
	if err := os.MkdirAll(r.options.LogDir, 0o755); err != nil {
		return fmt.Errorf("log of %s: %w", c.server, err)
	}
	b, err := r.docker.log(ctx, c.ID, "all")
	if err != nil {
		return fmt.Errorf("log of %s: %w", c.server, err)
	}
	if err := os.WriteFile(filepath.Join(r.options.LogDir, c.server+".log"), b, 0o600); err != nil {
		return fmt.Errorf("log of %s: %w", c.server, err)
	}
	return nil
}
