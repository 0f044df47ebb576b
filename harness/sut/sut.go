// Package sut starts the system under test out of a descriptor, tells where it
// listens, keeps its heap under a cap, notices at once when it dies, and stops
// it with all it left behind. It may put a tampering proxy before the Gateway,
// to prove that the harness sees what is wrong.
package sut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
)

// Options of one start.
type Options struct {
	Backends *backend.Set // its addresses fill ${backend.…}; nil: none
	BinDir   string       // fills ${bin}
	LogDir   string       // gets <process>.log; "": logs are thrown away at Stop
	RunID    string       // fills ${run.id}
	HeapCap  int64        // bytes, for the process that bears the cap; 0: none
	Cap      string       // CapAuto, CapCgroup or CapWatchdog
	Tamper   []Rule       // non-empty: a tampering proxy stands before the Gateway
	Seed     uint64       // of the tampering
	Log      *slog.Logger // nil: discard
}

func (o Options) logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Process is one process of a running SUT. PID is 0 when it is not running.
type Process struct {
	Name    string
	PID     int
	Admin   string // host:port of /metrics and /debug/pprof; "" when it offers none
	HeapCap int64  // bytes; 0: none
	Limit   string // what keeps it under HeapCap, as in record.SUTProcess
	Usage   string // file that tells the bytes charged to its cgroup; "" without one
}

// Instance is a running SUT. Its methods may be called from any goroutine.
type Instance struct {
	name      string
	endpoints Endpoints
	plan      Descriptor // zero for an attached SUT
	starter   *starter   // nil for an attached SUT
	proxy     *proxy     // nil without tampering
	events    eventKey   // zero for an attached SUT
	dead      chan struct{}

	mu    sync.Mutex
	order []string            // guarded by mu; process names in start order
	procs map[string]*process // guarded by mu; the newest life of each
	err   error               // guarded by mu; set before dead is closed

	watchers sync.WaitGroup // one a life
	stopping sync.Once
	stopped  error // valid once stopping is done
}

// starter holds what every start of a process needs.
type starter struct {
	o       Options
	values  *values
	events  eventKey
	scratch string
	logDir  string
}

// Start starts the processes of d one after another, each when the one before
// is ready. On error nothing is left running; the error of a process that died
// is a *DeathError. ctx bounds the start only: the instance lives until Stop.
func Start(ctx context.Context, d Descriptor, o Options) (*Instance, error) {
	if err := o.validate(d); err != nil {
		return nil, err
	}
	s, err := newStarter(d, o)
	if err != nil {
		return nil, err
	}
	return s.launch(ctx, d)
}

// launch starts the processes of d. s is its own from here on.
func (s *starter) launch(ctx context.Context, d Descriptor) (_ *Instance, err error) {
	in := &Instance{name: d.Name, plan: d, starter: s, events: s.events.of(d), dead: make(chan struct{}), procs: map[string]*process{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Stop(ctx))
		}
	}()
	if err := s.writeFiles(d.Files); err != nil {
		return nil, err
	}
	for _, spec := range d.Processes {
		if err := in.run(ctx, spec); err != nil {
			return nil, err
		}
	}
	if err := in.fillEndpoints(d.Endpoints); err != nil {
		return nil, err
	}
	return in, in.tamper(ctx, s.o)
}

func (o Options) validate(d Descriptor) error {
	if len(d.Processes) == 0 {
		return usagef("descriptor %q has no processes", d.Name)
	}
	if !slices.Contains([]string{CapAuto, CapCgroup, CapWatchdog}, o.Cap) {
		return usagef("way to keep the heap cap %q: want %s or %s, or none", o.Cap, CapCgroup, CapWatchdog)
	}
	if o.HeapCap < 0 {
		return usagef("heap cap %d: want a positive number of bytes", o.HeapCap)
	}
	if o.HeapCap > 0 && !slices.ContainsFunc(d.Processes, func(s Spec) bool { return s.HeapCap }) {
		return usagef("descriptor %q: no process bears the heap cap; mark one with heap_cap: true", d.Name)
	}
	return checkRules(o.Tamper, o.kafka())
}

