package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/containers"
	"qmtl.internal/plumbline/harness/baseline"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
	"qmtl.internal/plumbline/harness/verdict"
)

// flags of all commands. Empty places are found by locate.
type flags struct {
	root, artifacts, binDir, source, policy, complexityBaseline string

	profile, rate, window, warmUp, heapCap string
	seed                                   uint64
	sut, dagManager, dagManagerHTTP        string
	provider, kafka, redis, neo4j          string
	images                                 []string
	faults, faultAt                        []string
	scenarios                              string
	only                                   []string
	require                                []string
	formats, base                          string
	generator                              string
	compareBudget                          time.Duration // negative: by the profile
	verbose, profiles                      bool
}

// policyFile is where the policy lies below the root.
var policyFile = filepath.Join("baselines", "policy.json")

func (f *flags) places(fs *pflag.FlagSet) {
	fs.StringVar(&f.root, "root", "", "folder of the plumbline tree (default: the folder above that has baselines/policy.json)")
	fs.StringVar(&f.artifacts, "artifacts", "", "folder of runs and machine-bound baselines (default: ROOT/.artifacts)")
	fs.StringVar(&f.binDir, "bin-dir", "", "folder of gateway, dagmanager and k6 (default: that of plumbline)")
	fs.StringVar(&f.policy, "policy", "", "thresholds and waivers (default: ROOT/baselines/policy.json)")
	fs.StringVar(&f.source, "source", "", "tree whose complexity is measured (default: ROOT)")
	fs.StringVar(&f.complexityBaseline, "complexity-baseline", "", "accepted complexity snapshot (default: ROOT/baselines/complexity/plumbline.json)")
}

func (f *flags) run(fs *pflag.FlagSet) {
	fs.Uint64Var(&f.seed, "seed", 1, "seed of the workload, the faults and every other draw")
	fs.StringVar(&f.sut, "sut", "reference", "system under test: name or file of a descriptor, or URL of a running gateway")
	fs.StringVar(&f.dagManager, "dagmanager", "", "gRPC host:port of the DAG Manager, where --sut is a URL")
	fs.StringVar(&f.dagManagerHTTP, "dagmanager-http", "", "URL of the DAG Manager, where --sut is a URL")
	f.servers(fs)
	fs.StringArrayVar(&f.faults, "fault", nil, "deliberate harm, to prove the gate: lose=1/1000, double=1/1000, drop-field=NAME, delay=5ms, generator-cpu=5%")
}

// servers are the flags of what names backends.
func (f *flags) servers(fs *pflag.FlagSet) {
	fs.StringVar(&f.provider, "provider", "auto", "backends: auto, embedded, containers or external")
	fs.StringVar(&f.kafka, "kafka", "", "host:port of Kafka, for --provider external")
	fs.StringVar(&f.redis, "redis", "", "host:port of Redis, for --provider external")
	fs.StringVar(&f.neo4j, "neo4j", "", "bolt URL of Neo4j, for --provider external")
	fs.StringArrayVar(&f.images, "image", nil, "image of a server, for --provider containers: kafka=NAME, redis=NAME or neo4j=NAME")
	fs.BoolVar(&f.verbose, "verbose", false, "log what the harness does to standard error")
}

func (f *flags) offered(fs *pflag.FlagSet) {
	fs.StringVar(&f.profile, "profile", "burst", "load profile: name, or path of a file")
	fs.StringVar(&f.rate, "rate", "", "requests per second, instead of the profile's")
	fs.StringVar(&f.window, "window", "", "measured time such as 30s, instead of the profile's")
	fs.StringVar(&f.warmUp, "warmup", "", "load before the window such as 5s, instead of the profile's")
	fs.StringArrayVar(&f.faultAt, "fault-at", nil, "harm in the middle of the load, AT:TARGET.KIND:FOR such as 10s:kafka.stop:5s or 20s:gateway.kill:2s, instead of the profile's; AT counts from the start of the load")
	fs.BoolVar(&f.profiles, "profiles", false, "take CPU, heap, mutex and block profiles and a trace of the SUT in the window; costs it some per cent (a run that is too slow is offered again with them in any case)")
	fs.StringVar(&f.generator, "generator", "k6", "what offers the load: k6, or offer, its engine alone, where k6's own CPU time is in the way")
	fs.StringVar(&f.heapCap, "heap-cap", "", "heap cap of the gateway such as 128MiB, instead of the profile's; 0: none")
}

