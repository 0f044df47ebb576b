// Package degrade decides how much a gateway still does while what it depends on
// is sick (gateway.md 5.1): a level, looked at anew every few seconds, that
// refuses submissions first and everything last.
package degrade

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/gateway/health"
)

// Level is how degraded a gateway is; more is worse.
type Level int32

// The levels.
const (
	Normal  Level = iota
	Partial       // no effect on HTTP; strategies wait for the DAG Manager when that is what is sick
	Minimal       // submissions are refused
	Static        // everything is
)

// String is the level's name in /status.
func (l Level) String() string {
	switch l {
	case Normal:
		return "NORMAL"
	case Partial:
		return "PARTIAL"
	case Minimal:
		return "MINIMAL"
	default:
		return "STATIC"
	}
}

// The shares of the processors, in percent, above which a gateway gives up.
const (
	busyMinimal = 85
	busyStatic  = 95
)

// Of gives the level for the state of the dependencies and the share of the
// machine's processors that is busy, in percent. A WorldService that is not
// configured is not sick.
func Of(r health.Report, busy float64) Level {
	failures := 0
	for _, sick := range []bool{r.Redis != health.OK, r.Postgres != health.OK, r.DagManager != health.OK, r.WorldService == health.Open} {
		if sick {
			failures++
		}
	}
	switch {
	case busy > busyStatic || failures >= 3:
		return Static
	case busy > busyMinimal || failures >= 2:
		return Minimal
	case failures >= 1:
		return Partial
	default:
		return Normal
	}
}

// Queue is where strategies are held while the DAG Manager is sick.
type Queue interface {
	// Drain hands over what is held; it says how many that were.
	Drain(ctx context.Context) (int, error)
}

// Config is what a Driver works with.
type Config struct {
	Ask     func(context.Context) health.Report
	Busy    func() float64 // percent of the processors since the last call; nil: not looked at
	Every   time.Duration
	Queue   Queue
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Driver keeps the level. It is safe for concurrent use.
type Driver struct {
	cfg   Config
	level atomic.Int32
	hold  atomic.Bool
	gauge prometheus.Gauge
}

// New makes a driver at Normal, which changes once Run runs, and registers the
// family degrade_level.
func New(cfg Config) *Driver {
	d := &Driver{cfg: cfg}
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "degrade_level", Help: "0 NORMAL, 1 PARTIAL, 2 MINIMAL, 3 STATIC.",
	}, []string{"service"})
	cfg.Metrics.MustRegister(vec)
	d.gauge = vec.WithLabelValues("gateway")
	return d
}

// Level is the present level.
func (d *Driver) Level() Level { return Level(d.level.Load()) }

// Hold says whether accepted strategies are to wait for the DAG Manager.
func (d *Driver) Hold() bool { return d.hold.Load() }

// Run looks every now and then until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	tick := time.NewTicker(d.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.look(ctx)
		}
	}
}

// look finds the level and lets go of what is held when its reason is gone.
func (d *Driver) look(ctx context.Context) {
	report := d.cfg.Ask(ctx)
	busy := 0.0
	if d.cfg.Busy != nil {
		busy = d.cfg.Busy()
	}
	level := Of(report, busy)
	before := Level(d.level.Swap(int32(level)))
	d.hold.Store(level == Partial && report.DagManager != health.OK)
	d.gauge.Set(float64(level))
	if before != level {
		d.cfg.Log.Warn("degradation level changed", "from", before.String(), "to", level.String(), "redis", report.Redis,
			"dagmanager", report.DagManager, "worldservice", report.WorldService, "busy_percent", busy)
	}
	if report.DagManager != health.OK || report.Redis != health.OK {
		return
	}
	switch n, err := d.cfg.Queue.Drain(ctx); {
	case err != nil:
		d.cfg.Log.Warn("strategies that wait could not be queued", "error", err)
	case n > 0:
		d.cfg.Log.Info("strategies that waited are queued", "strategies", n)
	}
}

// submissions is the path that Minimal refuses.
const submissions = "/strategies"

// Gate refuses what the level does not allow.
func (d *Driver) Gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch level := d.Level(); {
		case level >= Static:
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusNoContent)
		case level >= Minimal && r.Method == http.MethodPost && r.URL.Path == submissions:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
