package diffload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
)

// Process is a DAG Manager that was started for the load.
type Process struct {
	Ready contract.Ready
	cmd   *exec.Cmd
	out   *bufio.Reader
}

// Start runs a DAG Manager and waits for its ready line (contract.Ready). Its log goes to log.
func Start(ctx context.Context, log io.Writer, argv []string) (*Process, error) {
	if len(argv) == 0 {
		return nil, errors.New("no program to start")
	}
	p := &Process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...)}
	p.cmd.Stderr = log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopGrace
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	p.out = bufio.NewReader(out)
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		p.Ready, err = contract.ParseReady(line)
	}
	if err == nil && p.Ready.Addresses["grpc"] == "" {
		err = fmt.Errorf("the ready line names no grpc address: %s", line)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", argv[0], err), p.Stop())
	}
	return p, nil
}

// stopGrace is how long a process may take to end.
const stopGrace = 20 * time.Second

// Stop ends the process and waits for it.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s ended with %w", p.cmd.Path, err)
	}
	return nil
}

// Meter reads what a process says of itself at its admin address.
type Meter struct{ url string }

// NewMeter reads http://HOST:PORT/metrics.
func NewMeter(addr string) Meter { return Meter{"http://" + addr + "/metrics"} }

// The series that are read, as the Go collector of Prometheus names them.
const (
	Allocated = "go_gc_heap_allocs_bytes_total"
	Live      = "go_gc_heap_live_bytes"
	Resident  = "process_resident_memory_bytes"
)

// Read gives the value of each series without labels. A series that is not there is absent.
func (m Meter) Read(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(text, 64); err == nil && !strings.HasPrefix(name, "#") {
			values[name] = v
		}
	}
	return values, lines.Err()
}
