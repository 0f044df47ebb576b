package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/bound"
	"qmtl.internal/plumbline/harness/evidence"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// boundary is a search for the rate or the cap at which the objective ceases to
// hold. Each trial is a load with a record of its own.
type boundary struct {
	ask       *question
	plan      harness.Plan
	objective string
	window    string // of the trials that confirm
	trials    []trial
}

// trial is one load of a search.
type trial struct {
	Rate    float64        `json:"rate_per_s"`
	Cap     int64          `json:"heap_cap_bytes"`
	Holds   bool           `json:"holds"`
	Confirm bool           `json:"confirm"`
	Why     string         `json:"why,omitempty"` // it does not hold
	Run     string         `json:"run"`
	Metrics record.Metrics `json:"metrics"`
}

// searchFile is where the trials of a search are kept, in the artifacts folder.
type searchFile struct {
	Schema    int          `json:"schema"` // 1
	Objective string       `json:"objective"`
	Unit      string       `json:"unit"`
	Answer    bound.Answer `json:"answer"`
	Trials    []trial      `json:"trials"`
}

func (a *app) boundaryFlags(fs *pflag.FlagSet, objective *string, confirm *string, times *int, within *float64) {
	a.flags.run(fs)
	a.flags.offered(fs)
	fs.StringVar(objective, "objective", "", "latency limits in ms such as p95_ms=150,p99_ms=400 (default: those of the policy); nothing may be lost in any case")
	fs.StringVar(confirm, "confirm-window", "10s", "measured time of each trial that confirms the answer")
	fs.IntVar(times, "confirm", 2, "trials that must hold at the answer")
	fs.Float64Var(within, "within", 0.05, "how near to the boundary the search goes, as a share")
}

func (a *app) ceiling() *cobra.Command {
	var objective, confirm string
	var times int
	var within, least, most float64
	cmd := &cobra.Command{
		Use: "ceiling", Short: "find the highest rate at which the objective holds, and print latency over rate", Args: cobra.NoArgs,
		Long: `Offers loads at growing rates, then between the last that held and the first
that did not, then confirms the answer by longer loads. Exit code 1: the
objective holds at no rate.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := a.boundary(objective, confirm)
			if err != nil {
				return err
			}
			first, err := strconv.ParseFloat(cmp.Or(a.flags.rate, "500"), 64)
			if err != nil {
				return usagef("--rate %q: want requests per second", a.flags.rate)
			}
			answer, err := bound.Highest(cmd.Context(), bound.Search{
				First: first, Least: least, Most: most, Within: within, Times: times, Round: math.Round,
				Try: func(ctx context.Context, rate float64, confirm bool) (bool, error) {
					b.plan.Rate = strconv.FormatFloat(rate, 'f', 0, 64)
					return a.try(ctx, b, confirm)
				},
			})
			return a.found(b, "ceiling", answer, "requests/s", err)
		},
	}
	a.boundaryFlags(cmd.Flags(), &objective, &confirm, &times, &within)
	cmd.Flags().Float64Var(&least, "least", 50, "lowest rate to try, requests per second")
	cmd.Flags().Float64Var(&most, "most", 20000, "highest rate to try, requests per second")
	return cmd
}

func (a *app) heapCap() *cobra.Command {
	var objective, confirm, least, most string
	var times int
	var within float64
	cmd := &cobra.Command{
		Use: "cap", Short: "find the smallest heap cap under which the profile still passes", Args: cobra.NoArgs,
		Long: `Offers the profile under ever smaller heap caps, then between the last that
held and the first that did not, then confirms the answer: a cap under which every
confirming load passed, and the largest below it under which one did not. Exit
code 1: it passes under none of the caps.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := a.boundary(objective, confirm)
			if err != nil {
				return err
			}
			var sizes [3]int64
			for i, text := range []string{cmp.Or(a.flags.heapCap, "128MiB"), least, most} {
				if sizes[i], err = harness.ParseBytes(text); err != nil {
					return usagef("%w", err)
				}
			}
			answer, err := bound.Lowest(cmd.Context(), bound.Search{
				First: float64(sizes[0]), Least: float64(sizes[1]), Most: float64(sizes[2]), Within: within, Times: times, Round: wholeMiB,
				Try: func(ctx context.Context, size float64, confirm bool) (bool, error) {
					b.plan.HeapCap = strconv.FormatFloat(size, 'f', 0, 64)
					return a.try(ctx, b, confirm)
				},
			})
			return a.found(b, "cap", answer, "bytes", err)
		},
	}
	a.boundaryFlags(cmd.Flags(), &objective, &confirm, &times, &within)
	cmd.Flags().StringVar(&least, "least", "8MiB", "smallest cap to try")
	cmd.Flags().StringVar(&most, "most", "512MiB", "largest cap to try")
	return cmd
}

// wholeMiB rounds up, so that a cap that held is never said to be smaller.
func wholeMiB(size float64) float64 { return math.Ceil(size/(1<<20)-1e-6) * (1 << 20) }

// boundary prepares a search: what is asked of each trial.
func (a *app) boundary(objective, confirm string) (*boundary, error) {
	a.flags.formats, a.flags.base = "console", ""
	ask, err := a.prepare()
	if err != nil {
		return nil, err
	}
	limits, err := parseObjective(objective)
	if err != nil {
		return nil, err
	}
	if limits != nil {
		ask.policy.Latency = []verdict.LatencyLimit{*limits}
	}
	a.flags.window, a.flags.warmUp = cmp.Or(a.flags.window, "4s"), cmp.Or(a.flags.warmUp, "2s")
	rate := a.flags.rate
	a.flags.rate = ""
	plan, err := a.flags.plan(verdict.StageLoad)
	a.flags.rate = rate
	if err != nil {
		return nil, err
	}
	plan.Rate = rate
	plan.Limit, plan.Recovery = ask.policy.Complexity.Limit, ask.policy.Faults
	plan.Log = a.logger()
	return &boundary{ask: ask, plan: plan, objective: cmp.Or(objective, "the limits of the policy"), window: confirm}, nil
}

