package sut

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What kept a process under its cap, as told in record.SUTProcess.Limit.
const (
	LimitNone     = "none"
	LimitCgroupV1 = "cgroup-v1"
	LimitCgroupV2 = "cgroup-v2"
	LimitWatchdog = "gomemlimit+watchdog"
)

// Ways to hold a process under its cap, for Options.Cap.
const (
	CapAuto     = ""         // a memory cgroup where one can be made, else the watchdog
	CapCgroup   = "cgroup"   // a memory cgroup, or an error
	CapWatchdog = "watchdog" // the watchdog only
)

// cgroupPrefix begins the name of every cgroup of ours; then come the pid of
// its owner, the run and the process.
const cgroupPrefix = "plumbline-"

// errNoCgroup says that this machine lets us make no memory cgroup.
var errNoCgroup = errors.New("no memory cgroup can be made here")

// cgroup is a directory of the kernel's that holds one process to a limit of
// memory and swap together.
type cgroup struct {
	dir string
	v2  bool
}

func (c *cgroup) kind() string {
	if c.v2 {
		return LimitCgroupV2
	}
	return LimitCgroupV1
}

// hierarchy is where memory cgroups may be made: below the harness's own (v1),
// or below the nearest ancestor that hands the memory controller down (v2).
type hierarchy struct {
	dir string
	v2  bool
}

// findHierarchy reads /proc/self/{mountinfo,cgroup} below root ("" in life).
func findHierarchy(root string) (hierarchy, error) {
	mounts, err := cgroupMounts(root + "/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, err
	}
	own, err := ownCgroups(root + "/proc/self/cgroup")
	if err != nil {
		return hierarchy{}, err
	}
	if m, ok := mounts["memory"]; ok {
		return hierarchy{dir: root + m.path(own["memory"])}, nil
	}
	if m, ok := mounts["unified"]; ok {
		return findDelegated(root+m.point, root+m.path(own["unified"]))
	}
	return hierarchy{}, fmt.Errorf("%w: no memory controller is mounted", errNoCgroup)
}

// findDelegated walks from dir up to top until a directory hands the memory
// controller to its children. Version 2 forbids processes in such a directory,
// so it is seldom the harness's own.
func findDelegated(top, dir string) (hierarchy, error) {
	for {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err == nil && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " memory ") {
			return hierarchy{dir: dir, v2: true}, nil
		}
		if len(dir) <= len(top) {
			return hierarchy{}, fmt.Errorf("%w: no cgroup above the harness hands down the memory controller", errNoCgroup)
		}
		dir = filepath.Dir(dir)
	}
}

// cgroupMount is one mounted hierarchy.
type cgroupMount struct{ point, root string }

// path is where a cgroup, as /proc/self/cgroup names it, shows in the file
// system. In a container that mount may begin further down than the names do.
func (m cgroupMount) path(name string) string {
	if m.root != "/" {
		name = strings.TrimPrefix(name, m.root)
	}
	return filepath.Join(m.point, name)
}

// cgroupMounts gives the mounts by controller; "unified" is version 2.
func cgroupMounts(file string) (map[string]cgroupMount, error) {
	found := map[string]cgroupMount{}
	err := eachLine(file, func(line string) {
		before, after, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(kind) < 3 {
			return
		}
		m := cgroupMount{point: fields[4], root: fields[3]}
		switch kind[0] {
		case "cgroup2":
			found["unified"] = m
		case "cgroup":
			for _, controller := range strings.Split(kind[2], ",") {
				found[controller] = m
			}
		}
	})
	return found, err
}

// ownCgroups gives the harness's own cgroup by controller.
func ownCgroups(file string) (map[string]string, error) {
	own := map[string]string{}
	err := eachLine(file, func(line string) {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			return
		}
		if parts[0] == "0" && parts[1] == "" {
			own["unified"] = parts[2]
		}
		for _, controller := range strings.Split(parts[1], ",") {
			own[controller] = parts[2]
		}
	})
	return own, err
}

func eachLine(file string, do func(string)) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoCgroup, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}

// make creates a cgroup of the given name with the limit in place. A cgroup
// whose limit cannot be set is removed again.
func (h hierarchy) make(name string, limit int64) (*cgroup, error) {
	h.sweep()
	c := &cgroup{dir: filepath.Join(h.dir, name), v2: h.v2}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCgroup, err)
	}
	if err := c.limit(limit); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoCgroup, err), c.remove())
	}
	return c, nil
}

// limit sets memory first, then memory and swap together: the kernel refuses
// them the other way round. A kernel without swap accounting has no second
// file, and then the limit on memory is the whole limit only if there is no
// swap; so swapping is switched off as well.
func (c *cgroup) limit(bytes int64) error {
	text := strconv.FormatInt(bytes, 10)
	if c.v2 {
		if err := c.write("memory.max", text); err != nil {
			return err
		}
		return ifExists(c.write("memory.swap.max", "0"))
	}
	if err := c.write("memory.limit_in_bytes", text); err != nil {
		return err
	}
	if err := ifExists(c.write("memory.memsw.limit_in_bytes", text)); err != nil {
		return err
	}
	return ifExists(c.write("memory.swappiness", "0"))
}

func ifExists(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // cgroupfs refuses to create files: either error says that there is none
	}
	return err
}

func (c *cgroup) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(c.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// procs is the file that takes a pid into the cgroup.
func (c *cgroup) procs() string { return filepath.Join(c.dir, "cgroup.procs") }

// Usage is the file that tells the memory charged now, in bytes.
func (c *cgroup) usage() string {
	if c.v2 {
		return filepath.Join(c.dir, "memory.current")
	}
	return filepath.Join(c.dir, "memory.usage_in_bytes")
}

// kills tells how many processes the kernel has killed for the limit.
func (c *cgroup) kills() int {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	n := 0
	err := eachLine(filepath.Join(c.dir, file), func(line string) {
		if text, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ = strconv.Atoi(text)
		}
	})
	if err != nil {
		return 0
	}
	return n
}

// remove deletes the cgroup. The kernel may need a moment after the last
// process has gone.
func (c *cgroup) remove() error {
	var err error
	for range 100 {
		if err = syscall.Rmdir(c.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("cgroup %s: %w", c.dir, err)
}

// sweep removes cgroups whose owner is dead, with what still runs in them: a
// harness that was killed could not do it itself.
func (h hierarchy) sweep() {
	dirs, _ := filepath.Glob(filepath.Join(h.dir, cgroupPrefix+"*")) // the pattern is well formed
	for _, dir := range dirs {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		owner, err := strconv.Atoi(text)
		if err != nil || owner == os.Getpid() || alive(owner) {
			continue
		}
		c := &cgroup{dir: dir, v2: h.v2}
		_ = eachLine(c.procs(), func(line string) { // gone meanwhile is as good
			if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
		_ = c.remove() // tried again at the next start
	}
}

func alive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// cgroupName is unique among the processes of this machine.
func cgroupName(runID, process string) string {
	return fmt.Sprintf("%s%d-%s-%s-%d", cgroupPrefix, os.Getpid(), safeName(runID), process, time.Now().UnixNano())
}

func safeName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '_'
	}, s)
}

// capEnv is how a Go process is told to keep its heap under the cap: the
// runtime collects harder as it nears three quarters of it, and otherwise
// seldom, which measured fastest at an equal peak.
func capEnv(bytes int64) map[string]string {
	return map[string]string{
		"GOMEMLIMIT": strconv.FormatInt(bytes/4*3, 10) + "B",
		"GOGC":       "400",
	}
}

// rss reads the resident set of a process, in bytes.
func rss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status: no VmRSS", pid)
}
