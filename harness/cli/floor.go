package cli

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/verdict"
)

// floor is "plumbline floor".
func (a *app) floor() *cobra.Command {
	p := harness.FloorPlan{}
	var mostP50, mostCPU float64
	cmd := &cobra.Command{
		Use: "floor", Short: "hold a SUT against the least that a gateway can do, in turns", Args: cobra.NoArgs,
		Long: `Starts the SUT and the floor (bench/floor: the same requests, Redis commands, Kafka
record and diff, and nothing else), each on embedded servers and a DAG Manager of
its own, and offers both the same load in turns. Exit code 1: a median of the
ratios over the rounds is above its limit. The smallest and the largest ratio of
a round are shown beside it: with six rounds or more (--rounds) the true ratio lies
between them with 95 %.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p.Bin, p.Bench, p.SUT, p.Seed = a.flags.binDir, filepath.Join(a.flags.root, "bench"), a.flags.sut, a.flags.seed
			p.Log, p.Progress = a.logger(), newProgress(a.Err, a.Terminal).show
			if p.Rounds < 1 || p.Rate < 1 || p.Turn < time.Second {
				return usagef("--rounds and --rate must be at least 1, --turn at least 1s")
			}
			r, err := harness.Floor(cmd.Context(), p)
			if err != nil {
				return err
			}
			return a.showFloor(r, mostP50, mostCPU)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&a.flags.sut, "sut", "reference", "system under test: name or file of a descriptor")
	fs.Uint64Var(&a.flags.seed, "seed", 1, "seed of the workload")
	fs.BoolVar(&a.flags.verbose, "verbose", false, "log what the harness does to standard error")
	fs.Int64Var(&p.Rate, "rate", 1000, "requests per second")
	fs.DurationVar(&p.Turn, "turn", 3*time.Second, "measured time of a turn, after a second of warm-up")
	fs.IntVar(&p.Rounds, "rounds", 4, "turns of each")
	fs.Float64Var(&mostP50, "max-p50", 1.5, "largest ratio of the p50")
	fs.Float64Var(&mostCPU, "max-cpu", 2, "largest ratio of the CPU time per request")
	return cmd
}

func (a *app) showFloor(r *harness.FloorResult, mostP50, mostCPU float64) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%-6s %-6s %9s %9s %9s %14s\n", "round", "", "p50 ms", "p95 ms", "p99 ms", "CPU µs/request")
	for i := range r.SUT {
		floorLine(&out, i+1, "sut", r.SUT[i])
		floorLine(&out, i+1, "floor", r.Floor[i])
	}
	p50, cpu := r.Ratios()
	fmt.Fprintf(&out, "p50 %.2f times the floor (%.2f to %.2f over %d rounds), at most %.2f; CPU per request %.2f times (%.2f to %.2f), at most %.2f\n",
		p50.Median, p50.Least, p50.Most, len(r.SUT), mostP50, cpu.Median, cpu.Least, cpu.Most, mostCPU)
	if _, err := a.Out.Write(out.Bytes()); err != nil {
		return err
	}
	if !(p50.Median <= mostP50 && cpu.Median <= mostCPU) {
		return &exit{code: verdict.ExitFail, err: errors.New("too far above the floor"), quiet: true}
	}
	return nil
}

func floorLine(out *bytes.Buffer, round int, name string, t harness.FloorTurn) {
	fmt.Fprintf(out, "%-6d %-6s %9.3f %9.3f %9.3f %14.0f\n", round, name, t.Latency.P50, t.Latency.P95, t.Latency.P99, float64(t.CPUPerCall.Nanoseconds())/1000)
}
