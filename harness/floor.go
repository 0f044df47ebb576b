package harness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/probe"
	"qmtl.internal/plumbline/harness/sut"
)

// FloorPlan says how a SUT is held against the floor: the least that a gateway
// can do (bench/floor).
type FloorPlan struct {
	Bin      string // folder of gateway, dagmanager and floor
	Bench    string // folder bench of the tree: the floor's descriptor
	SUT      string // descriptor's name or file
	Rate     int64  // requests per second
	Turn     time.Duration
	Rounds   int // turns of each
	Seed     uint64
	Log      *slog.Logger
	Progress Progress
}

// FloorTurn is what one arm did in one turn.
type FloorTurn struct {
	Latency    load.Quantiles `json:"latency"`
	CPUPerCall time.Duration  `json:"cpu_per_request_ns"` // of the gateway process
	Answered   int64          `json:"answered"`
}

// FloorResult holds the turns of both, in their order.
type FloorResult struct {
	SUT   []FloorTurn `json:"sut"`
	Floor []FloorTurn `json:"floor"`
}

// FloorRatio is what the SUT took to what the floor took in the same round: the
// median over the rounds, the least and the most of them.
type FloorRatio struct {
	Median, Least, Most float64
}

// Ratios are those of the p50 and of the CPU time per request.
func (r *FloorResult) Ratios() (p50, cpu FloorRatio) {
	var latency, cores []float64
	for i := range r.SUT {
		latency = append(latency, r.SUT[i].Latency.P50/r.Floor[i].Latency.P50)
		cores = append(cores, float64(r.SUT[i].CPUPerCall)/float64(r.Floor[i].CPUPerCall))
	}
	return ratioOf(latency), ratioOf(cores)
}

func ratioOf(xs []float64) FloorRatio {
	s := slices.Sorted(slices.Values(xs))
	if len(s) == 0 {
		return FloorRatio{}
	}
	return FloorRatio{Median: (s[(len(s)-1)/2] + s[len(s)/2]) / 2, Least: s[0], Most: s[len(s)-1]}
}

// floorArm is one of the two, with servers of its own.
type floorArm struct {
	set       *backend.Set
	in        *sut.Instance
	transport *http.Transport
}

// Floor measures a SUT and the floor in one run, in turns, each on embedded
// servers and a DAG Manager of its own. Everything it starts has ended when it
// returns.
func Floor(ctx context.Context, p FloorPlan) (_ *FloorResult, err error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	scratch, err := os.MkdirTemp("", "plumbline-floor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	var arms [2]*floorArm
	for i, name := range []string{p.SUT, filepath.Join(p.Bench, "floor", "floor.yaml")} {
		p.Progress(Event{Stage: "sut", Text: "starting " + name})
		arm, startErr := p.start(ctx, name, filepath.Join(scratch, fmt.Sprint(i)))
		if startErr != nil {
			return nil, startErr
		}
		defer func() { err = errors.Join(err, arm.stop(ctx)) }()
		arms[i] = arm
	}
	return p.turns(ctx, arms)
}

func (p FloorPlan) turns(ctx context.Context, arms [2]*floorArm) (*FloorResult, error) {
	out := &FloorResult{}
	for round := range p.Rounds {
		var turn [2]FloorTurn
		for k := range arms {
			i := (k + round) % 2 // they begin alternately
			p.Progress(Event{Stage: "floor", Text: fmt.Sprintf("round %d of %d", round+1, p.Rounds)})
			var err error
			if turn[i], err = p.offer(ctx, arms[i], round); err != nil {
				return nil, err
			}
		}
		out.SUT, out.Floor = append(out.SUT, turn[0]), append(out.Floor, turn[1])
	}
	return out, nil
}

func (p FloorPlan) start(ctx context.Context, name, scratch string) (*floorArm, error) {
	d, err := sut.Load(name)
	if err != nil {
		return nil, usageError{err}
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	set, err := backend.Embedded{}.Start(ctx, backend.Options{RunID: "floor", LogDir: scratch, Log: p.Log})
	if err != nil {
		return nil, err
	}
	in, err := sut.Start(ctx, d, sut.Options{Backends: set, BinDir: p.Bin, LogDir: scratch, RunID: "floor", Log: p.Log})
	if err != nil {
		return nil, errors.Join(err, set.Close(ctx))
	}
	return &floorArm{set, in, load.Tune(&http.Transport{}, floorInFlight)}, nil
}

// floorInFlight is how many requests may be unanswered.
const floorInFlight = 256

func (a *floorArm) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	a.transport.CloseIdleConnections()
	return errors.Join(a.in.Stop(ctx), a.set.Close(ctx))
}

// offer offers one turn: a second of warm-up, then the window.
func (p FloorPlan) offer(ctx context.Context, a *floorArm, round int) (FloorTurn, error) {
	profile := load.Profile{Name: "floor", Rate: p.Rate, WarmUp: time.Second, Window: p.Turn, MaxInFlight: floorInFlight,
		Backlog: 4096, Drain: 10 * time.Second, Mix: load.Mix{Single: 1}}
	w, err := workload.New(workload.Options{Profile: profile, Seed: p.Seed, Tag: fmt.Sprintf("floor-%d", round)})
	if err != nil {
		return FloorTurn{}, err
	}
	poster, err := load.NewPoster(a.in.Endpoints().Gateway+workload.Path, a.transport)
	if err != nil {
		return FloorTurn{}, err
	}
	before, err := probe.CPUSeconds(pidOf(a.in, "gateway"))
	if err != nil {
		return FloorTurn{}, err
	}
	ev, err := load.Offer(ctx, profile.Config(), w.Source(poster))
	if err != nil {
		return FloorTurn{}, err
	}
	after, err := probe.CPUSeconds(pidOf(a.in, "gateway"))
	if err != nil {
		return FloorTurn{}, err
	}
	l, warm := ev.Result.Ledger, ev.Result.WarmUpLedger
	if l.Answered == 0 || l.Accepted != l.Offered || warm.Accepted != warm.Offered {
		return FloorTurn{}, fmt.Errorf("floor: %d of %d requests were accepted, %v; nothing can be compared", l.Accepted, l.Offered, ev.Result.Unexpected)
	}
	all := l.Answered + warm.Answered
	return FloorTurn{Latency: ev.Result.Classes[load.All].Latency, Answered: l.Answered,
		CPUPerCall: time.Duration((after - before) / float64(all) * float64(time.Second))}, nil
}
