// Command plumbline measures a control plane and says whether it is still
// right, still simple and still fast.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"qmtl.internal/plumbline/harness/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	self, _ := os.Executable()   // "" only means that --bin-dir has no default
	code := cli.Main(ctx, cli.IO{
		Args: os.Args[1:], Getenv: os.Getenv, Out: os.Stdout, Err: os.Stderr,
		Executable: self, Terminal: terminal(os.Stderr),
	})
	stop()
	os.Exit(code)
}

// terminal tells whether f is one.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