func (o Options) kafka() string {
	if o.Backends == nil {
		return ""
	}
	return o.Backends.Kafka
}

func newStarter(d Descriptor, o Options) (*starter, error) {
	sweepScratch()
	scratch, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", scratchPrefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("sut: scratch directory: %w", err)
	}
	s := &starter{o: o, scratch: scratch, logDir: o.LogDir}
	if s.events, err = newEventKey(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	if s.logDir == "" {
		s.logDir = scratch
	}
	if err := os.MkdirAll(s.logDir, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("sut: logs: %w; give a directory that can be written", err), os.RemoveAll(scratch))
	}
	fixed := map[string]string{
		"bin": o.BinDir, "run.id": o.RunID, "run.dir": scratch, "descriptor.dir": d.dir,
		"run.event_trust": s.events.trust(),
		"backend.kafka":   "", "backend.redis": "", "backend.neo4j": "", "backend.prefix": "",
	}
	if b := o.Backends; b != nil {
		fixed["backend.kafka"], fixed["backend.redis"] = b.Kafka, b.Redis
		fixed["backend.neo4j"], fixed["backend.prefix"] = b.Neo4j, b.Prefix
	}
	if o.BinDir != "" {
		if fixed["bin"], err = filepath.Abs(o.BinDir); err != nil {
			return nil, errors.Join(fmt.Errorf("sut: %s: %w", o.BinDir, err), os.RemoveAll(scratch))
		}
	}
	s.values = &values{fixed: fixed, listening: map[string]map[string]string{}, getenv: os.LookupEnv}
	return s, nil
}

// scratchPrefix begins the name of every scratch directory; then comes the pid
// of its owner.
const scratchPrefix = "plumbline-sut-"

// sweepScratch removes the scratch directories of harnesses that were killed.
func sweepScratch() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*-*")) // the pattern is well formed
	for _, dir := range dirs {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), scratchPrefix), "-")
		if owner, err := strconv.Atoi(text); err == nil && !alive(owner) {
			_ = os.RemoveAll(dir) // not ours to remove, or tried again at the next start
		}
	}
}

func (s *starter) writeFiles(files []File) error {
	for _, f := range files {
		text, err := s.values.fill("file "+f.Name, f.Content, "")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.scratch, f.Name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("sut: file %s: %w", f.Name, err)
		}
	}
	return nil
}

// run starts one process and waits until it is ready.
func (in *Instance) run(ctx context.Context, spec Spec) error {
	began := time.Now()
	l, url, err := in.starter.prepare(spec)
	if err != nil {
		return err
	}
	if err := nobodyListens(ctx, spec.Name, url); err != nil {
		return err
	}
	if err := in.starter.confine(&l); err != nil {
		return err
	}
	p, err := begin(l)
	if err != nil {
		return err
	}
	in.adopt(p)
	addresses, err := in.await(ctx, p, url)
	if err != nil {
		return err
	}
	in.starter.values.listens(spec.Name, addresses)
	in.starter.o.logger().Info("process is ready", "process", spec.Name, "pid", p.pid, "addresses", addresses,
		"limit", l.limit, "after", time.Since(began).Round(time.Millisecond))
	return nil
}

// prepare fills the templates of one process.
func (s *starter) prepare(spec Spec) (l launch, url string, err error) {
	v, name := s.values, spec.Name
	l = launch{spec: spec, logFile: logPath(s.logDir, name), limit: LimitNone, log: s.o.logger()}
	for i, arg := range spec.Argv {
		text, err := v.fill(fmt.Sprintf("process %s: argument %d", name, i), arg, name)
		if err != nil {
			return l, "", err
		}
		l.argv = append(l.argv, text)
	}
	if l.dir, err = v.fill("process "+name+": dir", spec.Dir, name); err != nil {
		return l, "", err
	}
	if l.dir == "" {
		l.dir = s.scratch
	}
	if l.env, err = s.environment(spec); err != nil {
		return l, "", err
	}
	url, err = v.fill("process "+name+": ready url", spec.Ready.URL, name)
	return l, url, err
}

