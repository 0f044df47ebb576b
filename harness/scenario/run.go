package scenario

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/neighbour"
	"qmtl.internal/plumbline/harness/record"
)

// Env is where and how scenarios run. An empty address means that the thing is
// not there; scenarios that need it are skipped with a reason.
type Env struct {
	Gateway        string // base URL, http://host:port
	DagManager     string // gRPC host:port
	DagManagerHTTP string // base URL, or host:port
	Kafka          string // host:port list, comma separated
	Redis          string // host:port or redis:// URL
	Provider       string // kind of the backends, for the reader of a skip
	RunID          string // part of every name that a scenario makes up
	Seed           uint64 // likewise

	TopicPrefix    string   // before every topic name of the control plane, on shared brokers
	CommitLogTopic string   // whole name; default TopicPrefix + gateway.ingest; "-": the SUT writes none
	Lacks          []string // capabilities that the SUT or the provider does not have
	Has            []string // further capabilities, such as worldservice or faults
	Classes        []Class  // classes to run; none: all. Others are skipped with a reason
	Parallel       int      // scenarios side by side; default 4

	// EventKey signs event tokens that the SUT trusts under EventKID; nil: the
	// capability event-tokens is missing, unless Has names it.
	EventKey ed25519.PrivateKey
	EventKID string

	// Faults is the harm that scenarios may do; each is a capability
	// fault.<server>.<name>. Scenarios that do harm run alone and last.
	Faults backend.Faults
	// Beside and BesideDagManager start gateways and DAG Managers that scenarios
	// have to themselves; what they offer are capabilities own-gateway.<offer> and
	// own-dagmanager.<offer>.
	Beside           neighbour.Starter
	BesideDagManager neighbour.Starter
	// Starts start a process of the SUT with a configuration and nothing else;
	// each is a capability start.<process>.
	Starts neighbour.Starts
	// Dial reaches Kafka and Redis whatever harm is done between them and the
	// SUT; nil: they are dialled as they are.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Log *slog.Logger // nil: nothing is logged
}

// Run runs every scenario and gives its outcome in the order of all, followed
// by one outcome for each invariant over the whole history (ids INV-…).
// Scenarios that are not serial run side by side. When ctx ends, for instance
// because a process of the SUT died, running scenarios fail at once with the
// cause of ctx and the rest fail as not run. Run returns when everything that
// it started has ended.
func Run(ctx context.Context, env Env, all []Scenario) []record.Outcome {
	r := newRunner(ctx, env)
	defer r.close()
	outcomes := make([]record.Outcome, len(all))
	var alone, harmful []int
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, cmpOr(env.Parallel, 4)))
	for i := range all {
		switch {
		case all[i].Harms():
			harmful = append(harmful, i)
			continue
		case all[i].Serial:
			alone = append(alone, i)
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			outcomes[i] = r.one(ctx, &all[i])
		})
	}
	wg.Wait()
	for _, i := range alone {
		outcomes[i] = r.one(ctx, &all[i])
	}
	for _, i := range harmful {
		r.calm(ctx)
		outcomes[i] = r.one(ctx, &all[i])
	}
	return append(outcomes, r.invariants(ctx)...)
}

