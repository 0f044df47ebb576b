// Package plumbline_test holds the architecture of the module to its picture:
// three walls, imports that point down, one home for each heavy dependency.
package plumbline_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "qmtl.internal/plumbline/"

// layers gives every package a height; an import may only point down. The
// longest prefix wins, and a package without a height is an error.
var layers = map[string]int{
	"scenarios/contract/pyjson": 0, "scenarios/contract/dagmanagerpb": 0, "scenarios/contract/vectors": 0,
	"scenarios/contract": 1, "scenarios": 1,

	"ref/dag": 2, "ref/internal": 2, "ref/dagmanager/batch": 2, "ref/gateway/model": 2,
	"ref/dagmanager/diff": 3, "ref/dagmanager/stream": 3, "ref/dagmanager/topics": 4,
	"ref/dagmanager/nodestore": 4, "ref/dagmanager/nodestore/nodestoretest": 4,
	"ref/gateway/submit": 3, "ref/gateway/health": 3, "ref/gateway/controlbus": 3, "ref/gateway/hub": 3, "ref/gateway/world": 3, "ref/gateway/openapi": 2,
	"ref/dagmanager/gc": 5, "ref/dagmanager/jobs": 5,
	"ref/gateway/rebalance": 4, "ref/gateway/fills": 4, "ref/gateway/degrade": 4,
	"ref/gateway": 5, "ref/dagmanager": 6, "ref/cmd": 9,

	"bench/load": 2, "bench/workload": 3, "bench/diffload": 3, "bench/crowd": 4, "bench/turns": 4, "bench/k6x": 5, "bench/floor": 4, "bench/cmd": 9,

	"harness/stat": 0, "harness/bound": 0, "harness/hotspot": 0, "harness/record": 3,
	"harness/backend": 4, "harness/neighbour": 4, "harness/probe": 4, "harness/complexity": 4, "harness/audit": 4,
	"harness/verdict": 5, "harness/backend/containers": 5, "harness/backend/faultproxy": 5, "harness/sut": 5, "harness/scenario": 5,
	"harness/duet": 6, "harness/baseline": 6, "harness/evidence": 6, "harness/mutant": 7, "harness/doctor": 6, "harness/report": 6, "harness/signoff": 6,
	"harness": 7, "harness/cli": 8, "harness/cmd": 9,
}

// walls may not be crossed, by tests neither.
var walls = [][2]string{
	{"scenarios", "ref"}, {"scenarios", "harness"}, {"scenarios", "bench"},
	{"ref", "harness"}, {"ref", "bench"},
	{"bench", "harness"}, {"bench", "ref"},
	{"harness", "ref"}, {"harness", "bench/k6x"}, {"harness", "bench/cmd"}, {"harness", "bench/turns"},
}

// homes names the only places that may import a heavy dependency.
var homes = map[string][]string{
	"go.k6.io/k6": {"bench/k6x", "bench/cmd/k6"},
	"github.com/testcontainers/testcontainers-go": {"harness/backend/containers"},
	"github.com/neo4j/neo4j-go-driver":            {"ref/dagmanager/nodestore", "harness/backend/containers"},
	"github.com/Shopify/toxiproxy":                {"harness/backend/faultproxy"},
	"gonum.org/v1/plot":                           {"harness/report"},
	"github.com/fzipp/gocyclo":                    {"harness/complexity"},
	"github.com/google/pprof":                     {"harness/hotspot"},
	"cel.dev/cel-go":                              {"harness/scenario"},
	"go.opentelemetry.io/otel":                    {"ref/internal/tracing"},
	"go.opentelemetry.io/contrib":                 {"ref/internal/tracing"},
	"github.com/twmb/franz-go/plugin/kotel":       {"ref/internal/tracing"},
}

// pure packages take values and give values: none of these imports may appear
// in them, tests excepted.
var (
	pure    = []string{"scenarios/contract", "ref/dag", "ref/dagmanager/diff", "harness/stat", "harness/verdict", "harness/report"}
	sockets = []string{"net", "net/http", "os/exec"}
	outside = []string{"google.golang.org/grpc", "github.com/twmb/franz-go", "github.com/redis/go-redis"}
)

// pureExceptions are the generated code and the test helper that live below a
// pure package.
var pureExceptions = []string{"scenarios/contract/dagmanagerpb", "scenarios/contract/vectors"}

type pkg struct {
	ImportPath, Doc                    string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

func (p pkg) path() string          { return strings.TrimPrefix(p.ImportPath, module) }
func (p pkg) everyImport() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func underAny(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return under(path, d) })
}

// height finds the layer of a package by its longest known prefix.
func height(path string) (h int, ok bool) {
	best := -1
	for p, n := range layers {
		if under(path, p) && len(p) > best {
			best, h, ok = len(p), n, true
		}
	}
	return h, ok
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Doc,GoFiles", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if len(p.GoFiles) > 0 { // the root holds this test only
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages: the test would prove nothing", len(all))
	}
	return all
}

func TestEveryPackageHasALayerAndAComment(t *testing.T) {
	for _, p := range packages(t) {
		if _, ok := height(p.path()); !ok {
			t.Errorf("%s has no layer; give it one in architecture_test.go", p.path())
		}
		if p.Doc == "" && !under(p.path(), "scenarios/contract/dagmanagerpb") {
			t.Errorf("%s has no package comment", p.path())
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		h, _ := height(p.path())
		for _, imp := range p.Imports {
			to, own := strings.CutPrefix(imp, module)
			if !own {
				continue
			}
			// A package may use what lies inside its own folder, save that an
			// outcome there (containers below backend) stands higher.
			if lower, _ := height(to); lower >= h {
				t.Errorf("%s (layer %d) imports %s (layer %d); imports must point down", p.path(), h, to, lower)
			}
		}
	}
}

func TestNobodyReachesOverAWall(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.everyImport() {
			to, own := strings.CutPrefix(imp, module)
			if !own {
				continue
			}
			for _, w := range walls {
				if under(p.path(), w[0]) && under(to, w[1]) {
					t.Errorf("%s reaches over the wall to %s", p.path(), to)
				}
			}
		}
	}
}

func TestHeavyDependenciesHaveOneHome(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.everyImport() {
			for dep, where := range homes {
				if under(imp, dep) && !slices.Contains(where, p.path()) {
					t.Errorf("%s imports %s, whose home is %v", p.path(), imp, where)
				}
			}
		}
	}
}

func TestThePureMiddleOpensNothing(t *testing.T) {
	for _, p := range packages(t) {
		if !underAny(p.path(), pure) || underAny(p.path(), pureExceptions) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(sockets, imp) || underAny(imp, outside) {
				t.Errorf("%s is pure, but imports %s", p.path(), imp)
			}
		}
	}
}