// environment is the harness's own, the cap's settings, then the descriptor's,
// of which the last wins.
func (s *starter) environment(spec Spec) ([]string, error) {
	env := os.Environ()
	if spec.HeapCap && s.o.HeapCap > 0 {
		settings := capEnv(s.o.HeapCap)
		for _, key := range slices.Sorted(maps.Keys(settings)) {
			env = append(env, key+"="+settings[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		text, err := s.values.fill("process "+spec.Name+": env "+key, spec.Env[key], spec.Name)
		if err != nil {
			return nil, err
		}
		env = append(env, key+"="+text)
	}
	return env, nil
}

// confine makes the cgroup of a process that bears the cap, or sets the
// watchdog on it.
func (s *starter) confine(l *launch) error {
	if !l.spec.HeapCap || s.o.HeapCap == 0 {
		return nil
	}
	l.cap, l.limit = s.o.HeapCap, LimitWatchdog
	if s.o.Cap == CapWatchdog {
		return nil
	}
	h, err := findHierarchy("")
	if err == nil {
		l.cg, err = h.make(cgroupName(s.o.RunID, l.spec.Name), l.cap)
	}
	if err == nil {
		l.limit = l.cg.kind()
		return nil
	}
	if s.o.Cap == CapCgroup {
		return fmt.Errorf("process %s: heap cap by cgroup: %w", l.spec.Name, err)
	}
	s.o.logger().Info("heap cap is kept by a watchdog", "process", l.spec.Name, "because", err)
	return nil
}

// adopt keeps a process and watches for its death.
func (in *Instance) adopt(p *process) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, again := in.procs[p.spec.Name]; !again {
		in.order = append(in.order, p.spec.Name)
	}
	in.procs[p.spec.Name] = p
	in.watchers.Go(func() {
		<-p.done
		if !p.asked.Load() {
			in.fail(p.death())
		}
	})
}

// fail notes the first death.
func (in *Instance) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = err
		close(in.dead)
	}
}

// await waits until p is ready and gives its addresses. The death of any
// process ends the wait.
func (in *Instance) await(ctx context.Context, p *process, url string) (map[string]string, error) {
	limit := p.spec.readyWithin()
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ready within %s", limit))
	ready := make(chan readyLine, 1)
	var poll sync.WaitGroup
	defer poll.Wait()
	defer stop()
	if p.spec.Ready.Line {
		ready = p.lines
	} else {
		poll.Go(func() { ready <- pollURL(ctx, url) })
	}
	select {
	case <-in.dead:
		return nil, in.Err()
	case r := <-ready:
		return in.addresses(p, r)
	case <-ctx.Done():
		return nil, in.notReady(ctx, p, url)
	}
}

func (in *Instance) addresses(p *process, r readyLine) (map[string]string, error) {
	if r.err != nil {
		return nil, fmt.Errorf("process %s: %w", p.spec.Name, r.err)
	}
	if p.spec.Ready.Line {
		return r.ready.Addresses, nil
	}
	own := map[string]string{}
	for role, text := range p.spec.Addresses {
		filled, err := in.starter.values.fill("process "+p.spec.Name+": address "+role, text, p.spec.Name)
		if err != nil {
			return nil, err
		}
		own[role] = filled
	}
	return own, nil
}

