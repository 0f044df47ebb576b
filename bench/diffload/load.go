package diffload

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"time"

	"qmtl.internal/plumbline/bench/load"
)

// Teach diffs d until the DAG Manager knows its nodes, and gives the answer that
// every later diff of it must repeat.
func Teach(ctx context.Context, c *Client, d DAG) (Answer, error) {
	first, err := c.Diff(ctx, "teach", d)
	if err == nil && first.Topics() != d.Nodes {
		err = wrong("%d topics for %d nodes", first.Topics(), d.Nodes)
	}
	return first, err
}

// OneByOne diffs d n times, each after the one before has ended, and returns how
// long each took.
func OneByOne(ctx context.Context, c *Client, d DAG, want Answer, n int) (load.Class, error) {
	outcomes := make([]load.Outcome, 0, n)
	begun := time.Now()
	for i := range n {
		o := load.Outcome{Index: int64(i), Fate: load.Accepted, Due: time.Since(begun)}
		o.Sent = o.Due
		got, err := c.Diff(ctx, "one-by-one-"+strconv.Itoa(i), d)
		if err == nil {
			err = same(want, got)
		}
		if err != nil {
			return load.Class{}, err
		}
		o.Done = time.Since(begun)
		outcomes = append(outcomes, o)
	}
	return load.ClassOf(outcomes), nil
}

// same says whether a known DAG was told its queues again, in as few chunks.
func same(want, got Answer) error {
	if !maps.Equal(want.Queues, got.Queues) {
		return wrong("a diff of known nodes tells other queues")
	}
	return nil
}

// Offering is an open model of diffs of one known DAG.
type Offering struct {
	Clients []*Client // take turns
	DAG     DAG
	Want    Answer
	Rate    int64 // a second
	WarmUp  time.Duration
	Window  time.Duration
}

// Limits of an offering. A diff of many nodes is a large request: what does not
// find a sender waits, and its latency tells.
const (
	maxInFlight = 256
	backlog     = 4096
	drain       = 20 * time.Second
)

// Offer offers the diffs.
func Offer(ctx context.Context, o Offering) (*load.Evidence, error) {
	return load.Offer(ctx, load.Config{
		Schedule: load.Constant{Rate: o.Rate, For: o.WarmUp + o.Window}, WarmUp: o.WarmUp, Window: o.Window,
		MaxInFlight: maxInFlight, Backlog: backlog, Drain: drain,
	}, source{o})
}

// source makes the requests of an offering.
type source struct{ Offering }

// Request implements load.Source.
func (s source) Request(i int64) load.Request {
	return &request{source: s, i: i}
}

// request is one diff.
type request struct {
	source
	i     int64
	wrong *WrongError
}

// Class implements load.Request.
func (r *request) Class() string { return "diff" }

// Key implements load.Request.
func (r *request) Key() string { return "diff-" + strconv.FormatInt(r.i, 10) }

// Send implements load.Request. An answer that is wrong is an answer.
func (r *request) Send(ctx context.Context) error {
	got, err := r.Clients[int(r.i)%len(r.Clients)].Diff(ctx, r.Key(), r.DAG)
	if err == nil {
		err = same(r.Want, got)
	}
	if errors.As(err, &r.wrong) {
		return nil
	}
	return err
}

// Reply implements load.Request.
func (r *request) Reply() load.Reply {
	if r.wrong != nil {
		return load.Reply{Fate: load.Unexpected, Why: "wrong answer", Body: []byte(r.wrong.Why)}
	}
	return load.Reply{Fate: load.Accepted}
}
