package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/verdict"
)

func (a *app) up() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "start backends and the SUT, print their addresses, stop on Ctrl-C", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := a.flags.plan(verdict.StageContract)
			if err != nil {
				return err
			}
			plan.Log = a.logger()
			return harness.Up(cmd.Context(), plan, a.showRunning)
		},
	}
	a.flags.run(cmd.Flags())
	return cmd
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
	for _, p := range r.Processes {
		if p.Admin != "" {
			row(p.Name+" admin", "http://"+p.Admin+"/metrics")
		}
	}
	row("logs", r.Logs)
	if err := w.Flush(); err != nil {
		fmt.Fprintf(a.Err, "plumbline: %v\n", err)
	}
	fmt.Fprintln(a.Err, "running; Ctrl-C stops it")
}
