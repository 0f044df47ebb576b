package sut

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files below a fresh directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	v1Mount     = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	v1Container = "30 24 0:26 /docker/ab /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
	v1Joint     = "30 24 0:26 / /sys/fs/cgroup/mem rw - cgroup cgroup rw,cpu,memory\n"
	v2Mount     = "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
)

func TestFindHierarchy(t *testing.T) {
	for _, c := range []struct {
		name, mounts, own string
		control           map[string]string // cgroup.subtree_control by directory
		dir               string
		v2                bool
	}{
		{"v1, own cgroup", v1Mount, "4:memory:/user/me\n0::/\n", nil, "/sys/fs/cgroup/memory/user/me", false},
		{"v1, within a container", v1Container, "4:memory:/docker/ab\n", nil, "/sys/fs/cgroup/memory", false},
		{"v1, in a cgroup below a container's", v1Container, "4:memory:/docker/ab/x\n", nil, "/sys/fs/cgroup/memory/x", false},
		{"v1, controllers together", v1Joint, "4:cpu,memory:/\n", nil, "/sys/fs/cgroup/mem", false},
		{"v1 beside v2", v2Mount + v1Mount, "4:memory:/a\n0::/b\n", nil, "/sys/fs/cgroup/memory/a", false},
		{"v2, handed down by the parent", v2Mount, "0::/user.slice/app\n",
			map[string]string{"/sys/fs/cgroup": "cpu memory pids\n", "/sys/fs/cgroup/user.slice": "memory\n", "/sys/fs/cgroup/user.slice/app": "\n"},
			"/sys/fs/cgroup/user.slice", true},
		{"v2, at the top only", v2Mount, "0::/a/b\n", map[string]string{"/sys/fs/cgroup": "memory"}, "/sys/fs/cgroup", true},
		{"v2, nowhere", v2Mount, "0::/a/b\n", map[string]string{"/sys/fs/cgroup": "cpu memoryx"}, "", false},
		{"none", "22 1 0:1 / / rw - overlay overlay rw\n", "0::/\n", nil, "", false},
	} {
		files := map[string]string{"proc/self/mountinfo": c.mounts, "proc/self/cgroup": c.own}
		for dir, text := range c.control {
			files[dir+"/cgroup.subtree_control"] = text
		}
		root := tree(t, files)
		h, err := findHierarchy(root)
		if c.dir == "" {
			if !errors.Is(err, errNoCgroup) {
				t.Errorf("%s: %+v, %v; want errNoCgroup", c.name, h, err)
			}
			continue
		}
		if err != nil || strings.TrimPrefix(h.dir, root) != c.dir || h.v2 != c.v2 {
			t.Errorf("%s: %s v2=%v, %v; want %s v2=%v", c.name, strings.TrimPrefix(h.dir, root), h.v2, err, c.dir, c.v2)
		}
	}
}

func TestNoProcIsNoCgroup(t *testing.T) {
	if _, err := findHierarchy(t.TempDir()); !errors.Is(err, errNoCgroup) {
		t.Errorf("findHierarchy = %v; want errNoCgroup", err)
	}
}

// TestV2Files writes the limit as version 2 wants it, into a stand-in for the
// kernel's directory: this machine may have version 1 only.
func TestV2Files(t *testing.T) {
	dir := tree(t, map[string]string{
		"memory.max": "", "memory.swap.max": "", "memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n", "cgroup.procs": "",
	})
	c := &cgroup{dir: dir, v2: true}
	if err := c.limit(128 << 20); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "134217728", "memory.swap.max": "0"} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); string(b) != want {
			t.Errorf("%s = %q, %v; want %s", file, b, err, want)
		}
	}
	if c.kills() != 2 || c.kind() != LimitCgroupV2 || c.usage() != filepath.Join(dir, "memory.current") {
		t.Errorf("kills %d, kind %s, usage %s", c.kills(), c.kind(), c.usage())
	}
}

func TestMakeRemovesACgroupWithoutLimit(t *testing.T) {
	h := hierarchy{dir: t.TempDir()} // an ordinary directory takes no limit
	if _, err := h.make("plumbline-x", 1<<20); !errors.Is(err, errNoCgroup) {
		t.Errorf("make = %v; want errNoCgroup", err)
	}
	if left, _ := os.ReadDir(h.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSweepTakesOnlyTheDead(t *testing.T) {
	dead, alive := 1<<29, os.Getppid()
	mine := cgroupName("run/7", "gateway")
	names := []string{fmt.Sprintf("plumbline-%d-r-gateway-1", dead), fmt.Sprintf("plumbline-%d-r-gateway-1", alive), mine, "plumbline-odd", "other"}
	h := hierarchy{dir: t.TempDir()}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(h.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.sweep()
	for i, name := range names {
		_, err := os.Stat(filepath.Join(h.dir, name))
		if gone := errors.Is(err, os.ErrNotExist); gone != (i == 0) {
			t.Errorf("%s gone: %v", name, gone)
		}
	}
}
