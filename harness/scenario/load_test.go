package scenario_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/harness/scenario"
	"qmtl.internal/plumbline/scenarios"
)

var update = flag.Bool("update", false, "write the golden error texts")

// Each broken file has its golden error text beside it: place, what is wrong,
// how to mend it, all mistakes at once.
func TestLoadNamesEveryMistake(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no broken files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = scenario.Load(fstest.MapFS{"a/broken.yaml": {Data: src}})
			var ms scenario.Mistakes
			if !errors.As(err, &ms) {
				t.Fatalf("Load = %v; want Mistakes", err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("error text (-want +got):\n%s", diff)
	}
}

const minimal = `id: %s
title: minimal
class: strict
clause: contract/gateway.md#x
steps:
  - http: { path: /health }
    expect: { status: 200 }
`

func TestLoadRefusesASuiteOfNothing(t *testing.T) {
	for name, fsys := range map[string]fs.FS{
		"empty folder":        fstest.MapFS{},
		"no scenario in it":   fstest.MapFS{"README.md": {Data: []byte("x")}},
		"only a schema in it": fstest.MapFS{"scenario.schema.json": {Data: []byte("{}")}},
	} {
		if got, err := scenario.Load(fsys); err == nil {
			t.Errorf("%s: Load = %d scenarios; want an error", name, len(got))
		}
	}
	if _, err := scenario.Load(os.DirFS("testdata/does-not-exist")); err == nil {
		t.Error("missing folder: Load gave no error")
	}
}

func TestLoadReportsMistakesOfAllFiles(t *testing.T) {
	_, err := scenario.Load(fstest.MapFS{
		"a.yaml": {Data: fmt.Appendf(nil, minimal, "GW-A-001")},
		"b.yaml": {Data: fmt.Appendf(nil, minimal, "GW-A-001")},
		"c.yaml": {Data: []byte("id: [")},
		"d.yml":  {Data: fmt.Appendf(nil, minimal, "GW-A-001")},
	})
	if err == nil {
		t.Fatal("Load gave no error")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{"b.yaml:1:5: id GW-A-001 is taken by a.yaml:1", "c.yaml:1:", "d.yml:1:5: id GW-A-001 is taken by a.yaml:1"}
	if len(got) != len(want) {
		t.Fatalf("Load = %q; want three mistakes", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("mistake %d = %q; want %q…", i, got[i], want[i])
		}
	}
}

func TestSelect(t *testing.T) {
	all := []scenario.Scenario{{ID: "GW-DUP-001", File: "gateway/GW-DUP-001.yaml"}, {ID: "GW-ID-001", File: "gateway/GW-ID-001.yaml"}, {ID: "D01", File: "dagmanager/D01.yaml"}}
	for _, c := range []struct {
		patterns []string
		want     string
	}{
		{nil, "GW-DUP-001 GW-ID-001 D01"},
		{[]string{"D01"}, "D01"},
		{[]string{"GW-DUP"}, "GW-DUP-001"},
		{[]string{"gateway/*"}, "GW-DUP-001 GW-ID-001"},
		{[]string{"D*", "GW-ID-001"}, "GW-ID-001 D01"},
	} {
		got, err := scenario.Select(all, c.patterns...)
		if err != nil {
			t.Errorf("Select(%q): %v", c.patterns, err)
			continue
		}
		ids := make([]string, len(got))
		for i, s := range got {
			ids[i] = s.ID
		}
		if s := strings.Join(ids, " "); s != c.want {
			t.Errorf("Select(%q) = %s; want %s", c.patterns, s, c.want)
		}
	}
	for _, bad := range []string{"GW-NONE", "", "[", "gateway/X*"} {
		if got, err := scenario.Select(all, bad); err == nil {
			t.Errorf("Select(%q) = %d scenarios; want an error", bad, len(got))
		}
	}
}

// The shipped scenarios must load; their number and classes are what people
// read in reports.
func TestShippedScenariosLoad(t *testing.T) {
	all, err := scenario.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if base := strings.TrimSuffix(filepath.Base(s.File), ".yaml"); base != s.ID {
			t.Errorf("%s holds %s; name the file after the id", s.File, s.ID)
		}
	}
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add(fmt.Appendf(nil, minimal, "GW-A-001"))
	f.Fuzz(func(t *testing.T, src []byte) {
		all, err := scenario.Load(fstest.MapFS{"x.yaml": {Data: src}})
		if (err == nil) != (len(all) == 1) {
			t.Errorf("Load = %d scenarios, %v", len(all), err)
		}
	})
}
