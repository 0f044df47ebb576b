package duet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
)

// generator is the one process that loads both arms, for the whole comparison:
// what it is good or bad at, it is for both. It takes commands on its standard
// input.
type generator struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan answered
	ended   chan error
	log     string
	busy    bool // a command was not answered
}

type answered struct {
	a   load.TurnsAnswer
	err error
}

// leave is how long the generator may take to end when its input has.
const leave = 5 * time.Second

func startGenerator(o Options) (*generator, error) {
	g := &generator{answers: make(chan answered), ended: make(chan error, 1), log: filepath.Join(o.Dir, "k6.log")}
	log, err := os.Create(g.log)
	if err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	defer log.Close()
	args := []string{"x", "plumbline-turns", "--profile", o.ProfileAt}
	if o.Rate != "" {
		args = append(args, "--rate", o.Rate)
	}
	g.cmd = exec.Command(o.K6, args...)
	g.cmd.Stderr = log
	g.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PLUMBLINE_") || strings.HasPrefix(v, "K6_")
	})
	g.cmd.Env = append(g.cmd.Env, "GOGC=off", fmt.Sprintf("GOMEMLIMIT=%d", roomOfGenerator)) // its collections are noise as well; each open collects
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		g.in, err = g.cmd.StdinPipe()
	}
	if err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	started := make(chan error)
	go func() {
		// The kernel kills the child when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ownGroup(g.cmd)
		err := g.cmd.Start()
		started <- err
		if err == nil {
			g.read(out)
			g.ended <- g.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("generator: %w; build it with make build, or name its folder with --bin-dir", err)
	}
	return g, nil
}

// read hands over the answers until there are no more.
func (g *generator) read(out io.Reader) {
	defer close(g.answers)
	lines := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	for {
		var a answered
		a.err = lines.Decode(&a.a)
		if errors.Is(a.err, io.EOF) {
			return
		}
		g.answers <- a
		if a.err != nil {
			_, _ = io.Copy(io.Discard, out) // let it end
			return
		}
	}
}

// do sends a command and waits for its answer.
func (g *generator) do(ctx context.Context, c load.TurnsCommand) (*load.TurnsResult, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	if _, err := g.in.Write(append(b, '\n')); err != nil {
		return nil, g.lost(err)
	}
	g.busy = true
	select {
	case a, ok := <-g.answers:
		g.busy = false
		switch {
		case !ok:
			return nil, g.lost(errors.New("it ended"))
		case a.err != nil:
			return nil, fmt.Errorf("generator: its answer is broken: %w", a.err)
		case a.a.Error != "":
			return nil, fmt.Errorf("generator: %s", a.a.Error)
		}
		return a.a.Result, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close ends the generator: by the end of its input, or by force where it was
// left in the middle of an offer.
func (g *generator) close() error {
	var err error
	if g.busy {
		_ = g.cmd.Process.Kill() // it may have ended, which is all the better
	} else {
		err = g.in.Close()
	}
	drained := make(chan struct{})
	go func() { // an answer that nobody waits for any more
		defer close(drained)
		for range g.answers {
		}
	}()
	limit := time.NewTimer(leave)
	defer limit.Stop()
	select {
	case exit := <-g.ended:
		<-drained
		if g.busy {
			return nil // it was told to
		}
		return errors.Join(err, g.died(exit))
	case <-limit.C:
	}
	err = errors.Join(err, g.cmd.Process.Kill())
	<-g.ended
	<-drained
	return err
}

func (g *generator) died(exit error) error {
	if exit == nil {
		return nil
	}
	return g.lost(exit)
}

// lost is the error of a generator that is gone, with its last words.
func (g *generator) lost(err error) error {
	b, _ := os.ReadFile(g.log) // without it there are no words
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Errorf("generator: %w; its last words: %q", err, lines[len(lines)-1])
}

// slotFile keeps every slot with its histograms, a round a line.
type slotFile struct {
	f    *os.File
	w    *bufio.Writer
	line *json.Encoder
}

// SlotsFile holds what the generator said, a round a line.
const SlotsFile = "slots.jsonl"

func createSlots(dir string) (*slotFile, error) {
	f, err := os.Create(filepath.Join(dir, SlotsFile))
	if err != nil {
		return nil, fmt.Errorf("comparison: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<16)
	return &slotFile{f, w, json.NewEncoder(w)}, nil
}

// slotLine is one round in the file. Arms tells which arm target 0 and 1 were.
type slotLine struct {
	Round int               `json:"round"`
	Arms  [2]string         `json:"arms"`
	Slot  time.Duration     `json:"slot_ns"`
	Turns *load.TurnsResult `json:"turns"`
}

func (s *slotFile) close() error {
	if err := errors.Join(s.w.Flush(), s.f.Close()); err != nil {
		return fmt.Errorf("comparison: %w", err)
	}
	return nil
}
