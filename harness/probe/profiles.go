package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Profiles fetches a CPU profile over the given time and then a heap profile
// of one process from its admin address, and writes them to dir as
// <process>-cpu.pb.gz and <process>-heap.pb.gz. It returns the files that it
// wrote whole; the error tells what is missing. The time of the CPU profile
// must be whole seconds; 0 leaves it out.
func Profiles(ctx context.Context, process, admin, dir string, cpu time.Duration) ([]string, error) {
	if admin == "" {
		return nil, fmt.Errorf("profiles of %s: the process offers no admin address", process)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("profiles of %s: %w", process, err)
	}
	base := "http://" + admin + "/debug/pprof/"
	var files []string
	var errs []error
	for _, p := range []struct {
		kind, url string
		skip      bool
	}{
		{"cpu", fmt.Sprintf("%sprofile?seconds=%d", base, int(cpu.Seconds())), cpu < time.Second},
		{"heap", base + "heap", false},
	} {
		if p.skip {
			continue
		}
		file := filepath.Join(dir, process+"-"+p.kind+".pb.gz")
		if err := save(ctx, p.url, file); err != nil {
			errs = append(errs, fmt.Errorf("%s profile of %s: %w", p.kind, process, err))
			continue
		}
		files = append(files, file)
	}
	return files, errors.Join(errs...)
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
