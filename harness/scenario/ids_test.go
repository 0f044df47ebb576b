package scenario_test

import (
	"os"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/scenarios"
)

// Every scenario that the contract names has a file, or a reason why not: the
// list beside the tests has the ids, with a reason behind those without a file.
func TestEveryScenarioOfTheContractHasAFileOrAReason(t *testing.T) {
	all, err := scenario.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, s := range all {
		files[s.ID] = s.File
	}
	list, err := os.ReadFile("testdata/contract-ids.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		seen++
		if wrong := fileOrReason(line, files); wrong != "" {
			t.Error(wrong)
		}
	}
	if seen < 100 {
		t.Errorf("%d ids in the list; the contract has more", seen)
	}
}

// fileOrReason says what is wrong with a line of the list.
func fileOrReason(line string, files map[string]string) string {
	id, reason, _ := strings.Cut(line, ": ")
	switch file := files[id]; {
	case file == "" && reason == "":
		return id + " has neither a file nor a reason"
	case file != "" && reason != "" && !strings.HasPrefix(reason, "until "):
		return id + " has a file, " + file + ", and a reason why it has none"
	}
	return ""
}

func TestTheListOfTheContractCanBeWrong(t *testing.T) {
	files := map[string]string{"A-1": "a.yaml"}
	for line, ok := range map[string]bool{"A-1": true, "A-2: because": true, "A-2": false, "A-1: because": false, "A-1: until then": true} {
		if wrong := fileOrReason(line, files); (wrong == "") != ok {
			t.Errorf("%s: %q", line, wrong)
		}
	}
}
