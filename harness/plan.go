// Package harness runs a plan: it starts backends and the SUT, runs the contract
// scenarios, offers the load, audits what was stored, measures complexity, and
// writes the record. It is the only orchestrator; it judges nothing.
package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
	"qmtl.internal/plumbline/scenarios"
)

// ErrUsage is in the chain of every error about a plan that cannot be carried
// out as it was asked; nothing was started and nothing written.
var ErrUsage = errors.New("usage")

// Plan says what to run and where things are. Empty fields of no default are
// errors.
type Plan struct {
	Artifacts string // folder of runs
	Bin       string // folder of gateway, dagmanager and k6
	Programs  string // folder of the SUT's programs; "": Bin
	Bench     string // folder bench of the tree: profiles and scripts
	Source    string // tree whose complexity is measured; "": none
	Limit     int    // largest allowed complexity, noted in the record

	Stages   []string // of verdict.Stages
	Profile  string   // name, or path of a file
	Rate     string   // overrides of the profile, "": as it says
	Window   string
	WarmUp   string
	HeapCap  string // bytes; "": the profile's; "0": none
	Seed     uint64
	SUT      string // descriptor's name or file, or URL of a gateway that runs already
	Attach   sut.AttachOptions
	Provider string // auto, embedded, containers, external

	Generator string // GeneratorK6 or GeneratorOffer; "": the first
	Backends  backend.Candidates
	Faults    []record.Fault
	FaultAt   []string            // harm on the timeline of the load, AT:TARGET.KIND:FOR; none: the profile's
	Recovery  verdict.FaultPolicy // what is asked of a load with faults, noted in the record

	Scenarios string   // folder; "": those of the binary
	Select    []string // patterns of scenarios; none: all

	Profiles bool // take profiles of the SUT during the window, which costs it some per cent

	Progress Progress     // nil: silence
	Log      *slog.Logger // nil: discard
}

// The load generators: k6 with our module, and its engine alone, which leaves
// more of the machine to the SUT.
const (
	GeneratorK6    = "k6"
	GeneratorOffer = "offer"
)

// faultGenerator is the fault that starves the load generator of CPU; all others
// are rules of the tampering proxy.
const faultGenerator = "generator-cpu"

// checked is a plan that can be carried out.
type checked struct {
	Plan
	profile    load.Profile
	profileAt  string // file
	heapCap    int64
	descriptor sut.Descriptor // zero for an attached SUT
	tamper     []sut.Rule
	starve     float64 // share of CPU left to the generator; 1: all
	planned    []plannedFault
	scenarios  []scenario.Scenario
	empty      error // the scenario folder has none
}

// usageError keeps the text free of the sentinel's.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == ErrUsage }
func (e usageError) Unwrap() error        { return e.error }

// check resolves everything a plan names. Every error has ErrUsage in its chain.
func (p Plan) check() (*checked, error) {
	c := &checked{Plan: p, starve: 1}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Programs == "" {
		c.Programs = c.Bin
	}
	if c.Progress == nil {
		c.Progress = func(Event) {}
	}
	for _, resolve := range []func() error{c.stages, c.sut, c.faults, c.load, c.timeline, c.binaries, c.contract, c.source} {
		if err := resolve(); err != nil {
			return nil, usageError{err}
		}
	}
	return c, nil
}

func (c *checked) asked(stage string) bool { return slices.Contains(c.Stages, stage) }

func (c *checked) stages() error {
	if len(c.Stages) == 0 {
		return errors.New("no stage was asked for")
	}
	for _, s := range c.Stages {
		if !slices.Contains(verdict.Stages(), s) {
			return fmt.Errorf("no stage is named %q; have %s", s, strings.Join(verdict.Stages(), ", "))
		}
	}
	if c.asked(verdict.StageFidelity) && !c.asked(verdict.StageContract) {
		return errors.New("--stages fidelity compares what the scenarios came to, so it needs contract as well")
	}
	if !slices.Contains([]string{"", backend.KindAuto, backend.KindEmbedded, backend.KindContainers, backend.KindExternal}, c.Provider) {
		return fmt.Errorf("--provider %q: want auto, embedded, containers or external", c.Provider)
	}
	if e := c.Backends.External; c.Provider == backend.KindExternal && (e.Kafka == "" || e.Redis == "") {
		return errors.New("--provider external needs --kafka and --redis, each host:port")
	}
	return nil
}

func (c *checked) attached() bool {
	return strings.HasPrefix(c.SUT, "http://") || strings.HasPrefix(c.SUT, "https://")
}

func (c *checked) sut() (err error) {
	if c.attached() {
		return nil
	}
	c.descriptor, err = sut.Load(c.SUT)
	return err
}

func (c *checked) faults() (err error) {
	var rules []string
	for _, f := range c.Faults {
		if f.Name != faultGenerator {
			rules = append(rules, f.Name+"="+f.Rule)
			continue
		}
		pct, err := strconv.ParseFloat(strings.TrimSuffix(f.Rule, "%"), 64)
		if err != nil || !strings.HasSuffix(f.Rule, "%") || pct <= 0 || pct >= 100 {
			return fmt.Errorf("--fault %s=%s: want a share of CPU between 0%% and 100%%, such as 5%%", f.Name, f.Rule)
		}
		c.starve = pct / 100
	}
	c.tamper, err = sut.ParseRules(rules...)
	return err
}

