package probe

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// processCPU reads the CPU clock of a process, which counts nanoseconds where
// /proc counts hundredths of a second. Its id is made of the pid as
// clock_getcpuclockid(3) does.
func processCPU(pid int) (float64, error) {
	const sched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return float64(ts.Nano()) / 1e9, nil
}
