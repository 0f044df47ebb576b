package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// shown are the figures of a Go process, with what each is shown as.
var shown = []struct {
	series, label string
	unit          float64
}{
	{"process_resident_memory_bytes", "RSS MiB", 1 << 20},
	{"go_memstats_heap_inuse_bytes", "heap in use MiB", 1 << 20},
	{"go_memstats_stack_inuse_bytes", "stacks MiB", 1 << 20},
	{"go_goroutines", "goroutines", 1},
	{"process_open_fds", "descriptors", 1},
}

// memory prints what the gateway holds now.
func (c *config) memory(ctx context.Context, out io.Writer, when string) {
	if c.admin == "" {
		return
	}
	got, err := figures(ctx, "http://"+c.admin+"/metrics")
	if err != nil {
		fmt.Fprintf(out, "%-16s not measured: %v\n", when, err)
		return
	}
	fmt.Fprintf(out, "%-16s", when)
	for _, s := range shown {
		if v, ok := got[s.series]; ok {
			fmt.Fprintf(out, " %s %.0f;", s.label, v/s.unit)
		}
	}
	fmt.Fprintln(out)
}

// figures reads the series without labels of an exposition.
func figures(ctx context.Context, url string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	return all, nil
}
