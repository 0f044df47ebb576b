package gateway

import (
	"strings"
	"testing"
	"time"
)

// becomes waits until /status names the level.
func (s *stand) becomes(level string) {
	s.t.Helper()
	want := `"degrade_level":"` + level + `"`
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(s.get("/status").body, want) {
		if time.Now().After(deadline) {
			s.t.Fatalf("level never %s: %s", level, s.get("/status").body)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestStrategiesWaitForTheDAGManagerAndJoinTheQueueInOrder(t *testing.T) {
	s := newStand(t, withArgs("--degrade-every", "50ms"))
	s.dm.ill("unknown")
	s.becomes("PARTIAL")
	first, second := s.accepted(body(oneNode("a"), "w")).StrategyID, s.accepted(body(oneNode("b"), "w")).StrategyID
	if held, _ := s.redis.List("gateway:held"); len(held) != 2 {
		t.Errorf("held %v", held)
	}
	if a := s.get("/strategies/" + first + "/status"); a.status != 200 {
		t.Errorf("status of a held strategy: %d %s", a.status, a.body)
	}
	s.dm.ill("ok")
	s.becomes("NORMAL")
	queue, _ := s.redis.List("strategy_queue")
	for deadline := time.Now().Add(20 * time.Second); len(queue) < 2 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		queue, _ = s.redis.List("strategy_queue")
	}
	if strings.Join(queue, " ") != first+" "+second {
		t.Errorf("queue %v, want %s %s", queue, first, second)
	}
}

// ill makes a manager say how its graph is.
func (m *manager) ill(state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = state
}

func TestSubmissionsAreRefusedWhileTwoDependenciesAreSick(t *testing.T) {
	s := newStand(t, withArgs("--degrade-every", "50ms"))
	s.dm.ill("unknown")
	s.redis.SetError("LOADING")
	s.becomes("MINIMAL")
	if a := s.post("/strategies", body(oneNode("a"), "w")); a.status != 503 || a.body != "" {
		t.Errorf("submission %d %s", a.status, a.body)
	}
	if a := s.post("/strategies/dry-run", body(oneNode("a"), "w")); a.status != 200 {
		t.Errorf("dry run %d %s", a.status, a.body)
	}
	if got := s.metric(`degrade_level{service="gateway"}`); got != "2" {
		t.Errorf("degrade_level %s", got)
	}
	s.redis.SetError("")
	s.dm.ill("ok")
	s.becomes("NORMAL")
	s.accepted(body(oneNode("a"), "w"))
}

func TestEverythingIsRefusedWhileThreeDependenciesAreSick(t *testing.T) {
	s := newStand(t, withArgs("--degrade-every", "50ms", "--worldservice-url", "http://127.0.0.1:1", "--worldservice-retries", "0", "--breaker-open", "1m"))
	s.dm.ill("unknown")
	s.redis.SetError("LOADING")
	for range 3 {
		s.get("/worlds")
	}
	a := s.get("/health")
	for deadline := time.Now().Add(20 * time.Second); a.status != 204 && time.Now().Before(deadline); a = s.get("/health") {
		time.Sleep(20 * time.Millisecond)
	}
	if a.status != 204 || a.header.Get("Retry-After") != "30" || a.body != "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
}
