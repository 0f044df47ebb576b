package sut

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
)

// ErrOverCap is in the chain of the error of a process that was killed for
// using more memory than its cap.
var ErrOverCap = errors.New("over its memory cap")

// DeathError says that a process ended although nobody asked it to.
type DeathError struct {
	Process string
	ExitErr error  // how it ended; has ErrOverCap in its chain if that was why
	LogFile string // its whole output
	Tail    string // the last lines of it
	Code    int    // exit code; -1 when a signal ended it
}

func (e *DeathError) Error() string {
	if e.Tail == "" {
		return fmt.Sprintf("process %s died: %v; it wrote nothing", e.Process, e.ExitErr)
	}
	return fmt.Sprintf("process %s died: %v; its last lines (all in %s):\n%s", e.Process, e.ExitErr, e.LogFile, e.Tail)
}

func (e *DeathError) Unwrap() error { return e.ExitErr }

// launch is what one life of a process needs, all templates filled.
type launch struct {
	spec    Spec
	argv    []string
	env     []string
	dir     string
	logFile string
	cap     int64 // bytes; 0: none
	cg      *cgroup
	limit   string
	log     *slog.Logger
}

// process is one life of one process of a SUT.
type process struct {
	launch
	pid   int
	lines chan readyLine // one value at most
	done  chan struct{}  // closed when the process and its group are gone
	asked atomic.Bool    // we ended it: its end is no death

	exit   error // valid once done is closed: how it ended, nil for exit 0
	code   int   // valid once done is closed
	killed atomic.Pointer[error]
}

type readyLine struct {
	ready contract.Ready
	err   error
}

// begin starts the process. Its owner must call end, or wait on done.
func begin(l launch) (*process, error) {
	out, err := os.OpenFile(l.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("process %s: log: %w; give a directory that can be written", l.spec.Name, err)
	}
	stdout, child, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process %s: %w", l.spec.Name, err), out.Close())
	}
	cmd := exec.Command(l.argv[0], l.argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = l.dir, l.env, child, out
	p := &process{launch: l, lines: make(chan readyLine, 1), done: make(chan struct{})}
	started := make(chan error)
	go p.live(cmd, stdout, out, child, started)
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("process %s: start %s: %w; %s", l.spec.Name, l.argv[0], unwrapExec(err), missingHint(err))
	}
	return p, nil
}

func unwrapExec(err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return unwrapPath(err)
}

func missingHint(err error) string {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "build it first (make build), or say where it is"
	}
	return "look at its argv and dir in the descriptor"
}

// live owns the process from start to end. The kernel ties the child to the
// thread that made it, hence the lock.
func (p *process) live(cmd *exec.Cmd, stdout, out, child *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer out.Close()
	defer stdout.Close()
	err := p.start(cmd)
	child.Close()
	if err == nil {
		p.pid = cmd.Process.Pid
	}
	started <- err
	if err != nil {
		return
	}
	read := make(chan struct{})
	go func() { defer close(read); p.read(stdout, out) }()
	watched := make(chan struct{})
	over := p.watchdog(watched)

	err = cmd.Wait()
	close(watched)
	<-over
	p.code = cmd.ProcessState.ExitCode()
	p.exit = p.why(err)
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // grandchildren; no such group is as good
	// What escaped the group may hold the pipe for ever; do not wait for it.
	_ = stdout.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	<-read
	if p.cg != nil {
		if err := p.cg.remove(); err != nil {
			p.log.Warn("cgroup stays", "error", err)
		}
	}
}

func (p *process) start(cmd *exec.Cmd) error {
	held, err := contain(cmd, p.cg)
	if err == nil && cmd.Err == nil {
		err = cmd.Start()
	} else {
		err = errors.Join(err, cmd.Err)
	}
	if held != nil {
		held.Close()
	}
	if err != nil && p.cg != nil {
		err = errors.Join(err, p.cg.remove())
	}
	return err
}

