package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"qmtl.internal/plumbline/bench/diffload"
	"qmtl.internal/plumbline/bench/load"
)

// bench is one measurement under way.
type bench struct {
	*config
	addr   string
	meter  *diffload.Meter // nil without an admin address
	client *diffload.Client
	table  *tabwriter.Writer
	errs   io.Writer
	run    string // part of every name that this run makes
	made   int    // topics beside those of the measured DAGs
	over   []string
}

// measure prints a row for each measurement and gives the limits that were not kept.
func (c *config) measure(ctx context.Context, out, errs io.Writer) (over []string, err error) {
	b := &bench{config: c, addr: c.target, errs: errs, run: fmt.Sprintf("%x", time.Now().UnixNano())}
	admin := c.admin
	if len(c.program) > 0 {
		log := io.Discard
		if c.verbose {
			log = errs
		}
		p, err := diffload.Start(ctx, log, c.program)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.Stop()) }()
		b.addr, admin = p.Ready.Addresses["grpc"], p.Ready.Addresses["admin"]
	}
	if admin != "" {
		m := diffload.NewMeter(admin)
		b.meter = &m
	}
	if b.client, err = diffload.Dial(b.addr); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.client.Close()) }()
	fmt.Fprintf(out, "diffload %s\n\n", strings.Join(os.Args[1:], " "))
	b.table = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	b.row("model", "nodes", "topics beside", "diffs", "p50 ms", "p95 ms", "p99 ms", "max ms", "allocated a diff KiB", "a node B", "live heap MiB", "RSS MiB")
	if err = b.all(ctx); err != nil {
		return nil, errors.Join(err, b.table.Flush())
	}
	return b.over, b.table.Flush()
}

func (b *bench) row(cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(b.table, "%v\t", c)
	}
	fmt.Fprintln(b.table)
}

func (b *bench) all(ctx context.Context) error {
	for _, topics := range b.topics {
		if err := b.fill(ctx, topics); err != nil {
			return err
		}
		for _, nodes := range b.nodes {
			if err := b.oneByOne(ctx, nodes); err != nil {
				return fmt.Errorf("%d nodes: %w", nodes, err)
			}
		}
	}
	if b.rate == 0 {
		return nil
	}
	return b.offer(ctx)
}

// fillStep is how many topics one diff makes.
const fillStep = 2000

// fill makes topics until there are n beside those that are measured.
func (b *bench) fill(ctx context.Context, n int) error {
	if b.made < n {
		fmt.Fprintf(b.errs, "making %d topics\n", n-b.made)
	}
	for b.made < n {
		step := min(fillStep, n-b.made)
		d, err := diffload.NewDAG(step, fmt.Sprintf("%s-fill-%d", b.run, b.made))
		if err == nil {
			_, err = diffload.Teach(ctx, b.client, d)
		}
		if err != nil {
			return fmt.Errorf("topic %d of %d: %w", b.made, n, err)
		}
		b.made += step
	}
	return nil
}

func (b *bench) teach(ctx context.Context, nodes int) (diffload.DAG, diffload.Answer, error) {
	d, err := diffload.NewDAG(nodes, fmt.Sprintf("%s-%d", b.run, nodes))
	if err != nil {
		return d, diffload.Answer{}, err
	}
	want, err := diffload.Teach(ctx, b.client, d)
	if err != nil {
		return d, want, err
	}
	select {
	case <-time.After(b.settle):
	case <-ctx.Done():
		err = ctx.Err()
	}
	return d, want, err
}

// warmDiffs come before those that count.
const warmDiffs = 5

func (b *bench) oneByOne(ctx context.Context, nodes int) error {
	d, want, err := b.teach(ctx, nodes)
	if err != nil {
		return err
	}
	if _, err := diffload.OneByOne(ctx, b.client, d, want, warmDiffs); err != nil {
		return err
	}
	before, err := b.read(ctx)
	if err != nil {
		return err
	}
	class, err := diffload.OneByOne(ctx, b.client, d, want, b.count)
	if err != nil {
		return err
	}
	after, err := b.read(ctx)
	if err != nil {
		return err
	}
	b.print("one by one", nodes, class.Service, b.count, before, after)
	b.judge(fmt.Sprintf("one by one, %d nodes", nodes), class.Service.P95, b.limits.oneByOne[nodes])
	return nil
}

func (b *bench) read(ctx context.Context) (map[string]float64, error) {
	if b.meter == nil {
		return nil, nil
	}
	return b.meter.Read(ctx)
}

func (b *bench) print(model string, nodes int, q load.Quantiles, diffs int, before, after map[string]float64) {
	cells := []any{model, nodes, b.made, diffs, ms(q.P50), ms(q.P95), ms(q.P99), ms(q.Max), "-", "-", "-", "-"}
	if alloc, there := after[diffload.Allocated]; there && diffs > 0 {
		each := (alloc - before[diffload.Allocated]) / float64(diffs)
		cells[8], cells[9] = fmt.Sprintf("%.0f", each/1024), fmt.Sprintf("%.0f", each/float64(nodes))
	}
	for i, series := range []string{diffload.Live, diffload.Resident} {
		if v, there := after[series]; there {
			cells[10+i] = fmt.Sprintf("%.0f", v/(1<<20))
		}
	}
	b.row(cells...)
}

func ms(v float64) string { return fmt.Sprintf("%.2f", v) }

func (b *bench) judge(what string, p95 float64, limit time.Duration) {
	if limit > 0 && p95 > limit.Seconds()*1000 {
		b.over = append(b.over, fmt.Sprintf("%s: p95 %.2f ms, at most %v", what, p95, limit))
	}
}

// offer measures by the open model and checks that the measurement stands.
func (b *bench) offer(ctx context.Context) (err error) {
	d, want, err := b.teach(ctx, b.rateNodes)
	if err != nil {
		return err
	}
	o := diffload.Offering{DAG: d, Want: want, Rate: int64(b.rate), WarmUp: b.warmUp, Window: b.window}
	for range b.connections {
		c, err := diffload.Dial(b.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		o.Clients = append(o.Clients, c)
	}
	before, err := b.read(ctx)
	if err != nil {
		return err
	}
	ev, err := diffload.Offer(ctx, o)
	if err != nil {
		return err
	}
	after, err := b.read(ctx)
	if err != nil {
		return err
	}
	r := ev.Result
	all := int(r.Ledger.Answered + r.WarmUpLedger.Answered)
	latency := r.Classes[load.All].Latency
	b.print(fmt.Sprintf("%d/s for %v", b.rate, b.window), b.rateNodes, latency, all, before, after)
	b.judge(fmt.Sprintf("%d/s, %d nodes", b.rate, b.rateNodes), latency.P95, b.limits.rate)
	return settled(r)
}

// settled says why a result proves nothing; nil when it does.
func settled(r load.Result) error {
	l := r.Ledger
	switch {
	case r.Aborted != "":
		return fmt.Errorf("aborted: %s", r.Aborted)
	case l.Accepted != l.Offered:
		return fmt.Errorf("of %d diffs %d were dropped, %d lost %v, %d wrong %v", l.Offered, l.Dropped, l.Lost, r.LostBy, l.Unexpected, r.Samples)
	}
	return nil
}