func cmpOr(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// runner is one call of Run.
type runner struct {
	env   Env
	log   *slog.Logger
	kinds map[string]actionKind
	wire  *wire
	past  *history
}

func newRunner(ctx context.Context, env Env) *runner {
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if env.CommitLogTopic == "" {
		env.CommitLogTopic = env.TopicPrefix + "gateway.ingest"
	}
	r := &runner{env: env, log: log, kinds: actionKinds(), wire: newWire(env), past: &history{}}
	r.wire.mark(ctx)
	return r
}

func (r *runner) close() { r.wire.close() }

// one runs one scenario, or says why not.
func (r *runner) one(ctx context.Context, s *Scenario) record.Outcome {
	o := record.Outcome{ID: s.ID, Title: s.Title, Class: string(s.Class), Clause: s.Clause, File: s.File}
	if why := r.lacking(s); why != "" {
		o.Status, o.Reason = record.Skipped, why
		return o
	}
	if ctx.Err() != nil {
		o.Status, o.Reason = record.Failed, "not run: "+context.Cause(ctx).Error()
		return o
	}
	start := time.Now()
	limit := fmt.Errorf("the scenario took longer than %s", s.Timeout)
	limited, cancel := context.WithTimeoutCause(ctx, s.Timeout, limit)
	x := r.execution(s)
	failed := x.play(limited)
	cancel()
	o.DurationMS = float64(time.Since(start).Microseconds()) / 1000
	x.settle(&o, failed)
	r.log.Debug("scenario", "id", s.ID, "status", o.Status, "reason", o.Reason, "ms", o.DurationMS)
	return o
}

// play gives the scenario what it needs for itself, runs its steps, and takes
// everything away again.
func (x *execution) play(ctx context.Context) *failure {
	leave := func(context.Context) error { return nil }
	if x.scenario.own != nil {
		var err error
		if ctx, leave, err = x.moveIn(ctx); err != nil {
			return x.ownFailure(ctx, err)
		}
	}
	failed := x.run(ctx, x.scenario.Steps)
	if failed == nil {
		failed = x.ownInvariants(ctx)
	}
	x.closeAll()
	if err := leave(ctx); err != nil && failed == nil {
		failed = x.ownFailure(ctx, err)
	}
	return failed
}

// lacking says what the scenario needs and the run does not have.
func (r *runner) lacking(s *Scenario) string {
	if len(r.env.Classes) > 0 && !slices.Contains(r.env.Classes, s.Class) {
		return fmt.Sprintf("class %s is not asked of this SUT", s.Class)
	}
	have := r.capabilities()
	var missing []string
	for _, need := range s.Needs {
		if !have[need] {
			missing = append(missing, need)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	with := ""
	if r.env.Provider != "" {
		with = " (provider " + r.env.Provider + ")"
	}
	return "needs " + strings.Join(missing, ", ") + with
}

// capabilities follow from the addresses; Has adds and Lacks takes away.
func (r *runner) capabilities() map[string]bool {
	e := r.env
	have := map[string]bool{
		"gateway": e.Gateway != "", "dagmanager": e.DagManager != "", "dagmanager-http": e.DagManagerHTTP != "",
		"redis": e.Redis != "", "kafka": e.Kafka != "",
		"commitlog": e.Kafka != "" && e.CommitLogTopic != "-", "controlbus": e.Kafka != "" && e.Gateway != "",
		"event-tokens":  e.EventKey != nil && e.Gateway != "",
		"dm-controlbus": e.Kafka != "" && e.DagManager != "", "dm-kafka": e.Kafka != "" && e.DagManager != "",
	}
	for _, c := range e.Has {
		have[c] = true
	}
	for _, c := range e.Lacks {
		have[c] = false
	}
	e.offered(have)
	have["no-worldservice"] = !have["worldservice"]
	return have
}

// offered adds what those offer who started SUT and servers.
func (e Env) offered(have map[string]bool) {
	for key, kind := range ownKinds() {
		s := kind.starter(e)
		have[ownPrefix+key] = s.Start != nil
		for _, o := range s.Offers {
			have[ownPrefix+key+"."+o] = true
		}
	}
	for process := range e.Starts {
		have[startPrefix+process] = true
	}
	for _, f := range e.Faults {
		have[faultAction{Target: f.Server, Kind: f.Name}.capability()] = true
	}
}

// execution is one running scenario.
type execution struct {
	*runner
	scenario *Scenario
	uniq     string // prefix of every name that this execution makes up
	row      string // of the enclosing for_each, part of fresh DAGs
	scope    *scope
	shared   *sharedState
	near     *neighbours // of its own service; nil without one
}

// sharedState is what parallel lists of one scenario have in common.
type sharedState struct {
	evaluated atomic.Int64 // expectations looked at
	mu        sync.Mutex
	conns     map[string]*wsConn // guarded by mu
	snapshots map[string]samples // guarded by mu
}

func (r *runner) execution(s *Scenario) *execution {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%s", r.env.RunID, r.env.Seed, s.ID, s.File))
	uniq := "p" + hex.EncodeToString(sum[:6])
	return &execution{
		runner: r, scenario: s, uniq: uniq,
		scope:  newScope(map[string]any{"uniq": uniq, "run": r.env.RunID, "seed": fmt.Sprint(r.env.Seed)}),
		shared: &sharedState{conns: map[string]*wsConn{}, snapshots: map[string]samples{}},
	}
}

// inRow gives the execution of one element of a for_each.
func (x *execution) inRow(name string, element any, line, i int) *execution {
	inner := *x
	inner.scope = x.scope.with(name, element)
	inner.row = fmt.Sprintf("%sl%dr%d", x.row, line, i)
	return &inner
}

// settle writes the verdict of a finished scenario.
func (x *execution) settle(o *record.Outcome, failed *failure) {
	switch {
	case failed != nil:
		o.Status, o.Reason = record.Failed, failed.Error()
		o.Steps = []record.StepOutcome{failed.outcome()}
	case x.shared.evaluated.Load() == 0:
		o.Status, o.Reason = record.Failed, "no expectation was evaluated"
	default:
		o.Status = record.Passed
	}
}

// failure is a step that did not hold.
type failure struct {
	step     *Step
	problems []string
	observed string
}

func (f *failure) Error() string {
	name := f.step.Action
	if f.step.Name != "" {
		name += " (" + f.step.Name + ")"
	}
	return fmt.Sprintf("line %d, %s: %s", f.step.Line, name, shorten(strings.Join(f.problems, "; "), 600))
}

// under says in which of several rounds it happened.
func (f *failure) under(format string, args ...any) *failure {
	f.problems[0] = fmt.Sprintf(format, args...) + ": " + f.problems[0]
	return f
}

func (f *failure) outcome() record.StepOutcome {
	return record.StepOutcome{
		Index: f.step.Index, Line: f.step.Line, Action: f.step.Action,
		Problems: shorten(strings.Join(f.problems, "\n"), 4000), Observed: f.observed,
	}
}

// run runs steps in order until one does not hold.
func (x *execution) run(ctx context.Context, steps []Step) *failure {
	for i := range steps {
		if f := x.step(ctx, &steps[i]); f != nil {
			return f
		}
	}
	return nil
}

// step runs one step. A panic in it is a failure with its stack.
func (x *execution) step(ctx context.Context, st *Step) (failed *failure) {
	defer func() {
		if p := recover(); p != nil {
			failed = &failure{step: st, problems: []string{fmt.Sprintf("panic: %v", p)}, observed: shorten(string(debug.Stack()), 4000)}
		}
	}()
	if ctx.Err() != nil {
		return &failure{step: st, problems: []string{context.Cause(ctx).Error()}}
	}
	seen, err := x.act(ctx, st)
	if err != nil {
		return asFailure(ctx, st, seen, err)
	}
	return x.judge(st, seen)
}

// act reads the action with the values of this moment and does it.
func (x *execution) act(ctx context.Context, st *Step) (observation, error) {
	args := st.args
	if len(st.lists) == 0 || st.Action == "for_each" {
		var err error
		if args, err = x.expandArgs(st); err != nil {
			return nil, err
		}
	}
	a, err := x.kinds[st.Action].read(args)
	if err != nil {
		return nil, err
	}
	return a.do(ctx, x, st)
}

// expandArgs leaves alone what is expanded later: the steps of a for_each and
// records that count with ${n}.
func (x *execution) expandArgs(st *Step) (any, error) {
	m, ok := st.args.(map[string]any)
	switch {
	case ok && st.Action == "for_each":
		in, err := x.scope.expand(m["in"])
		if err != nil {
			return nil, err
		}
		out := maps.Clone(m)
		out["in"] = in
		return out, nil
	case ok && m["times"] != nil:
		return st.args, nil
	}
	return x.scope.expand(st.args)
}

// asFailure names the innermost step that failed and, when the scenario's own
// time is over, the reason rather than its symptom.
func asFailure(ctx context.Context, st *Step, seen observation, err error) *failure {
	var inner *failure
	if errors.As(err, &inner) {
		return inner
	}
	f := &failure{step: st, problems: []string{err.Error()}, observed: seen.short()}
	var w *wrong
	if errors.As(err, &w) {
		f.problems[0] += "; " + w.mend
	}
	if cause := context.Cause(ctx); cause != nil && !strings.Contains(err.Error(), cause.Error()) {
		f.problems = append(f.problems, cause.Error())
	}
	return f
}

// judge compares what was seen with what is expected, and saves.
func (x *execution) judge(st *Step, seen observation) *failure {
	r := &report{}
	for _, part := range slices.Sorted(maps.Keys(st.expect)) {
		x.expectPart(part, st.expect[part], seen, r)
	}
	x.saveParts(st, seen, r)
	for _, c := range st.cel {
		x.shared.evaluated.Add(1)
		if problem := c.eval(seen, x.scope.all()); problem != "" {
			r.problems = append(r.problems, problem)
		}
	}
	if len(r.problems) == 0 {
		return nil
	}
	return &failure{step: st, problems: r.problems, observed: seen.short()}
}

func (x *execution) expectPart(part string, want any, seen observation, r *report) {
	x.shared.evaluated.Add(1)
	want, err := x.scope.expand(want)
	if err != nil {
		r.add(part, "%v", err)
		return
	}
	if choices, ok := want.([]any); ok && (part == "status" || part == "code") {
		want = map[string]any{"match": map[string]any{"one_of": choices}}
	}
	p := compile(want, "", func(_, what, mend string) { r.add(part, "%s; %s", what, mend) })
	p.check(member(seen, part), part, r)
}

func (x *execution) saveParts(st *Step, seen observation, r *report) {
	for _, name := range slices.Sorted(maps.Keys(st.save)) {
		v, ok := seen.path(st.save[name])
		if !ok {
			r.add("save "+name, "there is no %s", st.save[name])
			continue
		}
		x.scope.save(name, v)
	}
}

// short shows an observation without the parts that only repeat the request.
func (o observation) short() string {
	if o == nil {
		return ""
	}
	shown := maps.Clone(map[string]any(o))
	delete(shown, "sent")
	delete(shown, "headers")
	delete(shown, "text")
	b, err := json.Marshal(shown)
	if err != nil {
		return err.Error()
	}
	return shorten(string(b), 2000)
}
