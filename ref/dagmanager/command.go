package dagmanager

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/internal/service"
)

// commands are what the program does instead of serving, when its first
// argument says so.
var commands = map[string]func(context.Context, *nodestore.Neo4j) (string, error){
	"neo4j-init": func(ctx context.Context, g *nodestore.Neo4j) (string, error) {
		made, err := g.Init(ctx)
		return said(made, "made", "the schema is there"), err
	},
	"neo4j-rollback": func(ctx context.Context, g *nodestore.Neo4j) (string, error) {
		dropped, err := g.Rollback(ctx)
		return said(dropped, "dropped", "there is no schema"), err
	},
}

func said(names []string, done, nothing string) string {
	if len(names) == 0 {
		return nothing + ", nothing to do"
	}
	return done + " " + strings.Join(names, ", ")
}

// Main runs the program as this process and returns its exit code.
func Main() int {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		return service.Main(Spec())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Command(ctx, service.IO{Args: os.Args[1:], Getenv: os.Getenv, Out: os.Stdout, Err: os.Stderr})
}

// Command runs the command that the first argument names, neo4j-init or
// neo4j-rollback, and returns the exit code of a service. What it did is one
// line on w.Out, what went wrong one line on w.Err.
func Command(ctx context.Context, w service.IO) int {
	name := strings.Join(w.Args[:min(1, len(w.Args))], "")
	run := commands[name]
	if run == nil {
		fmt.Fprintf(w.Err, "dagmanager: no command %q; there are neo4j-init and neo4j-rollback\n", name)
		return service.ExitUsage
	}
	o, err := commandOptions(w, name)
	if errors.Is(err, flag.ErrHelp) {
		return service.ExitOK
	}
	if err != nil {
		fmt.Fprintf(w.Err, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return service.ExitUsage
	}
	line, err := onGraph(ctx, o, run)
	if err != nil {
		fmt.Fprintf(w.Err, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return service.ExitFail
	}
	fmt.Fprintf(w.Out, "%s: %s\n", name, line)
	return service.ExitOK
}

// commandOptions reads flags, and the environment variables that the service
// reads for the same ones.
func commandOptions(w service.IO, name string) (nodestore.Neo4jOptions, error) {
	var o nodestore.Neo4jOptions
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	neo4jFlags(fs, &o)
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		if v := w.Getenv(service.EnvName("dagmanager", f.Name)); v != "" {
			if err := fs.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", service.EnvName("dagmanager", f.Name), v, err))
			}
		}
	})
	err := fs.Parse(w.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(w.Out)
		fs.PrintDefaults()
		return o, err
	}
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q; options are written --name value", fs.Arg(0)))
	}
	if wrong := nodestore.CheckNeo4jURL(o.URL); wrong != nil {
		errs = append(errs, fmt.Errorf("--neo4j: %w", wrong))
	}
	return o, errors.Join(append(errs, err)...)
}

func onGraph(ctx context.Context, o nodestore.Neo4jOptions, run func(context.Context, *nodestore.Neo4j) (string, error)) (line string, err error) {
	g, err := nodestore.OpenNeo4j(o)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, g.Close(context.WithoutCancel(ctx))) }()
	return run(ctx, g)
}
