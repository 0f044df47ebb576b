// Package vectors hands golden inputs and outputs, taken from the running
// original system, to the tests of whoever implements the contract.
//
// The families lie in testdata/, one JSON file each. When the environment
// variable PLUMBLINE_VECTORS names a folder, every file of the same name in it
// is read too, so that an implementation can be checked on vectors it has never
// seen. It is imported by tests only.
package vectors

import (
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

//go:embed testdata/*.json
var files embed.FS

// Env names the environment variable that adds a folder of vectors.
const Env = "PLUMBLINE_VECTORS"

// A Vector is one recorded call: the original gave Output for Input.
type Vector struct {
	Name   string          `json:"name"` // category/label
	Input  json.RawMessage `json:"input"`
	Output json.RawMessage `json:"output"`
}

type family struct {
	Vectors []Vector `json:"vectors"`
}

// Run calls check once for each vector of the family, each as a sub-test, on
// the embedded file and then on the file of the same name in the folder that
// PLUMBLINE_VECTORS names. A family without vectors fails: it would prove
// nothing.
func Run(t *testing.T, name string, check func(t *testing.T, v Vector)) {
	t.Helper()
	for _, src := range sources(t, name) {
		t.Run(src.label, func(t *testing.T) {
			for _, v := range src.vectors {
				t.Run(v.Name, func(t *testing.T) { check(t, v) })
			}
		})
	}
}

type source struct {
	label   string
	vectors []Vector
}

func sources(t *testing.T, name string) []source {
	t.Helper()
	b, err := files.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatalf("vectors: family %q: %v", name, err)
	}
	all := []source{{"embedded", parse(t, name, b)}}
	dir := os.Getenv(Env)
	if dir == "" {
		return all
	}
	extra, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if os.IsNotExist(err) {
		return all
	}
	if err != nil {
		t.Fatalf("vectors: family %q in %s: %v", name, dir, err)
	}
	return append(all, source{"extra", parse(t, name, extra)})
}

func parse(t *testing.T, name string, b []byte) []Vector {
	t.Helper()
	var f family
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatalf("vectors: family %q: %v", name, err)
	}
	if len(f.Vectors) == 0 {
		t.Fatalf("vectors: family %q holds no vectors", name)
	}
	return f.Vectors
}

// Decode reads raw into a new T and fails the test with the vector's text when
// the shapes differ.
func Decode[T any](t *testing.T, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("vectors: %v\nin %s", err, fmt.Sprintf("%.400s", raw))
	}
	return v
}
