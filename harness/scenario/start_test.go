package scenario_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/neighbour"
	"qmtl.internal/plumbline/harness/record"
)

// starts is a gateway that ends with the code that its configuration names, or
// runs until it is stopped.
func starts(limits *[]time.Duration) neighbour.Starts {
	return neighbour.Starts{"gateway": func(_ context.Context, config string, within time.Duration) (neighbour.Attempt, error) {
		*limits = append(*limits, within)
		codes := map[string]int{"zero": 0, "two": 2}
		name, _, _ := strings.Cut(config, "-")
		if code, ends := codes[name]; ends {
			return neighbour.Attempt{ExitCode: &code, Text: "read " + config}, nil
		}
		if name == "stubborn" {
			return neighbour.Attempt{}, errors.New("it would not leave")
		}
		return neighbour.Attempt{Text: "running"}, nil
	}}
}

func TestAProcessIsStartedByAStep(t *testing.T) {
	for step, want := range map[string]string{
		`start: { process: gateway, config: "two-${uniq}" }
    expect: { exit_code: 2, text: "read two-${uniq}" }`: "",
		`start: { process: gateway, config: two }
    expect: { exit_code: 0 }`: "exit_code: want 0, got 2",
		`start: { process: gateway, config: zero }
    expect: { exit_code: null }`: "exit_code: want null, got 0",
		`start: { process: gateway, config: zero }
    expect: { exit_code: { match: { range: { min: 1 } } } }`: "exit_code",
		`start: { process: gateway, config: run, within: 3s }
    expect: { exit_code: null, text: running, elapsed_ms: { match: { range: { max: 3000 } } } }`: "",
		`start: { process: gateway, config: run }
    expect: { exit_code: { match: int } }`: "exit_code: want an integer, got null",
		`start: { process: gateway, config: stubborn }
    expect: { exit_code: null }`: "it would not leave",
		`start: { process: gateway, config: two }
    expect: { text: { match: { contains: three } } }`: "text",
	} {
		var limits []time.Duration
		s := newStand(t)
		s.env.Starts = starts(&limits)
		expectOutcome(t, outcome(t, s.env, "  - "+step), want)
		if wish := map[bool]time.Duration{false: 10 * time.Second, true: 3 * time.Second}[strings.Contains(step, "within")]; len(limits) != 1 || limits[0] != wish {
			t.Errorf("limits %v, want %s", limits, wish)
		}
	}
}

func TestAStepThatStartsAProcessIsSkippedWhereNobodyCan(t *testing.T) {
	s := newStand(t)
	s.env.Starts = starts(new([]time.Duration))
	got := outcome(t, s.env, `
  - for_each:
      in: [1]
      steps:
        - start: { process: gateway, config: two }
          expect: { exit_code: 2 }
        - start: { process: dagmanager, config: two }
          expect: { exit_code: 2 }`)
	if got.Status != record.Skipped || got.Reason != "needs start.dagmanager (provider stand)" {
		t.Errorf("%s: %s", got.Status, got.Reason)
	}
}
