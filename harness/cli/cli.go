// Package cli is the plumbline command as an ordinary, callable function: it
// reads flags and environment, calls the harness, judges and renders, and says
// the exit code. It touches the outside world only through IO.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/baseline"
	"qmtl.internal/plumbline/harness/duet"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

// IO is what the command gets of the outside world, beside the files that its
// flags name.
type IO struct {
	Args       []string
	Getenv     func(string) string
	Out, Err   io.Writer
	Executable string // path of the running program; "" when unknown
	Terminal   bool   // Err is one
}

// exit is an error that says its exit code. Quiet ones were shown already.
type exit struct {
	code  int
	err   error
	quiet bool
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

// usagef is an error of the person who typed: exit code 2.
func usagef(format string, args ...any) error {
	return &exit{code: verdict.ExitUsage, err: fmt.Errorf(format, args...)}
}

// judged ends the command with the exit code of a verdict that was shown.
func judged(j verdict.Judged) error {
	if j.ExitCode == verdict.ExitPass {
		return nil
	}
	return &exit{code: j.ExitCode, err: errors.New(j.Verdict.String()), quiet: true}
}

// Main runs the command and returns its exit code.
func Main(ctx context.Context, w IO) int {
	a := &app{IO: w}
	root := a.root()
	root.SetArgs(w.Args)
	err := root.ExecuteContext(ctx)
	code, show := a.code(err)
	if show {
		fmt.Fprintf(w.Err, "plumbline: %s\n", strings.TrimSpace(err.Error()))
	}
	return code
}

// app is one call of the command.
type app struct {
	IO
	began bool // a command was found and its flags were good
	flags flags
}

// code gives the exit code of an error, and whether it must be shown.
func (a *app) code(err error) (code int, show bool) {
	var e *exit
	switch {
	case err == nil:
		return verdict.ExitPass, false
	case errors.As(err, &e):
		return e.code, !e.quiet
	case !a.began, isUsage(err):
		return verdict.ExitUsage, true
	default:
		return verdict.ExitBroken, true
	}
}

// isUsage tells what the person can mend by asking for something else.
func isUsage(err error) bool {
	for _, target := range []error{harness.ErrUsage, duet.ErrUsage, sut.ErrUsage, backend.ErrUsage, baseline.ErrRefused} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "plumbline",
		Short:         "Is this control plane still right, still simple and still fast?",
		Long:          longHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.environment(cmd.Flags()); err != nil {
			return err
		}
		a.began = true
		a.flags.locate(a.Executable)
		return nil
	}
	a.flags.places(root.PersistentFlags())
	root.AddCommand(a.bench(), a.contract(), a.load(), a.ceiling(), a.heapCap(), a.floor(), a.judge(), a.report(), a.accept(), a.complexity(), a.compare(), a.up(), a.down(), a.with(), a.doctor(), a.version())
	return root
}

const longHelp = `plumbline holds a control plane to its contract under load and compares it with
what was accepted before. Verdicts: pass, fail, inconclusive, invalid,
no-baseline, unjudged.

Exit codes: 0 pass, 1 judged and out of bounds, 2 asked for something
impossible, 3 the measurement broke and nothing may be concluded.

Every flag also reads the environment: --provider is PLUMBLINE_PROVIDER. A flag
that is given wins.`

// environment sets every flag that was not given from PLUMBLINE_<FLAG>.
func (a *app) environment(fs *pflag.FlagSet) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "PLUMBLINE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		text := a.Getenv(name)
		if f.Changed || text == "" || f.Name == "help" {
			return
		}
		for _, v := range values(f, text) {
			if err := fs.Set(f.Name, v); err != nil {
				errs = append(errs, usagef("%s=%q: %w", name, text, err))
			}
		}
	})
	return errors.Join(errs...)
}

// values splits the text of a flag that may be given several times.
func values(f *pflag.Flag, text string) []string {
	if f.Value.Type() == "stringArray" {
		return strings.Split(text, ",")
	}
	return []string{text}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "say which build this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, buildVersion())
			return err
		},
	}
}

// readable opens a file that a person named; that it is missing is their mistake.
func readable(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	return f, nil
}
