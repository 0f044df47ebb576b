package containers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"qmtl.internal/plumbline/harness/backend"
)

// instance is one server in its container.
type instance struct {
	server
	image  image
	id     string
	addr   string // 127.0.0.1:port, the same after a stop and a start
	told   string // where the SUT is told that it is: addr, or what stands before it
	docker *docker
	within time.Duration
	runID  string
}

// ready waits until a real operation succeeds. A container that has ended ends
// the wait with the end of its log.
func (in *instance) ready(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, in.within, fmt.Errorf("not ready within %s", in.within))
	defer stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("not asked yet")
	for {
		err := in.try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err // an attempt that was cut short says nothing about the server
		}
		if dead := in.dead(ctx); dead != nil {
			return dead
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)%s", in.name, context.Cause(ctx), last, in.tail(ctx))
		case <-tick.C:
		}
	}
}

// try does one operation, within a time that a healthy server never needs.
func (in *instance) try(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	return in.check(ctx, in.addr, in.runID)
}

// dead is nil while the container runs, or cannot be asked about.
func (in *instance) dead(ctx context.Context) error {
	got, err := in.docker.ContainerInspect(ctx, in.id, client.ContainerInspectOptions{})
	if err != nil || got.Container.State == nil || running(got.Container.State) {
		return nil
	}
	s := got.Container.State
	why := fmt.Sprintf("exit status %d", s.ExitCode)
	if s.OOMKilled {
		why += fmt.Sprintf(", out of its %d MiB of memory", in.memory>>20)
	}
	if s.Error != "" {
		why += ", " + s.Error
	}
	return fmt.Errorf("%s: its container (image %s) died: %s%s", in.name, in.image.name, why, in.tail(ctx))
}

func running(s *container.State) bool {
	return s.Running || s.Restarting || s.Status == container.StateCreated
}

// tail is the end of the log, for an error.
func (in *instance) tail(ctx context.Context) string {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	b, err := in.docker.log(ctx, in.id, "20")
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" {
		return "; it wrote nothing"
	}
	return "; its last lines:\n  " + strings.ReplaceAll(text, "\n", "\n  ")
}

// faults are what Docker can do to a container.
func (in *instance) faults() backend.Faults {
	fault := func(name string, harm, heal func(context.Context) error) backend.Fault {
		return backend.Fault{Server: in.name, Name: name, Apply: func(ctx context.Context) (func(context.Context) error, error) {
			undo := func(ctx context.Context) error {
				if err := heal(ctx); err != nil {
					return fmt.Errorf("%s: heal %s: %w", in.name, name, err)
				}
				return in.ready(ctx)
			}
			if err := harm(ctx); err != nil {
				return undo, fmt.Errorf("%s: %s: %w", in.name, name, err)
			}
			return undo, nil
		}}
	}
	return backend.Faults{
		fault(backend.FaultStop, in.stop, in.start),
		fault(backend.FaultKill, in.kill, in.start),
		fault(backend.FaultPause, in.pause, in.unpause),
	}
}

func (in *instance) start(ctx context.Context) error {
	_, err := in.docker.ContainerStart(ctx, in.id, client.ContainerStartOptions{})
	return err
}

func (in *instance) stop(ctx context.Context) error {
	seconds := 10
	_, err := in.docker.ContainerStop(ctx, in.id, client.ContainerStopOptions{Timeout: &seconds})
	return err
}

// kill returns when the container has ended, so that a start cannot overtake it.
func (in *instance) kill(ctx context.Context) error {
	if _, err := in.docker.ContainerKill(ctx, in.id, client.ContainerKillOptions{}); err != nil {
		return err
	}
	for in.dead(ctx) == nil {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (in *instance) pause(ctx context.Context) error {
	_, err := in.docker.ContainerPause(ctx, in.id, client.ContainerPauseOptions{})
	return err
}

func (in *instance) unpause(ctx context.Context) error {
	_, err := in.docker.ContainerUnpause(ctx, in.id, client.ContainerUnpauseOptions{})
	return err
}
