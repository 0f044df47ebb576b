package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/audit"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/faultproxy"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/probe"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

const (
	// stopWithin bounds the stop of everything a stage started.
	stopWithin = 30 * time.Second
	// settleWithin is how long after a load what was acknowledged may take to be
	// complete in the stores, healedWithin the same after a load with outages;
	// auditAgain is the time between two looks.
	settleWithin = 10 * time.Second
	healedWithin = 30 * time.Second
	// settleMost bounds both for a SUT that completes its work, but slowly.
	settleMost = 90 * time.Second
	auditAgain = 2 * time.Second
)

// commitLog is the topic of the commit log, before the prefix of the backends.
const commitLog = "gateway.ingest"

// execution is one run under way.
type execution struct {
	*checked
	dir record.Dir
	run *record.Run

	set      *backend.Set
	provider backend.Provider
	harm     bool // the stage harms the backends, so they must stand behind proxies
	fronted  bool // set does
}

// Run carries out the plan and returns the record, which is also written to
// <artifacts>/<id>/run.json; latest then points there. An error of the plan
// itself has ErrUsage in its chain and leaves nothing behind. Any other error is
// also noted in the record, which is then partial and holds what was gathered
// before. Everything that was started has ended when Run returns, however it
// ends.
func Run(ctx context.Context, p Plan) (*record.Run, error) {
	c, err := p.check()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	id := record.NewID(began, strconv.FormatUint(rand.Uint64N(1<<20), 36))
	dir, err := record.Create(c.Artifacts, id)
	if err != nil {
		return nil, err
	}
	x := &execution{checked: c, dir: dir, run: &record.Run{
		ID: id, Started: began.UTC().Round(0), Plan: c.recorded(), Absent: map[string]string{},
		Commit: revision(ctx, c.Source), SUT: record.SUT{Name: c.SUT, Classes: c.classes()},
	}}
	err = x.stagesInOrder(ctx)
	return x.run, errors.Join(err, x.close())
}

// Dir is the directory of a run below an artifacts folder.
func Dir(artifacts, id string) record.Dir { return record.Dir{Root: artifacts, ID: id} }

// stagesInOrder runs what was asked for. A stage that breaks ends those that
// need a SUT; complexity needs none.
func (x *execution) stagesInOrder(ctx context.Context) error {
	err := x.live(ctx)
	if err == nil {
		err = x.fidelityStage(ctx)
	}
	if err != nil {
		x.missed(err)
	}
	if ctx.Err() == nil && x.asked(verdict.StageComplexity) {
		err = errors.Join(err, x.measureComplexity(ctx))
	}
	keepPartial(x.run, err)
	return err
}

// missed gives the reason for the parts that a broken stage leaves out.
func (x *execution) missed(err error) {
	if x.asked(verdict.StageLoad) && x.run.Load == nil {
		x.run.Absent["load"] = err.Error()
	}
	if x.asked(verdict.StageLoad) && x.run.Audit == nil {
		x.run.Absent["audit"] = err.Error()
	}
	if x.asked(verdict.StageContract) && len(x.run.Contract) == 0 {
		x.run.Absent["contract"] = err.Error()
	}
	if x.asked(verdict.StageFidelity) && x.run.Fidelity == nil {
		x.run.Absent["fidelity"] = err.Error()
	}
}

// live runs the stages that need backends and a SUT.
func (x *execution) live(ctx context.Context) (err error) {
	if !x.asked(verdict.StageContract) && !x.asked(verdict.StageLoad) {
		x.run.Env = record.Machine("none")
		return nil
	}
	if err := x.choose(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.closeBackends(ctx)) }()
	if x.asked(verdict.StageContract) {
		if err := x.contractStage(ctx); err != nil {
			return err
		}
	}
	if x.asked(verdict.StageLoad) {
		return x.loadStage(ctx)
	}
	return nil
}

// choose picks the kind of backends and notes the environment.
func (x *execution) choose(ctx context.Context) error {
	if x.attached() {
		x.joinBackends()
		return nil
	}
	p, kind, reason, err := backend.Choose(ctx, x.Provider, x.Backends)
	if err != nil {
		x.run.Env = record.Machine("none")
		return err
	}
	x.provider = p
	x.run.Provider = record.Provider{Kind: kind, Reason: reason}
	x.run.Env = record.Machine(kind)
	x.Progress(Event{Stage: "backends", Text: kind + ": " + reason})
	return nil
}

// joinBackends takes the servers of a SUT that runs already, as far as they are
// told. Nothing of them is started, made or removed.
func (x *execution) joinBackends() {
	e := x.Backends.External
	reason := "those of the SUT that runs already"
	if e.Kafka == "" || e.Redis == "" {
		reason += "; not all addresses were given (--kafka, --redis), so what needs them is left out"
	}
	x.set = backend.Assemble(&backend.Set{Kind: backend.KindExternal, Reason: reason, Kafka: e.Kafka, Redis: e.Redis, Neo4j: e.Neo4j}, nil, nil)
	x.run.Provider = record.Provider{Kind: backend.KindExternal, Reason: reason}
	x.run.Env = record.Machine(backend.KindExternal)
	x.Progress(Event{Stage: "backends", Text: reason})
}

