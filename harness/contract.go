package harness

import (
	"context"
	"fmt"
	"path"
	"path/filepath"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

// classes of scenarios that are asked of the SUT: those that its descriptor
// promises. One that runs already promises what every SUT must.
func (c *checked) classes() []string {
	if !c.asked(verdict.StageContract) {
		return nil
	}
	return sut.Promised(c.descriptor.Classes)
}

// contractOn runs the scenarios, those that do harm on servers and a SUT of
// their own: they shall find nothing that the others left behind, such as the
// thousands of topics that a broker opens one by one when it starts again, and
// what they break shall not trouble the others. A SUT that runs already serves
// for both. Outcomes have the order of the scenarios, invariants come last.
func (x *execution) contractOn(ctx context.Context, logs string) ([]record.Outcome, error) {
	harmless, harmful := byHarm(x.scenarios)
	if x.attached() || len(harmless) == 0 || len(harmful) == 0 {
		return x.runScenarios(ctx, logs, x.scenarios)
	}
	first, err := x.runScenarios(ctx, logs, harmless)
	if err != nil {
		return first, err
	}
	second, err := x.runScenarios(ctx, logs+"-harm", harmful)
	return joined(x.scenarios, first, second), err
}

// byHarm parts scenarios by whether they do harm.
func byHarm(all []scenario.Scenario) (harmless, harmful []scenario.Scenario) {
	for _, s := range all {
		if s.Harms() {
			harmful = append(harmful, s)
		} else {
			harmless = append(harmless, s)
		}
	}
	return harmless, harmful
}

// joined are the outcomes of two parts in the order of all. An invariant was
// checked over the history of each part: it holds when it holds in both.
func joined(all []scenario.Scenario, first, second []record.Outcome) []record.Outcome {
	by := map[string]record.Outcome{}
	for _, o := range first {
		by[o.ID] = o
	}
	var both []record.Outcome
	for _, o := range second {
		if before, twice := by[o.ID]; twice {
			o = worse(before, o)
			both = append(both, o)
		}
		by[o.ID] = o
	}
	out := make([]record.Outcome, 0, len(all)+len(both))
	for _, s := range all {
		if o, ran := by[s.ID]; ran {
			out = append(out, o)
		}
	}
	return append(out, both...)
}

// worse is what two outcomes of one check come to.
func worse(a, b record.Outcome) record.Outcome {
	rank := map[record.Status]int{record.Skipped: 0, record.Passed: 1, record.Failed: 2}
	out, other := a, b
	if rank[b.Status] > rank[a.Status] {
		out, other = b, a
	}
	if out.Status == other.Status && other.Reason != "" && other.Reason != out.Reason {
		out.Reason += "; " + other.Reason
	}
	out.DurationMS = a.DurationMS + b.DurationMS
	return out
}

// runScenarios runs scenarios against a SUT that it starts, on servers that can
// be harmed where one of them does harm.
func (x *execution) runScenarios(ctx context.Context, logs string, all []scenario.Scenario) (outcomes []record.Outcome, err error) {
	_, harmful := byHarm(all)
	x.harm = len(harmful) > 0
	err = x.withSUT(ctx, logs, 0, func(ctx context.Context, in *sut.Instance) error {
		x.Progress(Event{Stage: "contract", Text: fmt.Sprintf("%d scenarios", len(all))})
		env := x.scenarioEnv(in.Endpoints())
		env.EventKID, env.EventKey = in.EventKey()
		env.Faults, env.Dial, env.Beside = append(x.set.Faults(), in.Faults()...), x.set.Dial, in.Beside()
		env.BesideDagManager, env.Starts = in.BesideDagManager(), in.Starts()
		outcomes = scenario.Run(ctx, env, all)
		for i := range outcomes {
			outcomes[i].File = x.scenarioFile(outcomes[i].File)
		}
		return context.Cause(ctx)
	})
	return outcomes, err
}

// scenarioEnv says where and how scenarios run against a SUT on x.set.
func (x *execution) scenarioEnv(at sut.Endpoints) scenario.Env {
	env := scenario.Env{
		Gateway: at.Gateway, DagManager: at.DagManager, DagManagerHTTP: at.DagManagerHTTP,
		Kafka: x.set.Kafka, Redis: x.set.Redis, Provider: x.set.Kind, RunID: x.run.ID, Seed: x.Seed,
		TopicPrefix: x.set.Prefix, CommitLogTopic: x.set.Topic(commitLog),
		Parallel: x.descriptor.Parallel, Log: x.Log,
	}
	for _, c := range x.classes() {
		env.Classes = append(env.Classes, scenario.Class(c))
	}
	return env
}

// scenarioFile is the path of a scenario's file as an annotation may point at
// it; what has none, as an invariant, keeps none.
func (x *execution) scenarioFile(name string) string {
	switch {
	case name == "":
		return ""
	case x.Scenarios != "":
		return path.Join(filepath.ToSlash(x.Scenarios), name)
	default:
		return path.Join("scenarios", name)
	}
}
