package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is what the command line asks for.
type config struct {
	target, admin string
	program       []string // to start instead of target
	nodes         []int
	count         int
	topics        []int
	rate          int
	rateNodes     int
	settle        time.Duration // after topics were made
	warmUp        time.Duration
	window        time.Duration
	connections   int
	limits        limits
	verbose       bool
}

// limits are upper bounds of p95; absent ones are not judged.
type limits struct {
	oneByOne map[int]time.Duration // by number of nodes
	rate     time.Duration         // 0: none
}

const usage = `usage: diffload [flags] PROGRAM [ARGS…]     start a DAG Manager, measure it, stop it
       diffload [flags] --target HOST:PORT    measure one that runs

  diffload bin/dagmanager
  diffload --rate 0 --nodes 1000 --topics 0,10000,100000 bin/dagmanager
  diffload bin/dagmanager --neo4j bolt://127.0.0.1:7687
`

// parse gives nil without an error when help was asked for.
func parse(args []string, errs io.Writer) (*config, error) {
	c := &config{}
	fs := flag.NewFlagSet("diffload", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	nodes := fs.String("nodes", "100,1000,10000", "`sizes` of the DAGs that are diffed one by one")
	topics := fs.String("topics", "0", "`numbers` of topics that exist beside those of the DAG; they are made by diffs")
	max := fs.String("max-p95", "", "`limits` of p95 one by one, as 1000=15ms,10000=300ms")
	fs.IntVar(&c.count, "count", 200, "`diffs` of each size, one by one")
	fs.IntVar(&c.rate, "rate", 50, "diffs a `second` by the open model; 0: none")
	fs.IntVar(&c.rateNodes, "rate-nodes", 1000, "`size` of the DAG that is diffed by the open model")
	fs.DurationVar(&c.settle, "settle", 3*time.Second, "how `long` to wait after topics were made: their servers go on working")
	fs.DurationVar(&c.warmUp, "warm-up", 3*time.Second, "how `long` the open model runs before it counts")
	fs.DurationVar(&c.window, "window", 30*time.Second, "how `long` it runs then")
	fs.DurationVar(&c.limits.rate, "max-rate-p95", 0, "`limit` of p95 by the open model; 0: none")
	fs.IntVar(&c.connections, "connections", 4, "`connections` of the open model, in turn")
	fs.StringVar(&c.target, "target", "", "`HOST:PORT` of a DAG Manager that runs")
	fs.StringVar(&c.admin, "admin", "", "`HOST:PORT` of its admin interface; without it memory is not read")
	fs.BoolVar(&c.verbose, "v", false, "show the log of the program")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(errs)
		fmt.Fprint(errs, usage, "\n")
		fs.PrintDefaults()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.program = fs.Args()
	return c, c.check(*nodes, *topics, *max)
}

func (c *config) check(nodes, topics, limits string) error {
	var all []error
	var err error
	c.nodes, err = numbers("nodes", nodes, 1)
	all = append(all, err)
	c.topics, err = numbers("topics", topics, 0)
	all = append(all, err)
	c.limits.oneByOne, err = bounds(limits, c.nodes)
	all = append(all, err)
	if (c.target == "") == (len(c.program) == 0) {
		all = append(all, errors.New("name a program to start, or --target with one that runs"))
	}
	for _, f := range []struct {
		name        string
		have, least int
	}{
		{"count", c.count, 1}, {"rate", c.rate, 0}, {"rate-nodes", c.rateNodes, 1}, {"connections", c.connections, 1},
		{"settle", int(c.settle), 0}, {"warm-up", int(c.warmUp), 0}, {"window", int(c.window), 1},
	} {
		if f.have < f.least {
			all = append(all, fmt.Errorf("--%s: want %d or more", f.name, f.least))
		}
	}
	if !slices.IsSorted(c.topics) {
		all = append(all, fmt.Errorf("--topics %s: want them to grow, for topics stay", topics))
	}
	return errors.Join(all...)
}

func numbers(flag, list string, least int) ([]int, error) {
	var all []int
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < least {
			return nil, fmt.Errorf("--%s %q: want numbers from %d, parted by commas", flag, list, least)
		}
		all = append(all, n)
	}
	return all, nil
}

func bounds(list string, nodes []int) (map[int]time.Duration, error) {
	out := map[int]time.Duration{}
	for _, text := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		size, limit, _ := strings.Cut(text, "=")
		n, err := strconv.Atoi(size)
		d, err2 := time.ParseDuration(limit)
		if errors.Join(err, err2) != nil || !slices.Contains(nodes, n) {
			return nil, fmt.Errorf("--max-p95 %q: want SIZE=DURATION with a size of --nodes", text)
		}
		out[n] = d
	}
	return out, nil
}