// openBackends starts backends, or keeps those that hold for the whole run.
// Proxies stand before them only while a stage does harm: they cost time.
func (x *execution) openBackends(ctx context.Context) error {
	if x.set != nil && (x.attached() || x.fronted == x.harm) {
		return nil
	}
	if err := x.closeBackends(ctx); err != nil {
		return err
	}
	provider := x.provider
	if x.harm {
		provider = faultproxy.Provider{Provider: provider}
	}
	x.fronted = x.harm
	set, err := provider.Start(ctx, backend.Options{RunID: x.run.ID, LogDir: x.dir.Path("logs"), Log: x.Log})
	if err != nil {
		return fmt.Errorf("backends: %w", err)
	}
	x.set, x.run.Provider.Versions = set, set.Versions
	return nil
}

func (x *execution) closeBackends(ctx context.Context) error {
	if x.set == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	err := x.set.Close(ctx)
	x.set = nil
	if err != nil {
		return fmt.Errorf("backends: %w", err)
	}
	return nil
}

// withSUT starts a SUT, calls use with a context that ends when the SUT dies,
// and stops it. Embedded backends are fresh each time, since a SUT that keeps
// its graph in memory forgets what the last one stored.
func (x *execution) withSUT(ctx context.Context, logs string, heapCap int64, use func(context.Context, *sut.Instance) error) (err error) {
	if err := x.openBackends(ctx); err != nil {
		return err
	}
	if x.set.Kind == backend.KindEmbedded {
		defer func() { err = errors.Join(err, x.closeBackends(ctx)) }()
	}
	x.Progress(Event{Stage: "sut", Text: "starting " + x.SUT})
	in, err := x.startSUT(ctx, logs, heapCap)
	if err != nil {
		x.noteOverCap(err, heapCap)
		return fmt.Errorf("sut: %w", err)
	}
	alive, die := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-in.Dead():
			die(in.Err())
		case <-alive.Done():
		}
	}()
	err = use(alive, in)
	if in.Err() != nil {
		err = in.Err() // whatever else went wrong follows from it
	}
	die(nil)
	<-watched
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	stopped := in.Stop(stopping)
	x.note(in.Record())
	return errors.Join(err, stopped)
}

func (x *execution) startSUT(ctx context.Context, logs string, heapCap int64) (*sut.Instance, error) {
	if x.attached() {
		a := x.Attach
		a.Tamper, a.Seed, a.Log, a.Kafka, a.CommitLogTopic = x.tamper, x.Seed, x.Log, x.set.Kafka, x.set.Topic(commitLog)
		return sut.Attach(ctx, x.SUT, a)
	}
	return sut.Start(ctx, x.descriptor, sut.Options{
		Backends: x.set, BinDir: x.Programs, LogDir: x.dir.Path("logs", logs), RunID: x.run.ID,
		HeapCap: heapCap, Tamper: x.tamper, Seed: x.Seed, Log: x.Log,
	})
}

// noteOverCap keeps the death of a process that its cap killed before it was
// ready: that the cap cannot be kept is a finding about the SUT, while any other
// failed start says nothing about it.
func (x *execution) noteOverCap(err error, heapCap int64) {
	var died *sut.DeathError
	if !errors.As(err, &died) || !errors.Is(err, sut.ErrOverCap) {
		return
	}
	x.note(record.SUT{Name: x.SUT, Processes: []record.SUTProcess{
		{Name: died.Process, HeapCap: heapCap, ExitCode: &died.Code, Died: died.ExitErr.Error()},
	}})
}

// note keeps how the processes ended. Deaths of an earlier stage stay.
func (x *execution) note(s record.SUT) {
	for _, p := range x.run.SUT.Processes {
		if p.Died != "" {
			s.Processes = append(s.Processes, p)
		}
	}
	s.Classes = x.run.SUT.Classes
	x.run.SUT = s
}

// contractStage runs the scenarios.
func (x *execution) contractStage(ctx context.Context) (err error) {
	if x.empty != nil {
		return x.empty
	}
	x.run.Contract, err = x.contractOn(ctx, "contract")
	return err
}

