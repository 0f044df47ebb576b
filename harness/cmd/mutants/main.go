// Command mutants blinds the gate in every way its authors could think of and
// says how each attempt was caught. Its exit code is 0 when all were, 1 when one
// was not, 3 when the unharmed gate is not green and nothing can be concluded.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"qmtl.internal/plumbline/harness/mutant"
)

const (
	exitMissed = 1
	exitUsage  = 2
	exitBroken = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx)
	stop()
	os.Exit(code)
}

func run(ctx context.Context) int {
	root := flag.String("root", ".", "folder of the plumbline tree")
	bin := flag.String("bin-dir", "bin", "folder of plumbline, gateway, dagmanager and k6")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "mutants: unknown argument %q\n", flag.Arg(0))
		return exitUsage
	}
	score, err := hold(ctx, *root, *bin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
	}
	fmt.Println(score)
	switch {
	case err != nil:
		return exitBroken
	case !score.Whole():
		return exitMissed
	default:
		return 0
	}
}

func hold(ctx context.Context, root, bin string) (mutant.Score, error) {
	work, err := os.MkdirTemp("", "plumbline-mutants-")
	if err != nil {
		return mutant.Score{}, err
	}
	defer os.RemoveAll(work)
	if root, err = filepath.Abs(root); err != nil {
		return mutant.Score{}, err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return mutant.Score{}, err
	}
	return mutant.Run(ctx, mutant.Place{Root: root, Bin: bin, Work: work}, os.Stdout)
}
