package sut

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed *.yaml descriptor.schema.json
var embedded embed.FS

// ErrUsage is in the chain of every error that a person mends by writing or
// asking something else: a descriptor, a tamper rule, a name.
var ErrUsage = errors.New("usage")

type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == ErrUsage }
func (e usageError) Unwrap() error        { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// Descriptor says how a control plane is started and where it is reached. It
// is a YAML file of the shape of descriptor.schema.json; text values may hold
// ${…} templates, which Start fills in.
type Descriptor struct {
	Name      string    `yaml:"name"`
	About     string    `yaml:"about"`
	Classes   []string  `yaml:"classes"`  // of scenarios that it promises to pass; use Promised
	Parallel  int       `yaml:"parallel"` // scenarios that it stands side by side; 0: as many as the harness likes
	Files     []File    `yaml:"files"`
	Processes []Spec    `yaml:"processes"` // in the order of their start
	Endpoints Endpoints `yaml:"endpoints"` // templates

	dir string // of the file; "" for a descriptor of this package
}

// File is written to the run's scratch directory before the first process
// starts.
type File struct {
	Name    string `yaml:"name"`
	Content string `yaml:"content"`
}

// Spec describes one process.
type Spec struct {
	Name       string            `yaml:"name"`
	Argv       []string          `yaml:"argv"`
	Beside     []string          `yaml:"beside"`     // further arguments of one beside the SUT's own, see Instance.Beside
	Configured []string          `yaml:"configured"` // argv of a start with a configuration file and nothing else, see Instance.Starts
	Env        map[string]string `yaml:"env"`        // added to the harness's own
	Dir        string            `yaml:"dir"`        // "": the run's scratch directory
	Ready      Ready             `yaml:"ready"`
	Addresses  map[string]string `yaml:"addresses"`   // host:port by role, where no ready line tells them
	StopWithin string            `yaml:"stop_within"` // between SIGTERM and SIGKILL; "": 10s
	HeapCap    bool              `yaml:"heap_cap"`    // bears the heap cap of the run
}

// Ready says how a process is known to be ready: by its ready line, or by a
// URL that answers 200 to 299.
type Ready struct {
	Line   bool   `yaml:"line"`
	URL    string `yaml:"url"`
	Within string `yaml:"within"` // "": 30s
}

// Endpoints are where the harness talks to a SUT. "" says that it offers no
// such interface.
type Endpoints struct {
	Gateway        string `yaml:"gateway"`         // URL
	DagManager     string `yaml:"dagmanager"`      // gRPC, host:port
	DagManagerHTTP string `yaml:"dagmanager_http"` // URL
}

// Promised are the classes of scenarios that may be asked of a SUT that
// promises classes: those, or without any what is asked of every SUT.
func Promised(classes []string) []string {
	if len(classes) == 0 {
		return []string{"strict", "lenient"}
	}
	return slices.Clone(classes)
}

const (
	defaultReadyWithin = 30 * time.Second
	defaultStopWithin  = 10 * time.Second
)

func (s Spec) readyWithin() time.Duration { return durationOr(s.Ready.Within, defaultReadyWithin) }
func (s Spec) stopWithin() time.Duration  { return durationOr(s.StopWithin, defaultStopWithin) }

// durationOr reads text that the schema has checked.
func durationOr(text string, other time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return other
	}
	return d
}

// Names lists the descriptors that this package carries.
func Names() []string {
	files, _ := fs.Glob(embedded, "*.yaml") // the pattern is well formed
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".yaml")
	}
	return files
}

// Load reads a descriptor by the name of one that this package carries
// ("reference", "original"), or from a file. Every mistake of a file is
// reported at once, each with file:line:column.
func Load(nameOrPath string) (Descriptor, error) {
	if slices.Contains(Names(), nameOrPath) {
		b, err := embedded.ReadFile(nameOrPath + ".yaml")
		if err != nil {
			return Descriptor{}, fmt.Errorf("descriptor %s: %w", nameOrPath, err)
		}
		return parse(nameOrPath+".yaml", "", b)
	}
	b, err := os.ReadFile(nameOrPath)
	if err != nil {
		return Descriptor{}, usagef("descriptor %q: %w; give a file, or one of %s",
			nameOrPath, unwrapPath(err), strings.Join(Names(), ", "))
	}
	dir, err := filepath.Abs(filepath.Dir(nameOrPath))
	if err != nil {
		return Descriptor{}, fmt.Errorf("descriptor %q: %w", nameOrPath, err)
	}
	return parse(nameOrPath, dir, b)
}

// unwrapPath drops a path that the message names already.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Schema is the published JSON Schema of a descriptor.
func Schema() []byte {
	b, _ := embedded.ReadFile("descriptor.schema.json") // embedded under this very name
	return b
}
