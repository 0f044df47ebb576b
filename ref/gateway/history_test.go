package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

func TestAHistoryReportIsKeptWithItsStrategyAndPassedOn(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws), withArgs("--workers", "0"))
	ws.on(script{status: 200, body: `{}`})
	id := s.accepted(bodyWith(oneNode("a"), paperMeta, "w")).StrategyID
	ws.seen()
	a := s.post("/strategies/"+id+"/history", `{"node_id":"n","interval":60,"world_id":"h","execution_domain":"Paper Trade","artifact":{"dataset_fingerprint":"f","as_of":"t","rows":3}}`)
	if a.status != 204 || a.body != "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for field, want := range map[string]string{
		"compute_world_id": "h", "compute_execution_domain": "dryrun", "compute_as_of": "t", "compute_dataset_fingerprint": "f", "state": "queued",
	} {
		if got := s.redis.HGet("strategy:"+id, field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	said, err := pyjson.ParseString(s.redis.HGet("strategy:"+id, "seamless:n"))
	if err != nil {
		t.Fatal(err)
	}
	seen := ws.seen()
	if len(seen) != 1 || seen[0].Path != "/worlds/h/history" ||
		seen[0].Body != string(pyjson.Append(nil, said.With("strategy_id", pyjson.OfString(id)), pyjson.Compact)) {
		t.Errorf("passed on %v", seen)
	}
}

func TestAHistoryReportWhoseForwardingFailsIsKeptAllTheSame(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws))
	id := s.accepted(body(oneNode("a"), "w")).StrategyID
	ws.on(script{status: 500})
	if a := s.post("/strategies/"+id+"/history", `{"node_id":"n","interval":60,"world_id":"h"}`); a.status != 204 || s.redis.HGet("strategy:"+id, "seamless:n") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestHistoryErrors(t *testing.T) {
	s := newStand(t)
	for body, want := range map[string]string{
		`{"node_id":"n","interval":60}`:   `{"detail":"strategy not found"}`,
		`{"node_id":"n","interval":"60"}`: `"loc":["body","interval"]`,
	} {
		if a := s.post("/strategies/nope/history", body); !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s, want %s", body, a.status, a.body, want)
		}
	}
	s.redis.SetError("LOADING")
	if a := s.post("/strategies/nope/history", `{"node_id":"n","interval":60}`); a.status != 503 || !json.Valid([]byte(a.body)) || !strings.Contains(a.body, "E_REGISTRY") {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.redis.SetError("")
}
