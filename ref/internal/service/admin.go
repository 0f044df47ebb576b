package service

import (
	"net/http"
	"net/http/pprof"
	"regexp"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newRegistry holds the process's own families: RSS and CPU of the process, and
// the runtime's view of heap, garbage collection and CPU.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
			collectors.MetricsGC, collectors.MetricsMemory,
			collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/cpu/classes/.*`)},
		)),
	)
	return reg
}

func adminMux(reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	var waits contention
	for _, kind := range []string{"mutex", "block"} {
		mux.Handle("/debug/pprof/"+kind, waits.recorded(pprof.Handler(kind)))
	}
	return mux
}

// contention records waits for locks and channels only while somebody asks for
// those of the next seconds (?seconds=N), since recording them costs time.
type contention struct {
	mu     sync.Mutex
	asking int // guarded by mu
}

// How much is recorded: one contended lock in so many, one wait in so many
// nanoseconds of waiting.
const (
	lockFraction = 10
	waitEvery    = 10_000
)

func (c *contention) recorded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("seconds") != "" {
			c.ask(+1)
			defer c.ask(-1)
		}
		h.ServeHTTP(w, r)
	})
}

func (c *contention) ask(d int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking += d
	lock, wait := 0, 0
	if c.asking > 0 {
		lock, wait = lockFraction, waitEvery
	}
	runtime.SetMutexProfileFraction(lock)
	runtime.SetBlockProfileRate(wait)
}
