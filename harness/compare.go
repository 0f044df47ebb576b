package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/duet"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// ComparePlan says which builds to measure, and how. Of Plan it takes places,
// profile, SUT, provider, seed and faults; the faults harm the candidate only.
type ComparePlan struct {
	Plan
	Root      string        // tree in whose repository revisions are looked up
	Base      string        // revision, folder, or record
	Candidate string        // revision or folder; "": Root as it is now
	Budget    time.Duration // of the measuring; builds take their own time
	Slot      time.Duration // of one turn; 0: duet.DefaultSlot
	// Into is where the evidence goes; "": <artifacts>/compare/<id>.
	Into string
	// Differing refuses, by ErrSame, to measure two builds that are the same.
	Differing bool
	// Enough is asked now and then whether the answer is clear. nil: never.
	Enough func(*record.Comparison) bool
	// Explain is asked when it has ended whether profiles of both builds are
	// wanted. nil: never.
	Explain func(*record.Comparison) bool
}

// ErrSame says that both sides build the same programs, byte by byte.
var ErrSame = errors.New("both sides build the same programs, so there is nothing to measure")

// comparing is one comparison under way.
type comparing struct {
	*checked
	plan ComparePlan
	c    *record.Comparison
	into string
	kind string
	prov backend.Provider
}

// Compare measures two builds and returns what was measured, and the folder with
// the evidence. An error of the plan has ErrUsage in its chain and leaves
// nothing behind; after any other the comparison is partial, where there is one.
func Compare(ctx context.Context, p ComparePlan) (*record.Comparison, string, error) {
	x, err := p.prepare(ctx)
	if err != nil {
		return nil, "", err
	}
	if record, ok := baseRecord(p.Base); ok {
		err = x.againstRecord(ctx, record)
	} else {
		err = x.sideBySide(ctx)
	}
	if err != nil && (isUsage(err) || errors.Is(err, duet.ErrBuild) || errors.Is(err, ErrSame)) {
		return nil, "", errors.Join(err, os.RemoveAll(x.into)) // nothing was measured
	}
	x.c.Ended = time.Now().UTC()
	if err != nil {
		x.c.Partial, x.c.PartialReason = true, err.Error()
	}
	return x.c, x.into, err
}

func isUsage(err error) bool {
	return errors.Is(err, ErrUsage) || errors.Is(err, duet.ErrUsage) || errors.Is(err, backend.ErrUsage)
}

// prepare resolves the plan and makes the folder.
func (p ComparePlan) prepare(ctx context.Context) (*comparing, error) {
	p.Stages, p.FaultAt = []string{verdict.StageLoad}, nil
	c, err := p.Plan.check()
	if err != nil {
		return nil, err
	}
	x := &comparing{checked: c, plan: p, into: p.Into}
	if err := x.possible(); err != nil {
		return nil, usageError{err}
	}
	began := time.Now()
	id := record.NewID(began, strconv.FormatUint(rand.Uint64N(1<<20), 36))
	x.c = &record.Comparison{
		ID: id, Started: began.UTC().Round(0), Method: record.Paired, Looks: []float64{}, Absent: map[string]string{},
		Plan: record.ComparisonPlan{
			Budget: p.Budget, Slot: p.Slot, Profile: c.profile.Name, Rate: c.profile.MeanRate(), HeapCap: c.heapCap, Seed: c.Seed, SUT: c.SUT,
		},
	}
	var reason string
	if x.prov, x.kind, reason, err = backend.Choose(ctx, c.Provider, c.Backends); err != nil {
		return nil, err
	}
	x.c.Provider, x.c.Env = record.Provider{Kind: x.kind, Reason: reason}, record.Machine(x.kind)
	if x.into == "" {
		x.into = filepath.Join(p.Artifacts, CompareDir, id)
	}
	if err := os.MkdirAll(filepath.Join(x.into, "logs"), 0o755); err != nil {
		return nil, fmt.Errorf("artifacts folder: %w; make it writable or name another with --artifacts", err)
	}
	return x, nil
}

// CompareDir is the folder of comparisons below the artifacts.
const CompareDir = "compare"

// TurnsProfile is offered in turns where no other is asked for.
const TurnsProfile = "turns"

// CompareProfile is the load profile for a base that was given without one: the
// record's own, so that the loads are alike, else TurnsProfile.
func CompareProfile(base string) string {
	if path, ok := baseRecord(base); ok {
		if r, err := record.Read(path); err == nil && r.Plan.Profile != "" {
			return r.Plan.Profile
		}
	}
	return TurnsProfile
}

