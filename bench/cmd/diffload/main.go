// Command diffload measures the diffs of a DAG Manager over gRPC: of known DAGs
// of several sizes one by one, of as many topics as may exist, and by an open
// model. It prints what it measured and says by its exit code whether the limits
// held: 0 yes, 1 no, 2 usage, 3 nothing could be measured.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes.
const (
	exitOK     = 0
	exitOver   = 1
	exitUsage  = 2
	exitBroken = 3
)

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	c, err := parse(args, errs)
	if err != nil {
		fmt.Fprintf(errs, "diffload: %v\n", err)
		return exitUsage
	}
	if c == nil { // help was asked for
		return exitOK
	}
	over, err := c.measure(ctx, out, errs)
	if err != nil {
		fmt.Fprintf(errs, "diffload: %v\n", err)
		return exitBroken
	}
	for _, o := range over {
		fmt.Fprintf(errs, "diffload: over the limit: %s\n", o)
	}
	if len(over) > 0 {
		return exitOver
	}
	return exitOK
}
