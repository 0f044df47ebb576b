//go:build unix && !linux

package harness

import (
	"os/exec"
	"syscall"
)

// detach puts a command that is about to start into a process group of its own.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
