// Package turns lets two SUTs take turns under one generator: one schedule, one
// pacer, one process, and slot by slot the requests go to the one or the other.
// What disturbs the generator or the machine disturbs both, so that only the
// difference between the SUTs is left. Both get the same submissions.
package turns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
)

// maxCommand bounds one line of commands, in bytes.
const maxCommand = 1 << 20

// Serve reads commands (load.TurnsCommand, one a line) until in ends or ctx
// does, and answers each with one line. What a command asks in vain is told in
// its answer; the error is about in and out.
func Serve(ctx context.Context, p load.Profile, in io.Reader, out io.Writer) error {
	if len(p.Ramps) > 0 {
		return fmt.Errorf("profile %s has stages; turns need one constant rate", p.Name)
	}
	s := &server{profile: p}
	defer s.close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxCommand)
	w := bufio.NewWriter(out)
	for lines.Scan() {
		b, err := json.Marshal(s.answer(ctx, lines.Bytes()))
		if err != nil {
			return fmt.Errorf("turns: %w", err)
		}
		if _, err = w.Write(append(b, '\n')); err == nil {
			err = w.Flush()
		}
		if err != nil {
			return fmt.Errorf("turns: answer: %w", err)
		}
	}
	return errors.Join(lines.Err(), ctx.Err())
}

type server struct {
	profile load.Profile
	arms    []*arm // two, once opened
}

// arm is one of the SUTs and what was sent to it.
type arm struct {
	transport *http.Transport
	source    load.Source
	next      int64 // index of its next submission
}

func (s *server) close() {
	for _, a := range s.arms {
		a.transport.CloseIdleConnections()
	}
	s.arms = nil
}

func (s *server) answer(ctx context.Context, line []byte) load.TurnsAnswer {
	var c load.TurnsCommand
	if err := json.Unmarshal(line, &c); err != nil {
		return load.TurnsAnswer{Error: fmt.Sprintf("command: %v", err)}
	}
	var out load.TurnsAnswer
	var err error
	switch {
	case c.Open != nil && c.Offer == nil:
		err = s.open(*c.Open)
	case c.Offer != nil && c.Open == nil:
		out.Result, err = s.offer(ctx, *c.Offer)
	default:
		err = errors.New("command: want open or offer")
	}
	if err != nil {
		out = load.TurnsAnswer{Error: err.Error()}
	}
	return out
}

// open starts anew, and collects what the turns before have left, so that the
// turns to come are not disturbed by it.
func (s *server) open(o load.TurnsOpen) error {
	s.close()
	runtime.GC()
	for _, target := range o.Targets {
		w, err := workload.New(workload.Options{Profile: s.profile, Seed: o.Seed, Tag: o.Tag})
		if err != nil {
			return err
		}
		a := &arm{transport: load.Tune(&http.Transport{}, s.profile.MaxInFlight)}
		poster, err := load.NewPoster(target+workload.Path, a.transport)
		if err != nil {
			return err
		}
		a.source = w.Source(poster)
		s.arms = append(s.arms, a)
	}
	return nil
}

func (s *server) offer(ctx context.Context, o load.TurnsOffer) (*load.TurnsResult, error) {
	switch {
	case len(s.arms) != 2:
		return nil, errors.New("offer: open comes first")
	case o.Slot <= 0 || o.Slots == "" || strings.Trim(o.Slots, "01") != "":
		return nil, fmt.Errorf("offer: slots %q of %v: want one 0 or 1 a slot, and a length", o.Slots, o.Slot)
	}
	total := o.Slot * time.Duration(len(o.Slots))
	c := s.profile.Config()
	c.Schedule = load.Constant{Rate: s.profile.Rate, For: total}
	c.WarmUp, c.Window = 0, total
	b := newBooks(o)
	c.Observe = b.observe
	ev, err := load.Offer(ctx, c, &alternating{offer: o, schedule: c.Schedule, arms: s.arms})
	if err != nil {
		return nil, err
	}
	if ev.Result.Aborted != "" {
		return nil, errors.New(ev.Result.Aborted)
	}
	return b.result(ev.Result.Generator)
}

// alternating gives each request to the SUT whose turn it is when it is due.
type alternating struct {
	offer    load.TurnsOffer
	schedule load.Schedule
	arms     []*arm
}

// Request implements load.Source.
func (x *alternating) Request(i int64) load.Request {
	a := x.arms[x.offer.Slots[x.schedule.Due(i)/x.offer.Slot]-'0']
	a.next++
	return a.source.Request(a.next - 1)
}

// books keeps what became of the requests, slot by slot. It is used by one
// goroutine at a time.
type books struct {
	offer   load.TurnsOffer
	slots   []load.SlotResult
	raw     []map[string][]time.Duration // latencies by slot and class
	reasons map[string]int64
}

func newBooks(o load.TurnsOffer) *books {
	b := &books{offer: o, reasons: map[string]int64{}}
	for _, target := range o.Slots {
		b.slots = append(b.slots, load.SlotResult{Target: int(target - '0'), Latency: map[string]string{}})
		b.raw = append(b.raw, map[string][]time.Duration{})
	}
	return b
}

func (b *books) observe(o load.Outcome) error {
	k := int(o.Due / b.offer.Slot)
	b.slots[k].Ledger.Book(o.Fate)
	switch o.Fate {
	case load.Lost, load.Unexpected:
		why := o.Error
		if o.Status != 0 {
			why = fmt.Sprintf("%d %s", o.Status, o.Error)
		}
		if len(b.reasons) < 20 || b.reasons[why] > 0 {
			b.reasons[why]++
		}
	}
	if o.Fate != load.Lost && o.Fate != load.Dropped {
		b.raw[k][o.Class] = append(b.raw[k][o.Class], o.Done-o.Due)
	}
	return nil
}

func (b *books) result(lag load.Quantiles) (*load.TurnsResult, error) {
	h := load.NewLatencies()
	for k, classes := range b.raw {
		for class, latencies := range classes {
			text, err := load.EncodeLatencies(h, latencies)
			if err != nil {
				return nil, err
			}
			b.slots[k].Latency[class] = text
		}
		if err := b.slots[k].Ledger.Check(); err != nil {
			return nil, err
		}
	}
	return &load.TurnsResult{Generator: lag, Reasons: b.reasons, Slots: b.slots}, nil
}
