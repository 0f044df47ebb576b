package duet

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a command that is about to start into a process group of its own
// and makes the kernel kill it when this process dies.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
