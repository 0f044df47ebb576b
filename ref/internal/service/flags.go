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
// underscores, and the key <flag>, dashes as underscores, in the service's
// section of the configuration file. The flag wins over the environment, the
// environment over the file.
type FlagSet = flag.FlagSet

var errHelp = errors.New("help was asked for")

// common are the flags that every service has.
type common struct {
	admin  string
	config string
	prod   bool
	tls    tlsFiles
	level  slog.Level
	drain  time.Duration
}

func (c *common) flags(fs *flag.FlagSet) {
	fs.StringVar(&c.admin, "admin-listen", "127.0.0.1:0", "`HOST:PORT` of /metrics and /debug/pprof; port 0 chooses one")
	fs.StringVar(&c.config, configFlag, "", "configuration `FILE` in YAML; empty: "+strings.Join(usualFiles, " or ")+" in the working directory, if there is one")
	fs.Var((*profile)(&c.prod), profileFlag, "dev, or `prod`: what may be left out elsewhere must be given")
	c.tls.serverFlags(fs)
	fs.TextVar(&c.level, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn, error")
	fs.DurationVar(&c.drain, "drain", drainDefault, "how `long` work in flight may take once a stop began")
}

const profileFlag = "profile"

// profile is whether a service runs in production.
type profile bool

func (p *profile) Set(text string) error {
	if text != "dev" && text != "prod" {
		return errors.New("want dev or prod")
	}
	*p = text == "prod"
	return nil
}

func (p *profile) String() string {
	if p != nil && bool(*p) {
		return "prod"
	}
	return "dev"
}

// settings are all flags of a service with their values, and where each value
// that is not the default comes from.
type settings struct {
	*common
	spec Spec
	fs   *flag.FlagSet
	from map[string]string // flag → file:line:column, environment variable or "flag"
	args []string
}

// parse reads file, environment and arguments, in this order, so that what
// counts more comes later. The error joins every mistake.
func parse(w IO, spec Spec) (*settings, error) {
	s := &settings{spec: spec, common: &common{}, from: map[string]string{}, args: w.Args}
	scout := s.flagSet() // only to learn the file's name, which any of the arguments may hold
	if _, help := parseArgs(scout, w.Args); help {
		usage(w.Out, scout, spec)
		return nil, errHelp
	}
	file := s.config
	if file == "" {
		file = w.Getenv(EnvName(spec.Name, configFlag))
	}
	s.fs = s.flagSet() // binding again puts the defaults back
	errs := s.readFile(w, file)
	errs = append(errs, s.readEnv(w.Getenv)...)
	errs = append(errs, s.readArgs()...)
	errs = append(errs, s.check()...)
	return s, errors.Join(errs...)
}

func (s *settings) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet(s.spec.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	*s.common = common{}
	s.common.flags(fs)
	if s.spec.Flags != nil {
		s.spec.Flags(fs)
	}
	return fs
}

func (s *settings) readArgs() []error {
	errs, _ := parseArgs(s.fs, s.args)
	seen := flag.NewFlagSet(s.spec.Name, flag.ContinueOnError)
	seen.SetOutput(io.Discard)
	s.fs.VisitAll(func(f *flag.Flag) { seen.Var(&noted{f.Value, func() { s.from[f.Name] = "flag" }}, f.Name, "") })
	parseArgs(seen, s.args)
	return errs
}

// noted tells that a flag is among the arguments.
type noted struct {
	flag.Value
	note func()
}

func (n *noted) Set(string) error { n.note(); return nil }

// IsBoolFlag lets a flag without a value be one here too.
func (n *noted) IsBoolFlag() bool {
	b, ok := n.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
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

func (s *settings) readEnv(getenv func(string) string) (errs []error) {
	read := func(name, to string) {
		v := getenv(name)
		if v == "" {
			return
		}
		if err := s.fs.Set(to, v); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, mask(v), err))
		}
		s.from[to] = "environment variable " + name
	}
	for name, to := range s.spec.Env {
		read(name, to)
	}
	s.fs.VisitAll(func(f *flag.Flag) { read(EnvName(s.spec.Name, f.Name), f.Name) })
	return errs
}

// check asks for the sense of what could be read, and says of each mistake
// where the value stands.
func (s *settings) check() (errs []error) {
	errs = append(errs, CheckAddr("admin-listen", s.admin), s.tls.check())
	if s.drain <= 0 {
		errs = append(errs, Wrong("drain", "%s: must be longer than nothing", s.drain))
	}
	if s.spec.Check != nil {
		errs = append(errs, s.spec.Check()...)
	}
	errs = append(errs, s.production()...)
	for i, err := range errs {
		var m *Mistake
		if errors.As(err, &m) && s.from[m.Flag] != "" && s.from[m.Flag] != "flag" {
			errs[i] = fmt.Errorf("%s: %w", s.from[m.Flag], err)
		}
	}
	return errs
}

// production names what the profile prod wants and nobody gave.
func (s *settings) production() (errs []error) {
	if !s.prod {
		return nil
	}
	for _, name := range s.spec.Production {
		if f := s.fs.Lookup(name); f == nil || f.Value.String() == "" {
			errs = append(errs, Wrong(name, "is empty; the profile prod wants it"))
		}
	}
	return errs
}

// Mistake is a value that could be read and makes no sense. A service's Check
// gives it, so that the message can name the line of the configuration file or
// the environment variable that holds the value.
type Mistake struct {
	Flag string // without dashes
	Text string
}

func (m *Mistake) Error() string { return "--" + m.Flag + " " + m.Text }

// Wrong makes a Mistake.
func Wrong(flag, format string, a ...any) error {
	return &Mistake{Flag: flag, Text: fmt.Sprintf(format, a...)}
}

// CheckAddr says what is wrong with the value of a flag that wants HOST:PORT,
// or nil.
func CheckAddr(flag, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return Wrong(flag, "%q: want HOST:PORT", addr)
	}
	return nil
}

func usage(out io.Writer, fs *flag.FlagSet, spec Spec) {
	fmt.Fprintf(out, `%[1]s: each flag also reads %[2]s… (upper case, dashes as underscores), and a
key of the configuration file's section %[1]q (dashes as underscores). The flag wins
over the environment, the environment over the file.
"%[1]s config check [--config FILE]" prints what would be in force, secrets masked.
%[3]s`, spec.Name, EnvName(spec.Name, ""), spec.About)
	fs.SetOutput(out)
	fs.PrintDefaults()
}

// oneLine keeps joined errors on one line: who starts a service reads its last line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
