package scenario

import (
	"context"
	"slices"
	"time"
)

// startPrefix begins the capabilities of processes that can be started.
const startPrefix = "start."

// startWithin is how long a started process may take to end, where the step
// does not say.
const startWithin = 10 * time.Second

// startAction starts one more process of the SUT with a configuration and
// nothing else.
type startAction struct {
	Process string   `json:"process"`
	Config  string   `json:"config"`
	Within  duration `json:"within"`
}

func (a startAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	began := time.Now()
	seen, err := x.env.Starts[a.Process](ctx, a.Config, a.Within.or(startWithin))
	o := observation{"exit_code": nil, "text": seen.Text, "elapsed_ms": millis(time.Since(began))}
	if seen.ExitCode != nil {
		o["exit_code"] = count(*seen.ExitCode)
	}
	return o, err
}

// start notes what a step that starts a process needs, so that it is skipped
// where nobody can start it.
func (c *checker) start(st *Step) {
	m, _ := st.args.(map[string]any)
	if need := startPrefix + text(m["process"]); st.Action == "start" && !slices.Contains(c.needs, need) {
		c.needs = append(c.needs, need)
	}
}
