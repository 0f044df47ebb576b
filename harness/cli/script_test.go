package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"qmtl.internal/plumbline/harness/backend/containers"
)

// programs is the folder of the real binaries that the scripts run.
var programs string

func TestMain(m *testing.M) {
	code, err := withPrograms(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withPrograms builds the binaries once, or takes those of PLUMBLINE_BIN_DIR.
func withPrograms(m *testing.M) (int, error) {
	if programs = os.Getenv("PLUMBLINE_BIN_DIR"); programs != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "plumbline-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"./harness/cmd/plumbline", "./ref/cmd/gateway", "./ref/cmd/dagmanager", "./bench/cmd/k6", "./bench/cmd/floor")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	programs = dir
	return m.Run(), nil
}

// The gate is proved by faults it must find, one script each. Scripts that put
// the machine under load (load-*.txtar) run one after the other.
func TestScripts(t *testing.T) { testscript.Run(t, params(t, "testdata/script/quick-*.txtar")) }
func TestLoadScripts(t *testing.T) {
	testscript.RunT(serial{t}, params(t, "testdata/script/load-*.txtar"))
}

// Scripts that need containers. Where Docker or the images are missing they are
// skipped, and the reason says what.
func TestDockerScripts(t *testing.T) {
	if _, err := (containers.Provider{}).Available(t.Context()); err != nil {
		t.Skip("allowed: no containers here: ", err)
	}
	testscript.RunT(serial{t}, params(t, "testdata/script/docker-*.txtar"))
}

// serial runs scripts one after the other.
type serial struct{ *testing.T }

func (serial) Parallel()       {}
func (s serial) Verbose() bool { return testing.Verbose() }
func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

func params(t *testing.T, pattern string) testscript.Params {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts match %s: %v", pattern, err)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		Files: files,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", programs+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("BIN", programs)
			e.Setenv("ROOT", root)
			e.Setenv("PLUMBLINE_ROOT", root)
			e.Setenv("PLUMBLINE_ARTIFACTS", filepath.Join(e.WorkDir, "artifacts"))
			e.Setenv("PLUMBLINE_POLICY", filepath.Join(root, "harness", "cli", "testdata", "policy.json"))
			e.Setenv("PLUMBLINE_PROVIDER", "embedded")
			e.Setenv("PLUMBLINE_PROFILE", "tiny")
			return goCaches(e)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "replace": replace, "interrupt": interrupt, "nothing-runs": nothingRuns, "same": same,
			"tree": tree,
		},
	}
}

// goCaches lets scripts build without a home of their own.
func goCaches(e *testscript.Env) error {
	out, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		return err
	}
	dirs := strings.Fields(string(out))
	e.Setenv("GOCACHE", dirs[0])
	e.Setenv("GOMODCACHE", dirs[1])
	return nil
}

// tree DIR makes a copy of this module as a repository of its own, with one
// commit.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tree DIR")
	}
	to := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(to, 0o755))
	ts.Check(ts.Exec("sh", "-c", `cd "$ROOT" && tar cf - --exclude=./.artifacts --exclude=./.git --exclude=./bin . | tar xf - -C `+to))
	for _, argv := range [][]string{
		{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one"},
	} {
		ts.Check(ts.Exec("git", append([]string{"-C", to}, argv...)...))
	}
}

// exits CODE PROGRAM ARGS… runs a program that must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want := number(ts, neg, args, 2)
	err := ts.Exec(args[1], args[2:]...)
	if got := exitCode(err); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

func number(ts *testscript.TestScript, neg bool, args []string, least int) int {
	if neg || len(args) < least {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…], without !")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	return n
}

// replace REGEXP NEW FILE changes the first match; that there is none fails.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace REGEXP NEW FILE")
	}
	at := regexp.MustCompile(args[0])
	file := ts.MkAbs(args[2])
	b, err := os.ReadFile(file)
	ts.Check(err)
	m := at.FindIndex(b)
	if m == nil {
		ts.Fatalf("%s: nothing matches %s", args[2], args[0])
	}
	out := bytes.Join([][]byte{b[:m[0]], []byte(args[1]), b[m[1]:]}, nil)
	ts.Check(os.WriteFile(file, out, 0o644))
}

// same A B compares two files byte by byte.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same A B")
	}
	if equal := ts.ReadFile(args[0]) == ts.ReadFile(args[1]); equal == neg {
		ts.Fatalf("%s and %s: the same = %v", args[0], args[1], equal)
	}
}

// interrupt TEXT DELAY CODE PROGRAM ARGS… sends SIGINT a while after standard
// error holds TEXT, and wants that exit code. Its standard error is kept in the
// file interrupted.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: interrupt TEXT DELAY CODE PROGRAM [ARG…]")
	}
	delay, err := time.ParseDuration(args[1])
	ts.Check(err)
	want := number(ts, neg, args[2:], 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := filepath.Join(programs, args[3])
	cmd := exec.CommandContext(ctx, program, args[4:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environment(ts)
	watch := &watcher{text: []byte(args[0]), found: make(chan struct{})}
	cmd.Stderr = watch
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-watch.found:
		time.Sleep(delay)
		ts.Check(cmd.Process.Signal(syscall.SIGINT))
		err = <-ended
	case <-ended:
		ts.Logf("%s", watch.seen.Bytes())
		ts.Fatalf("ended before it said %q", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs("interrupted"), watch.seen.Bytes(), 0o644))
	if got := exitCode(err); got != want {
		ts.Fatalf("exit code %d, want %d; it said:\n%s", got, want, watch.seen.Bytes())
	}
}

func environment(ts *testscript.TestScript) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PLUMBLINE_") })
	for _, k := range []string{"PATH", "WORK", "TMPDIR", "HOME", "PLUMBLINE_ROOT", "PLUMBLINE_ARTIFACTS", "PLUMBLINE_POLICY", "PLUMBLINE_PROVIDER", "PLUMBLINE_PROFILE", "GOCACHE", "GOMODCACHE"} {
		env = append(env, k+"="+ts.Getenv(k))
	}
	return env
}

// watcher closes found when text has been written. Only one goroutine writes.
type watcher struct {
	text  []byte
	found chan struct{}
	seen  bytes.Buffer
	told  bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if !w.told && bytes.Contains(w.seen.Bytes(), w.text) {
		w.told = true
		close(w.found)
	}
	return len(p), nil
}

// nothing-runs wants that no process of this script is left: all inherit WORK.
func nothingRuns(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("usage: nothing-runs")
	}
	mark := "WORK=" + ts.Getenv("WORK")
	procs, err := filepath.Glob("/proc/[0-9]*")
	ts.Check(err)
	for _, p := range procs {
		env, err := os.ReadFile(filepath.Join(p, "environ"))
		if err != nil || filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue // it has ended, or is not ours
		}
		if strings.Contains("\x00"+string(env), "\x00"+mark+"\x00") {
			line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
			ts.Fatalf("process %s is left: %q", filepath.Base(p), line)
		}
	}
}