func (in *Instance) notReady(ctx context.Context, p *process, url string) error {
	awaited := "a ready line on its standard output"
	if url != "" {
		awaited = "an answer of " + url
	}
	text := tail(p.logFile)
	if text == "" {
		text = "  (nothing)"
	}
	return fmt.Errorf("process %s: %w, waited for %s; look at %s, or raise ready.within in the descriptor; its last lines:\n%s",
		p.spec.Name, context.Cause(ctx), awaited, p.logFile, text)
}

// pollURL asks until the answer is 2xx.
func pollURL(ctx context.Context, url string) readyLine {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		if ok := answers(ctx, client, url); ok {
			return readyLine{}
		}
		select {
		case <-ctx.Done():
			return readyLine{err: context.Cause(ctx)}
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, client *http.Client, url string) bool {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode/100 == 2
}

// nobodyListens makes sure that the answer of a fixed address will be that of
// the process about to start.
func nobodyListens(ctx context.Context, name, rawURL string) error {
	if rawURL == "" {
		return nil
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Port() == "" {
		return usagef("process %s: ready url %q: want http://host:port/path", name, rawURL)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil
	}
	conn.Close()
	return fmt.Errorf("process %s: something listens on %s already; stop it first", name, u.Host)
}

func (in *Instance) fillEndpoints(e Endpoints) error {
	for _, x := range []struct {
		what, text string
		to         *string
	}{
		{"gateway", e.Gateway, &in.endpoints.Gateway},
		{"dagmanager", e.DagManager, &in.endpoints.DagManager},
		{"dagmanager_http", e.DagManagerHTTP, &in.endpoints.DagManagerHTTP},
	} {
		text, err := in.starter.values.fill("endpoint "+x.what, x.text, "")
		if err != nil {
			return err
		}
		*x.to = text
	}
	return nil
}

// tamper puts the proxy before the Gateway.
func (in *Instance) tamper(ctx context.Context, o Options) error {
	if len(o.Tamper) == 0 {
		return nil
	}
	topic := ""
	if o.Backends != nil {
		topic = o.Backends.Topic("gateway.ingest")
	}
	p, err := newProxy(ctx, tampering{
		upstream: in.endpoints.Gateway, rules: o.Tamper, seed: o.Seed,
		kafka: o.kafka(), topic: topic, log: o.logger(),
	})
	if err != nil {
		return err
	}
	in.proxy, in.endpoints.Gateway = p, p.url
	return nil
}

// AttachOptions of a SUT that runs already.
type AttachOptions struct {
	DagManager     string // gRPC, host:port; "" when it is not reachable
	DagManagerHTTP string // URL
	Kafka          string // host:port of the SUT's broker, for tampering by double
	CommitLogTopic string // "": gateway.ingest
	Tamper         []Rule
	Seed           uint64
	Log            *slog.Logger // nil: discard
}

// Attach joins a SUT that somebody else runs: nothing of it is started,
// probed or stopped. It asks the Gateway's /health once; any answer of HTTP
// will do.
func Attach(ctx context.Context, gatewayURL string, a AttachOptions) (*Instance, error) {
	u, err := url.Parse(gatewayURL)
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
		return nil, usagef("sut %q: want a descriptor, or a URL such as http://host:port", gatewayURL)
	}
	if err := checkRules(a.Tamper, a.Kafka); err != nil {
		return nil, err
	}
	if err := reachable(ctx, gatewayURL); err != nil {
		return nil, err
	}
	in := &Instance{
		name: gatewayURL, dead: make(chan struct{}),
		endpoints: Endpoints{strings.TrimSuffix(gatewayURL, "/"), a.DagManager, a.DagManagerHTTP},
	}
	o := Options{Tamper: a.Tamper, Seed: a.Seed, Log: a.Log}
	if a.Kafka != "" {
		o.Backends = &backend.Set{Kafka: a.Kafka}
	}
	return in, in.tamper(ctx, o)
}

func reachable(ctx context.Context, gatewayURL string) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(gatewayURL, "/")+"/health", nil)
	if err != nil {
		return usagef("sut %q: %w", gatewayURL, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("sut %s: nothing answers there (%w); start it, or give a descriptor", gatewayURL, err)
	}
	return resp.Body.Close()
}