// read copies standard output to the log and hands over the first line that
// means to be a ready line.
func (p *process) read(stdout io.Reader, out io.Writer) {
	in := bufio.NewReaderSize(stdout, 64<<10)
	seen, fresh := false, true
	for {
		line, err := in.ReadSlice('\n')
		if _, werr := out.Write(line); werr != nil {
			p.log.Warn("log of a process is incomplete", "process", p.spec.Name, "error", werr)
			out = io.Discard // keep reading, or the process would block
		}
		if !seen && fresh && bytes.Contains(line, []byte(`"plumbline_ready"`)) {
			seen = true
			ready, err := contract.ParseReady(line)
			p.lines <- readyLine{ready, err}
		}
		fresh = err == nil // the next slice begins a line
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// watchdog kills the process when its resident set exceeds the cap, where no
// cgroup does it. The channel it returns is closed when it has ended.
func (p *process) watchdog(stop <-chan struct{}) <-chan struct{} {
	over := make(chan struct{})
	if p.limit != LimitWatchdog {
		close(over)
		return over
	}
	go func() {
		defer close(over)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if now, err := rss(p.pid); err == nil && now > p.cap {
				why := fmt.Errorf("%w of %s: resident set %s (%s)", ErrOverCap, mib(p.cap), mib(now), p.limit)
				p.killed.Store(&why)
				_ = syscall.Kill(-p.pid, syscall.SIGKILL) // its end shows in Wait
				return
			}
		}
	}()
	return over
}

// why finds the reason behind what Wait said.
func (p *process) why(err error) error {
	if err == nil {
		return nil
	}
	if over := p.killed.Load(); over != nil {
		return *over
	}
	if p.cg != nil && p.cg.kills() > 0 {
		return fmt.Errorf("%w of %s: the kernel killed it (%s, out of memory)", ErrOverCap, mib(p.cap), p.limit)
	}
	return err
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// death describes an end that nobody asked for. Only after done.
func (p *process) death() *DeathError {
	exit := p.exit
	if exit == nil {
		exit = errors.New("exit status 0")
	}
	return &DeathError{Process: p.spec.Name, ExitErr: exit, LogFile: p.logFile, Tail: tail(p.logFile), Code: p.code}
}

// end asks the process to leave, kills it with its group when it does not in
// time, and waits until it is gone.
func (p *process) end(giveUp <-chan struct{}) error {
	if p.gone() {
		return nil // that was told when it ended
	}
	p.asked.Store(true)
	_ = syscall.Kill(p.pid, syscall.SIGTERM)  // gone meanwhile is as good
	_ = syscall.Kill(-p.pid, syscall.SIGCONT) // one that a fault has paused could not hear it
	limit := time.NewTimer(p.spec.stopWithin())
	defer limit.Stop()
	select {
	case <-p.done:
		return p.clean()
	case <-limit.C:
	case <-giveUp:
	}
	p.kill()
	return fmt.Errorf("process %s: did not leave within %s of SIGTERM and was killed", p.spec.Name, p.spec.stopWithin())
}

// kill ends the process and its group at once.
func (p *process) kill() {
	p.asked.Store(true)
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // gone meanwhile is as good
	<-p.done
}

func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// clean is nil when the process left as it should: exit 0, or by SIGTERM.
func (p *process) clean() error {
	var e *exec.ExitError
	if errors.As(p.exit, &e) {
		if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	if p.exit != nil {
		return fmt.Errorf("process %s: %w after SIGTERM; its log is %s", p.spec.Name, p.exit, p.logFile)
	}
	return nil
}

const (
	tailLines = 20
	tailBytes = 8 << 10
)

// tail gives the last lines of a log, indented; "" when there are none.
func tail(file string) string {
	text := strings.TrimSpace(ending(file, tailBytes))
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return "  " + strings.Join(lines, "\n  ")
}

// ending gives the last bytes of a log, at most most.
func ending(file string, most int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart) // from the start is as good
	}
	b, _ := io.ReadAll(f) // what could be read is as good
	return string(b)
}

// logPath is where the output of a process goes.
func logPath(dir, name string) string { return filepath.Join(dir, name+".log") }
