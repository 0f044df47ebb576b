package harness

import (
	"os/exec"
	"syscall"
)

// detach puts a command that is about to start into a process group of its own
// and makes the kernel kill it when this process dies.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
