package sut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
)

// helperDir holds the built testdata/helper.
var helperDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("SUT_TEST_ABANDON") != "" {
		abandon()
	}
	dir, err := os.MkdirTemp("", "plumbline-helper-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	helperDir = dir
	if out, err := exec.Command("go", "build", "-o", dir, "./testdata/helper").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "testdata/helper: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func spec(name string, args ...string) Spec {
	return Spec{Name: name, Argv: append([]string{"${bin}/helper"}, args...), Ready: Ready{Line: true, Within: "10s"}, StopWithin: "5s"}
}

func descriptor(specs ...Spec) Descriptor {
	d := Descriptor{Name: "test", Processes: specs}
	d.Endpoints.Gateway = "http://${process." + specs[len(specs)-1].Name + ".http}"
	return d
}

func launched(t *testing.T, d Descriptor, o Options) *Instance {
	t.Helper()
	o.BinDir = helperDir
	if o.LogDir == "" {
		o.LogDir = t.TempDir()
	}
	in, err := Start(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Stop(context.Background()) }) // a test that cares looks itself
	return in
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}

// gone waits until a process has ended: the kernel may need a moment.
func gone(pid int) bool {
	for range 200 {
		if !running(pid) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func TestStartFillsTemplatesAndTellsAddresses(t *testing.T) {
	t.Setenv("SUT_TEST", "from outside")
	second := spec("gateway", "serve", "127.0.0.1:0", "${process.dm.http}", "${backend.kafka}", "${run.id}", "${backend.neo4j:-none}", "$${raw}")
	second.Env = map[string]string{"MIXED": "${env.SUT_TEST}, ${env.SUT_NOT_SET:-other}"}
	d := descriptor(spec("dm", "serve"), second)
	d.Endpoints.DagManager = "${process.dm.http}"
	in := launched(t, d, Options{RunID: "r7", Backends: &backend.Set{Kafka: "127.0.0.1:9"}})

	e := in.Endpoints()
	want := strings.Join([]string{"127.0.0.1:0", e.DagManager, "127.0.0.1:9", "r7", "none", "${raw}"}, "\n")
	if got := get(t, e.Gateway+"/args"); got != want {
		t.Errorf("arguments = %q; want %q", got, want)
	}
	if got := get(t, e.Gateway+"/env?MIXED"); got != "from outside, other" {
		t.Errorf("env = %q", got)
	}
}

func TestStopIsCleanAndTwice(t *testing.T) {
	in := launched(t, descriptor(spec("dm", "serve"), spec("gateway", "serve")), Options{})
	ps := in.Processes()
	if len(ps) != 2 || ps[0].Name != "dm" || "http://"+ps[1].Admin != in.Endpoints().Gateway || ps[1].Limit != LimitNone {
		t.Fatalf("processes = %+v", ps)
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := errors.Join(in.Stop(t.Context()), in.Err()); err != nil {
		t.Errorf("after a second Stop: %v", err)
	}
	for _, p := range ps {
		if !gone(p.PID) {
			t.Errorf("%s still runs", p.Name)
		}
	}
	want := record.SUT{Name: "test", Processes: []record.SUTProcess{
		{Name: "dm", PID: ps[0].PID, Limit: LimitNone}, {Name: "gateway", PID: ps[1].PID, Limit: LimitNone},
	}}
	if diff := cmp.Diff(want, in.Record()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestOutputGoesToLogs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "start")
	in := launched(t, descriptor(spec("gateway", "serve")), Options{LogDir: dir})
	if err := in.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a banner", `"plumbline_ready":1`, "after the ready line"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("log %q lacks %q", b, want)
		}
	}
}

func TestReadyByURLAndFixedAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	s := spec("gateway", "later", addr)
	s.Ready = Ready{URL: "http://" + addr + "/health"}
	s.Addresses = map[string]string{"http": addr}
	d := descriptor(s)

	_, err = Start(t.Context(), d, Options{BinDir: helperDir})
	if err == nil || !strings.Contains(err.Error(), "something listens on "+addr+" already; stop it first") {
		t.Errorf("Start on a used address = %v", err)
	}
	ln.Close()
	in := launched(t, d, Options{})
	if got := in.Endpoints().Gateway; got != "http://"+addr {
		t.Errorf("gateway = %q", got)
	}
	if get(t, in.Endpoints().Gateway) != "" {
		t.Error("odd answer")
	}
}

