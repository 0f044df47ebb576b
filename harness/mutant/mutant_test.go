package mutant

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/record"
)

// fakeGate is a gate that answers every question the same way. The good run is
// a made-up one: what a gate says of it is in the script.
func fakeGate(t *testing.T, script string) *Good {
	t.Helper()
	work := t.TempDir()
	bin := filepath.Join(work, "bin")
	good := filepath.Join(work, "good", "artifacts", "r1")
	for _, dir := range []string{bin, good} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "plumbline"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(good, record.RunFile), []byte(`{"schema": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Good{place: Place{Bin: bin, Work: work}, dir: filepath.Join(work, "good"), id: "r1", green: map[string]bool{}}
}

func empty(want string) Mutant {
	return Mutant{Kind: "record", Name: "empty", Want: want, spoil: fill(in(record.RunFile), "")}
}

// A gate that is always green catches nothing, one that is red for another
// reason neither, and one that is killed least of all.
func TestOnlyTheRightRedIsACatch(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		caught int
	}{
		"red for that reason":    {"echo the file is empty; exit 3", 1},
		"always green":           {"echo the file is empty; exit 0", 0},
		"red for another reason": {"echo no room left; exit 3", 0},
		"killed":                 {"echo the file is empty; kill -9 $$", 0},
		"another exit code":      {"echo the file is empty; exit 42", 0},
	} {
		var out bytes.Buffer
		s, err := fakeGate(t, c.script).hold(t.Context(), []Mutant{empty("the file is empty")}, &out)
		if err != nil || s.Caught != c.caught || s.All != 1 {
			t.Errorf("%s: %+v, %v: %s", name, s, err, out.String())
		}
		if word := "MISSED"; (c.caught == 0) != strings.HasPrefix(out.String(), word) {
			t.Errorf("%s: it says %q", name, out.String())
		}
	}
}

func TestAHarmThatChangesNothingProvesNothing(t *testing.T) {
	m := Mutant{Kind: "record", Name: "nothing", Want: "x", spoil: text(in(record.RunFile), "1", "1")}
	if _, err := fakeGate(t, "echo x; exit 1").hold(t.Context(), []Mutant{m}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "changed nothing") {
		t.Errorf("hold = %v", err)
	}
	m.spoil = text(in(record.RunFile), "not there", "x")
	if _, err := fakeGate(t, "echo x; exit 1").hold(t.Context(), []Mutant{m}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "could not be done") {
		t.Errorf("hold = %v", err)
	}
}

func TestAControlThatIsNotGreenIsNoControl(t *testing.T) {
	for name, a := range map[string]answer{
		"red":          {1, `{"verdict": "fail", "checks": []}`},
		"unread":       {0, `PASS`},
		"green of few": {0, `{"verdict": "pass", "checks": [{"name": "x", "verdict": "pass"}]}`},
		"lies":         {0, `{"verdict": "fail"}`},
	} {
		if control(a) == nil {
			t.Errorf("%s: control is content", name)
		}
	}
}

func TestScore(t *testing.T) {
	for s, want := range map[Score]bool{{Least, Least}: true, {Least - 1, Least - 1}: false, {Least, Least + 1}: false, {}: false} {
		if s.Whole() != want {
			t.Errorf("%s: whole = %v", s, s.Whole())
		}
	}
	if got := (Score{61, 62}).String(); got != "mutants caught: 61/62" {
		t.Errorf("String = %q", got)
	}
}

func TestTheListIsLongAndHasNoTwins(t *testing.T) {
	var all []Mutant
	for _, of := range [][]Mutant{recordMutants(), fileMutants(), baseMutants(), policyMutants(), commandMutants(), codeMutants()} {
		all = append(all, of...)
	}
	if err := distinct(all); err != nil || len(all) < Least {
		t.Errorf("%d mutants, %v", len(all), err)
	}
	if distinct(append(all, all[0])) == nil {
		t.Error("twins are distinct")
	}
}

// Every patch fits the code it is meant for; whether it is caught, `make mutants` says.
func TestPatchesFitTheCode(t *testing.T) {
	for _, m := range codeMutants() {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(m.patch.file)))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.patch.old); n != 1 || m.patch.old == m.patch.new {
			t.Errorf("%s: %s has %d places like %q", m.Name, m.patch.file, n, m.patch.old)
		}
	}
}
