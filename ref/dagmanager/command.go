package dagmanager

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
)

// command is something that the program does instead of serving.
type command struct {
	name  string // one word or two
	args  string // besides flags, as help shows them
	does  string
	flags func(*invocation, *service.FlagSet)
	run   func(context.Context, *invocation) error
}

// invocation is one use of a command: its flags, arguments and streams.
type invocation struct {
	service.IO
	args []string

	neo4j    nodestore.Neo4jOptions
	kafka    topics.AdminSession
	replicas int
	target   string
	format   string
	dryRun   bool
	kind     string
	strategy string
	context  struct{ world, domain, asOf, partition string }
	schema   bool
	limit    time.Duration
}

// allCommands are the commands in the order of help.
func allCommands() []command {
	return []command{
		{"diff", "FILE", "diff the DAG in FILE (- is stdin) at --target; with --dry-run without making anything", diffFlags, runDiff},
		{"topics list", "", "list the topics of Kafka", topicFlags, runTopicsList},
		{"topics stats", "[TOPIC ...]", "tell how many records topics hold, and ever held", topicFlags, runTopicsStats},
		{"topics ensure", "TOPIC ...", "make topics as a diff would, where they are missing", ensureFlags, runTopicsEnsure},
		{"gc", "", "collect orphans at --target and print the report; with --dry-run say what would be done", gcFlags, runGC},
		{"export", "", "print the graph in Neo4j as a file for --memory-repo; with --schema the statements that make its schema", exportFlags, runExport},
		{"neo4j-init", "", "make what is missing of the schema of Neo4j", graphFlags, onGraph(initGraph)},
		{"neo4j-rollback", "", "drop the schema of Neo4j; nodes stay", graphFlags, onGraph(rollBackGraph)},
	}
}

// findCommand gives the command that the arguments begin with, and the arguments
// that are left.
func findCommand(args []string) (found *command, rest []string) {
	all := allCommands()
	for words := min(2, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		if at := slices.IndexFunc(all, func(c command) bool { return c.name == name }); at >= 0 {
			return &all[at], args[words:]
		}
	}
	return nil, args
}

// Main runs the program as this process and returns its exit code.
func Main() int {
	args := os.Args[1:]
	switch {
	case len(args) == 0 || strings.HasPrefix(args[0], "-") || args[0] == "config":
		return service.Main(Spec())
	case args[0] == "serve":
		os.Args = append(os.Args[:1:1], args[1:]...)
		return service.Main(Spec())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Command(ctx, service.IO{Args: args, Getenv: os.Getenv, Out: os.Stdout, Err: os.Stderr})
}

// Command runs the command that the first arguments name and returns the exit
// code of a service. What it has to say is on w.Out, what went wrong one line on
// w.Err.
func Command(ctx context.Context, w service.IO) int {
	c, rest := findCommand(w.Args)
	if c == nil {
		fmt.Fprintf(w.Err, "dagmanager: no command %q; there are serve, config check, %s\n",
			strings.Join(w.Args[:min(1, len(w.Args))], ""), strings.Join(commandNames(), ", "))
		return service.ExitUsage
	}
	in := &invocation{IO: w}
	err := in.parse(c, rest)
	if errors.Is(err, flag.ErrHelp) {
		return service.ExitOK
	}
	code := service.ExitUsage
	if err == nil {
		code = service.ExitFail
		limited, cancel := context.WithTimeout(ctx, in.limit)
		defer cancel()
		err = c.run(limited, in)
	}
	if err != nil {
		fmt.Fprintf(w.Err, "%s: %s\n", c.name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return code
	}
	return service.ExitOK
}

func commandNames() []string {
	var names []string
	for _, c := range allCommands() {
		names = append(names, c.name)
	}
	return names
}

// commandsHelp is what --help of the service says of commands.
func commandsHelp() string {
	var out strings.Builder
	out.WriteString("Commands: serve (as without one), config check, and\n")
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, c := range allCommands() {
		fmt.Fprintf(t, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	if err := t.Flush(); err != nil {
		return err.Error() // a strings.Builder takes everything
	}
	return out.String()
}

// parse reads flags, which may stand between arguments, and the environment
// variables that the service reads for the same ones.
func (in *invocation) parse(c *command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.DurationVar(&in.limit, "limit", time.Minute, "how `long` the command may take")
	c.flags(in, fs)
	errs := in.environment(fs)
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(in.Out, "dagmanager %s: %s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
			fs.SetOutput(in.Out)
			fs.PrintDefaults()
			return err
		}
		if errs = append(errs, err); err != nil || fs.NArg() == 0 {
			break
		}
		in.args, args = append(in.args, fs.Arg(0)), fs.Args()[1:]
	}
	if c.args == "" && len(in.args) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q; options are written --name value", in.args[0]))
	}
	if strings.TrimLeft(c.args, "[") == c.args && c.args != "" && len(in.args) == 0 {
		errs = append(errs, fmt.Errorf("%s is missing", c.args))
	}
	return errors.Join(append(errs, in.check(fs)...)...)
}

func (in *invocation) environment(fs *flag.FlagSet) (errs []error) {
	fs.VisitAll(func(f *flag.Flag) {
		name := service.EnvName("dagmanager", f.Name)
		if v := in.Getenv(name); v != "" {
			if err := fs.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, v, err))
			}
		}
	})
	return errs
}

