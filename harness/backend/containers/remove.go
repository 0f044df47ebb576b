package containers

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// RemoveRun removes the containers of this machine that bear a run's id, whoever
// owns them, and tells how many there were. It is for the end of a run whose
// owner is gone; a run without an id is refused.
func (p Provider) RemoveRun(ctx context.Context, runID string) (int, error) {
	if runID == "" {
		return 0, usagef("containers of a run without an id: any could be meant")
	}
	d, err := connect(ctx, p.getenv())
	if err != nil {
		return 0, err
	}
	defer d.Close()
	found, err := d.list(ctx, map[string]string{labelRun: runID, labelHost: hostMark()})
	if err != nil {
		return 0, fmt.Errorf("containers of run %s: %w", runID, err)
	}
	var g errgroup.Group
	for _, c := range found {
		g.Go(func() error { return d.remove(ctx, c.ID) })
	}
	return len(found), g.Wait()
}
