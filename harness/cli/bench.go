package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func (a *app) bench() *cobra.Command {
	var stages []string
	cmd := &cobra.Command{
		Use: "bench", Short: "the whole gate: contract, load, audit, complexity, comparison, verdict", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.measure(stages...)(cmd, args) },
	}
	cmd.Flags().StringSliceVar(&stages, "stages", verdict.Stages(), "what to run; fewer than all is not the whole gate, and the answer says so")
	a.flags.run(cmd.Flags())
	cmd.Flags().DurationVar(&a.flags.compareBudget, "compare-budget", -1,
		"time to measure this tree side by side with the commit of the accepted record; 0: never (default: three windows of the profile, when they make 20s at least)")
	a.flags.offered(cmd.Flags())
	a.flags.asked(cmd.Flags())
	a.flags.answers(cmd.Flags())
	return cmd
}

func (a *app) contract() *cobra.Command {
	cmd := &cobra.Command{
		Use: "contract", Short: "the contract scenarios only", Args: cobra.NoArgs,
		RunE: a.measure(verdict.StageContract),
	}
	a.flags.run(cmd.Flags())
	a.flags.asked(cmd.Flags())
	a.flags.answers(cmd.Flags())
	return cmd
}

func (a *app) load() *cobra.Command {
	cmd := &cobra.Command{
		Use: "load", Short: "the load and its audit only", Args: cobra.NoArgs,
		RunE: a.measure(verdict.StageLoad),
	}
	a.flags.run(cmd.Flags())
	a.flags.offered(cmd.Flags())
	a.flags.answers(cmd.Flags())
	return cmd
}

// measure runs stages, judges the record and shows the answer.
func (a *app) measure(stages ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		ask, err := a.prepare()
		if err != nil {
			return err
		}
		plan, err := a.flags.plan(stages...)
		if err != nil {
			return err
		}
		plan.Limit, plan.Recovery = ask.policy.Complexity.Limit, ask.policy.Faults
		plan.Log = a.logger()
		plan.Progress = newProgress(a.Err, a.Terminal).show
		run, err := harness.Run(cmd.Context(), plan)
		if run == nil || isUsage(err) {
			return err
		}
		if err == nil && cmd.Name() == "bench" {
			err = a.sideBySide(cmd.Context(), ask, plan, run)
		}
		return a.conclude(cmd.Context(), ask, plan, run, err)
	}
}

func (a *app) logger() *slog.Logger {
	if !a.flags.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.Err, nil))
}

// conclude judges a record that was just made and shows the answer. What broke
// the run is in the record, and so in the answer.
func (a *app) conclude(ctx context.Context, ask *question, plan harness.Plan, run *record.Run, broke error) error {
	dir := harness.Dir(a.flags.artifacts, run.ID)
	base := ask.baseFor(dir.Path(), run)
	if base.Run == nil {
		run.Absent["base"] = cmp.Or(base.Reason, strings.Join(base.Broken, "; "))
		if err := dir.WriteRun(run); err != nil {
			return errors.Join(broke, err)
		}
	}
	if err := a.refreshSnapshot(run); err != nil {
		return errors.Join(broke, err)
	}
	j := verdict.Judge(ask.policy, base, run)
	if breached(j) && run.Load != nil && broke == nil {
		// The verdict stands; what explains it is extra.
		if err := errors.Join(a.explainBreach(ctx, plan, dir.Path(), run), dir.WriteRun(run)); err != nil {
			fmt.Fprintf(a.Err, "plumbline: profiles: %v\n", err)
		}
	}
	if err := a.answer(ask, dir.Path(), run, base, j); err != nil {
		return errors.Join(broke, err)
	}
	return judged(j)
}

// controlPlane is where the functions of the reference control plane lie.
const controlPlane = "ref/"

// refreshSnapshot writes <artifacts>/radon_control_plane.json: the functions of
// the control plane, or of the whole tree where it has no reference.
func (a *app) refreshSnapshot(run *record.Run) error {
	if run.Complexity == nil {
		return nil
	}
	var own []record.Func
	for _, f := range run.Complexity.Funcs {
		if strings.HasPrefix(f.File, controlPlane) && !f.Test {
			own = append(own, f)
		}
	}
	if len(own) == 0 {
		own = run.Complexity.Funcs
	}
	var b bytes.Buffer
	if err := complexity.WriteRadon(&b, own); err != nil {
		return err
	}
	return record.WriteFile(filepath.Join(a.flags.artifacts, "radon_control_plane.json"), b.Bytes())
}
