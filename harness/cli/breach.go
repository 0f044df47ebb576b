package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/hotspot"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// profiledProcess is the one whose CPU time is explained.
const profiledProcess = "gateway"

// breached tells whether a timing verdict failed. What two builds side by side
// showed is explained by profiles of both, which the comparison took.
func breached(j verdict.Judged) bool {
	return slices.ContainsFunc(j.Checks, func(c verdict.Check) bool {
		slow := c.Group == verdict.Latency || strings.HasPrefix(c.Name, "baseline.p") && !strings.HasPrefix(c.Name, "baseline.paired")
		return slow && c.Verdict == verdict.Fail
	})
}

// explainBreach offers the same load once more under profiles, after a timing
// verdict failed, and notes which functions took the time. It keeps everything
// in the folder profiling of the run and changes no figure of it.
func (a *app) explainBreach(ctx context.Context, plan harness.Plan, dir string, run *record.Run) error {
	plan.Stages, plan.Profiles = []string{verdict.StageLoad}, true
	plan.Artifacts = filepath.Join(dir, "profiling")
	again, err := harness.Run(ctx, plan)
	if again == nil || ctx.Err() != nil {
		return err
	}
	cand, err := hotspot.ReadFile(harness.ProfileFile(filepath.Join(plan.Artifacts, again.ID), profiledProcess))
	if err != nil {
		run.Notes = append(run.Notes, "the profiling run left no CPU profile: "+err.Error())
		return nil
	}
	base, err := hotspot.ReadFile(a.flags.store().Path(run.Env.Class, run.Plan.Profile) + cpuProfile)
	switch {
	case err == nil:
		run.Notes = append(run.Notes, hotspot.Words(base, cand))
	case errors.Is(err, os.ErrNotExist):
		run.Notes = append(run.Notes, cand.Largest()+" (accept a run made with --profiles to see growth)")
	default:
		return err
	}
	return nil
}

// cpuProfile is what the name of an accepted record's CPU profile ends with.
const cpuProfile = ".cpu.pb.gz"

// acceptProfile keeps the CPU profile of an accepted run beside it, where there
// is one.
func acceptProfile(dir, to string) error {
	if dir == "" {
		return nil
	}
	b, err := os.ReadFile(harness.ProfileFile(dir, profiledProcess))
	if errors.Is(err, os.ErrNotExist) {
		err = os.Remove(to + cpuProfile) // that of the record before
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	return record.WriteFile(to+cpuProfile, b)
}
