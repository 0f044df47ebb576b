package sut

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness/backend"
)

func TestFaultsHarmOneProcessAndHeal(t *testing.T) {
	in := launched(t, descriptor(
		spec("dagmanager", "serve", "${self.http:-127.0.0.1:0}"), spec("gateway", "serve", "${self.http:-127.0.0.1:0}")), Options{})
	want := []string{"dagmanager/kill", "dagmanager/pause", "dagmanager/stop", "gateway/kill", "gateway/pause", "gateway/stop"}
	if got := in.Faults().Names(); !slices.Equal(got, want) {
		t.Fatalf("faults = %q; want %q", got, want)
	}
	client := &http.Client{Timeout: 300 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	answered := func() bool {
		r, err := client.Get(in.Endpoints().Gateway)
		if err != nil {
			return false
		}
		return r.Body.Close() == nil
	}
	other := in.Processes()[0].PID
	for _, name := range []string{backend.FaultKill, backend.FaultStop, backend.FaultPause} {
		heal := harmed(t, in, name)
		if answered() {
			t.Errorf("%s: the gateway still answers", name)
		}
		if err := heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !answered() {
			t.Errorf("%s: the gateway does not answer at its address after healing", name)
		}
	}
	if in.Err() != nil || in.Processes()[0].PID != other {
		t.Errorf("Err = %v, other process %d; want none and %d", in.Err(), in.Processes()[0].PID, other)
	}
}

// harmed applies a fault to the gateway and returns what heals it.
func harmed(t *testing.T, in *Instance, name string) func(context.Context) error {
	t.Helper()
	f, err := in.Faults().Get("gateway", name)
	if err != nil {
		t.Fatal(err)
	}
	heal, err := f.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return heal
}

func TestStopReachesAPausedProcess(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "serve")), Options{})
	harmed(t, in, backend.FaultPause)
	if err := in.Stop(context.Background()); err != nil {
		t.Errorf("Stop = %v; want a clean end without SIGKILL", err)
	}
}

func TestPauseNeedsARunningProcess(t *testing.T) {
	in := launched(t, descriptor(spec("gateway", "serve")), Options{})
	if err := in.Kill("gateway"); err != nil {
		t.Fatal(err)
	}
	for _, f := range in.Faults() {
		if _, err := f.Apply(t.Context()); f.Name == backend.FaultPause && err == nil {
			t.Error("paused a process that does not run")
		}
	}
	if _, err := in.Faults().Get("worker", backend.FaultKill); !errors.Is(err, backend.ErrNoFault) {
		t.Errorf("Get(worker) = %v; want ErrNoFault", err)
	}
}
