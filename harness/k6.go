package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

// What k6 leaves in its folder.
const (
	loadFile     = "load.json"
	outcomesFile = "outcomes.jsonl"
)

const (
	// k6Thresholds is k6's exit code for crossed thresholds. The judge has
	// thresholds of its own; k6's are for those who run the script alone.
	k6Thresholds = 99
	// k6Grace is how long k6 may take to leave when it is asked to.
	k6Grace = 10 * time.Second
	// starvePeriod is the cycle in which a starved generator runs and stands.
	starvePeriod = 100 * time.Millisecond
)

// offer runs the load generator against a gateway, in a process group of its
// own. The load begins at start, or at once where that is zero. When ctx ends it is asked to leave and then killed. The result is read
// even when the run went wrong, for evidence.
func (x *execution) offer(ctx context.Context, target string, start time.Time) (*load.Result, error) {
	out := x.dir.Path("load")
	logPath := x.dir.Path("logs", "k6.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer log.Close()
	cmd, err := x.k6(out, target, start)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	ran := x.drive(ctx, cmd)
	result, err := readLoad(filepath.Join(out, loadFile))
	switch {
	case context.Cause(ctx) != nil:
		return result, fmt.Errorf("load: %w", context.Cause(ctx))
	case ran != nil:
		return result, fmt.Errorf("load: k6 %w; its last lines:\n%s", ran, lastLines(logPath))
	case err != nil:
		return nil, fmt.Errorf("load: %w; the last lines of k6:\n%s", err, lastLines(logPath))
	default:
		return result, nil
	}
}

// k6 is the command; its environment holds no setting of plumbline's own but
// what the plan says.
func (x *execution) k6(out, target string, start time.Time) (*exec.Cmd, error) {
	var errs [4]error
	abs := func(i int, path string) string {
		full, err := filepath.Abs(path)
		errs[i] = err
		return full
	}
	cmd := exec.Command(abs(0, filepath.Join(x.Bin, x.Generator)))
	if x.Generator == GeneratorK6 {
		cmd.Args = append(cmd.Args, "run", "--quiet", "--no-usage-report", "--address", "", abs(1, filepath.Join(x.Bench, "scripts", "submit.js")))
	}
	settings := map[string]string{
		"TARGET": target, "PROFILE": abs(2, x.profileAt), "OUT": abs(3, out), "SEED": strconv.FormatUint(x.Seed, 10), "RUN_ID": x.run.ID,
		"RATE": x.Rate, "WINDOW": x.Window, "WARMUP": x.WarmUp,
	}
	if !start.IsZero() {
		settings["START_AT"] = strconv.FormatInt(start.UnixMilli(), 10)
	}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PLUMBLINE_") || strings.HasPrefix(v, "K6_")
	})
	for k, v := range settings {
		if v != "" {
			cmd.Env = append(cmd.Env, "PLUMBLINE_"+k+"="+v)
		}
	}
	if os.Getenv("GOGC") == "" {
		cmd.Env = append(cmd.Env, "GOGC=400") // its heap is small, and each collection makes it late
	}
	return cmd, errors.Join(errs[:]...)
}

// drive starts cmd, shows its progress and waits until it has ended.
func (x *execution) drive(ctx context.Context, cmd *exec.Cmd) error {
	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel kills the child when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		detach(cmd)
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	stop := make(chan struct{})
	starving := x.starveProcess(cmd.Process.Pid, stop)
	err := x.await(ctx, cmd, done)
	close(stop)
	<-starving
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == k6Thresholds {
		return nil
	}
	return err
}

// await waits for the end of cmd, or brings it about when ctx ends.
func (x *execution) await(ctx context.Context, cmd *exec.Cmd, done <-chan error) error {
	total := x.profile.WarmUp + x.profile.Window
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	text := fmt.Sprintf("%g requests/s", x.profile.MeanRate())
	for {
		x.Progress(Event{Stage: "load", Text: text, Gone: min(time.Since(began), total), Total: total})
		select {
		case err := <-done:
			return err
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), endGroup(cmd.Process.Pid, done))
		}
	}
}

// endGroup asks a process group to leave, then kills it.
func endGroup(pid int, done <-chan error) error {
	_ = syscall.Kill(-pid, syscall.SIGCONT) // it may have left already, which is all the better
	_ = syscall.Kill(-pid, syscall.SIGINT)
	grace := time.NewTimer(k6Grace)
	defer grace.Stop()
	select {
	case <-done:
		return nil
	case <-grace.C:
		err := syscall.Kill(-pid, syscall.SIGKILL)
		<-done
		return errors.Join(fmt.Errorf("process %d did not leave within %v and was killed", pid, k6Grace), err)
	}
}

// starveProcess leaves a process only its share of CPU, by stopping it for the
// rest of every cycle. The returned channel closes when it has ended.
func (x *execution) starveProcess(pid int, stop <-chan struct{}) <-chan struct{} {
	ended := make(chan struct{})
	if x.starve >= 1 {
		close(ended)
		return ended
	}
	runs := time.Duration(float64(starvePeriod) * x.starve)
	go func() {
		defer close(ended)
		for signal, next := syscall.SIGSTOP, runs; ; {
			select {
			case <-stop:
				_ = syscall.Kill(-pid, syscall.SIGCONT) // it has ended, or has to see why it must
				return
			case <-time.After(next):
			}
			_ = syscall.Kill(-pid, signal) // an ended process needs no starving
			if signal == syscall.SIGSTOP {
				signal, next = syscall.SIGCONT, starvePeriod-runs
			} else {
				signal, next = syscall.SIGSTOP, runs
			}
		}
	}()
	return ended
}

// readLoad reads load.json strictly.
func readLoad(path string) (*load.Result, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("k6 left no report of the load: %w", err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	var r load.Result
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("%s is broken: %w", path, err)
	}
	if r.Version != load.ResultVersion {
		return nil, fmt.Errorf("%s has version %d, this plumbline reads %d; build both anew with make build", path, r.Version, load.ResultVersion)
	}
	if err := errors.Join(r.Ledger.Check(), r.WarmUpLedger.Check()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// lastLines gives the end of a log for an error message.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("  (%v)", err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-10):], "\n  ")
}

// output runs a short command in dir and gives its output.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	b, err := cmd.Output()
	return strings.TrimSpace(string(b)), err
}

// readOutcomes opens what k6 wrote of every request.
func (x *execution) openOutcomes() (*os.File, error) {
	return os.Open(x.dir.Path("load", outcomesFile))
}

// keepPartial notes that and why nothing may be concluded from the run. The
// first reason stays.
func keepPartial(r *record.Run, err error) {
	if err != nil && !r.Partial {
		r.Partial, r.PartialReason = true, err.Error()
	}
}
