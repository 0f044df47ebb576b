// Command crowd holds a gateway against many clients at once: connections that
// say nothing, or half of a request, and as many that each submit at the same
// moment. It prints what was answered and, with --admin, what the gateway's
// memory was. Exit codes: 0 every submission was acknowledged, 1 one was not,
// 2 usage, 3 nothing could be measured.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"qmtl.internal/plumbline/bench/crowd"
	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
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

// config is what the command line asks for.
type config struct {
	target, admin, ca, out string
	clients, idle          int
	words                  string
	limit                  time.Duration
	seed                   uint64
	dial                   crowd.Dial
}

func parse(args []string, errs io.Writer) (*config, error) {
	c := &config{}
	fs := flag.NewFlagSet("crowd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.target, "target", "", "base `URL` of the gateway, such as http://127.0.0.1:8000 (required)")
	fs.StringVar(&c.ca, "ca", "", "`FILE` with the authorities of its certificate, in PEM, for https")
	fs.StringVar(&c.admin, "admin", "", "`HOST:PORT` of its admin interface; without it memory is not read")
	fs.IntVar(&c.clients, "clients", 5000, "`connections` that each submit at the same moment")
	fs.IntVar(&c.idle, "idle", 0, "`connections` beside them that are only there")
	fs.StringVar(&c.words, "say", "", "`text` that the idle ones send, such as 'POST /strategies HTTP/1.1' (a head that never ends)")
	fs.DurationVar(&c.limit, "limit", time.Minute, "how `long` an answer may take")
	fs.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixMicro()), "`seed` of the submissions; the same again are duplicates")
	fs.StringVar(&c.out, "out", "", "`folder` for outcomes.jsonl; empty: none")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(errs)
		fmt.Fprint(errs, "usage: crowd --target URL [flags]\n\n")
		fs.PrintDefaults()
		return nil, nil
	}
	if err == nil {
		err = c.check(fs.Args())
	}
	return c, err
}

func (c *config) check(rest []string) error {
	var all []error
	if len(rest) > 0 {
		all = append(all, fmt.Errorf("unexpected argument %q; options are written --name value", rest[0]))
	}
	if c.clients < 0 || c.idle < 0 || c.clients+c.idle == 0 {
		all = append(all, fmt.Errorf("--clients %d, --idle %d: want one connection or more", c.clients, c.idle))
	}
	secured, err := authorities(c.ca)
	all = append(all, err)
	c.dial, err = crowd.To(c.target, secured)
	return errors.Join(append(all, err)...)
}

func authorities(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--ca %s: no certificate in PEM", file)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	c, err := parse(args, errs)
	if err != nil {
		fmt.Fprintf(errs, "crowd: %v\n", err)
		return exitUsage
	}
	if c == nil { // help was asked for
		return exitOK
	}
	good, err := c.measure(ctx, out)
	switch {
	case err != nil:
		fmt.Fprintf(errs, "crowd: %v\n", err)
		return exitBroken
	case !good:
		return exitOver
	}
	return exitOK
}

// measure says whether every submission was acknowledged.
func (c *config) measure(ctx context.Context, out io.Writer) (good bool, err error) {
	c.memory(ctx, out, "before")
	idle, err := crowd.Gather(ctx, c.idle, c.dial)
	if err != nil {
		return false, err
	}
	defer idle.Close()
	if err := idle.Say(c.words); err != nil {
		return false, err
	}
	clients, err := crowd.Gather(ctx, c.clients, c.dial)
	if err != nil {
		return false, err
	}
	defer clients.Close()
	c.memory(ctx, out, fmt.Sprintf("%d connected", c.idle+c.clients))
	w, err := workload.New(workload.Options{Profile: crowd.Profile(max(1, c.clients)), Seed: c.seed, Tag: "crowd"})
	if err != nil {
		return false, err
	}
	outcomes, err := crowd.Submit(ctx, clients, w, c.limit)
	if err != nil {
		return false, err
	}
	good = report(out, outcomes)
	c.memory(ctx, out, "afterwards")
	return good, c.keep(outcomes)
}

// report prints what became of the submissions.
func report(out io.Writer, all []load.Outcome) (good bool) {
	counts := map[string]int{}
	for _, o := range all {
		what := string(o.Fate) + " " + strconv.Itoa(o.Status)
		if o.Error != "" {
			what = string(o.Fate) + ": " + o.Error
		}
		counts[what]++
	}
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "%6d %s\n", counts[what], what)
	}
	q := load.ClassOf(all).Latency
	fmt.Fprintf(out, "       answered within p50 %.0f ms, p95 %.0f, p99 %.0f, max %.0f\n", q.P50, q.P95, q.P99, q.Max)
	return !slices.ContainsFunc(all, func(o load.Outcome) bool { return o.Fate != load.Accepted })
}

// keep writes the outcomes for an audit.
func (c *config) keep(all []load.Outcome) error {
	if c.out == "" {
		return nil
	}
	dir, err := load.CreateDir(c.out)
	if err != nil {
		return err
	}
	for _, o := range all {
		err = errors.Join(err, dir.Observe(o))
	}
	return errors.Join(err, dir.Close(nil))
}