func (f *flags) asked(fs *pflag.FlagSet) {
	fs.StringVar(&f.scenarios, "scenarios", "", "folder of scenario files (default: those built in)")
	fs.StringArrayVar(&f.only, "only", nil, "run only scenarios whose id or file matches")
}

func (f *flags) answers(fs *pflag.FlagSet) {
	fs.StringVar(&f.formats, "format", "console", "how to show the answer, comma separated: console, json, junit, markdown, html, github, sarif")
	fs.StringVar(&f.base, "base", "", "record to compare with (default: the one accepted for this environment and profile)")
}

// locate fills the places that were not given.
func (f *flags) locate(executable string) {
	if f.root == "" {
		f.root = findRoot(executable)
	}
	for _, d := range []struct {
		flag      *string
		otherwise string
	}{
		{&f.artifacts, filepath.Join(f.root, ".artifacts")},
		{&f.binDir, filepath.Dir(executable)},
		{&f.policy, filepath.Join(f.root, policyFile)},
		{&f.source, f.root},
		{&f.complexityBaseline, filepath.Join(f.root, "baselines", "complexity", "plumbline.json")},
	} {
		if *d.flag == "" {
			*d.flag = d.otherwise
		}
	}
}

// findRoot looks for the tree around the working directory, then around the
// program. Where there is none, missing files will be named by those who need them.
func findRoot(executable string) string {
	wd, err := os.Getwd()
	if err != nil {
		wd = "."
	}
	for _, from := range []string{wd, filepath.Dir(executable)} {
		for dir := from; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, policyFile)); err == nil {
				return dir
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "."
}

func (f *flags) plan(stages ...string) (harness.Plan, error) {
	faults, err := parseFaults(f.faults)
	if err != nil {
		return harness.Plan{}, err
	}
	images, err := parseImages(f.images)
	if err != nil {
		return harness.Plan{}, err
	}
	return harness.Plan{
		Artifacts: f.artifacts, Bin: f.binDir, Bench: filepath.Join(f.root, "bench"), Source: f.source,
		Stages: stages, Profile: f.profile, Rate: f.rate, Window: f.window, WarmUp: f.warmUp, HeapCap: f.heapCap, Generator: f.generator,
		Seed: f.seed, SUT: f.sut, Attach: sut.AttachOptions{DagManager: f.dagManager, DagManagerHTTP: f.dagManagerHTTP},
		Provider: f.provider, Backends: backend.Candidates{
			Containers: containers.Provider{Images: images},
			External:   backend.External{Kafka: f.kafka, Redis: f.redis, Neo4j: f.neo4j},
		},
		Faults: faults, FaultAt: f.faultAt, Profiles: f.profiles, Scenarios: f.scenarios, Select: f.only,
	}, nil
}

func parseFaults(texts []string) ([]record.Fault, error) {
	var out []record.Fault
	for _, t := range texts {
		name, rule, ok := strings.Cut(t, "=")
		if !ok || name == "" || rule == "" {
			return nil, usagef("--fault %q: want name=rule, such as lose=1/1000", t)
		}
		out = append(out, record.Fault{Name: name, Rule: rule})
	}
	return out, nil
}

func parseImages(texts []string) (containers.Images, error) {
	out := containers.Images{}
	for _, t := range texts {
		server, name, ok := strings.Cut(t, "=")
		if !ok || server == "" || name == "" {
			return nil, usagef("--image %q: want server=name, such as kafka=apache/kafka:4.2.2", t)
		}
		out[server] = name
	}
	return out, nil
}

func (f *flags) store() baseline.Store {
	return baseline.Store{Artifacts: f.artifacts, Complexity: f.complexityBaseline}
}

func (f *flags) readPolicy() (verdict.Policy, error) {
	file, err := os.Open(f.policy)
	if errors.Is(err, fs.ErrNotExist) {
		return verdict.Policy{}, usagef("there is no policy at %s; run within the tree, or name it with --policy", f.policy)
	}
	if err != nil {
		return verdict.Policy{}, usagef("policy: %w", err)
	}
	defer file.Close()
	p, err := verdict.ReadPolicy(file)
	if err != nil {
		return p, usagef("%s: %w", f.policy, err)
	}
	return p, nil
}
