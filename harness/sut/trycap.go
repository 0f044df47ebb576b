package sut

import (
	"errors"
	"fmt"
	"os/exec"
)

// TryCap finds out by doing it whether a process can be held to bytes of memory
// here: it makes a memory cgroup with that limit, runs true in it, and removes
// it. It returns LimitCgroupV1 or LimitCgroupV2, or why no cgroup can be had; a
// SUT then is watched instead (LimitWatchdog).
func TryCap(bytes int64) (limit string, err error) {
	h, err := findHierarchy("")
	if err != nil {
		return "", err
	}
	cg, err := h.make(cgroupName("doctor", "try"), bytes)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, cg.remove()) }()
	program, err := exec.LookPath("true")
	if err != nil {
		return "", fmt.Errorf("nothing to run in a cgroup: %w", err)
	}
	cmd := exec.Command(program)
	file, err := contain(cmd, cg)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if file != nil {
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return "", fmt.Errorf("%w: a process cannot enter %s: %w %s", errNoCgroup, cg.dir, err, out)
	}
	return cg.kind(), nil
}

// CgroupVersion says which versions of cgroups are mounted: "v1", "v2",
// "v1 and v2" or "none".
func CgroupVersion() string {
	mounts, err := cgroupMounts("/proc/self/mountinfo")
	if err != nil {
		return "none"
	}
	_, unified := mounts["unified"]
	switch {
	case unified && len(mounts) > 1:
		return "v1 and v2"
	case unified:
		return "v2"
	case len(mounts) > 0:
		return "v1"
	}
	return "none"
}