func TestStartFailsClearly(t *testing.T) {
	never := spec("gateway", "silent")
	never.Ready.Within = "300ms"
	capped := spec("gateway", "serve")
	capped.HeapCap = true
	for _, c := range []struct {
		name  string
		d     Descriptor
		o     Options
		usage bool
		want  []string
	}{
		{"dies at start", descriptor(spec("dm", "serve"), spec("gateway", "die")), Options{BinDir: helperDir}, false,
			[]string{"process gateway died: exit status 3", "redis 127.0.0.1:1: connection refused", "gateway.log"}},
		{"never ready", descriptor(never), Options{BinDir: helperDir}, false,
			[]string{"process gateway: not ready within 300ms, waited for a ready line", "thinking", "raise ready.within"}},
		{"bad ready line", descriptor(spec("gateway", "badline")), Options{BinDir: helperDir}, false,
			[]string{"process gateway: ready line", "version 99, want 1"}},
		{"no binary", descriptor(spec("gateway", "serve")), Options{BinDir: t.TempDir()}, false,
			[]string{"process gateway: start ", "no such file", "make build"}},
		{"no bin dir", descriptor(spec("gateway", "serve")), Options{}, false,
			[]string{`argument 0 "${bin}/helper": ${bin}: has no value here; say where the binaries are`}},
		{"no backend", descriptor(spec("gateway", "serve", "${backend.redis}")), Options{BinDir: helperDir}, false,
			[]string{"${backend.redis}: has no value here; start the backends with it"}},
		{"no such role", Descriptor{Processes: []Spec{spec("gateway", "serve")}, Endpoints: Endpoints{Gateway: "${process.gateway.grpc}"}}, Options{BinDir: helperDir}, false,
			[]string{"endpoint gateway", "ready line names no such address"}},
		{"nobody bears the cap", descriptor(spec("gateway", "serve")), Options{BinDir: helperDir, HeapCap: 1 << 20}, true,
			[]string{"no process bears the heap cap"}},
		{"negative cap", descriptor(capped), Options{BinDir: helperDir, HeapCap: -1}, true, []string{"heap cap -1"}},
		{"odd way", descriptor(capped), Options{BinDir: helperDir, HeapCap: 1, Cap: "prayer"}, true, []string{`"prayer": want cgroup or watchdog`}},
		{"no processes", Descriptor{Name: "x"}, Options{}, true, []string{"has no processes"}},
		{"logs unwritable", descriptor(spec("gateway", "serve")), Options{BinDir: helperDir, LogDir: "/proc/no"}, false, []string{"give a directory that can be written"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.o.LogDir == "" {
				c.o.LogDir = t.TempDir()
			}
			_, err := Start(t.Context(), c.d, c.o)
			if err == nil {
				t.Fatal("Start succeeded")
			}
			if got := errors.Is(err, ErrUsage); got != c.usage {
				t.Errorf("is a usage error: %v; want %v", got, c.usage)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q\ndoes not say %q", err, w)
				}
			}
		})
	}
}

func TestDeathEndsTheWaitForAnother(t *testing.T) {
	first := spec("dm", "serve")
	second := spec("gateway", "silent")
	second.Ready.Within = "60s"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	logs := t.TempDir()
	var killed error
	done := make(chan struct{})
	go func() { // kill the first as soon as the second has begun
		defer close(done)
		killed = killWhenLogged(ctx, filepath.Join(logs, "dm.log"), filepath.Join(logs, "gateway.log"))
	}()
	_, err := Start(ctx, descriptor(first, second), Options{BinDir: helperDir, LogDir: logs})
	<-done
	var death *DeathError
	if !errors.As(err, &death) || death.Process != "dm" || killed != nil {
		t.Errorf("Start = %v (killer: %v); want the death of dm", err, killed)
	}
}

