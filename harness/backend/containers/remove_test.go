package containers

import (
	"errors"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/backend"
)

func TestRemoveRunTakesTheContainersOfThatRunOnly(t *testing.T) {
	needDocker(t)
	one := started(t, Provider{}, backend.Options{RunID: "remove-one"})
	if n, err := (Provider{}).RemoveRun(t.Context(), "remove-none"); n != 0 || err != nil {
		t.Errorf("RemoveRun of a run without containers = %d, %v", n, err)
	}
	if err := backend.CheckRedis(t.Context(), one.Redis, "t"); err != nil {
		t.Errorf("another run's Redis was removed: %v", err)
	}
	if n, err := (Provider{}).RemoveRun(t.Context(), "remove-one"); n != 3 || err != nil {
		t.Errorf("RemoveRun = %d, %v; want 3", n, err)
	}
	if left := ours(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRemoveRunRefuses(t *testing.T) {
	if _, err := (Provider{}).RemoveRun(t.Context(), ""); !errors.Is(err, backend.ErrUsage) {
		t.Errorf("RemoveRun without an id = %v", err)
	}
	_, err := Provider{Getenv: env("DOCKER_HOST", "unix:///no/such/socket")}.RemoveRun(t.Context(), "x")
	if err == nil || !strings.Contains(err.Error(), "no Docker at") {
		t.Errorf("RemoveRun without Docker = %v", err)
	}
}
