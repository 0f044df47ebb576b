package harness

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

func TestScenariosAreAskedByPromiseAndFoundBehindThePrefix(t *testing.T) {
	foreign := sut.Descriptor{Name: "mine", Parallel: 1}
	for name, c := range map[string]struct {
		plan    Plan
		want    []scenario.Class
		beside  int
		descr   sut.Descriptor
		prefix  string
		commits string
	}{
		"the reference": {
			plan: Plan{SUT: "reference"}, descr: descriptor(t, "reference"),
			want: []scenario.Class{scenario.Strict, scenario.Lenient, scenario.Reference}, commits: "gateway.ingest",
		},
		"the original": {
			plan: Plan{SUT: "original"}, descr: descriptor(t, "original"),
			want: []scenario.Class{scenario.Strict, scenario.Lenient, scenario.Original}, beside: 1, commits: "gateway.ingest",
		},
		"a file that promises nothing, on external servers": {
			plan: Plan{SUT: "mine.yaml"}, descr: foreign, prefix: "plumbline.r1.",
			want: []scenario.Class{scenario.Strict, scenario.Lenient}, beside: 1, commits: "plumbline.r1.gateway.ingest",
		},
		"one that runs already": {
			plan: Plan{SUT: "http://127.0.0.1:1"}, want: []scenario.Class{scenario.Strict, scenario.Lenient}, commits: "gateway.ingest",
		},
	} {
		c.plan.Stages, c.plan.Seed = []string{verdict.StageContract}, 7
		x := &execution{
			checked: &checked{Plan: c.plan, descriptor: c.descr},
			run:     &record.Run{ID: "r1"}, set: &backend.Set{Kind: backend.KindExternal, Kafka: "k", Redis: "r", Prefix: c.prefix},
		}
		env := x.scenarioEnv(sut.Endpoints{Gateway: "g", DagManager: "d"})
		if !slices.Equal(env.Classes, c.want) || env.Parallel != c.beside {
			t.Errorf("%s: classes %q, %d side by side; want %q, %d", name, env.Classes, env.Parallel, c.want, c.beside)
		}
		if env.TopicPrefix != c.prefix || env.CommitLogTopic != c.commits || env.Seed != 7 || env.RunID != "r1" {
			t.Errorf("%s: %+v; want prefix %q, commit log %q, seed and run id", name, env, c.prefix, c.commits)
		}
	}
}

func descriptor(t *testing.T, name string) sut.Descriptor {
	t.Helper()
	d, err := sut.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFidelityNeedsTheContract(t *testing.T) {
	_, err := Plan{Stages: []string{verdict.StageFidelity}, SUT: "reference"}.check()
	if err == nil || err.Error() != "--stages fidelity compares what the scenarios came to, so it needs contract as well" {
		t.Errorf("check = %v", err)
	}
}

func TestWhereThereIsNoSecondSide(t *testing.T) {
	for name, c := range map[string]struct {
		sut, kind string
		compare   bool
	}{
		"embedded": {"reference", backend.KindEmbedded, false}, "attached": {"http://127.0.0.1:1", backend.KindExternal, false},
		"containers": {"reference", backend.KindContainers, true}, "external": {"reference", backend.KindExternal, true},
	} {
		x := &execution{checked: &checked{Plan: Plan{SUT: c.sut}}, run: &record.Run{Provider: record.Provider{Kind: c.kind}}}
		if why := x.noSecondSide(); (why == "") != c.compare {
			t.Errorf("%s: %q", name, why)
		}
	}
}

func TestInvariantsOfTwoPartsHoldWhenBothDo(t *testing.T) {
	all := []scenario.Scenario{{ID: "A"}, {ID: "F"}, {ID: "B"}}
	outcome := func(id string, s record.Status, why string) record.Outcome {
		return record.Outcome{ID: id, Status: s, Reason: why, DurationMS: 1}
	}
	first := []record.Outcome{
		outcome("A", record.Passed, ""), outcome("B", record.Failed, "no"),
		outcome("INV-1", record.Passed, ""), outcome("INV-2", record.Failed, "x"), outcome("INV-3", record.Skipped, "none"), outcome("INV-4", record.Failed, "x"),
	}
	second := []record.Outcome{
		outcome("F", record.Passed, ""),
		outcome("INV-1", record.Failed, "lost"), outcome("INV-2", record.Passed, ""), outcome("INV-3", record.Passed, ""), outcome("INV-4", record.Failed, "y"),
	}
	want := []record.Outcome{
		outcome("A", record.Passed, ""), outcome("F", record.Passed, ""), outcome("B", record.Failed, "no"),
		{ID: "INV-1", Status: record.Failed, Reason: "lost", DurationMS: 2}, {ID: "INV-2", Status: record.Failed, Reason: "x", DurationMS: 2},
		{ID: "INV-3", Status: record.Passed, DurationMS: 2}, {ID: "INV-4", Status: record.Failed, Reason: "x; y", DurationMS: 2},
	}
	if diff := cmp.Diff(want, joined(all, first, second)); diff != "" {
		t.Errorf("joined (-want +got):\n%s", diff)
	}
}
