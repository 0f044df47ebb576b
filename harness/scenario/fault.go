package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/harness/backend"
)

// healWithin bounds healing, which goes on when the scenario's time is over.
const healWithin = 2 * time.Minute

// faultAction does one harm, runs its steps while it lasts, and heals it,
// whatever became of the steps.
type faultAction struct {
	Target  string   `json:"target"`
	Kind    string   `json:"kind"`
	For     duration `json:"for"`
	Latency duration `json:"latency"`
	Jitter  duration `json:"jitter"`
	Tail    float64  `json:"tail"`
	Rate    int64    `json:"bytes_per_s"`
	Steps   []any    `json:"steps"`
}

// capability is what a scenario with this step needs.
func (a faultAction) capability() string { return faultPrefix + a.Target + "." + a.Kind }

const faultPrefix = "fault."

// Harms tells whether the scenario does harm, and so runs alone and last.
func (s *Scenario) Harms() bool {
	return slices.ContainsFunc(s.Needs, func(n string) bool { return strings.HasPrefix(n, faultPrefix) })
}

func (a faultAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	f, err := x.env.Faults.Get(a.Target, a.Kind)
	if err != nil {
		return nil, err
	}
	f, err = f.With(backend.Params{
		Latency: time.Duration(a.Latency), Jitter: time.Duration(a.Jitter), Tail: a.Tail, Rate: a.Rate, Seed: x.env.Seed,
	})
	if err != nil {
		return nil, err
	}
	began := time.Now()
	heal, err := f.Apply(ctx)
	if err == nil {
		x.wire.refresh()
		err = a.while(ctx, x, st, began)
	}
	return nil, errors.Join(err, x.heal(ctx, a, heal))
}

// while runs the steps, and waits until the harm has lasted as long as it shall.
func (a faultAction) while(ctx context.Context, x *execution, st *Step, began time.Time) error {
	if failed := x.run(ctx, st.lists[0]); failed != nil {
		return failed.under("while %s is harmed by %s", a.Target, a.Kind)
	}
	return sleep(ctx, time.Duration(a.For)-time.Since(began))
}

func (x *execution) heal(ctx context.Context, a faultAction, heal func(context.Context) error) error {
	if heal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
	defer cancel()
	err := heal(ctx)
	x.wire.refresh()
	if err != nil {
		return fmt.Errorf("healing %s of %s: %w", a.Kind, a.Target, err)
	}
	return nil
}

// calmWithin bounds the wait for a gateway that has not got over the harm of the
// scenario before.
const (
	calmWithin   = 20 * time.Second
	statusWithin = 5 * time.Second // of one look
)

// calm waits until the gateway says of itself and of what it depends on that
// nothing is wrong: one that still feels the last harm answers the next scenario
// as if there were two. Without such a gateway, or when it stays sick, the next
// scenario says so itself.
func (r *runner) calm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, calmWithin)
	defer cancel()
	url, err := r.wire.gateway()
	for err == nil {
		seen, failed := r.wire.ask(ctx, request{method: http.MethodGet, url: url + "/status", timeout: statusWithin})
		if failed == nil && wellOrMute(seen) {
			return
		}
		err = sleep(ctx, 100*time.Millisecond)
	}
}

// wellOrMute is false for a gateway that refuses to tell (gateway.md 5.1: 204,
// 503) and for one that names something that is wrong.
func wellOrMute(seen observation) bool {
	if code := written(seen["status"]); code == "204" || code == "503" {
		return false
	}
	status, _ := seen["body"].(map[string]any)
	for member, well := range map[string]string{"degrade_level": "NORMAL", "redis": "ok", "dagmanager": "ok"} {
		if said, told := status[member]; told && said != well {
			return false
		}
	}
	return true
}

// refresh drops what the clients believe about servers that have just gone or
// come back.
func (w *wire) refresh() {
	w.http.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dm != nil {
		w.dm.ResetConnectBackoff()
	}
}

// fault reads a step that does harm: its need must be told, so that it is
// skipped where nobody can do it.
func (c *checker) fault(args any, pointer string) [][]Step {
	m, _ := args.(map[string]any)
	need := faultAction{Target: text(m["target"]), Kind: text(m["kind"])}.capability()
	root, _ := c.doc.value.(map[string]any)
	if c.clean && !slices.Contains(textList(root["needs"]), need) {
		c.doc.mistake(c.doc.at(pointer), "the scenario does harm that it does not announce", "add "+need+" to needs")
	}
	return [][]Step{c.steps(m["steps"], pointer+"/steps")}
}
