package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qmtl.internal/plumbline/bench/load"
)

func TestCrowdCountsAnswersAndReadsMemory(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			_, _ = w.Write([]byte("process_resident_memory_bytes 3.145728e+06\ngo_goroutines 7\n"))
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	var out, errs bytes.Buffer
	dir := t.TempDir()
	code := run(context.Background(), []string{"--target", srv.URL, "--clients", "20", "--idle", "5", "--say", "GET",
		"--admin", strings.TrimPrefix(srv.URL, "http://"), "--out", dir}, &out, &errs)
	for _, want := range []string{"20 unexpected: 503\n", "25 connected", "RSS MiB 3; goroutines 7;"} {
		if code != exitOver || !strings.Contains(out.String(), want) {
			t.Errorf("exit code %d, %s lacks %q; %s", code, out.String(), want, errs.String())
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, load.OutcomesFile)); err != nil || bytes.Count(b, []byte("\n")) != 20 {
		t.Errorf("outcomes %s (%v)", b, err)
	}
}

func TestMistakesOfTheCommandLine(t *testing.T) {
	for want, args := range map[string][]string{
		"want http://":          {"--target", "localhost:1"},
		"one connection":        {"--target", "http://a:1", "--clients", "0"},
		"unexpected argument":   {"--target", "http://a:1", "x"},
		"--ca":                  {"--target", "https://a:1", "--ca", "none.pem"},
		"flag provided but not": {"--nothing"},
	} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
	}
}
