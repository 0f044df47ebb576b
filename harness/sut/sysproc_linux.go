package sut

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// contain puts a command that is about to start into a process group of its
// own, makes the kernel kill it when the harness dies, and starts it inside
// cg, if there is one, from its first instruction. The caller must start the
// command on a locked thread that outlives it, since the kernel watches the
// thread, and closes what is returned after the start.
func contain(cmd *exec.Cmd, cg *cgroup) (*os.File, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if cg == nil {
		return nil, nil
	}
	if cg.v2 {
		dir, err := os.Open(cg.dir)
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return dir, nil
	}
	// Version 1 has no such call: a shell enters the cgroup and becomes the command.
	shell, err := exec.LookPath("sh")
	if err != nil {
		return nil, errors.New("entering a cgroup of version 1 needs sh on the PATH")
	}
	script := `echo $$ > "$0" && exec "$@"`
	cmd.Args = append([]string{"sh", "-c", script, cg.procs(), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = shell
	return nil, nil
}
