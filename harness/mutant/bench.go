package mutant

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/baseline"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// policyText is the policy of the good run: wide where a busy machine could
// interfere, whole where it could not.
const policyText = `{
  "schema": 1,
  "measurement": { "generator_lag_p99_ms": 500 },
  "contract": { "min_passed": 3, "allowed_skips": {} },
  "fidelity": { "min_share": 0.95 },
  "latency": [{ "why": "wide: the machine may be busy", "profile": "", "provider": "", "p95_ms": 5000 }],
  "memory": { "min_headroom": 0.05, "max_gc_share": 0.9, "max_leak_bytes_per_s": 4194304 },
  "faults": { "recovery_s": 5, "latency_ms": 150 },
  "complexity": { "limit": 10, "growth_limit": 10, "min_kept": 0.5 },
  "comparison": {
    "alpha": 0.05,
    "metrics": { "p50_ms": { "ratio": 0.25, "absolute": 0.1 } },
    "heap_peak_bytes": { "ratio": 0.5, "absolute": 1048576 },
    "max_age_days": 90
  },
  "green": ["no-baseline"],
  "waivers": []
}
`

// recorded is what the good run is asked for: short, and of few scenarios.
var recorded = []string{"bench", "--provider", "embedded", "--profile", "tiny", "--window", "6s", "--only", "GW-SUB", "--only", "GW-VAL"}

// source is the tree whose complexity the good run has: small, and our own.
var source = filepath.Join("bench", "load")

// baseAge is how long before the good run its base was measured, in days.
const baseAge = 2

// Good is a recorded run that the gate finds green.
type Good struct {
	place Place
	dir   string // artifacts/<id> and all else of a bench
	id    string
	green map[string]bool // packages whose unharmed self-tests pass
}

// Bench is a copy of the good run with all that it is judged by, to be harmed.
type Bench struct {
	dir, id, bin string
}

// Run is the directory of the run.
func (b *Bench) Run(parts ...string) string {
	return filepath.Join(append([]string{b.dir, "artifacts", b.id}, parts...)...)
}

func (b *Bench) policy() string   { return filepath.Join(b.dir, "policy.json") }
func (b *Bench) snapshot() string { return filepath.Join(b.dir, "complexity.json") }

func (b *Bench) store() baseline.Store {
	return baseline.Store{Artifacts: filepath.Join(b.dir, "artifacts"), Complexity: b.snapshot()}
}

// answer is what a program said.
type answer struct {
	code int
	text string
}

// prepare records a good run, makes a base of it, and asks that it is green.
func prepare(ctx context.Context, p Place) (*Good, error) {
	g := &Good{place: p, dir: filepath.Join(p.Work, "good"), green: map[string]bool{}}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	b := &Bench{dir: g.dir, bin: p.Bin}
	if err := os.WriteFile(b.policy(), []byte(policyText), 0o600); err != nil {
		return nil, err
	}
	args := append(slices.Clone(recorded), "--bin-dir", p.Bin, "--root", p.Root, "--source", filepath.Join(p.Root, source))
	if a := b.gate(ctx, args...); a.code != 1 && a.code != 3 {
		return nil, fmt.Errorf("%w: the first run has no snapshot to be held against, which must be red; it ended with %d:\n%s", ErrControl, a.code, a.text)
	}
	id, err := os.Readlink(filepath.Join(g.dir, "artifacts", record.LatestLink))
	if err != nil {
		return nil, fmt.Errorf("%w: no run was recorded: %w", ErrControl, err)
	}
	g.id, b.id = id, id
	if err := b.makeBase(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	}
	return g, control(b.ask(ctx, nil))
}

// leastChecks is how many checks the judgement of a whole run has at least.
const leastChecks = 25

// control asks that the unharmed run is green, and was looked at.
func control(a answer) error {
	var j verdict.Judged
	err := json.Unmarshal([]byte(a.text), &j)
	if err != nil || a.code != 0 || j.Verdict != verdict.Pass || len(j.Checks) < leastChecks {
		return fmt.Errorf("%w: the unharmed run is not green, so no red proves anything; exit %d, %s by %d checks:\n%s", ErrControl, a.code, j.Verdict, len(j.Checks), a.text)
	}
	return nil
}

// makeBase accepts the run, as measured two days before, and its snapshot.
func (b *Bench) makeBase() error {
	r, err := record.Read(b.Run())
	if err != nil {
		return err
	}
	if r.Complexity == nil {
		return errors.New("the run has no complexity snapshot")
	}
	var snapshot bytes.Buffer
	if err := complexity.WriteRadon(&snapshot, r.Complexity.Funcs); err != nil {
		return err
	}
	base := *r
	base.ID = "accepted-" + r.ID
	base.Started, base.Ended = r.Started.AddDate(0, 0, -baseAge), r.Ended.AddDate(0, 0, -baseAge)
	text, err := record.Encode(&base)
	if err != nil {
		return err
	}
	to := b.store().Path(r.Env.Class, r.Plan.Profile)
	return errors.Join(os.WriteFile(b.snapshot(), snapshot.Bytes(), 0o600),
		os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, 0o600))
}

