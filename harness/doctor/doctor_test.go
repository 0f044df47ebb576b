package doctor

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/containers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options of a machine whose Docker is where host says, with programs.
func options(t *testing.T, provider, host string) Options {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"gateway", "dagmanager", "k6"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	getenv := func(name string) string {
		return map[string]string{"DOCKER_HOST": host, "TESTCONTAINERS_HOST_OVERRIDE": "10.9.8.7"}[name]
	}
	c := containers.Provider{Getenv: getenv}
	return Options{
		Artifacts: filepath.Join(t.TempDir(), "not", "yet"), Bin: bin, Provider: provider,
		Backends: backend.Candidates{Containers: c}, Containers: c, Getenv: getenv, Pace: 200 * time.Millisecond,
	}
}

func find(t *testing.T, r Report, name string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %q among %+v", name, r.Findings)
	return Finding{}
}

func TestWithoutDockerTheGateRunsOnEmbeddedServers(t *testing.T) {
	o := options(t, "auto", "unix:///no/such/socket")
	r := Examine(t.Context(), o)
	if !r.CanRun || r.Provider.Kind != "embedded" || !strings.Contains(r.Provider.Reason, "no Docker at unix:///no/such/socket") {
		t.Errorf("can run %v, provider %+v", r.CanRun, r.Provider)
	}
	for _, name := range []string{"docker", "backends"} {
		if f := find(t, r, name); f.State != Poor {
			t.Errorf("%+v; want poor", f)
		}
	}
	for _, name := range []string{"cores", "memory", "clock", "go", "programs", "disk", "loopback", "memory cap", "timer", "docker client"} {
		find(t, r, name)
	}
	for _, f := range r.Findings {
		checkWorded(t, f)
	}
	if f := find(t, r, "environment"); !strings.Contains(f.Seen, "TESTCONTAINERS_HOST_OVERRIDE=10.9.8.7 is not heeded: only loopback is used") {
		t.Errorf("%+v", f)
	}
	if _, err := os.Stat(o.Artifacts); err == nil {
		t.Error("the artifacts folder was made")
	}
}

func checkWorded(t *testing.T, f Finding) {
	t.Helper()
	if f.Seen == "" || strings.Contains(f.Seen, "\n") || f.State == Bad || f.State == Poor && f.Mend == "" {
		t.Errorf("%+v; want what was seen in one line, and how to mend what is poor", f)
	}
}

func TestContainersThatWereAskedForAndCannotBeHad(t *testing.T) {
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	defer silent.Close()
	for host, want := range map[string]string{
		"unix:///no/such/socket":           "no Docker at",
		"unix://" + silent.Addr().String(): "no answer of Docker at",
		"tcp://10.1.2.3:2375":              "is not on this machine, so its ports would not be on 127.0.0.1",
	} {
		r := Examine(t.Context(), options(t, "containers", host))
		if f := find(t, r, "docker"); r.CanRun || f.State != Bad || !strings.Contains(f.Seen, want) || strings.Contains(f.Seen, "\n") {
			t.Errorf("DOCKER_HOST=%s: can run %v, %+v; want %q", host, r.CanRun, f, want)
		}
	}
}

func TestWhatKeepsTheGateFromRunning(t *testing.T) {
	o := options(t, "embedded", "unix:///no/such/socket")
	if err := os.Remove(filepath.Join(o.Bin, "k6")); err != nil {
		t.Fatal(err)
	}
	o.Artifacts = "/proc/none/artifacts"
	r := Examine(t.Context(), o)
	if f := find(t, r, "programs"); r.CanRun || f.State != Bad || !strings.HasPrefix(f.Seen, "k6 cannot be run from ") || !strings.Contains(f.Mend, "make build") {
		t.Errorf("can run %v, %+v", r.CanRun, f)
	}
	if f := find(t, r, "disk"); f.State != Bad || !strings.Contains(f.Mend, "--artifacts") {
		t.Errorf("%+v", f)
	}
}

func TestReportReads(t *testing.T) {
	r := Report{Provider: Choice{Kind: "embedded"}, CanRun: true, Findings: []Finding{
		{"cores", Good, "2", ""}, {"docker", Poor, "no Docker", "install it"},
	}}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := "ok    cores   2\npoor  docker  no Docker\n              mend: install it\n\nthe gate can run, on embedded backends\n"
	if b.String() != want {
		t.Errorf("Write = %q\nwant    %q", b.String(), want)
	}
	js, err := json.Marshal(r)
	if err != nil || !strings.HasPrefix(string(js), `{"can_run":true,"provider":{"asked":"","kind":"embedded","reason":""},"findings":[{"name":"cores","state":"ok","seen":"2"}`) {
		t.Errorf("JSON = %s, %v", js, err)
	}
}
