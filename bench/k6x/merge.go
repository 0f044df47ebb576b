package k6x

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.k6.io/k6/cmd/state"

	"qmtl.internal/plumbline/bench/load"
)

// mergeCommand is "k6 x plumbline-merge": it makes one result of those of
// instances that shared a schedule by execution segments.
const mergeCommand = "plumbline-merge"

func newMergeCommand(*state.GlobalState) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   mergeCommand + " --out DIR INSTANCE-DIR...",
		Short: "Merge the results of instances that shared a schedule",
		Long: "Merge the results (PLUMBLINE_OUT) of instances that offered one schedule by execution segments\n" +
			"into DIR, exactly: as if one instance had offered all of it.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, dirs []string) error {
			ev, err := mergeInto(out, dirs)
			if err == nil {
				c.Printf("merged %d instances into %s: %d offered in the window\n", len(dirs), out, ev.Result.Ledger.Offered)
			}
			return err
		},
	}
	c.Flags().StringVar(&out, "out", "", "directory for the merged load.json, outcomes.jsonl and latency.hlog")
	return c
}

func mergeInto(out string, dirs []string) (*load.Evidence, error) {
	if out == "" {
		return nil, errors.New("--out: say where the merged result goes")
	}
	for _, dir := range dirs {
		if same(dir, out) {
			return nil, fmt.Errorf("--out: %s is one of the instances; nothing of theirs is overwritten", out)
		}
	}
	ev, err := load.MergeDirs(dirs...)
	if err != nil {
		return nil, err
	}
	d, err := load.CreateDir(out)
	if err != nil {
		return nil, err
	}
	if err = load.Outcomes(d.Observe, dirs...); err != nil {
		ev = nil // no result beside outcomes that are not whole
	}
	return ev, errors.Join(err, d.Close(ev))
}

// same says whether both paths lead to one existing directory.
func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
