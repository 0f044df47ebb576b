package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// fidelityStage runs the scenarios once more, with the same binaries and seed on
// embedded servers, and holds what they came to against what they came to on
// the backends of the run. Where that cannot be, the record says why.
func (x *execution) fidelityStage(ctx context.Context) error {
	if !x.asked(verdict.StageFidelity) {
		return nil
	}
	if why := x.noSecondSide(); why != "" {
		x.run.Absent["fidelity"] = why
		return nil
	}
	began := time.Now()
	other, err := x.onEmbedded(ctx)
	if err != nil {
		return fmt.Errorf("fidelity: on embedded servers: %w", err)
	}
	kinds := [2]string{x.run.Provider.Kind, backend.KindEmbedded}
	x.run.Fidelity = record.Compare(kinds, x.run.Contract, other)
	x.run.Fidelity.DurationMS = float64(time.Since(began).Milliseconds())
	return nil
}

// noSecondSide says why there are no two kinds of backends to compare.
func (x *execution) noSecondSide() string {
	switch {
	case x.attached():
		return "the SUT runs already, so it cannot be started on embedded servers"
	case x.run.Provider.Kind == backend.KindEmbedded:
		return "the run itself is on embedded servers; --provider containers compares them with real ones"
	}
	return ""
}

// onEmbedded runs the scenarios on embedded servers, without leaving more in
// the record than the deaths of processes.
func (x *execution) onEmbedded(ctx context.Context) ([]record.Outcome, error) {
	side := *x
	side.provider, side.set = x.Backends.Embedded, nil
	side.run = &record.Run{ID: x.run.ID, Started: x.run.Started, Absent: map[string]string{}}
	x.Progress(Event{Stage: "fidelity", Text: "the scenarios again, on embedded servers"})
	outcomes, err := side.contractOn(ctx, "fidelity")
	err = errors.Join(err, side.closeBackends(ctx))
	for _, p := range side.run.SUT.Processes {
		if p.Died != "" {
			x.run.SUT.Processes = append(x.run.SUT.Processes, p)
		}
	}
	return outcomes, err
}
