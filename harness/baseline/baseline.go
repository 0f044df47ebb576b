// Package baseline keeps accepted records: what is true of one machine class in
// <artifacts>/baselines/<environment-class>/<profile>.json, and the complexity
// snapshot, which is true everywhere, in baselines/complexity. It accepts only
// what is whole and was judged green, and only with a reason.
package baseline

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// ErrRefused is in the chain of every error that says why a record may not
// become a baseline, or an accepted one may not be used.
var ErrRefused = errors.New("not accepted")

// Store is where accepted records live.
type Store struct {
	Artifacts  string // machine-bound records live in its folder baselines
	Complexity string // file of the complexity snapshot, in radon's shape
}

// notName matches what may not be in a profile's name, since it becomes a file's.
var notName = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// Path is where the record of an environment class and profile lives.
func (s Store) Path(class, profile string) string {
	return filepath.Join(s.Artifacts, "baselines", notName.ReplaceAllString(class, "_"), notName.ReplaceAllString(profile, "_")+".json")
}

// Find returns the accepted record for an environment class and profile. Where
// there is none it returns nil and the reason; an accepted record that cannot
// be read is an error.
func (s Store) Find(class, profile string) (*record.Run, string, error) {
	path := s.Path(class, profile)
	r, err := record.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, s.none(class, profile), nil
	case err != nil:
		return nil, "", fmt.Errorf("baseline: %w; accept another record, or remove the file", err)
	case r.Env.Class != class:
		return nil, "", fmt.Errorf("baseline %s: it was measured in environment %s, and lies in the folder of %s: %w; remove the file", path, r.Env.Class, class, ErrRefused)
	default:
		return r, "", nil
	}
}

// none explains why there is no base, and names what was accepted elsewhere.
func (s Store) none(class, profile string) string {
	why := fmt.Sprintf("no record of profile %s was accepted in environment %s", profile, class)
	other, _ := filepath.Glob(filepath.Join(s.Artifacts, "baselines", "*", notName.ReplaceAllString(profile, "_")+".json")) // the pattern is well formed
	var classes []string
	for _, f := range other {
		classes = append(classes, filepath.Base(filepath.Dir(f)))
	}
	if len(classes) > 0 {
		why += "; those of other environments do not compare: " + strings.Join(classes, ", ")
	}
	return why
}

// Accept makes r the baseline of its environment class and profile and returns
// where it was put. j must be the judgement of r by the policy in force.
func (s Store) Accept(r *record.Run, j verdict.Judged, reason string) (string, error) {
	if err := acceptable(r, j, reason); err != nil {
		return "", err
	}
	if r.Load == nil {
		return "", fmt.Errorf("record %s: it holds no load, so there is nothing to compare with later: %w", r.ID, ErrRefused)
	}
	kept := *r
	kept.Notes = append(append([]string{}, r.Notes...), "accepted as baseline: "+reason)
	b, err := record.Encode(&kept)
	if err != nil {
		return "", fmt.Errorf("baseline: %w", err)
	}
	path := s.Path(r.Env.Class, r.Plan.Profile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("baseline: %w", err)
	}
	return path, record.WriteFile(path, b)
}

func acceptable(r *record.Run, j verdict.Judged, reason string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("record %s: "+format+": %w", append(append([]any{r.ID}, args...), ErrRefused)...)
	}
	switch {
	case strings.TrimSpace(reason) == "":
		return refuse("a reason is needed: plumbline accept --reason '…'")
	case r.Partial:
		return refuse("it is partial: %s", r.PartialReason)
	case j.Run != r.ID:
		return refuse("the judgement is of %s", j.Run)
	case !accepted(j):
		return refuse("its verdict is %s: %s", j.Verdict, j.Summary)
	default:
		return nil
	}
}

// accepted tells whether what was judged may become a base. What failed only in
// comparison with the older base may: accepting it with a reason is how a known
// change is let in.
func accepted(j verdict.Judged) bool {
	if len(j.Checks) == 0 {
		return false
	}
	for _, c := range j.Checks {
		if c.Verdict != verdict.Pass && c.Group != verdict.Baseline {
			return false
		}
	}
	return true
}

// FindComplexity reads the accepted complexity snapshot. Where there is none it
// returns nil and the reason.
func (s Store) FindComplexity() ([]record.Func, string, error) {
	b, err := os.ReadFile(s.Complexity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "no complexity snapshot was accepted yet", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("complexity baseline: %w", err)
	}
	funcs, err := complexity.Radon(bytes.NewReader(b))
	if err != nil {
		return nil, "", fmt.Errorf("complexity baseline %s: %w", s.Complexity, err)
	}
	if len(funcs) == 0 {
		return nil, "", fmt.Errorf("complexity baseline %s: it holds no function; accept a snapshot anew", s.Complexity)
	}
	return funcs, "", nil
}

// AcceptComplexity makes the snapshot of r the accepted one, under the same
// conditions as Accept. Being committed, it needs no note of the reason.
func (s Store) AcceptComplexity(r *record.Run, j verdict.Judged, reason string) error {
	if err := acceptable(r, j, reason); err != nil {
		return err
	}
	if r.Complexity == nil || len(r.Complexity.Funcs) == 0 {
		return fmt.Errorf("record %s: it holds no complexity snapshot: %w", r.ID, ErrRefused)
	}
	var b bytes.Buffer
	if err := complexity.WriteRadon(&b, r.Complexity.Funcs); err != nil {
		return fmt.Errorf("complexity baseline: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.Complexity), 0o755); err != nil {
		return fmt.Errorf("complexity baseline: %w", err)
	}
	return record.WriteFile(s.Complexity, b.Bytes())
}