// bench copies the good run.
func (g *Good) bench() (*Bench, error) {
	dir, err := os.MkdirTemp(g.place.Work, "mutant-")
	if err != nil {
		return nil, err
	}
	return &Bench{dir: dir, id: g.id, bin: g.place.Bin}, os.CopyFS(dir, os.DirFS(g.dir))
}

func (b *Bench) close() { _ = os.RemoveAll(b.dir) } // scratch: its folder goes at the end anyway

// ask puts the question of the mutant, or judges the run.
func (b *Bench) ask(ctx context.Context, args []string) answer {
	if args == nil {
		args = []string{"judge", "--format", "json", "RUN"}
	}
	args = slices.Clone(args)
	for i, a := range args {
		args[i] = strings.ReplaceAll(strings.ReplaceAll(a, "RUN", b.Run()), "DIR", b.dir)
	}
	return b.gate(ctx, args...)
}

// gate runs plumbline as a user would, with this bench's places. A mutant's
// own flag of the same name comes later and wins.
func (b *Bench) gate(ctx context.Context, args ...string) answer {
	places := []string{args[0], "--artifacts", filepath.Join(b.dir, "artifacts"), "--policy", b.policy(), "--complexity-baseline", b.snapshot()}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "plumbline"), append(places, args[1:]...)...)
	cmd.Dir = b.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PLUMBLINE_") })
	return said(cmd)
}

// said runs cmd. A program that could not be run or was killed has code -1.
func said(cmd *exec.Cmd) answer {
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return answer{0, string(out)}
	case errors.As(err, &exit):
		return answer{exit.ExitCode(), string(out)}
	default:
		return answer{-1, err.Error()}
	}
}

// digest changes when any file of the bench does.
func (b *Bench) digest() (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(b.dir, path) // below by construction
		fmt.Fprintln(h, rel, d.Type())
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		h.Write(text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// edit changes the run in place and derives its figures again, so that the
// record is of one piece.
func edit(change func(*record.Run)) func(*Bench) error {
	return func(b *Bench) error { return rewrite(b.Run(record.RunFile), true, change) }
}

// forge changes the run in place and leaves its figures as they are.
func forge(change func(*record.Run)) func(*Bench) error {
	return func(b *Bench) error { return rewrite(b.Run(record.RunFile), false, change) }
}

// base changes the accepted record, figures derived again.
func base(change func(*record.Run)) func(*Bench) error {
	return func(b *Bench) error { return withBase(b, true, change) }
}

func withBase(b *Bench, derive bool, change func(*record.Run)) error {
	path, err := b.basePath()
	if err != nil {
		return err
	}
	return rewrite(path, derive, change)
}

func (b *Bench) basePath() (string, error) {
	found, err := filepath.Glob(filepath.Join(b.dir, "artifacts", "baselines", "*", "tiny.json"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%d accepted records: %w", len(found), err)
	}
	return found[0], nil
}

// rewrite does not check what it writes: that is the gate's part.
func rewrite(path string, derive bool, change func(*record.Run)) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r record.Run
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	change(&r)
	if derive {
		r.Metrics, r.Absent = nil, nil
		record.SetDerived(&r)
	}
	out, err := record.Encode(&r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, out, 0o600)
}

// text replaces the first old of a file of the bench, which must be there.
func text(path func(*Bench) (string, error), old, new string) func(*Bench) error {
	return func(b *Bench) error {
		name, err := path(b)
		if err != nil {
			return err
		}
		was, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.Contains(was, []byte(old)) {
			return fmt.Errorf("%s has no %q", filepath.Base(name), old)
		}
		return os.WriteFile(name, bytes.Replace(was, []byte(old), []byte(new), 1), 0o600)
	}
}

// cut leaves a file only its first part.
func cut(path func(*Bench) (string, error), keep float64) func(*Bench) error {
	return func(b *Bench) error {
		name, err := path(b)
		if err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		return os.Truncate(name, int64(keep*float64(info.Size())))
	}
}

// drop removes a file.
func drop(path func(*Bench) (string, error)) func(*Bench) error {
	return func(b *Bench) error {
		name, err := path(b)
		return errors.Join(err, os.Remove(name))
	}
}

// fill writes a file anew.
func fill(path func(*Bench) (string, error), content string) func(*Bench) error {
	return func(b *Bench) error {
		name, err := path(b)
		return errors.Join(err, os.WriteFile(name, []byte(content), 0o600))
	}
}

// in names a file of the run.
func in(parts ...string) func(*Bench) (string, error) {
	return func(b *Bench) (string, error) { return b.Run(parts...), nil }
}

func policyFile(b *Bench) (string, error)   { return b.policy(), nil }
func snapshotFile(b *Bench) (string, error) { return b.snapshot(), nil }
func baseFile(b *Bench) (string, error)     { return b.basePath() }