// loadStage offers the load and audits what became of it.
func (x *execution) loadStage(ctx context.Context) error {
	x.harm = len(x.planned) > 0
	return x.withSUT(ctx, "load", x.heapCap, func(ctx context.Context, in *sut.Instance) error {
		world := audit.World{Kafka: x.set.Kafka, Redis: x.set.Redis, CommitLog: x.set.Topic(commitLog), Dial: x.set.Dial}
		if world.Kafka == "" || world.Redis == "" {
			return errors.New("audit: a load needs the addresses of the SUT's Kafka and Redis, to see what was stored; give --kafka and --redis")
		}
		before, err := audit.Look(ctx, world)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if err := x.offerWatched(ctx, in); err != nil {
			return err
		}
		x.Progress(Event{Stage: "audit", Text: "comparing what was acknowledged with what is stored"})
		return x.audit(ctx, world, before)
	})
}

// offerWatched offers the load while the probes look at the SUT.
func (x *execution) offerWatched(ctx context.Context, in *sut.Instance) error {
	w := probe.Watch(ctx, targets(in), probe.Options{Since: x.run.Started, Log: x.Log})
	profiled := x.takeProfiles(ctx, in)
	result, err := x.offerHarmed(ctx, in)
	profiled()
	series, absent := w.Stop()
	x.run.Load, x.run.Series = result, series
	maps.Copy(x.run.Absent, absent)
	return err
}

// offerHarmed offers the load and does the planned faults meanwhile. It returns
// when everything is healed.
func (x *execution) offerHarmed(ctx context.Context, in *sut.Instance) (*load.Result, error) {
	if len(x.planned) == 0 {
		return x.offer(ctx, in.Endpoints().Gateway, time.Time{})
	}
	faults, err := x.faultsFor(in)
	if err != nil {
		return nil, err
	}
	zero := time.Now().Add(loadLead).Truncate(time.Millisecond)
	harming, stop := context.WithCancel(ctx)
	defer stop()
	line := startTimeline(harming, zero, faults)
	result, err := x.offer(ctx, in.Endpoints().Gateway, zero)
	if err != nil {
		stop()
	}
	outages, failed := line.wait()
	if err = errors.Join(err, failed); err != nil {
		return result, err
	}
	return result, x.noteOutages(outages)
}

// targets are the processes to probe. A process that was restarted is found
// again by its name.
func targets(in *sut.Instance) (out []probe.Target) {
	for _, p := range in.Processes() {
		out = append(out, probe.Target{Process: p.Name, PID: func() int { return pidOf(in, p.Name) }, Admin: p.Admin, Usage: p.Usage})
	}
	return out
}

func pidOf(in *sut.Instance, name string) int {
	for _, p := range in.Processes() {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

// audit compares until nothing is wrong or the time to settle is over: a
// topic is there a moment after its node was acknowledged, and what was
// acknowledged while a server was away may be completed when it is back. While
// less is wrong with every look, that time begins anew, up to settleMost.
func (x *execution) audit(ctx context.Context, w audit.World, before audit.Snapshot) error {
	within := settleWithin
	if x.run.Outages != nil {
		within = healedWithin
	}
	began := time.Now()
	fewest, better := math.MaxInt, began
	for {
		a, err := x.auditOnce(ctx, w, before)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		x.run.Audit = a
		wrong := len(a.Lost) + len(a.Duplicates) + len(a.Orphans)
		if wrong < fewest {
			fewest, better = wrong, time.Now()
		}
		took := time.Since(began)
		if wrong == 0 || time.Since(better) > within || took > settleMost {
			x.noteSettled(wrong == 0, took)
			return nil
		}
		if !pause(ctx, auditAgain) {
			return fmt.Errorf("audit: %w", context.Cause(ctx))
		}
	}
}

func (x *execution) noteSettled(clean bool, took time.Duration) {
	if clean && took > auditAgain {
		x.run.Notes = append(x.run.Notes, fmt.Sprintf("the stores were complete %s after the load", took.Round(time.Second)))
	}
}

func (x *execution) auditOnce(ctx context.Context, w audit.World, before audit.Snapshot) (*record.Audit, error) {
	f, err := x.openOutcomes()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return audit.Run(ctx, w, before, f)
}

// measureComplexity measures every function of the source tree.
func (x *execution) measureComplexity(ctx context.Context) error {
	x.Progress(Event{Stage: "complexity", Text: x.Source})
	funcs, err := complexity.Go(ctx, os.DirFS(x.Source))
	var unparsed complexity.FileErrors
	if err != nil && !errors.As(err, &unparsed) {
		x.run.Absent["complexity"] = err.Error()
		return fmt.Errorf("complexity: %w", err)
	}
	x.run.Complexity = &record.Complexity{Limit: x.Limit, Funcs: funcs, Unparsed: unparsed.Findings()}
	return nil
}

// close finishes the record and writes it.
func (x *execution) close() error {
	x.run.Ended = time.Now().UTC()
	record.SetDerived(x.run)
	x.Progress(Event{Stage: "record", Text: x.dir.Path()})
	if err := x.dir.WriteRun(x.run); err != nil {
		return err
	}
	return x.dir.PointLatest()
}
