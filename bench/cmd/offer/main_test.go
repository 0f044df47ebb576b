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

const profile = `{"name":"few","rate_per_s":100,"warm_up":"0s","window":"200ms","max_in_flight":8,"backlog":8,"drain":"5s","mix":{"single":1}}`

func offered(t *testing.T, env map[string]string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(context.Background(), func(name string) (string, bool) { v, ok := env[name]; return v, ok }, &o, &e)
	return code, o.String(), e.String()
}

func TestOfferLeavesWhatK6Does(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer srv.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "few.json")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := offered(t, map[string]string{"PLUMBLINE_TARGET": srv.URL + "/", "PLUMBLINE_PROFILE": file, "PLUMBLINE_OUT": dir, "PLUMBLINE_RATE": "50", "PLUMBLINE_SEED": "7", "PLUMBLINE_RUN_ID": "r"})
	if code != exitOver || !strings.Contains(out, "few: offered 10, accepted 0, rejected 0, unexpected 10, lost 0, dropped 0") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	wantKept(t, dir)
}

func wantKept(t *testing.T, dir string) {
	t.Helper()
	r, err := load.ReadResult(filepath.Join(dir, load.ResultFile))
	if err != nil || r.Seed != 7 || r.Tag != "r" || r.Profile != "few" || r.Unexpected["418"] != 10 {
		t.Errorf("result %+v (%v)", r, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, load.OutcomesFile)); err != nil || bytes.Count(b, []byte("\n")) != 10 {
		t.Errorf("outcomes %s (%v)", b, err)
	}
}

func TestMistakesAreToldTogether(t *testing.T) {
	code, _, errs := offered(t, map[string]string{"PLUMBLINE_PROFILE": "none.json", "PLUMBLINE_SEED": "x", "PLUMBLINE_START_AT": "soon"})
	for _, want := range []string{"none.json", `"x"`, `"soon"`, "PLUMBLINE_TARGET"} {
		if code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("exit code %d, %s lacks %s", code, errs, want)
		}
	}
}
