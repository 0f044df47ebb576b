package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Profiles takes the profiles of one process from its admin address and writes
// them to dir: <process>-cpu.pb.gz and <process>-trace.out over the given time,
// then <process>-heap, -mutex and -block.pb.gz, the latter two as far as the
// process records them. It returns the files that it wrote whole; the error
// tells what is missing. The time must be whole seconds; 0 leaves the first two
// out. A CPU profile and a trace cost the process some per cent while they run.
func Profiles(ctx context.Context, process, admin, dir string, over time.Duration) ([]string, error) {
	if admin == "" {
		return nil, fmt.Errorf("profiles of %s: the process offers no admin address", process)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("profiles of %s: %w", process, err)
	}
	base := "http://" + admin + "/debug/pprof/"
	p := profiler{process: process, dir: dir}
	during := map[string]string{"mutex.pb.gz": "mutex", "block.pb.gz": "block"}
	if seconds := int(over.Seconds()); seconds >= 1 {
		during = map[string]string{
			"cpu.pb.gz":   fmt.Sprintf("profile?seconds=%d", seconds),
			"trace.out":   fmt.Sprintf("trace?seconds=%d", min(seconds, maxTrace)),
			"mutex.pb.gz": fmt.Sprintf("mutex?seconds=%d", seconds),
			"block.pb.gz": fmt.Sprintf("block?seconds=%d", seconds),
		}
	}
	var all sync.WaitGroup
	for kind, query := range during {
		all.Go(func() { p.take(ctx, kind, base+query) })
	}
	all.Wait()
	p.take(ctx, "heap.pb.gz", base+"heap")
	return p.files, errors.Join(p.errs...)
}

// maxTrace bounds a trace, in seconds: it grows by megabytes a second.
const maxTrace = 2

// profiler gathers the profiles of one process.
type profiler struct {
	process, dir string

	mu    sync.Mutex
	files []string // guarded by mu
	errs  []error  // guarded by mu
}

func (p *profiler) take(ctx context.Context, kind, url string) {
	file := filepath.Join(p.dir, p.process+"-"+kind)
	err := save(ctx, url, file)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s of %s: %w", kind, p.process, err))
		return
	}
	p.files = append(p.files, file)
}

// save writes the body of url to file, whole or not at all.
func save(ctx context.Context, url, file string) (err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	body, err := fetch(ctx, client, url)
	if err != nil {
		return err
	}
	defer body.Close()
	part, err := os.CreateTemp(filepath.Dir(file), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	_, err = io.Copy(part, body)
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), file)
}