func (x *comparing) possible() error {
	slot := x.plan.Slot
	switch {
	case x.plan.Base == "":
		return errors.New("compare needs --base: a revision, a folder, or a record")
	case x.attached():
		return fmt.Errorf("--sut %s: what runs already cannot be started side by side; give a descriptor", x.SUT)
	case x.plan.Budget < time.Second || x.plan.Budget > 24*time.Hour:
		return fmt.Errorf("--budget %v: want a time from 1s to 24h", x.plan.Budget)
	case slot != 0 && (slot < time.Millisecond || slot > 10*time.Second):
		return fmt.Errorf("--slot %v: want a time from 1ms to 10s", slot)
	case len(x.profile.Ramps) > 0:
		return fmt.Errorf("--profile %s has stages; a comparison needs one constant rate", x.Profile)
	case x.Provider == backend.KindExternal:
		return errors.New("--provider external: two SUTs need a Redis each, since its keys have no namespace; take embedded or containers")
	}
	return nil
}

// baseRecord tells whether text names a record: a run.json, or a run directory.
func baseRecord(text string) (path string, ok bool) {
	info, err := os.Stat(text)
	switch {
	case err != nil:
		return "", false
	case info.IsDir():
		_, err := os.Stat(filepath.Join(text, record.RunFile))
		return text, err == nil
	default:
		return text, true
	}
}

// source finds one side: a revision, else a folder; "" is the tree itself.
func (x *comparing) source(ctx context.Context, text string) (duet.Source, error) {
	if text == "" {
		return duet.Tree(ctx, x.plan.Root)
	}
	s, err := duet.Revision(ctx, x.plan.Root, text)
	if err == nil || !isFolder(text) {
		return s, err
	}
	return duet.Tree(ctx, text)
}

func isFolder(text string) bool {
	info, err := os.Stat(text)
	return err == nil && info.IsDir()
}

// sideBySide builds both sides and measures them in turns.
func (x *comparing) sideBySide(ctx context.Context) error {
	builds, err := x.build(ctx)
	if err != nil {
		return err
	}
	x.c.Plan.Slot = cmp.Or(x.plan.Slot, duet.DefaultSlot)
	return duet.Run(ctx, duet.Options{
		Dir: x.into, K6: filepath.Join(x.Bin, "k6"), Profile: x.profile, ProfileAt: x.profileAt, Rate: x.Rate, HeapCap: x.heapCap,
		Budget: x.plan.Budget, Slot: x.c.Plan.Slot, Seed: x.Seed, Descriptor: x.descriptor, Provider: x.prov, Kind: x.kind,
		Builds: builds, Faults: x.tamper, ID: x.c.ID, Enough: x.plan.Enough, Explain: x.plan.Explain, Log: x.Log,
		Progress: func(text string, gone, total time.Duration) {
			x.Progress(Event{Stage: "compare", Text: text, Gone: gone, Total: total})
		},
	}, x.c)
}

func (x *comparing) build(ctx context.Context) (builds [2]duet.Build, err error) {
	arms := [2]*record.Arm{&x.c.Base, &x.c.Candidate}
	for i, side := range []struct{ name, given string }{{"base", x.plan.Base}, {"candidate", x.plan.Candidate}} {
		s, err := x.source(ctx, side.given)
		if err != nil {
			return builds, fmt.Errorf("--%s %w", side.name, err)
		}
		*arms[i] = record.Arm{Given: shownSource(s), Revision: s.Revision, Tree: s.Tree, Dirty: s.Dirty}
		x.Progress(Event{Stage: "build", Text: side.name + " " + arms[i].Name()})
		if builds[i], err = duet.Make(ctx, side.name, s, x.builds(), x.into); err != nil {
			return builds, err
		}
	}
	for _, r := range x.tamper {
		x.c.Candidate.Faults = append(x.c.Candidate.Faults, r.String())
	}
	same, err := duet.Identical(builds)
	if err == nil && same && x.plan.Differing {
		err = ErrSame
	}
	x.note(same)
	return builds, err
}

// builds is the cache of built trees.
func (x *comparing) builds() string { return filepath.Join(x.Artifacts, "builds") }

func (x *comparing) note(same bool) {
	c := x.c
	if same && len(x.tamper) == 0 {
		c.Notes = append(c.Notes, "both sides build the same programs: this is an A/A run, and whatever it shows is noise")
	}
	if c.Candidate.Dirty {
		c.Notes = append(c.Notes, "the candidate holds changes that are not committed")
	}
	if c.Base.Dirty {
		c.Notes = append(c.Notes, "the base holds changes that are not committed")
	}
}

// shownSource names a folder without saying where on this machine it lies.
func shownSource(s duet.Source) string {
	if s.Dir != "" {
		return filepath.Base(s.Dir)
	}
	return s.Given
}
