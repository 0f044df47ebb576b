package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Reading is what one process had used at one moment, since its start.
type Reading struct {
	CPU      float64 // seconds of user and system time, to the microsecond
	Allocs   float64 // objects allocated on its heap
	HeapLive float64 // bytes marked live by the last collection
}

// names of the counters of a Go process, as Prometheus has them.
const (
	allocsMetric   = "go_gc_heap_allocs_objects_total"
	heapLiveMetric = "go_gc_heap_live_bytes"
)

// Meter reads one process now and then, between loads: reading the heap costs
// the process some 2 ms of CPU. Only one goroutine may use it.
type Meter struct {
	s *sampler
}

// NewMeter reads t. It is closed by its Close.
func NewMeter(t Target) *Meter {
	return &Meter{&sampler{Target: t, client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}}
}

// Close lets go of the connection.
func (m *Meter) Close() { m.s.client.CloseIdleConnections() }

// CPU is the CPU time that the process has used, in seconds.
func (m *Meter) CPU() (float64, error) {
	if m.s.PID == nil || m.s.PID() == 0 {
		return 0, errors.New("the process is not run by plumbline, or not running")
	}
	return processCPU(m.s.PID())
}

// Heap reads Allocs and HeapLive.
func (m *Meter) Heap(ctx context.Context) (Reading, error) {
	if m.s.Admin == "" {
		return Reading{}, errors.New("the process offers no admin address")
	}
	values, err := m.s.scrape(ctx)
	if err != nil {
		return Reading{}, err
	}
	for _, name := range []string{allocsMetric, heapLiveMetric} {
		if _, ok := values[name]; !ok {
			return Reading{}, fmt.Errorf("http://%s/metrics: has no %s", m.s.Admin, name)
		}
	}
	return Reading{Allocs: values[allocsMetric], HeapLive: values[heapLiveMetric]}, nil
}
