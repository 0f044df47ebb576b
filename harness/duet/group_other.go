//go:build unix && !linux

package duet

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a command that is about to start into a process group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
