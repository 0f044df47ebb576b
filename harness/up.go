package harness

import (
	"context"
	"fmt"
	"os"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/sut"
)

// Running tells where the servers of Up listen. "" means that there is none.
type Running struct {
	Provider, Reason    string
	Kafka, Redis, Neo4j string
	Endpoints           sut.Endpoints
	Processes           []sut.Process
	Logs                string // folder
	CommitLog           string // topic
}

// Up starts backends and a SUT, calls show once with their addresses, and stops
// them when ctx ends or the SUT dies; its death is the error.
func Up(ctx context.Context, p Plan, show func(Running)) error {
	c, err := p.check()
	if err != nil {
		return err
	}
	provider, _, _, err := backend.Choose(ctx, c.Provider, c.Backends)
	if err != nil {
		return err
	}
	logs, err := os.MkdirTemp("", "plumbline-up-")
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return up(ctx, c, provider, logs, show)
}

func up(ctx context.Context, c *checked, provider backend.Provider, logs string, show func(Running)) error {
	var undo backend.Unwind
	undo.Add(func(context.Context) error { return os.RemoveAll(logs) })
	err := func() error {
		set, err := provider.Start(ctx, backend.Options{RunID: "up", LogDir: logs, Log: c.Log})
		if err != nil {
			return fmt.Errorf("backends: %w", err)
		}
		undo.Add(set.Close)
		in, err := sut.Start(ctx, c.descriptor, sut.Options{
			Backends: set, BinDir: c.Bin, LogDir: logs, RunID: "up", Tamper: c.tamper, Seed: c.Seed, Log: c.Log,
		})
		if err != nil {
			return fmt.Errorf("sut: %w", err)
		}
		undo.Add(in.Stop)
		show(Running{
			Provider: set.Kind, Reason: set.Reason, Kafka: set.Kafka, Redis: set.Redis, Neo4j: set.Neo4j,
			Endpoints: in.Endpoints(), Processes: in.Processes(), Logs: logs, CommitLog: set.Topic(commitLog),
		})
		select {
		case <-ctx.Done():
			return nil
		case <-in.Dead():
			return in.Err()
		}
	}()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if stopped := undo.Run(stopping); err == nil {
		err = stopped
	}
	return err
}
