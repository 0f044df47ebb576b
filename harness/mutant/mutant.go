// Package mutant blinds the gate on purpose, in every way its authors could
// think of, and asks that it turns red each time.
//
// A mutant is a harm to a good recorded run, to its files, to a baseline, a
// policy or a judgement, or to the gate's own code. The gate is asked as its
// users ask it, by its exit code: 1, 2 or 3, and the reason that the harm calls
// for. Before any mutant counts, the unharmed run must be green and the
// unharmed self-tests must pass; a harm that changes nothing, a build that
// breaks or a red for another reason is no catch.
package mutant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Least is how many mutants there must be for the score to count.
const Least = 60

// Mutant is one way to blind the gate.
type Mutant struct {
	Kind string // record, files, baseline, snapshot, policy, judgement, command, code
	Name string
	Want string // what the gate must name; of code: the package whose self-tests must fail

	spoil func(*Bench) error // harms the fixtures of a bench
	args  []string           // of the gate, instead of judge; "RUN" stands for the run directory
	patch *Patch             // of the gate's code
}

// ErrControl is in the chain of every error that says that the unharmed gate is
// not green, so that no red proves anything.
var ErrControl = errors.New("control")

// Place says where things are.
type Place struct {
	Root string // the tree
	Bin  string // folder of the gate's programs
	Work string // scratch folder
}

// Score counts mutants.
type Score struct{ Caught, All int }

// Whole tells whether every mutant was caught, and there were enough of them.
func (s Score) Whole() bool { return s.Caught == s.All && s.All >= Least }

func (s Score) String() string { return fmt.Sprintf("mutants caught: %d/%d", s.Caught, s.All) }

// Run records a good run, holds every mutant against the gate and writes one
// line each to w. An error means that the score says nothing.
func Run(ctx context.Context, p Place, w io.Writer) (Score, error) {
	all := slices.Concat(recordMutants(), fileMutants(), baseMutants(), policyMutants(), commandMutants(), codeMutants())
	if err := distinct(all); err != nil {
		return Score{All: len(all)}, err
	}
	g, err := prepare(ctx, p)
	if err != nil {
		return Score{All: len(all)}, err
	}
	return g.hold(ctx, all, w)
}

// hold holds every mutant against the gate.
func (g *Good) hold(ctx context.Context, all []Mutant, w io.Writer) (Score, error) {
	s := Score{All: len(all)}
	for i, m := range all {
		how, err := g.try(ctx, m)
		if err != nil {
			return s, fmt.Errorf("mutant %d, %s: %w", i+1, m.Name, err)
		}
		word := "MISSED"
		if how.caught {
			s.Caught++
			word = "caught"
		}
		if _, err := fmt.Fprintf(w, "%s %-9s  %-58s  %s\n", word, m.Kind, m.Name, how.text); err != nil {
			return s, err
		}
	}
	return s, nil
}

// finding says how a mutant fared.
type finding struct {
	caught bool
	text   string
}

func (g *Good) try(ctx context.Context, m Mutant) (finding, error) {
	if m.patch != nil {
		return g.tryCode(ctx, m)
	}
	b, err := g.bench()
	if err != nil {
		return finding{}, err
	}
	defer b.close()
	before, err := b.digest()
	if err != nil {
		return finding{}, err
	}
	if m.spoil != nil {
		if err := m.spoil(b); err != nil {
			return finding{}, fmt.Errorf("the harm could not be done: %w", err)
		}
		after, err := b.digest()
		if err != nil {
			return finding{}, err
		}
		if after == before {
			return finding{}, errors.New("the harm changed nothing, so a red would prove nothing")
		}
	}
	return m.judgeAnswer(b.ask(ctx, m.args)), nil
}

// judgeAnswer holds an answer of the gate against what the mutant calls for.
func (m Mutant) judgeAnswer(a answer) finding {
	red := a.code >= 1 && a.code <= 3
	switch {
	case !red:
		return finding{false, fmt.Sprintf("exit %d: %s", a.code, firstLine(a.text))}
	case !strings.Contains(a.text, m.Want):
		return finding{false, fmt.Sprintf("exit %d, but nothing about %q: %s", a.code, m.Want, firstLine(a.text))}
	default:
		return finding{true, fmt.Sprintf("exit %d: %s", a.code, m.Want)}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// distinct asks that no two mutants are one.
func distinct(all []Mutant) error {
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.Name] || m.Name == "" || m.Want == "" {
			return fmt.Errorf("mutant %q has no name, no expectation, or is there twice", m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}
