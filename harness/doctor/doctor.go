// Package doctor says what this machine can do for a gate, and how to mend what
// is missing. It looks and tries; it changes nothing that it does not take back.
package doctor

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/containers"
)

// State of one finding.
type State string

// States. Only Bad keeps a gate from running.
const (
	Good State = "ok"
	Poor State = "poor" // works, but worse than it could
	Bad  State = "bad"  // the gate cannot run
	Info State = "info"
)

// Finding is one thing that was looked at.
type Finding struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Seen  string `json:"seen"`
	Mend  string `json:"mend,omitempty"` // how; "" where nothing needs it
}

// Choice tells which backends a gate would take.
type Choice struct {
	Asked  string `json:"asked"`
	Kind   string `json:"kind"` // "" where none can be had
	Reason string `json:"reason"`
}

// Report is the whole examination.
type Report struct {
	CanRun   bool      `json:"can_run"` // the gate, with the backends that were asked for
	Provider Choice    `json:"provider"`
	Findings []Finding `json:"findings"`
}

// Options say what to look at.
type Options struct {
	Artifacts  string // folder of runs, need not exist
	Bin        string // folder of gateway, dagmanager and k6
	Provider   string // auto, embedded, containers, external
	Backends   backend.Candidates
	Containers containers.Provider
	Getenv     func(string) string
	Pace       time.Duration // how long the timer is measured; 0: 1 s
	// OnlyBackends leaves out what has nothing to do with the choice of backends.
	OnlyBackends bool
}

// Examine looks at everything. It takes about Options.Pace.
func Examine(ctx context.Context, o Options) Report {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Pace <= 0 {
		o.Pace = time.Second
	}
	looks := []func(context.Context, Options) []Finding{
		machine, toolchain, programs, disk, loopback, memoryCap, timer, docker, settings,
	}
	if o.OnlyBackends {
		looks = looks[len(looks)-2:]
	}
	r := Report{}
	for _, look := range looks {
		r.Findings = append(r.Findings, look(ctx, o)...)
	}
	var chosen Finding
	r.Provider, chosen = choose(ctx, o)
	r.Findings = append(r.Findings, chosen)
	r.CanRun = true
	for _, f := range r.Findings {
		r.CanRun = r.CanRun && f.State != Bad
	}
	return r
}

// choose asks what the gate itself would ask, and tries external servers.
func choose(ctx context.Context, o Options) (Choice, Finding) {
	_, kind, reason, err := backend.Choose(ctx, o.Provider, o.Backends)
	c := Choice{Asked: o.Provider, Kind: kind, Reason: reason}
	if err != nil {
		c.Reason = oneLine(err)
		return c, Finding{"backends", Bad, "none: " + c.Reason, "mend what is named above, or take --provider embedded"}
	}
	f := Finding{Name: "backends", State: Good, Seen: fmt.Sprintf("--provider %s takes %s: %s", o.Provider, kind, reason)}
	if o.Provider == backend.KindAuto && kind == backend.KindEmbedded {
		f.State, f.Mend = Poor, "a verdict on embedded servers holds as far as their fidelity; mend Docker and the images for real ones"
	}
	return c, f
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Write shows the report as a table for people.
func (r Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.State, f.Name, f.Seen)
		if f.Mend != "" {
			fmt.Fprintf(t, "\t\tmend: %s\n", f.Mend)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	last := fmt.Sprintf("\nthe gate can run, on %s backends\n", r.Provider.Kind)
	if !r.CanRun {
		last = "\nthe gate cannot run here: mend what is marked bad\n"
	}
	_, err := io.WriteString(w, last)
	return err
}
