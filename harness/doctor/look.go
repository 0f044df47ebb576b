package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/sut"
)

// machine looks at cores, memory and the clock.
func machine(context.Context, Options) []Finding {
	e := record.Machine("")
	cores := Finding{Name: "cores", State: Good, Seen: fmt.Sprintf("%d, of which Go uses %d (%s)", e.Cores, runtime.GOMAXPROCS(0), e.CPU)}
	if min(e.Cores, runtime.GOMAXPROCS(0)) < 2 {
		cores.State, cores.Mend = Poor, "generator and SUT share one core, so latency says little; take a machine with two or more"
	}
	return []Finding{cores, memory(e.MemBytes), clock()}
}

// containersNeed is what the limits of the three containers add up to.
const containersNeed = 4 << 30

func memory(total int64) Finding {
	free := available()
	f := Finding{Name: "memory", State: Good, Seen: fmt.Sprintf("%s, %s available", size(total), size(free))}
	if free < containersNeed {
		f.State, f.Mend = Poor, fmt.Sprintf("containers may take up to %s; free some, or take --provider embedded", size(containersNeed))
	}
	return f
}

func available() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

func size(bytes int64) string {
	switch {
	case bytes <= 0:
		return "unknown"
	case bytes < 10<<30:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d GiB", bytes>>30)
}

// clock looks at the kernel's clock source: one that needs a system call, or
// worse, makes every time stamp dear and coarse.
func clock() Finding {
	b, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	name := strings.TrimSpace(string(b))
	if err != nil {
		return Finding{"clock", Info, "the system does not tell its clock source", ""}
	}
	if slices.Contains([]string{"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}, name) {
		return Finding{"clock", Good, "clock source " + name, ""}
	}
	return Finding{"clock", Poor, "clock source " + name + " is slow to read", "choose tsc if the kernel trusts it (available_clocksource); the timer below shows what it costs"}
}

// toolchain looks at the Go that builds, and at what built this.
func toolchain(ctx context.Context, _ Options) []Finding {
	f := Finding{Name: "go", State: Good, Seen: "this program: " + runtime.Version()}
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		f.State, f.Seen, f.Mend = Poor, f.Seen+"; no go on the PATH", "install Go 1.26 or newer to build; what is built already runs without"
		return []Finding{f}
	}
	f.Seen += "; on the PATH: " + strings.TrimSpace(string(out))
	return []Finding{f}
}

func programs(_ context.Context, o Options) []Finding {
	var missing []string
	for _, name := range []string{"gateway", "dagmanager", "k6"} {
		if info, err := os.Stat(filepath.Join(o.Bin, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return []Finding{{"programs", Bad, strings.Join(missing, ", ") + " cannot be run from " + o.Bin, "make build, or name their folder with --bin-dir"}}
	}
	return []Finding{{"programs", Good, "gateway, dagmanager and k6 are in " + o.Bin, ""}}
}

// What a run needs: its folder is some tens of MiB, logs and profiles included.
const (
	diskLeast   = 200 << 20
	diskComfort = 2 << 30
)

// disk really writes where runs will be written.
func disk(_ context.Context, o Options) []Finding {
	f := Finding{Name: "disk", State: Good}
	dir := existing(o.Artifacts)
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		f.State, f.Seen, f.Mend = Bad, fmt.Sprintf("%s: %v", dir, err), "name another folder with --artifacts"
		return []Finding{f}
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	f.Seen = fmt.Sprintf("%s free for %s", size(max(free, 1)), o.Artifacts)
	switch err := writes(dir); {
	case err != nil:
		f.State, f.Seen, f.Mend = Bad, fmt.Sprintf("%s cannot be written: %v", dir, err), "make it writable, make room, or name another with --artifacts"
	case free < diskLeast:
		f.State, f.Mend = Bad, fmt.Sprintf("make room for %s, or name another folder with --artifacts", size(diskLeast))
	case free < diskComfort:
		f.State, f.Mend = Poor, "a few runs will fill it; make clean removes old ones"
	}
	return []Finding{f}
}

// existing is the nearest folder upwards that is there.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}

func writes(dir string) error {
	f, err := os.CreateTemp(dir, ".plumbline-doctor-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 1<<20))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// loopback opens a port of 127.0.0.1 and talks to itself.
func loopback(ctx context.Context, _ Options) []Finding {
	const mend = "everything runs on 127.0.0.1: bring the interface lo up, or free ports (ss -s; net.ipv4.ip_local_port_range)"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return []Finding{{"loopback", Bad, err.Error(), mend}}
	}
	defer ln.Close()
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return []Finding{{"loopback", Bad, err.Error(), mend}}
	}
	defer conn.Close()
	seen := "127.0.0.1 can be listened on and reached"
	if n := ports(); n > 0 {
		seen += fmt.Sprintf(", %d ports for connections", n)
	}
	return []Finding{{"loopback", Good, seen, ""}}
}

// ports counts those that the kernel hands out; 0 where it does not tell.
func ports() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) != 2 {
		return 0
	}
	low, _ := strconv.Atoi(fields[0])
	high, _ := strconv.Atoi(fields[1])
	return high - low + 1
}

// memoryCap really sets a limit and runs something under it.
func memoryCap(context.Context, Options) []Finding {
	version := "cgroup " + sut.CgroupVersion()
	limit, err := sut.TryCap(64 << 20)
	if err != nil {
		return []Finding{{"memory cap", Poor, version + ": " + oneLine(err),
			"the gateway's cap is kept by GOMEMLIMIT and a watchdog instead; run as root, or under systemd with Delegate=yes, for a hard one"}}
	}
	return []Finding{{"memory cap", Good, fmt.Sprintf("%s: a process ran under a limit of 64 MiB (%s)", version, limit), ""}}
}

// Lateness of the generator's pacer with nothing behind it. Beyond lagPoor its
// part in a latency of milliseconds can no longer be overlooked.
const lagPoor = time.Millisecond

func timer(ctx context.Context, o Options) []Finding {
	p50, p99, n := lateness(ctx, o.Pace)
	if n < 100 {
		return []Finding{{"timer", Bad, fmt.Sprintf("only %d wake-ups in %s", n, o.Pace), "the machine does not get to run; end what else runs on it"}}
	}
	f := Finding{Name: "timer", State: Good, Seen: fmt.Sprintf("the generator wakes %s late at p50, %s at p99 (1,000/s for %s, no load behind it)", p50, p99, o.Pace)}
	if p99 > lagPoor {
		f.State, f.Mend = Poor, "something else keeps the cores busy; end it, or figures below a few milliseconds mean little"
	}
	return []Finding{f}
}

// lateness paces 1,000/s with the generator's own pacer.
func lateness(ctx context.Context, d time.Duration) (p50, p99 time.Duration, n int) {
	s := load.Constant{Rate: 1000, For: d}
	late := make([]time.Duration, 0, s.N())
	zero := time.Now().Add(20 * time.Millisecond)
	load.Pace(ctx, zero, s, load.Stripe{}, func(i int64) { late = append(late, time.Since(zero)-s.Due(i)) })
	if n = len(late); n == 0 {
		return 0, 0, 0
	}
	slices.Sort(late)
	return late[n/2].Round(100 * time.Nanosecond), late[n*99/100].Round(100 * time.Nanosecond), n
}

// docker looks at the client, the daemon and the images. None of them is needed
// for embedded or external servers.
func docker(ctx context.Context, o Options) []Finding {
	worst := Poor
	if o.Provider == backend.KindContainers {
		worst = Bad
	}
	e := o.Containers.Examine(ctx)
	if e.Err != nil {
		return []Finding{client(), {"docker", worst, oneLine(e.Err), "without it the gate runs on embedded servers"}}
	}
	out := []Finding{client(), {"docker", Good, fmt.Sprintf("%s answers at %s", e.Version, e.Host), ""}}
	for _, i := range e.Images {
		f := Finding{Name: "image " + i.Server, State: Good, Seen: i.Name + " is here"}
		switch {
		case i.Err != nil:
			f.State, f.Seen, f.Mend = worst, oneLine(i.Err), "make images builds it from Debian packages and Maven artifacts"
		case !i.Here:
			f.Seen = i.Name + " can be pulled, and will be"
		}
		out = append(out, f)
	}
	return out
}

func client() Finding {
	path, err := exec.LookPath("docker")
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return Finding{"docker client", Info, "no docker on the PATH", "only make images needs it"}
	}
	return Finding{"docker client", Good, path, ""}
}

// settings names what the environment asks for and does not get: traffic goes to
// loopback only.
func settings(_ context.Context, o Options) (out []Finding) {
	for _, name := range []string{"TESTCONTAINERS_HOST_OVERRIDE", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"} {
		if v := o.Getenv(name); v != "" && v != "127.0.0.1" {
			out = append(out, Finding{"environment", Info, fmt.Sprintf("%s=%s is not heeded: only loopback is used, and the daemon is DOCKER_HOST or the local socket", name, v), ""})
		}
	}
	return out
}
