package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestBadCommandLines(t *testing.T) {
	for says, args := range map[string]string{
		"name a program":          "",
		"or --target":             "--target a:1 bin/dagmanager",
		`--nodes "1,x"`:           "--nodes 1,x bin/dagmanager",
		"want them to grow":       "--topics 10,0 bin/dagmanager",
		"--count: want 1":         "--count 0 bin/dagmanager",
		`--max-p95 "7=1ms"`:       "--max-p95 7=1ms bin/dagmanager",
		`--max-p95 "100=x"`:       "--max-p95 100=x bin/dagmanager",
		"flag provided but not d": "--nope",
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(args), &out, &errs)
		if code != exitUsage || !strings.Contains(errs.String(), says) {
			t.Errorf("%q: exit %d, %s; want %s", args, code, &errs, says)
		}
	}
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, &out, &errs); code != exitOK || !strings.Contains(errs.String(), "usage: diffload") {
		t.Errorf("exit %d, %s", code, &errs)
	}
}

func TestNothingToMeasure(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--target", "127.0.0.1:1"}, &out, &errs); code != exitBroken || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("exit %d, %s", code, &errs)
	}
}

func TestLimits(t *testing.T) {
	c, err := parse([]string{"--max-p95", "100=2ms,1000=15ms", "--max-rate-p95", "40ms", "bin/dagmanager"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{config: c}
	b.judge("a", 14.9, c.limits.oneByOne[1000])
	b.judge("b", 2.1, c.limits.oneByOne[100])
	b.judge("c", 1e9, c.limits.oneByOne[10000])
	if len(b.over) != 1 || !strings.HasPrefix(b.over[0], "b: p95 2.10 ms") || c.limits.rate != 40*time.Millisecond {
		t.Errorf("%v", b.over)
	}
}
