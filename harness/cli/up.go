package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend/containers"
	"qmtl.internal/plumbline/harness/verdict"
)

func (a *app) up() *cobra.Command {
	var background bool
	cmd := &cobra.Command{
		Use: "up", Short: "start backends and the SUT, print their addresses, stop on Ctrl-C or down", Args: cobra.NoArgs,
		Long: `Starts backends and the SUT and prints where they listen. It stays until Ctrl-C;
with --detach it returns once everything serves, and plumbline down ends it.
What runs is noted in ARTIFACTS/up.json, logs are in ARTIFACTS/up, and what a
background up says in ARTIFACTS/up.log. One folder of artifacts holds one up.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if background {
				return a.upInBackground(cmd)
			}
			plan, err := a.flags.plan(verdict.StageContract)
			if err != nil {
				return err
			}
			plan.Log = a.logger()
			plan.Progress = newProgress(a.Err, a.Terminal).show
			return harness.Up(cmd.Context(), plan, func(r harness.Running) {
				a.showRunning(r)
				fmt.Fprintln(a.Err, "running; Ctrl-C stops it")
			})
		},
	}
	cmd.Flags().BoolVar(&background, "detach", false, "stay in the background once everything serves, until plumbline down")
	a.flags.run(cmd.Flags())
	return cmd
}

// upInBackground runs this very command again, without --detach, in a session of
// its own.
func (a *app) upInBackground(cmd *cobra.Command) error {
	if a.Executable == "" {
		return usagef("--detach: this program does not know its own file; run it without")
	}
	args := append(append([]string{}, a.Args...), "--detach=false")
	r, err := harness.UpInBackground(cmd.Context(), a.flags.artifacts, a.Executable, args...)
	var ended *harness.BackgroundError
	if errors.As(err, &ended) {
		return &exit{code: ended.Code, err: err}
	}
	if err != nil {
		return err
	}
	a.showRunning(*r)
	fmt.Fprintln(a.Err, "running in the background; plumbline down ends it")
	return nil
}

func (a *app) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "end what up started from this folder of artifacts, and only that", Args: cobra.NoArgs,
		Long: `Ends the up that ARTIFACTS/up.json names, by the pid and the start of its
process, and whatever a killed one left: its processes, and the containers that
bear its run id. Where nothing is up it says so and succeeds.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			how, err := harness.Down(cmd.Context(), a.flags.artifacts, containers.Provider{}.RemoveRun)
			if err != nil {
				return err
			}
			if how == "" {
				how = "nothing is up"
			}
			_, err = fmt.Fprintln(a.Out, how)
			return err
		},
	}
}

func (a *app) showRunning(r harness.Running) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("provider", r.Provider+" ("+r.Reason+")")
	row("kafka", r.Kafka)
	row("redis", r.Redis)
	row("neo4j", r.Neo4j)
	row("commit log", r.CommitLog)
	row("gateway", r.Endpoints.Gateway)
	row("dag manager", r.Endpoints.DagManager)
	row("dag manager http", r.Endpoints.DagManagerHTTP)
	for _, p := range r.Admins {
		row(p.Process+" admin", "http://"+p.Address+"/metrics")
	}
	row("logs", r.Logs)
	if err := w.Flush(); err != nil {
		fmt.Fprintf(a.Err, "plumbline: %v\n", err)
	}
}
