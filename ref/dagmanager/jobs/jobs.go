// Package jobs is what a DAG Manager does on its own account at intervals:
// nodes computed again, queues completed, lag and health watched, people called.
package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Job is something that is done at the start and at intervals from then on.
type Job struct {
	Name  string
	Every time.Duration
	// Run does it once. An error is counted and logged; the job goes on.
	Run func(context.Context) error
}

// Keeper runs jobs and counts how they end.
type Keeper struct {
	log  *slog.Logger
	runs *prometheus.CounterVec
	took *prometheus.HistogramVec
	last *prometheus.GaugeVec
}

// NewKeeper registers its families with reg.
func NewKeeper(reg prometheus.Registerer, log *slog.Logger) *Keeper {
	k := &Keeper{
		log: log,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dagmanager_job_runs_total", Help: "Runs of jobs by how they ended, ok or error."}, []string{"job", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dagmanager_job_seconds", Help: "Time of one run of a job.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}, []string{"job"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dagmanager_job_last_success_timestamp", Help: "When a job last ended well, in Unix seconds."}, []string{"job"}),
	}
	reg.MustRegister(k.runs, k.took, k.last)
	return k
}

// Keep runs the job until ctx ends, which ends the run that is on its way too.
func (k *Keeper) Keep(ctx context.Context, j Job) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		k.once(ctx, j)
		next.Reset(j.Every)
	}
}

func (k *Keeper) once(ctx context.Context, j Job) {
	start := time.Now()
	err := j.Run(ctx)
	if ctx.Err() != nil {
		return // cut off: neither good nor bad
	}
	k.took.WithLabelValues(j.Name).Observe(time.Since(start).Seconds())
	if err != nil {
		k.runs.WithLabelValues(j.Name, "error").Inc()
		k.log.Warn("job failed; it will be tried again", "job", j.Name, "in", j.Every.String(), "error", err)
		return
	}
	k.runs.WithLabelValues(j.Name, "ok").Inc()
	k.last.WithLabelValues(j.Name).Set(float64(time.Now().UnixMilli()) / 1000)
}