// check looks at the flags that the command has.
func (in *invocation) check(fs *flag.FlagSet) (errs []error) {
	for flag, check := range map[string]func() []error{
		"format": func() []error {
			if in.format == "table" || in.format == "json" {
				return nil
			}
			return []error{service.Wrong("format", "%q: want table or json", in.format)}
		},
		"kafka":  func() []error { return in.kafka.Check("kafka") },
		"neo4j":  func() []error { return in.checkGraph(fs.Lookup("kafka") != nil) },
		"target": func() []error { return []error{service.CheckAddr("target", in.target)} },
	} {
		if fs.Lookup(flag) != nil {
			errs = append(errs, check()...)
		}
	}
	return errs
}

func (in *invocation) checkGraph(optional bool) []error {
	if in.neo4j.URL == "" && optional {
		return nil
	}
	if err := nodestore.CheckNeo4jURL(in.neo4j.URL); err != nil {
		return []error{fmt.Errorf("--neo4j: %w", err)}
	}
	return nil
}

func formatFlag(in *invocation, fs *service.FlagSet) {
	fs.StringVar(&in.format, "format", "table", "table, or `json`")
}

// table prints rows under a head.
func table(out io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func graphFlags(in *invocation, fs *service.FlagSet) { neo4jFlags(fs, &in.neo4j) }

// onGraph runs what says one line about the graph database.
func onGraph(do func(context.Context, *nodestore.Neo4j) (string, error)) func(context.Context, *invocation) error {
	return func(ctx context.Context, in *invocation) error {
		return in.withGraph(ctx, func(g *nodestore.Neo4j) error {
			line, err := do(ctx, g)
			if err == nil {
				name := strings.Join(in.Args[:1], "")
				_, err = fmt.Fprintf(in.Out, "%s: %s\n", name, line)
			}
			return err
		})
	}
}

func (in *invocation) withGraph(ctx context.Context, do func(*nodestore.Neo4j) error) (err error) {
	g, err := nodestore.OpenNeo4j(in.neo4j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close(context.WithoutCancel(ctx))) }()
	return do(g)
}

func initGraph(ctx context.Context, g *nodestore.Neo4j) (string, error) {
	made, err := g.Init(ctx)
	return said(made, "made", "the schema is there"), err
}

func rollBackGraph(ctx context.Context, g *nodestore.Neo4j) (string, error) {
	dropped, err := g.Rollback(ctx)
	return said(dropped, "dropped", "there is no schema"), err
}

func said(names []string, done, nothing string) string {
	if len(names) == 0 {
		return nothing + ", nothing to do"
	}
	return done + " " + strings.Join(names, ", ")
}

func exportFlags(in *invocation, fs *service.FlagSet) {
	graphFlags(in, fs)
	fs.BoolVar(&in.schema, "schema", false, "print the statements that make the constraint and the indexes that are there, one a line")
}

func runExport(ctx context.Context, in *invocation) error {
	return in.withGraph(ctx, func(g *nodestore.Neo4j) error {
		if !in.schema {
			return g.Export(ctx, in.Out)
		}
		statements, err := g.Schema(ctx)
		for _, s := range statements {
			fmt.Fprintln(in.Out, s)
		}
		return err
	})
}
