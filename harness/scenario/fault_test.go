package scenario_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
)

// diary notes what was harmed and healed, in order.
type diary struct {
	mu      sync.Mutex
	entries []string // guarded by mu
}

func (d *diary) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, what)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.entries, ", ")
}

// fault is one whose harm and healing fail as told.
func (d *diary) fault(name string, harm, heal error) backend.Fault {
	return backend.Fault{Server: "redis", Name: name, Apply: func(context.Context) (func(context.Context) error, error) {
		d.note(name)
		return func(ctx context.Context) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.note("heal " + name)
			return heal
		}, harm
	}}
}

func TestFaultsAreHealedWhateverHappens(t *testing.T) {
	for _, c := range []struct {
		name, steps string
		harm, heal  error
		fails, did  string
	}{
		{"steps hold", "- http: { path: /echo }\n        expect: { status: 418 }", nil, nil, "", "stop, heal stop"},
		{"a step fails", "- http: { path: /echo }\n        expect: { status: 200 }", nil, nil, "while redis is harmed by stop: status: want 200, got 418", "stop, heal stop"},
		{"the time is over", "- http: { path: /slow, timeout: 20s }\n        expect: { status: 200 }", nil, nil, "took longer than 300ms", "stop, heal stop"},
		{"the harm fails", "- http: { path: /echo }\n        expect: { status: 418 }", errors.New("no leave"), nil, "no leave", "stop, heal stop"},
		{"healing fails", "- http: { path: /echo }\n        expect: { status: 418 }", nil, errors.New("stays down"), "healing stop of redis: stays down", "stop, heal stop"},
		{"within one another", "- fault: { target: redis, kind: cut, steps: [{ http: { path: /echo }, expect: { status: 200 } }] }", nil, nil, "want 200, got 418", "stop, cut, heal cut, heal stop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &diary{}
			env := newStand(t).env
			env.Faults = backend.Faults{d.fault("stop", c.harm, c.heal), d.fault("cut", nil, nil)}
			o := outcome(t, env, "timeout: 300ms\nneeds: [fault.redis.stop, fault.redis.cut]\nsteps:\n- fault:\n    target: redis\n    kind: stop\n    steps:\n      "+c.steps)
			expectOutcome(t, o, c.fails)
			if d.String() != c.did {
				t.Errorf("done: %s; want %s", d, c.did)
			}
		})
	}
}

func TestFaultsThatNobodyCanDoAreSkippedWithAReason(t *testing.T) {
	o := outcome(t, newStand(t).env, "needs: [fault.kafka.stop]\nsteps:\n- fault: { target: kafka, kind: stop, steps: [{ http: { path: /echo }, expect: { status: 418 } }] }")
	if o.Status != record.Skipped || o.Reason != "needs fault.kafka.stop (provider stand)" {
		t.Errorf("%s: %q", o.Status, o.Reason)
	}
}

func TestHarmMustBeAnnounced(t *testing.T) {
	_, err := scenario.Load(fstest.MapFS{"a.yaml": &fstest.MapFile{Data: []byte(
		"id: A-1\ntitle: t\nclass: strict\nclause: contract/a.md#x\nneeds: [gateway, fault.kafka.cut]\nsteps:\n- fault: { target: kafka, kind: stop, steps: [{ http: { path: /echo }, expect: { status: 418 } }] }\n")}})
	if want := "a.yaml:7:10: the scenario does harm that it does not announce; add fault.kafka.stop to needs"; err == nil || err.Error() != want {
		t.Errorf("Load = %v; want %s", err, want)
	}
}

// A scenario that does harm runs after all others, by itself.
func TestHarmComesLast(t *testing.T) {
	d := &diary{}
	s := newStand(t)
	env := s.env
	env.Faults = backend.Faults{d.fault("stop", nil, nil)}
	harm := "needs: [fault.redis.stop]\nsteps:\n- http: { path: /count }\n  expect: { status: 200, body: { n: 3 } }\n- fault: { target: redis, kind: stop, steps: [{ http: { path: /echo }, expect: { status: 418 } }] }"
	got := outcomes(t, env, map[string]string{
		"A-1": harm,
		"B-1": "- http: { path: /count }\n  expect: { status: 200 }",
		"C-1": "serial: true\nsteps:\n- http: { path: /count }\n  expect: { status: 200 }",
	})
	for _, o := range got[:3] {
		expectOutcome(t, o, "")
	}
}

// A gateway that still feels the last harm is waited for, whether it tells so or
// refuses to tell; one that has no status is not.
func TestHarmBeginsWithAGatewayThatGotOverTheLast(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []string // of /status, one after the other; the last stays
		before  int      // looks at it before the first step
	}{
		{"degraded", []string{`{"degrade_level":"MINIMAL"}`, `{"degrade_level":"PARTIAL","dagmanager":"ok"}`, `{"degrade_level":"NORMAL","dagmanager":"ok"}`}, 3},
		{"without a dependency", []string{`{"redis":"error"}`, `{"redis":"ok","dagmanager":"timeout"}`, `{"redis":"ok","dagmanager":"ok"}`}, 3},
		{"refuses to tell", []string{"", `{"degrade_level":"NORMAL"}`}, 2},
		{"tells nothing", []string{`{}`}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &diary{}
			env := newStand(t).env
			looks := 0
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/status" {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				d.note("look")
				answer := c.answers[min(looks, len(c.answers)-1)]
				if looks++; answer == "" {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				reply(w, http.StatusOK, answer)
			}))
			defer web.Close()
			env.Gateway = web.URL
			env.Faults = backend.Faults{d.fault("stop", nil, nil)}
			o := outcome(t, env, "needs: [fault.redis.stop]\nsteps:\n- fault: { target: redis, kind: stop, steps: [{ http: { path: /any }, expect: { status: 418 } }] }")
			expectOutcome(t, o, "")
			if want := strings.Repeat("look, ", c.before) + "stop, heal stop"; d.String() != want {
				t.Errorf("done: %s; want %s", d, want)
			}
		})
	}
}
