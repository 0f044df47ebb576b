package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
)

// Running tells where the servers of Up listen. "" means that there is none.
type Running struct {
	Provider  string        `json:"provider"`
	Reason    string        `json:"reason"`
	Kafka     string        `json:"kafka"`
	Redis     string        `json:"redis"`
	Neo4j     string        `json:"neo4j"`
	Endpoints sut.Endpoints `json:"endpoints"`
	Admins    []Admin       `json:"admins"`
	Logs      string        `json:"logs"`       // folder
	CommitLog string        `json:"commit_log"` // topic
}

// Admin is where a process shows its metrics.
type Admin struct {
	Process string `json:"process"`
	Address string `json:"address"` // host:port
}

// Up starts backends and a SUT, calls show once with their addresses, and stops
// them when ctx ends or the SUT dies; its death is the error. What runs is noted
// in <artifacts>/up.json until then, so that Down can end it; a second Up from
// the same folder is refused. Logs stay in <artifacts>/up until the next Up.
func Up(ctx context.Context, p Plan, show func(Running)) (err error) {
	c, err := p.check()
	if err != nil {
		return err
	}
	provider, kind, reason, err := backend.Choose(ctx, c.Provider, c.Backends)
	if err != nil {
		return err
	}
	began := time.Now()
	s := &upState{
		Version: upVersion, RunID: record.NewID(began, "up"+strconv.FormatUint(rand.Uint64N(1<<20), 36)), Provider: kind,
		Started: began.UTC().Round(time.Second), Owner: processOf("plumbline", os.Getpid()),
	}
	if err := s.claim(c.Artifacts); err != nil {
		return err
	}
	c.Progress(Event{Stage: "backends", Text: kind + ": " + reason})
	u := &upping{checked: c, state: s, logs: filepath.Join(c.Artifacts, "up")}
	u.undo.Add(func(context.Context) error { return s.forget(c.Artifacts) })
	err = u.serve(ctx, provider, show)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if stopped := u.undo.Run(stopping); err == nil {
		err = stopped
	}
	return err
}

// upping is one Up under way.
type upping struct {
	*checked
	state *upState
	logs  string
	undo  backend.Unwind
}

func (u *upping) serve(ctx context.Context, provider backend.Provider, show func(Running)) error {
	if err := os.RemoveAll(u.logs); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	set, err := provider.Start(ctx, backend.Options{RunID: u.state.RunID, LogDir: u.logs, Log: u.Log})
	if err != nil {
		return fmt.Errorf("backends: %w", err)
	}
	u.undo.Add(set.Close)
	u.Progress(Event{Stage: "sut", Text: "starting " + u.SUT})
	in, err := sut.Start(ctx, u.descriptor, sut.Options{
		Backends: set, BinDir: u.Bin, LogDir: u.logs, RunID: u.state.RunID, Tamper: u.tamper, Seed: u.Seed, Log: u.Log,
	})
	if err != nil {
		return fmt.Errorf("sut: %w", err)
	}
	u.undo.Add(in.Stop)
	u.note(set, in)
	if err := u.state.write(u.Artifacts); err != nil {
		return err
	}
	show(*u.state.Running)
	select {
	case <-ctx.Done():
		return nil
	case <-in.Dead():
		return in.Err()
	}
}

// note puts what runs into the state.
func (u *upping) note(set *backend.Set, in *sut.Instance) {
	r := &Running{
		Provider: set.Kind, Reason: set.Reason, Kafka: set.Kafka, Redis: set.Redis, Neo4j: set.Neo4j,
		Endpoints: in.Endpoints(), Logs: u.logs, CommitLog: set.Topic(commitLog),
	}
	for _, p := range in.Processes() {
		u.state.Processes = append(u.state.Processes, processOf(p.Name, p.PID))
		if p.Admin != "" {
			r.Admins = append(r.Admins, Admin{Process: p.Name, Address: p.Admin})
		}
	}
	u.state.Running = r
}
