package harness

import (
	"context"
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

// runScenarios runs every scenario against one running SUT.
func (x *execution) runScenarios(ctx context.Context, in *sut.Instance) []record.Outcome {
	env := x.scenarioEnv(in.Endpoints())
	env.Faults, env.Dial = append(x.set.Faults(), in.Faults()...), x.set.Dial
	outcomes := scenario.Run(ctx, env, x.scenarios)
	for i := range outcomes {
		outcomes[i].File = x.scenarioFile(outcomes[i].File)
	}
	return outcomes
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
