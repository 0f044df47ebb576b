package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func (a *app) complexity() *cobra.Command {
	var base, candidate string
	var limit int
	cmd := &cobra.Command{
		Use: "complexity", Short: "compare two complexity snapshots (radon's JSON) function by function", Args: cobra.NoArgs,
		Long: `Compares two snapshots in the JSON of "radon cc -j", Python's or plumbline's own
(.artifacts/radon_control_plane.json), function by function; a function that was
moved or renamed is known again. A folder is measured as a tree of Go files.
Exit code 1: a function got more complex and is above the limit, or a new one is.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if base == "" || candidate == "" {
				return usagef("complexity needs --base and --candidate")
			}
			was, err := snapshot(cmd, base)
			if err != nil {
				return err
			}
			is, err := snapshot(cmd, candidate)
			if err != nil {
				return err
			}
			return a.compareSnapshots(was, is, limit)
		},
	}
	cmd.AddCommand(a.explain())
	cmd.Flags().StringVar(&base, "base", "", "snapshot before: file, or folder of Go files")
	cmd.Flags().StringVar(&candidate, "candidate", "", "snapshot after: file, or folder of Go files")
	cmd.Flags().IntVar(&limit, "limit", complexity.Limit, "largest complexity that a new or changed function may have")
	return cmd
}

func snapshot(cmd *cobra.Command, path string) ([]record.Func, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	var funcs []record.Func
	if info.IsDir() {
		funcs, err = complexity.Go(cmd.Context(), os.DirFS(path))
	} else {
		funcs, err = readRadon(path)
	}
	if err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	if len(funcs) == 0 {
		return nil, &exit{code: verdict.ExitBroken, err: fmt.Errorf("%s holds no function, so nothing can be compared", path)}
	}
	return funcs, nil
}

func readRadon(path string) ([]record.Func, error) {
	f, err := readable(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return complexity.Radon(bufio.NewReader(f))
}

// compareSnapshots prints every change and ends with 1 when one may not be.
func (a *app) compareSnapshots(was, is []record.Func, limit int) error {
	changes := complexity.Compare(was, is)
	var out bytes.Buffer
	bad := 0
	for _, c := range changes {
		if c.Status == complexity.Same {
			continue
		}
		mark := " "
		if tooComplex(c, limit) {
			mark = "!"
			bad++
		}
		fmt.Fprintf(&out, "%s %s\n", mark, c)
	}
	counts := complexity.Count(changes)
	fmt.Fprintf(&out, "%d worse, %d better, %d new, %d removed, %d moved, %d renamed, %d the same; limit %d\n",
		counts[complexity.Worse], counts[complexity.Better], counts[complexity.New], counts[complexity.Removed],
		counts[complexity.Moved], counts[complexity.Renamed], counts[complexity.Same], limit)
	writeTotals(&out, "base", was, limit)
	writeTotals(&out, "candidate", is, limit)
	if _, err := a.Out.Write(out.Bytes()); err != nil {
		return err
	}
	if bad > 0 {
		return &exit{code: verdict.ExitFail, err: errors.New("too complex"), quiet: true}
	}
	return nil
}

// tooComplex tells whether a change is to blame: what was above the limit
// before and did not get worse is not.
func tooComplex(c complexity.Change, limit int) bool {
	return (c.Status == complexity.New || c.Status == complexity.Worse) && c.Candidate.CC > limit
}

func writeTotals(out *bytes.Buffer, side string, funcs []record.Func, limit int) {
	t := complexity.Total(funcs)
	fmt.Fprintf(out, "%-9s  %d functions, average %.2f, largest %d, %d above %d\n",
		side, t.Functions, t.Average, t.Max, len(complexity.Over(funcs, limit)), limit)
}