// parseObjective reads limits such as p95_ms=150,p99_ms=400.
func parseObjective(text string) (*verdict.LatencyLimit, error) {
	if text == "" {
		return nil, nil
	}
	l := &verdict.LatencyLimit{Why: "the objective that was asked for"}
	to := map[string]**float64{record.P50: &l.P50, record.P95: &l.P95, record.P99: &l.P99, record.P999: &l.P999}
	for _, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		ms, err := strconv.ParseFloat(value, 64)
		field, known := to[name]
		if err != nil || !known || !(ms > 0) {
			return nil, usagef("--objective %q: want one of %s and milliseconds, such as p99_ms=400", part, strings.Join(slices.Sorted(maps.Keys(to)), ", "))
		}
		*field = &ms
	}
	return l, nil
}

// try offers one load and says whether the objective holds.
func (a *app) try(ctx context.Context, b *boundary, confirm bool) (bool, error) {
	plan := b.plan
	if confirm {
		plan.Window = b.window
	}
	run, err := harness.Run(ctx, plan)
	if run == nil || isUsage(err) || ctx.Err() != nil {
		return false, err
	}
	dir := harness.Dir(a.flags.artifacts, run.ID).Path()
	j := verdict.Judge(b.ask.policy, verdict.Base{Reason: "a search compares with nothing", Evidence: evidence.Of(dir, run)}, run)
	t := trial{Rate: run.Plan.Rate, Cap: run.Plan.HeapCap, Confirm: confirm, Run: run.ID, Metrics: run.Metrics, Why: against(j)}
	t.Holds = t.Why == ""
	b.trials = append(b.trials, t)
	fmt.Fprintf(a.Err, "%s\n", t.line())
	return t.Holds, a.keep(dir, run, verdict.Base{}, j)
}

// against gives the first reason why the objective does not hold; the
// comparison with a baseline has no say.
func against(j verdict.Judged) string {
	for _, c := range j.Checks {
		if c.Group != verdict.Baseline && c.Verdict != verdict.Pass {
			return c.Verdict.String() + ": " + c.Reason
		}
	}
	return ""
}

// line tells a trial while the search goes on.
func (t trial) line() string {
	word := "holds"
	if !t.Holds {
		word = "does not hold: " + t.Why
	}
	return fmt.Sprintf("%g/s under %s: %s", t.Rate, sizeText(t.Cap), word)
}

func sizeText(b int64) string { return fmt.Sprintf("%.0f MiB", float64(b)/(1<<20)) }

// found prints the trials in order and the answer, and keeps both.
func (a *app) found(b *boundary, what string, answer bound.Answer, unit string, broke error) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "objective: %s; nothing lost, doubled or dropped\n", b.objective)
	curve(&out, b.trials)
	switch {
	case broke != nil:
	case answer.Confirmed:
		fmt.Fprintf(&out, "%s: %s, confirmed; %s\n", what, quantity(answer.X, unit), above(answer, unit))
	default:
		fmt.Fprintf(&out, "%s: none; the objective does not hold at %s\n", what, quantity(answer.Above, unit))
	}
	file := filepath.Join(a.flags.artifacts, what+".json")
	text, err := json.MarshalIndent(searchFile{1, b.objective, unit, answer, b.trials}, "", "  ")
	if err == nil && len(b.trials) > 0 {
		err = record.WriteFile(file, append(text, '\n'))
	}
	if _, werr := a.Out.Write(out.Bytes()); werr != nil || err != nil || broke != nil {
		return errors.Join(broke, err, werr)
	}
	if !answer.Confirmed {
		return &exit{code: verdict.ExitFail, err: errors.New("nothing holds"), quiet: true}
	}
	return nil
}

func quantity(x float64, unit string) string {
	if unit == "bytes" {
		return sizeText(int64(x))
	}
	return fmt.Sprintf("%.0f %s", x, unit)
}

func above(a bound.Answer, unit string) string {
	if a.Above == 0 {
		return "the end of the range, nothing beyond was tried"
	}
	return "at " + quantity(a.Above, unit) + " it did not hold"
}

// curve prints latency over rate, or over the cap, with a bar on a logarithmic
// scale from 0.1 ms on.
func curve(out *bytes.Buffer, trials []trial) {
	rows := slices.Clone(trials)
	slices.SortStableFunc(rows, func(x, y trial) int {
		return cmp.Or(cmp.Compare(x.Rate, y.Rate), cmp.Compare(x.Cap, y.Cap))
	})
	fmt.Fprintf(out, "%9s %9s %9s %9s %9s %9s %10s  %s\n", "rate/s", "cap", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "answered/s", "")
	for _, t := range rows {
		at := func(name string) string {
			if m, err := t.Metrics.Get(name); err == nil {
				return fmt.Sprintf("%.2f", m.Value)
			}
			return "-"
		}
		mark := "holds"
		if !t.Holds {
			mark = "-"
		}
		fmt.Fprintf(out, "%9.0f %9s %9s %9s %9s %9s %10s  %-5s %s\n", t.Rate, sizeText(t.Cap), at(record.P50), at(record.P95), at(record.P99),
			at(record.P999), at(record.Throughput), mark, bar(t.Metrics[record.P99].Value))
	}
}

func bar(ms float64) string {
	if ms <= 0.1 {
		return ""
	}
	return strings.Repeat("#", min(50, int(8*math.Log10(ms/0.1))))
}
