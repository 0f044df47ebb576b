package mutant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Patch is one change of the gate's code, put over the tree by go's -overlay:
// no file of the tree is touched.
type Patch struct {
	file     string // slash path in the tree
	old, new string // old must occur exactly once
}

// patchedGate is the Want of a mutant that lives in the program itself: a gate
// that is built with it must answer wrongly to one of the probes.
const patchedGate = "probes"

const modulePath = "qmtl.internal/plumbline/"

// codeMutants harm the gate's own code. Its self-tests must notice.
func codeMutants() []Mutant {
	code := func(name, pkg, file, old, new string) Mutant {
		return Mutant{Kind: "code", Name: name, Want: pkg, patch: &Patch{file, old, new}}
	}
	const v = "harness/verdict"
	return []Mutant{
		code("a broken measurement ends with exit code 0", v, v+"/judge.go", "return ExitBroken", "return ExitPass"),
		code("a failed check ends with exit code 0", v, v+"/judge.go", "		return ExitFail\n", "		return ExitPass\n"),
		code("the best part decides", v, v+"/verdict.go", "severity[v] > severity[w]", "severity[v] < severity[w]"),
		code("no part at all is a pass", v, v+"/verdict.go", "		return Unjudged\n", "		return Pass\n"),
		code("the zero verdict is pass", v, v+"/verdict.go", "	Unjudged     Verdict = iota // nobody looked\n	Pass                        // measured, and within bounds", "	Pass     Verdict = iota\n	Unjudged"),
		code("every check holds", v, v+"/judge.go", "	if ok {\n		c.Verdict = Pass", "	if ok || true {\n		c.Verdict = Pass"),
		code("an absent figure is zero", v, v+"/judge.go", "	j.add(Check{Name: check, Group: group, Verdict: Invalid, Reason: reason})\n	return 0, false\n", "	_ = reason\n	return 0, true\n"),
		code("green holds whatever the policy says", v, v+"/judge.go", "v == Pass || slices.Contains(p.Green, v)", "v == Pass || v == Inconclusive || v == NoBaseline || slices.Contains(p.Green, v)"),
		code("every invalid part is excused", v, v+"/judge.go", "	if !j.died() {\n		return\n	}\n", ""),
		code("a waiver lets a broken measurement through", v, v+"/waive.go", "c.Verdict == Fail && covers", "c.Verdict != Pass && covers"),
		code("an expired waiver holds", v, v+"/waive.go", "if day.After(w.Until.Time) {", "if false {"),
		code("a waiver covers what it does not name", v, v+"/waive.go", `w.Only == "" || strings`, `w.Only != "?" || strings`),
		code("a skip counts as a pass", v, v+"/bounds.go", "case o.Status == record.Passed:", "case o.Status != record.Failed:"),
		code("a failed scenario is passed over", v, v+"/bounds.go", "			j.add(failedScenario(o))\n", ""),
		code("every skip is allowed", v, v+"/bounds.go", "!slices.Contains(allowed, o.ID) &&", "!slices.Contains(allowed, o.ID) && false &&"),
		code("findings of the audit are not counted", v, v+"/bounds.go", "unanswered+int64(len(a.Lost))", "unanswered"),
		code("requests without an answer are not counted", v, v+"/bounds.go", "l.Ledger.Lost + l.WarmUpLedger.Lost -", "0*l.Ledger.Lost -"),
		code("a latency of any size is within its limit", v, v+"/bounds.go", "j.put(v <= limit, verdict, c)", "j.put(v <= limit*1000, verdict, c)"),
		code("a heap of any size is under its cap", v, v+"/bounds.go", "j.put(peak <= limit, Fail", "j.put(peak <= limit*100, Fail"),
		code("a dead SUT is alive", v, v+"/bounds.go", `if p.Died != "" {`, `if p.Died == "?" {`),
		code("a function above the limit is within", v, v+"/bounds.go", "if f.CC > limit {", "if f.CC > 9*limit {"),
		code("bases of another environment compare", v, v+"/baseline.go", "b.Env.Class != j.cand.Env.Class", "b.Env.Class == \"?\""),
		code("a regression passes", v, v+"/timing.go", "		out.Verdict = Fail\n", "		out.Verdict = Pass\n"),
		code("what cannot be told passes", v, v+"/timing.go", "		out.Verdict = Inconclusive\n		out.Reason += \"; \" + strings", "		out.Verdict = Pass\n		out.Reason += \"; \" + strings"),
		code("growth is not looked at", v, v+"/baseline.go", "c.Candidate.CC > limit", "c.Candidate.CC > 99*limit"),
		code("NaN is a number", v, v+"/measurement.go", "err := record.Finite(r)", "var err error"),
		code("figures need not follow from their parts", v, v+"/measurement.go", "if inParts != inMetrics ||", "if false &&"),
		code("a late generator is trusted", v, v+"/measurement.go", "j.put(lag <= limit, Invalid", "j.put(lag >= 0, Invalid"),
		code("a missing part is not missed", v, v+"/measurement.go", "		if when {\n			missing = append", "		if when && false {\n			missing = append"),
		code("disagreement with real servers is passed over", v, v+"/fidelity.go", "for _, d := range f.Disagreed {", "for _, d := range f.Disagreed[:0] {"),
		code("the ledger always balances", "bench/load", "bench/load/result.go", "sum != l.Offered {", "sum < 0 {"),
		code("a lost request is booked as refused", "bench/load", "bench/load/recorder.go", "		l.Lost++\n", "		l.Answered++\n		l.Rejected++\n"),
		code("latency counts from when a request was sent", "bench/load", "bench/load/recorder.go", "latency = o.Done - o.Due", "latency = o.Done - o.Sent"),
		code("what waits too long is not offered", "bench/load", "bench/load/engine.go", "			e.rec.offered(j.due)\n			j.handed = e.since()\n			if !e.senders.give(j) {", "			j.handed = e.since()\n			if !e.senders.give(j) {"),
		code("a record need not keep to its schema", "harness/record", "harness/record/read.go", "	if err := conforms(b); err != nil {\n		return nil, err\n	}\n", ""),
		code("a record of another version is read", "harness/record", "harness/record/read.go", "case *v.Schema != SchemaVersion:", "case *v.Schema < 0:"),
		code("requests are not counted anew", "harness/evidence", "harness/evidence/evidence.go", "sameRequests(dir, told, e)}", "nil}"),
		code("histograms are not read again", "harness/evidence", "harness/evidence/evidence.go", "sameHistograms(dir, told)", "nil"),
		code("a failed run may become a base", "harness/baseline", "harness/baseline/baseline.go", "case !accepted(j):", "case false:"),
		code("a base of another folder is used", "harness/baseline", "harness/baseline/baseline.go", "case r.Env.Class != class:", "case r.Env.Class == \"?\":"),
		code("the console says PASS whatever was judged", "harness/report", "harness/report/console.go", "strings.ToUpper(v.Judged.Verdict.String()), v.Judged.ExitCode", "\"PASS\", 0"),
		code("GitHub gets no error", "harness/report", "harness/report/github.go", "	return \"error\"\n}", "	return \"notice\"\n}"),
		code("a report cut short is no error", "harness/report", "harness/report/report.go", "	s.err = err\n", "	s.err = nil\n"),
		code("no difference is ever found", "harness/stat", "harness/stat/stat.go", "a.P, a.Cliff = ranks.p(), ranks.cliff()", "a.P, a.Cliff = 1, ranks.cliff()"),
		code("many comparisons count as one", "harness/stat", "harness/stat/stat.go", "ps[i]*float64(len(ps)-rank)", "ps[i]+0*float64(rank)"),
		code("complexity grown counts as the same", "harness/complexity", "harness/complexity/compare.go", "	case ch.Delta > 0:\n		ch.Status = Worse\n", ""),
		code("the program always exits with 0", patchedGate, "harness/cmd/plumbline/main.go", "os.Exit(code)", "os.Exit(code * 0)"),
		code("the command forgets the verdict", patchedGate, "harness/cli/cli.go", "	if j.ExitCode == verdict.ExitPass {\n		return nil\n	}\n	return &exit", "	if j.ExitCode >= verdict.ExitPass {\n		return nil\n	}\n	return &exit"),
		code("errors of the command are swallowed", patchedGate, "harness/cli/cli.go", "		return e.code, !e.quiet", "		return 0, !e.quiet"),
		code("the command does not look at the files", patchedGate, "harness/cli/judge.go", "b.Evidence = evidence.Of(dir, r)", "_ = evidence.Of"),
		code("the command does not look for a base", patchedGate, "harness/cli/judge.go", "		b.Run, b.Reason, err = q.store.Find(r.Env.Class, r.Plan.Profile)\n", "		b.Reason = \"none\"\n"),
	}
}