func killWhenLogged(ctx context.Context, readyLog, trigger string) error {
	for ctx.Err() == nil {
		if b, err := os.ReadFile(trigger); err == nil && len(b) > 0 {
			return killLogged(readyLog)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ctx.Err()
}

func killLogged(readyLog string) error {
	b, err := os.ReadFile(readyLog)
	if err != nil {
		return err
	}
	_, text, _ := strings.Cut(string(b), `"pid":`)
	text, _, _ = strings.Cut(text, ",")
	pid, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

func TestDeathIsToldWithItsLastWords(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "serve")), Options{})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := client.Get(in.Endpoints().Gateway + "/exit"); err == nil {
		resp.Body.Close()
	}
	<-in.Dead()
	var death *DeathError
	if !errors.As(in.Err(), &death) || death.Code != 7 || !strings.Contains(death.Error(), "last words") {
		t.Errorf("Err = %v; want exit status 7 and the last words", in.Err())
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v; the death is Err's to tell", err)
	}
	r := in.Record().Processes[0]
	if r.ExitCode == nil || *r.ExitCode != 7 || r.Died != "exit status 7" {
		t.Errorf("record = %+v; want exit code 7", r)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	logs := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	_, err := Start(ctx, descriptor(spec("dm", "serve"), spec("gateway", "silent")), Options{BinDir: helperDir, LogDir: logs})
	if !errors.Is(err, why) {
		t.Errorf("Start = %v; want interrupted", err)
	}
	if err := killLogged(filepath.Join(logs, "dm.log")); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the first process still runs (%v)", err)
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	s := spec("gateway", "stubborn")
	s.StopWithin = "200ms"
	in := launched(t, descriptor(s), Options{})
	pid := in.Processes()[0].PID
	err := in.Stop(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not leave within 200ms of SIGTERM and was killed") {
		t.Errorf("Stop = %v", err)
	}
	if !gone(pid) || in.Err() != nil {
		t.Errorf("pid %d runs, or Err = %v", pid, in.Err())
	}
}

func TestStopTellsADirtyExit(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "dirty")), Options{})
	if err := in.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "process gateway: exit status 5 after SIGTERM") {
		t.Errorf("Stop = %v", err)
	}
}

func TestStopTakesGrandchildren(t *testing.T) {
	logs := t.TempDir()
	in := launched(t, descriptor(spec("gateway", "fork")), Options{LogDir: logs})
	child := loggedChild(t, logs)
	if !running(child) {
		t.Fatal("no grandchild")
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !gone(child) {
		t.Error("the grandchild outlived Stop")
	}
}

func loggedChild(t *testing.T, logs string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(logs, "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "child ")
	pid, err := strconv.Atoi(strings.Fields(text)[0])
	if err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return pid
}

func TestKillAndRestartOnTheSameAddress(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "serve", "${self.http:-127.0.0.1:0}")), Options{})
	before, e := in.Processes()[0].PID, in.Endpoints()
	if err := in.Kill("gateway"); err != nil {
		t.Fatal(err)
	}
	if p := in.Processes()[0]; p.PID != 0 || !gone(before) {
		t.Errorf("after Kill: %+v", p)
	}
	if err := in.Restart(t.Context(), "gateway"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, e.Gateway+"/args"); got != strings.TrimPrefix(e.Gateway, "http://") {
		t.Errorf("arguments after restart = %q; want the old address", got)
	}
	if p := in.Processes()[0]; p.PID == before || p.PID == 0 {
		t.Errorf("after Restart: %+v", p)
	}
	if in.Err() != nil {
		t.Errorf("Err = %v; want nil, the kill was ours", in.Err())
	}
}

func TestKillAndRestartRefuse(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "serve")), Options{})
	if err := in.Restart(t.Context(), "gateway"); err == nil {
		t.Error("Restart of a running process succeeded")
	}
	if err := in.Kill("nobody"); !errors.Is(err, ErrUsage) {
		t.Errorf("Kill(nobody) = %v", err)
	}
}

const smallCap = 48 << 20

func capped(args ...string) Descriptor {
	s := spec("gateway", args...)
	s.HeapCap = true
	return descriptor(s)
}

func TestCapKillsAndSaysSo(t *testing.T) {
	for _, way := range []string{CapCgroup, CapWatchdog} {
		t.Run(way, func(t *testing.T) {
			needCgroup(t, way)
			in := launched(t, capped("hog"), Options{HeapCap: smallCap, Cap: way, RunID: "caps"})
			limit := in.Processes()[0].Limit
			<-in.Dead()
			if err := in.Err(); !errors.Is(err, ErrOverCap) || !strings.Contains(err.Error(), "48.0 MiB") || !strings.Contains(err.Error(), limit) {
				t.Errorf("Err = %v; want over its cap of 48.0 MiB by %s", err, limit)
			}
			if err := in.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if left := cgroupsOf(t, os.Getpid()); len(left) > 0 {
				t.Errorf("cgroups left: %q", left)
			}
		})
	}
}

