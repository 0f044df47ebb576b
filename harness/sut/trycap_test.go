package sut

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
)

func TestTryCapSaysWhatAStartWouldDoAndLeavesNothing(t *testing.T) {
	limit, err := TryCap(64 << 20)
	if err == nil && !slices.Contains([]string{LimitCgroupV1, LimitCgroupV2}, limit) {
		t.Errorf("TryCap = %q", limit)
	}
	if err != nil && !errors.Is(err, errNoCgroup) {
		t.Errorf("TryCap = %v; want a reason why there is no cgroup", err)
	}
	h, err := findHierarchy("")
	if err != nil {
		return // TryCap has said so above
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, cgroupPrefix+"*-doctor-try-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if v := CgroupVersion(); v == "none" {
		t.Error("a hierarchy was found, but no version")
	}
}