// tryCode builds the tree with the patch over it and asks the self-tests, or
// puts the probes to the gate.
func (g *Good) tryCode(ctx context.Context, m Mutant) (finding, error) {
	overlay, dir, err := g.overlay(m.patch)
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // scratch
	if m.Want == patchedGate {
		return g.probePatched(ctx, overlay, dir)
	}
	if err := g.testsAreGreen(ctx, m.Want); err != nil {
		return finding{}, err
	}
	a := g.goTool(ctx, "test", "-count=1", "-vet=off", "-timeout=60s", "-overlay="+overlay, modulePath+m.Want)
	switch {
	case strings.Contains(a.text, "[build failed]") || strings.Contains(a.text, "[setup failed]"):
		return finding{}, fmt.Errorf("the patched code cannot be built:\n%s", a.text)
	case a.code == 1 && strings.Contains(a.text, "--- FAIL: "):
		_, test, _ := strings.Cut(a.text, "--- FAIL: ")
		name, _, _ := strings.Cut(test, " ")
		return finding{true, "self-test " + name + " of " + m.Want}, nil
	case a.code == 1 && strings.Contains(a.text, "panic: "):
		return finding{true, "self-tests of " + m.Want + " panic"}, nil
	default:
		return finding{false, fmt.Sprintf("self-tests of %s: exit %d: %s", m.Want, a.code, firstLine(a.text))}, nil
	}
}