// needCgroup skips where the machine lets nobody make a memory cgroup.
func needCgroup(t *testing.T, way string) {
	t.Helper()
	if way != CapCgroup {
		return
	}
	h, err := findHierarchy("")
	if err == nil {
		var c *cgroup
		if c, err = h.make(cgroupName("try", "out"), smallCap); err == nil {
			err = c.remove()
		}
	}
	if errors.Is(err, errNoCgroup) {
		t.Skip("allowed: no control group to limit memory with: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func cgroupsOf(t *testing.T, owner int) []string {
	t.Helper()
	h, err := findHierarchy("")
	if err != nil {
		return nil
	}
	left, err := filepath.Glob(filepath.Join(h.dir, fmt.Sprintf("%s%d-*", cgroupPrefix, owner)))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestCapTellsTheRuntimeAndIsToldInTheRecord(t *testing.T) {
	in := launched(t, capped("serve"), Options{HeapCap: 128 << 20})
	gateway := in.Endpoints().Gateway
	if got := get(t, gateway+"/env?GOMEMLIMIT"); got != "100663296B" {
		t.Errorf("GOMEMLIMIT = %q; want three quarters of 128 MiB", got)
	}
	if got := get(t, gateway+"/env?GOGC"); got != "400" {
		t.Errorf("GOGC = %q", got)
	}
	p := in.Processes()[0]
	if p.HeapCap != 128<<20 || p.Limit == LimitNone {
		t.Errorf("process = %+v", p)
	}
	if p.Usage != "" {
		b, err := os.ReadFile(p.Usage)
		if n, _ := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || n == 0 {
			t.Errorf("usage file %s: %q, %v", p.Usage, b, err)
		}
	}
	if r := in.Record().Processes[0]; r.HeapCap != p.HeapCap || r.Limit != p.Limit {
		t.Errorf("record = %+v; want %+v", r, p)
	}
}

// abandon is what a test process does that is then killed: it starts a SUT
// with a grandchild and waits for ever.
func abandon() {
	o := Options{BinDir: os.Getenv("SUT_TEST_ABANDON"), LogDir: os.Getenv("SUT_TEST_LOGS"), HeapCap: 256 << 20, RunID: "abandoned"}
	s := spec("gateway", "fork")
	s.HeapCap = true
	in, err := Start(context.Background(), descriptor(s), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(in.Processes()[0].PID)
	select {}
}

func TestNothingIsLeftWhenTheHarnessIsKilled(t *testing.T) {
	needCgroup(t, CapCgroup)
	logs := t.TempDir()
	harness := exec.Command(os.Args[0])
	harness.Env = append(os.Environ(), "SUT_TEST_ABANDON="+helperDir, "SUT_TEST_LOGS="+logs)
	out, err := harness.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	child := loggedChild(t, logs)
	scratch := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-*", scratchPrefix, harness.Process.Pid))
	if dirs, _ := filepath.Glob(scratch); len(dirs) != 1 {
		t.Errorf("scratch directories of the living: %q", dirs)
	}
	_ = harness.Process.Kill()
	_ = harness.Wait()
	if !gone(pid) {
		t.Error("the process outlived the harness")
	}
	// The grandchild goes when the next harness makes a cgroup.
	launched(t, capped("serve"), Options{HeapCap: 256 << 20})
	if !gone(child) {
		t.Error("the grandchild outlived the next start")
	}
	if left := cgroupsOf(t, harness.Process.Pid); len(left) > 0 {
		t.Errorf("cgroups left: %q", left)
	}
	if dirs, _ := filepath.Glob(scratch); len(dirs) > 0 {
		t.Errorf("scratch directories left: %q", dirs)
	}
}

func TestAttach(t *testing.T) {
	host := launched(t, descriptor(spec("gateway", "serve")), Options{})
	in, err := Attach(t.Context(), host.Endpoints().Gateway+"/", AttachOptions{DagManager: "127.0.0.1:5"})
	if err != nil {
		t.Fatal(err)
	}
	if e := in.Endpoints(); e.Gateway != host.Endpoints().Gateway || e.DagManager != "127.0.0.1:5" {
		t.Errorf("endpoints = %+v", e)
	}
	if ps := in.Processes(); len(ps) != 0 {
		t.Errorf("processes = %v; want none, they are not ours", ps)
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if get(t, host.Endpoints().Gateway) != "{}" {
		t.Error("Stop of an attached SUT stopped it")
	}
}

func TestAttachRefuses(t *testing.T) {
	if _, err := Attach(t.Context(), "reference", AttachOptions{}); !errors.Is(err, ErrUsage) {
		t.Errorf("Attach(reference) = %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := Attach(t.Context(), "http://"+ln.Addr().String(), AttachOptions{}); err == nil || !strings.Contains(err.Error(), "nothing answers there") {
		t.Errorf("Attach to nothing = %v", err)
	}
}
