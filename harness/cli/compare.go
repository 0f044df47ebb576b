package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/report"
	"qmtl.internal/plumbline/harness/verdict"
)

const compareHelp = `Builds two trees and measures them side by side: both live at once, each on
backends of its own, and take turns in short slots in seeded order under one
generator; between rounds both are started anew in the other order. Shows for
every metric and endpoint the ratio candidate / base with its interval, and the
slowdown that would have been seen. When latency or CPU time is worse, both sides
are loaded once more under profiles, and a note names the functions whose share of
the CPU time grew.

--base and --candidate take a revision of the repository, or a folder with a
tree. A folder with a run.json, or such a file, as --base is a record: the
candidate is then measured as the record was, several times, and what these runs
differ by among themselves is what the record may differ by as well.

Exit codes: 0 not slower, 1 slower or undecided, 2 asked for something
impossible, 3 nothing may be concluded (a side does not build, Ctrl-C, …).`

// comparison holds the flags of compare.
type comparison struct {
	base, candidate string
	budget, slot    time.Duration
	full            bool
	again           string
}

func (a *app) compare() *cobra.Command {
	var q comparison
	cmd := &cobra.Command{
		Use: "compare --base REV|DIR|RECORD", Short: "measure two builds side by side and say which is slower", Long: compareHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.again != "" {
				return a.compareAgain(q.again)
			}
			return a.compareBuilds(cmd, q)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&q.base, "base", "", "what to compare with: revision, folder of a tree, or record")
	fs.StringVar(&q.candidate, "candidate", "", "revision, or folder of a tree (default: ROOT as it is now, committed or not)")
	fs.DurationVar(&q.budget, "budget", 5*time.Minute, "time to measure; a clear answer ends it earlier, builds come before it")
	fs.DurationVar(&q.slot, "slot", 0, "length of one turn (default 50ms)")
	fs.BoolVar(&q.full, "full", false, "spend the whole budget, however clear the answer is")
	fs.StringVar(&q.again, "again", "", "judge and show a comparison that was measured before: its folder or compare.json")
	fs.StringVar(&a.flags.formats, "format", "console", "how to show the answer, comma separated: console, json, markdown, html")
	a.flags.run(fs)
	fs.StringVar(&a.flags.profile, "profile", "turns", "load profile: name, or path of a file (default of a record: its own); its rate is offered in turns")
	fs.StringVar(&a.flags.rate, "rate", "", "requests per second, instead of the profile's")
	fs.StringVar(&a.flags.heapCap, "heap-cap", "", "heap cap of each gateway such as 128MiB, instead of the profile's; 0: none")
	fs.Lookup("provider").DefValue = backend.KindEmbedded
	fs.Lookup("fault").Usage = "deliberate harm to the candidate, to prove the comparison: delay=1ms, lose=1/1000, …"
	return cmd
}

func (a *app) compareBuilds(cmd *cobra.Command, q comparison) error {
	policy, shows, err := a.prepareCompare()
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("provider") {
		a.flags.provider = backend.KindEmbedded // other commands have another default
	}
	if !cmd.Flags().Changed("profile") {
		a.flags.profile = harness.CompareProfile(q.base)
	}
	plan, err := a.flags.plan()
	if err != nil {
		return err
	}
	plan.Limit, plan.Recovery, plan.Log = policy.Complexity.Limit, policy.Faults, a.logger()
	plan.Progress = newProgress(a.Err, a.Terminal).show
	enough := func(c *record.Comparison) bool { return verdict.Clear(policy, c) }
	if q.full {
		enough = nil
	}
	c, into, err := harness.Compare(cmd.Context(), harness.ComparePlan{
		Plan: plan, Root: a.flags.root, Base: q.base, Candidate: q.candidate, Budget: q.budget, Slot: q.slot, Enough: enough, Explain: slowed(policy),
	})
	if c == nil {
		return err
	}
	return errors.Join(a.concludeComparison(policy, shows, into, c), a.latestComparison(into))
}

// slowed tells whether timing is worse, which profiles of both sides may explain.
func slowed(p verdict.Policy) func(*record.Comparison) bool {
	return func(c *record.Comparison) bool { return verdict.Slowed(p, c) }
}

// prepareCompare reads policy and formats, before anything is started.
func (a *app) prepareCompare() (verdict.Policy, []report.ComparisonFormat, error) {
	policy, err := a.flags.readPolicy()
	if err != nil {
		return policy, nil, err
	}
	shows, err := report.ComparisonFormats(a.flags.formats)
	if err != nil {
		return policy, nil, usagef("--format: %w", err)
	}
	return policy, shows, nil
}

// latestComparison points <artifacts>/compare/latest at the newest.
func (a *app) latestComparison(into string) error {
	return record.Dir{Root: filepath.Dir(into), ID: filepath.Base(into)}.PointLatest()
}

// concludeComparison judges, writes every file into the folder and shows what
// was asked for.
func (a *app) concludeComparison(policy verdict.Policy, shows []report.ComparisonFormat, into string, c *record.Comparison) error {
	out := &record.Compared{Measured: *c, Judged: verdict.Compare(policy, c)}
	if err := keepComparison(into, out); err != nil {
		return err
	}
	in := report.ComparisonInput{Compared: out, Dir: shownComparison(into)}
	for _, show := range shows {
		if err := show.Write(a.Out, in); err != nil {
			return err
		}
	}
	if out.Judged.ExitCode == verdict.ExitPass {
		return nil
	}
	return &exit{code: out.Judged.ExitCode, err: errors.New(out.Judged.Verdict), quiet: true}
}

// keepComparison writes every report, compare.json last.
func keepComparison(into string, out *record.Compared) error {
	in := report.ComparisonInput{Compared: out, Dir: shownComparison(into)}
	for _, f := range report.ComparisonFiles() {
		var b bytes.Buffer
		if err := f.Write(&b, in); err != nil {
			return err
		}
		if err := record.WriteFile(filepath.Join(into, f.File), b.Bytes()); err != nil {
			return fmt.Errorf("%w; make room, or name another folder with --artifacts", err)
		}
	}
	return nil
}

// shownComparison names the folder by its last three parts, such as
// .artifacts/compare/<id>.
func shownComparison(into string) string {
	abs, err := filepath.Abs(into)
	if err != nil {
		return into
	}
	return filepath.Join(filepath.Base(filepath.Dir(filepath.Dir(abs))), filepath.Base(filepath.Dir(abs)), filepath.Base(abs))
}

// compareAgain judges what was measured before by the policy of today.
func (a *app) compareAgain(path string) error {
	policy, shows, err := a.prepareCompare()
	if err != nil {
		return err
	}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to // of latest, the comparison it points to
	}
	was, err := record.ReadCompared(path)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("--again: %w", err)
	}
	if err != nil {
		return err
	}
	if filepath.Base(path) == record.CompareFile {
		path = filepath.Dir(path)
	}
	return a.concludeComparison(policy, shows, path, &was.Measured)
}
