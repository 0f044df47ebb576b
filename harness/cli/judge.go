package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness/baseline"
	"qmtl.internal/plumbline/harness/evidence"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// question is everything a judgement needs beside the record.
type question struct {
	policy verdict.Policy
	store  baseline.Store
	base   *record.Run // given by name; nil: find it
	shows  []shown
}

// prepare reads policy, base and formats, before anything is started.
func (a *app) prepare() (*question, error) {
	q := &question{store: a.flags.store()}
	var err error
	if q.policy, err = a.flags.readPolicy(); err != nil {
		return nil, err
	}
	q.policy.RequireStages = append(q.policy.RequireStages, a.flags.require...)
	if err := q.policy.Check(); err != nil {
		return nil, usagef("--require-stages: %w", err)
	}
	if q.shows, err = parseFormats(a.flags.formats); err != nil {
		return nil, err
	}
	if a.flags.base == "" {
		return q, nil
	}
	if q.base, err = record.Read(a.flags.base); err != nil {
		return nil, usagef("--base: %w", err)
	}
	return q, nil
}

// baseFor gives what a record is held against: the base that was named, else
// the one accepted for its environment and profile. A base that is there but
// cannot be read is part of the answer.
// The files of the run, where dir has them, speak as well.
func (q *question) baseFor(dir string, r *record.Run) verdict.Base {
	var b verdict.Base
	if dir != "" {
		b.Evidence = evidence.Of(dir, r)
	}
	var err error
	note := func(err error) {
		if err != nil {
			b.Broken = append(b.Broken, err.Error())
		}
	}
	if slices.Contains(r.Plan.Stages, verdict.StageComplexity) {
		b.Complexity, b.ComplexityReason, err = q.store.FindComplexity()
		note(err)
	}
	switch {
	case q.base != nil:
		b.Run = q.base
	case r.Load == nil:
		b.Reason = "the record holds no load to compare"
	default:
		b.Run, b.Reason, err = q.store.Find(r.Env.Class, r.Plan.Profile)
		note(err)
	}
	return b
}

func (a *app) judge() *cobra.Command {
	cmd := &cobra.Command{
		Use: "judge RECORD", Short: "judge a record again: a run directory or its run.json", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			q, err := a.prepare()
			if err != nil {
				return err
			}
			r, dir, err := readRecord(args[0])
			if errors.Is(err, record.ErrBroken) {
				return a.broken(q, args[0], err)
			}
			if err != nil {
				return err
			}
			base := q.baseFor(dir, r)
			j := verdict.Judge(q.policy, base, r)
			if err := a.answer(q, dir, r, base, j); err != nil {
				return err
			}
			return judged(j)
		},
	}
	a.flags.answers(cmd.Flags())
	cmd.Flags().StringSliceVar(&a.flags.require, "require-stages", nil, "stages that the record must have been asked for, beside those of the policy")
	return cmd
}

// readRecord reads a record that a person named, and tells the run directory it
// lies in; "" when it is a file of another name.
func readRecord(path string) (r *record.Run, dir string, err error) {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to // of latest, the run it points to
	}
	r, err = record.Read(path)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, record.ErrBroken) {
		return nil, "", usagef("%w", err)
	}
	if err != nil {
		return nil, "", err
	}
	switch {
	case filepath.Base(path) == record.RunFile:
		return r, filepath.Dir(path), nil
	case filepath.Ext(path) == ".json":
		return r, "", nil
	default:
		return r, path, nil
	}
}

// broken answers about a record that cannot be read. Nothing is written beside
// it: the evidence stays as it was found.
func (a *app) broken(q *question, path string, err error) error {
	j := verdict.Broken(filepath.Base(filepath.Clean(path)), err)
	if err := a.show(q.shows, "", nil, verdict.Base{}, j); err != nil {
		return err
	}
	return judged(j)
}

func (a *app) accept() *cobra.Command {
	var reason string
	var snapshot bool
	cmd := &cobra.Command{
		Use: "accept [RECORD]", Short: "make a record the baseline of its environment and profile (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := filepath.Join(a.flags.artifacts, record.LatestLink)
			if len(args) == 1 {
				path = args[0]
			}
			return a.acceptRecord(path, reason, snapshot)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why this record is right, for those who compare with it later (required)")
	cmd.Flags().BoolVar(&snapshot, "complexity", false, "accept its complexity snapshot as well, into the committed baselines")
	return cmd
}

func (a *app) acceptRecord(path, reason string, snapshot bool) error {
	q, err := a.prepare()
	if err != nil {
		return err
	}
	r, dir, err := readRecord(path)
	if err != nil {
		return err
	}
	j := verdict.Judge(q.policy, q.baseFor(dir, r), r)
	if r.Load != nil || !snapshot {
		to, err := q.store.Accept(r, j, reason)
		if err != nil {
			return err
		}
		if err := acceptProfile(dir, to); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "accepted %s as %s\n", r.ID, to)
	}
	if !snapshot {
		return nil
	}
	if err := q.store.AcceptComplexity(r, j, reason); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "accepted its complexity snapshot as %s\n", q.store.Complexity)
	return nil
}