// testsAreGreen asks once that the unharmed self-tests of a package pass.
func (g *Good) testsAreGreen(ctx context.Context, pkg string) error {
	if g.green[pkg] {
		return nil
	}
	a := g.goTool(ctx, "test", "-vet=off", "-timeout=60s", modulePath+pkg)
	if a.code != 0 || !strings.HasPrefix(a.text, "ok ") {
		return fmt.Errorf("%w: the unharmed self-tests of %s do not pass, exit %d:\n%s", ErrControl, pkg, a.code, a.text)
	}
	g.green[pkg] = true
	return nil
}

// overlay writes the patched file and the description that go reads.
func (g *Good) overlay(p *Patch) (file, dir string, err error) {
	original := filepath.Join(g.place.Root, filepath.FromSlash(p.file))
	text, err := os.ReadFile(original)
	if err != nil {
		return "", "", err
	}
	if n := strings.Count(string(text), p.old); n != 1 {
		return "", "", fmt.Errorf("%s has %d places like %q, want 1: the mutant has to follow the code", p.file, n, p.old)
	}
	if dir, err = os.MkdirTemp(g.place.Work, "code-"); err != nil {
		return "", "", err
	}
	patched, file := filepath.Join(dir, "patched.go"), filepath.Join(dir, "overlay.json")
	listing, err := json.Marshal(map[string]any{"Replace": map[string]string{original: patched}})
	return file, dir, errors.Join(err,
		os.WriteFile(patched, []byte(strings.Replace(string(text), p.old, p.new, 1)), 0o600),
		os.WriteFile(file, listing, 0o600))
}

// goTool runs the go command in the tree, without settings of plumbline's own.
func (g *Good) goTool(ctx context.Context, args ...string) answer {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = g.place.Root
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PLUMBLINE_") })
	return said(cmd)
}

// probe is a question whose answer is known.
type probe struct {
	name  string
	spoil func(*Bench) error
	args  []string
	code  int
}

func probes() []probe {
	return []probe{
		{"a good run", nil, nil, 0},
		{"a missing histogram", drop(in("load", "latency.hlog")), nil, 3},
		{"a generator that was late", recordMutant("a generator that was late"), nil, 3},
		{"a failed scenario", recordMutant("a scenario failed"), nil, 1},
		{"a base that was faster", baseMutant("base that was much faster"), nil, 1},
		{"a record cut off", cut(in("run.json"), 0.5), nil, 3},
		{"a misspelt format", nil, []string{"judge", "--format", "consol", "RUN"}, 2},
	}
}

func recordMutant(name string) func(*Bench) error { return harm(recordMutants(), name) }
func baseMutant(name string) func(*Bench) error   { return harm(baseMutants(), name) }

func harm(of []Mutant, name string) func(*Bench) error {
	at := slices.IndexFunc(of, func(m Mutant) bool { return m.Name == name })
	if at < 0 {
		return func(*Bench) error { return fmt.Errorf("no mutant is named %q", name) }
	}
	return of[at].spoil
}

// probePatched builds the gate with the overlay and puts the probes to it.
func (g *Good) probePatched(ctx context.Context, overlay, dir string) (finding, error) {
	if built := g.goTool(ctx, "build", "-overlay="+overlay, "-o", filepath.Join(dir, "plumbline"), "./harness/cmd/plumbline"); built.code != 0 {
		return finding{}, fmt.Errorf("the patched code cannot be built:\n%s", built.text)
	}
	var wrong []string
	for _, p := range probes() {
		honest, err := g.probe(ctx, p, g.place.Bin)
		if err != nil {
			return finding{}, err
		}
		if honest.code != p.code {
			return finding{}, fmt.Errorf("%w: the unharmed gate answers %s with exit %d, want %d:\n%s", ErrControl, p.name, honest.code, p.code, honest.text)
		}
		blind, err := g.probe(ctx, p, dir)
		if err != nil {
			return finding{}, err
		}
		if blind.code != p.code {
			wrong = append(wrong, fmt.Sprintf("%s: exit %d instead of %d", p.name, blind.code, p.code))
		}
	}
	if len(wrong) == 0 {
		return finding{false, "the patched gate answers every probe as it should"}, nil
	}
	return finding{true, "probe of " + wrong[0]}, nil
}

func (g *Good) probe(ctx context.Context, p probe, bin string) (answer, error) {
	b, err := g.bench()
	if err != nil {
		return answer{}, err
	}
	defer b.close()
	b.bin = bin
	if p.spoil != nil {
		if err := p.spoil(b); err != nil {
			return answer{}, err
		}
	}
	return b.ask(ctx, p.args), nil
}
