package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"qmtl.internal/plumbline/harness/backend"
)

// Labels of our containers.
const (
	labelRun    = "plumbline.run"    // run id
	labelServer = "plumbline.server" // kafka, redis, neo4j
	labelHost   = "plumbline.host"   // machine and process table of the owner
	labelOwner  = "plumbline.owner"  // pid and start of the harness
)

// ownLabels mark what this process starts for a run.
func ownLabels(runID string) map[string]string {
	pid := os.Getpid()
	return map[string]string{
		labelRun: runID, labelHost: hostMark(), labelOwner: fmt.Sprintf("%d-%s", pid, backend.ProcessStart(pid)),
	}
}

// hostMark tells process tables apart: a pid means nothing on another machine,
// nor in another container of this one.
func hostMark() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	table, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		table = "one" // systems without such tables have one
	}
	return name + " " + table
}

// sweep removes the containers of this machine whose owner is dead.
func (d *docker) sweep(ctx context.Context, log *slog.Logger) error {
	found, err := d.list(ctx, map[string]string{labelHost: hostMark(), labelOwner: ""})
	if err != nil {
		return fmt.Errorf("containers left by former runs: %w", err)
	}
	var errs []error
	for _, c := range found {
		if ownerLives(c.labels[labelOwner]) {
			continue
		}
		log.Info("removing a container that a killed run left", "server", c.server, "run", c.labels[labelRun])
		errs = append(errs, d.remove(ctx, c.ID))
	}
	return errors.Join(errs...)
}

// ownerLives reads pid-start. What cannot be read counts as living: we remove
// only what is surely ours and surely orphaned.
func ownerLives(owner string) bool {
	text, start, _ := strings.Cut(owner, "-")
	pid, err := strconv.Atoi(text)
	return err != nil || pid <= 0 || backend.ProcessStart(pid) == start
}