// Name is the descriptor's, or the URL of an attached SUT.
func (in *Instance) Name() string { return in.name }

// Endpoints tell where to talk to the SUT: with tampering, to the proxy.
func (in *Instance) Endpoints() Endpoints { return in.endpoints }

// Dead is closed when a process ends although nobody asked it to; Err then
// says which and why. An attached SUT has no Dead.
func (in *Instance) Dead() <-chan struct{} { return in.dead }

// Err is nil until Dead is closed, then the *DeathError of the first process
// that died.
func (in *Instance) Err() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

// Processes lists the processes in the order of their start; none for an
// attached SUT.
func (in *Instance) Processes() []Process {
	in.mu.Lock()
	defer in.mu.Unlock()
	var list []Process
	for _, name := range in.order {
		p := in.procs[name]
		x := Process{Name: name, PID: p.pid, HeapCap: p.cap, Limit: p.limit, Admin: in.starter.values.address(name, "admin")}
		if p.cg != nil {
			x.Usage = p.cg.usage()
		}
		if p.gone() {
			x.PID = 0
		}
		list = append(list, x)
	}
	return list
}

// Kill kills one process with SIGKILL, as a fault: Dead stays open. It returns
// when the process is gone.
func (in *Instance) Kill(name string) error {
	p, err := in.process(name)
	if err != nil {
		return err
	}
	p.kill()
	return nil
}

// Restart starts a process again that Kill has ended, with the addresses it
// had where its argv takes them (${self.ROLE}), and waits until it is ready.
func (in *Instance) Restart(ctx context.Context, name string) error {
	p, err := in.process(name)
	if err != nil {
		return err
	}
	if !p.gone() {
		return fmt.Errorf("process %s: runs; kill it before a restart", name)
	}
	return in.run(ctx, p.spec)
}

func (in *Instance) process(name string) (*process, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	p, ok := in.procs[name]
	if !ok {
		return nil, usagef("sut %s: no process %q; there are %q", in.name, name, in.order)
	}
	return p, nil
}

// Stop asks every process to leave, last started first, and kills what does
// not in time. A ctx that ends meanwhile makes it kill at once; one that is
// over already, as after Ctrl-C, does not. It is idempotent. The error tells
// which process did not leave cleanly; that of one that had died before is
// Err's to tell.
func (in *Instance) Stop(ctx context.Context) error {
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	in.stopping.Do(func() { in.stopped = in.stop(ctx) })
	return in.stopped
}

func (in *Instance) stop(ctx context.Context) error {
	var errs []error
	if in.proxy != nil {
		errs = append(errs, in.proxy.close())
	}
	if in.starter == nil {
		return errors.Join(errs...)
	}
	in.mu.Lock()
	procs := make([]*process, 0, len(in.order))
	for _, name := range slices.Backward(in.order) {
		procs = append(procs, in.procs[name])
	}
	in.mu.Unlock()
	for _, p := range procs {
		errs = append(errs, p.end(ctx.Done()))
	}
	in.watchers.Wait()
	errs = append(errs, os.RemoveAll(in.starter.scratch))
	return errors.Join(errs...)
}

// Record describes the SUT for the run's record; call it after Stop to have
// how each process ended.
func (in *Instance) Record() record.SUT {
	out := record.SUT{Name: in.name, Processes: []record.SUTProcess{}}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, name := range in.order {
		p := in.procs[name]
		x := record.SUTProcess{Name: name, PID: p.pid, HeapCap: p.cap, Limit: p.limit}
		if p.gone() && !p.asked.Load() {
			code := p.code
			x.ExitCode, x.Died = &code, p.death().ExitErr.Error()
		}
		out.Processes = append(out.Processes, x)
	}
	return out
}
