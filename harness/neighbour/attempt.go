package neighbour

import (
	"context"
	"time"
)

// An Attempt is what became of a process that was started with a configuration
// file and nothing else.
type Attempt struct {
	ExitCode *int   // -1 for the end by a signal; nil: it still ran when its time was over, and was stopped
	Text     string // what it wrote to both its outputs, of much the end
}

// Starts are the processes of a SUT, gateway and dagmanager, that can be started
// so. Each call starts one more, beside all others, and returns when it is gone:
// by itself, or stopped after within. The error is for what could not be done,
// never for how the process ended.
type Starts map[string]func(ctx context.Context, config string, within time.Duration) (Attempt, error)
