package service

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"
)

// FlagSet is the standard one; every flag of a service also reads the
// environment variable PLUMBLINE_<SERVICE>_<FLAG>, upper case, dashes as
// underscores. The flag wins.
type FlagSet = flag.FlagSet

var errHelp = errors.New("help was asked for")

// common are the flags that every service has.
type common struct {
	admin string
	level slog.Level
	drain time.Duration
}

// parse reads flags and environment. The error joins every mistake.
func parse(w IO, spec Spec) (*common, error) {
	fs := flag.NewFlagSet(spec.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c := &common{}
	fs.StringVar(&c.admin, "admin-listen", "127.0.0.1:0", "`HOST:PORT` of /metrics and /debug/pprof; port 0 chooses one")
	fs.TextVar(&c.level, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn, error")
	fs.DurationVar(&c.drain, "drain", drainDefault, "how `long` work in flight may take once a stop began")
	if spec.Flags != nil {
		spec.Flags(fs)
	}
	errs, help := parseArgs(fs, w.Args)
	if help {
		usage(w.Out, fs, spec.Name)
		return nil, errHelp
	}
	errs = append(errs, parseEnv(fs, spec.Name, w.Getenv)...)
	errs = append(errs, checkAll(c, spec)...)
	return c, errors.Join(errs...)
}

// parseArgs goes on after a mistake so that all of them are found.
func parseArgs(fs *flag.FlagSet, args []string) (errs []error, help bool) {
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return errs, true
		}
		if err == nil {
			break
		}
		errs = append(errs, err)
		args = fs.Args()
		if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			args = args[1:] // the value of the flag that is wrong
		}
	}
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q; options are written --name value", fs.Arg(0)))
	}
	return errs, false
}

// EnvName is the environment variable that a flag of a service also reads.
func EnvName(service, flag string) string {
	return "PLUMBLINE_" + strings.ToUpper(strings.ReplaceAll(service+"_"+flag, "-", "_"))
}

func parseEnv(fs *flag.FlagSet, service string, getenv func(string) string) (errs []error) {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	fs.VisitAll(func(f *flag.Flag) {
		name := EnvName(service, f.Name)
		v := getenv(name)
		if v == "" || given[f.Name] {
			return
		}
		if err := fs.Set(f.Name, v); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, v, err))
		}
	})
	return errs
}

func checkAll(c *common, spec Spec) (errs []error) {
	errs = append(errs, CheckAddr("admin-listen", c.admin))
	if c.drain <= 0 {
		errs = append(errs, fmt.Errorf("--drain %s: must be longer than nothing", c.drain))
	}
	if spec.Check != nil {
		errs = append(errs, spec.Check()...)
	}
	return errs
}

// CheckAddr says what is wrong with the value of a flag that wants HOST:PORT,
// or nil.
func CheckAddr(flag, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("--%s %q: want HOST:PORT", flag, addr)
	}
	return nil
}

func usage(out io.Writer, fs *flag.FlagSet, name string) {
	fmt.Fprintf(out, "%s: each flag also reads %s… (upper case, dashes as underscores); the flag wins.\n", name, EnvName(name, ""))
	fs.SetOutput(out)
	fs.PrintDefaults()
}

// oneLine keeps joined errors on one line: who starts a service reads its last line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
