// Command offer is the load engine alone: it offers what bench/scripts/submit.js
// offers by k6, reads the same environment and leaves the same load.json,
// outcomes.jsonl and latency.hlog, at half of k6's CPU time. It is for rates at
// which the generator's own cost is in the way. Exit codes: 0 all was accepted
// or rightly refused, 99 something was dropped, lost or unexpected, 107 a mistake
// in the settings, 108 nothing could be measured or kept.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
)

// The exit codes, which are k6's.
const (
	exitOK     = 0
	exitOver   = 99
	exitUsage  = 107
	exitBroken = 108
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// settings are what the environment asks for.
type settings struct {
	profile          load.Profile
	target, out, tag string
	seed             uint64
	startAt          time.Time
}

func run(ctx context.Context, env func(string) (string, bool), out, errs io.Writer) int {
	s, err := read(env)
	if err != nil {
		fmt.Fprintf(errs, "offer: %v\n", err)
		return exitUsage
	}
	r, err := s.offer(ctx)
	if err != nil {
		fmt.Fprintf(errs, "offer: %v\n", err)
		return exitBroken
	}
	l, q := r.Ledger, r.Classes[load.All].Latency
	fmt.Fprintf(out, "%s: offered %d, accepted %d, rejected %d, unexpected %d, lost %d, dropped %d\n", r.Profile, l.Offered, l.Accepted, l.Rejected, l.Unexpected, l.Lost, l.Dropped)
	fmt.Fprintf(out, "  latency       p50 %.3f  p95 %.3f  p99 %.3f  p99.9 %.3f  max %.3f ms\n", q.P50, q.P95, q.P99, q.P999, q.Max)
	fmt.Fprintf(out, "  generator_lag p50 %.3f  p99 %.3f ms\n", r.Generator.P50, r.Generator.P99)
	if l.Dropped+l.Lost+l.Unexpected > 0 || r.Aborted != "" {
		return exitOver
	}
	return exitOK
}

// read names every mistake in the environment.
func read(env func(string) (string, bool)) (*settings, error) {
	value := func(name string) string {
		v, _ := env("PLUMBLINE_" + name)
		return strings.TrimSpace(v)
	}
	s := &settings{target: strings.TrimSuffix(value("TARGET"), "/"), out: value("OUT"), tag: value("RUN_ID")}
	if s.tag == "" {
		s.tag = strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	var errs [4]error
	s.profile, errs[0] = load.ReadProfile(cmp.Or(value("PROFILE"), "bench/profiles/smoke.json"))
	if errs[0] == nil {
		s.profile, errs[0] = s.profile.WithEnv(env)
	}
	s.seed, errs[1] = strconv.ParseUint(cmp.Or(value("SEED"), "1"), 10, 64)
	if at := value("START_AT"); at != "" {
		ms, err := strconv.ParseInt(at, 10, 64)
		s.startAt, errs[2] = time.UnixMilli(ms), err
	}
	if !strings.HasPrefix(s.target, "http") {
		errs[3] = fmt.Errorf("PLUMBLINE_TARGET: %q is not the base URL of a gateway, like http://127.0.0.1:8000", s.target)
	}
	return s, errors.Join(errs[:]...)
}

func (s *settings) offer(ctx context.Context) (*load.Result, error) {
	w, err := workload.New(workload.Options{Profile: s.profile, Seed: s.seed, Tag: s.tag})
	if err != nil {
		return nil, err
	}
	transport := load.Tune(&http.Transport{}, s.profile.MaxInFlight)
	defer transport.CloseIdleConnections()
	poster, err := load.NewPoster(s.target+workload.Path, transport)
	if err != nil {
		return nil, err
	}
	c := s.profile.Config()
	c.StartAt = s.startAt
	finish := func(*load.Evidence) error { return nil }
	if s.out != "" {
		dir, err := load.CreateDir(s.out)
		if err != nil {
			return nil, err
		}
		c.Observe, finish = dir.Observe, dir.Close
	}
	ev, err := load.Offer(ctx, c, w.Source(poster))
	if ev != nil {
		r := &ev.Result
		r.Seed, r.Rate, r.Profile, r.Tag = s.seed, s.profile.MeanRate(), s.profile.Name, s.tag
	}
	if err := errors.Join(err, finish(ev)); err != nil {
		return nil, err
	}
	return &ev.Result, nil
}