func (c *checked) load() error {
	if !c.asked(verdict.StageLoad) {
		return nil
	}
	c.Generator = cmp.Or(c.Generator, GeneratorK6)
	if c.Generator != GeneratorK6 && c.Generator != GeneratorOffer {
		return fmt.Errorf("--generator %q: want %s or %s", c.Generator, GeneratorK6, GeneratorOffer)
	}
	c.profileAt = c.Profile
	if !strings.ContainsAny(c.Profile, "/\\.") {
		c.profileAt = filepath.Join(c.Bench, "profiles", c.Profile+".json")
	}
	p, err := load.ReadProfile(c.profileAt)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--profile %s: there is no file %s; have %s", c.Profile, c.profileAt, strings.Join(c.profiles(), ", "))
	}
	if err != nil {
		return err
	}
	overrides := map[string]string{"PLUMBLINE_RATE": c.Rate, "PLUMBLINE_WINDOW": c.Window, "PLUMBLINE_WARMUP": c.WarmUp}
	c.profile, err = p.WithEnv(func(k string) (string, bool) { return overrides[k], overrides[k] != "" })
	if err != nil {
		return fmt.Errorf("--rate, --window or --warm-up: %w", err)
	}
	return c.cap()
}

// profiles lists the profiles that have a name.
func (c *checked) profiles() (names []string) {
	files, _ := filepath.Glob(filepath.Join(c.Bench, "profiles", "*.json")) // the pattern is well formed
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	return names
}

// cap takes the heap cap from the plan, else from the profile. Nobody can cap a
// SUT that runs already.
func (c *checked) cap() (err error) {
	c.heapCap = c.profile.HeapCap
	if c.HeapCap != "" {
		if c.heapCap, err = ParseBytes(c.HeapCap); err != nil {
			return fmt.Errorf("--heap-cap: %w", err)
		}
	}
	if c.attached() {
		c.heapCap = 0
	}
	return nil
}

// ParseBytes reads a size: a number of bytes, or of KiB, MiB or GiB.
func ParseBytes(s string) (int64, error) {
	number, unit := s, int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, u
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > 1<<45/unit {
		return 0, fmt.Errorf("%q is no size; write bytes, or 64MiB", s)
	}
	return n * unit, nil
}

func (c *checked) binaries() error {
	var need []string
	if c.asked(verdict.StageLoad) {
		need = append(need, c.Generator)
	}
	if c.SUT == "reference" && (c.asked(verdict.StageLoad) || c.asked(verdict.StageContract)) {
		need = append(need, "gateway", "dagmanager")
	}
	for _, name := range need {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			return fmt.Errorf("%s is not in %s; build it with make build, or name its folder with --bin-dir", name, c.Bin)
		}
	}
	return nil
}

func (c *checked) contract() error {
	if !c.asked(verdict.StageContract) {
		return nil
	}
	var files fs.FS = scenarios.Files
	if c.Scenarios != "" {
		info, err := os.Stat(c.Scenarios)
		if err != nil || !info.IsDir() {
			return fmt.Errorf("--scenarios %s: there is no such folder", c.Scenarios)
		}
		files = os.DirFS(c.Scenarios)
		if c.empty = anyScenario(files, c.Scenarios); c.empty != nil {
			return nil // not the asking was wrong: nothing can be concluded
		}
	}
	all, err := scenario.Load(files)
	if err != nil {
		return err
	}
	c.scenarios, err = scenario.Select(all, c.Select...)
	return err
}

var errFound = errors.New("found")

func anyScenario(files fs.FS, folder string) error {
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(name); err == nil && !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
			return errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return errors.Join(fmt.Errorf("scenario folder %s holds no scenario, so nothing was asked of the contract", folder), err)
}

func (c *checked) source() error {
	if !c.asked(verdict.StageComplexity) {
		return nil
	}
	if info, err := os.Stat(c.Source); err != nil || !info.IsDir() {
		return fmt.Errorf("--source %s: there is no such folder", c.Source)
	}
	return nil
}

// recorded is the plan as the record keeps it.
func (c *checked) recorded() record.Plan {
	p := record.Plan{
		Stages: c.Stages, Profile: c.profile.Name, Seed: c.Seed, SUT: c.SUT, Provider: c.Provider, HeapCap: c.heapCap,
		Faults: c.Faults, Scenarios: c.Scenarios,
	}
	if c.asked(verdict.StageLoad) {
		p.Rate, p.WarmUp, p.Window = c.profile.MeanRate(), c.profile.WarmUp, c.profile.Window
	}
	for _, f := range c.planned {
		p.Faults = append(slices.Clone(p.Faults), record.Fault{Name: f.name(), Rule: f.text})
	}
	if p.Scenarios == "" {
		p.Scenarios = "built in"
	}
	return p
}

// Event is one thing worth showing while a run goes on.
type Event struct {
	Stage string        // backends, sut, contract, load, audit, complexity, record
	Text  string        // what is going on
	Gone  time.Duration // of Total
	Total time.Duration // 0: the stage's length is not known
}

// Progress is told what a run does. It is called from one goroutine at a time
// and must return soon.
type Progress func(Event)

// revision asks git about the tree at dir. A tree that is not under git, or a
// machine without git, has no revision.
func revision(ctx context.Context, dir string) record.Commit {
	out, err := output(ctx, dir, "git", "rev-parse", "HEAD")
	if err != nil {
		return record.Commit{}
	}
	dirty, err := output(ctx, dir, "git", "status", "--porcelain")
	return record.Commit{Revision: out, Dirty: err != nil || dirty != ""}
}
