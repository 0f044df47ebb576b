package jobs

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// mostLagging bounds the topics that have gauges.
const mostLagging = 1000

// Lag watches how far consumers are behind (dagmanager.md 6.4). The name of its
// first gauge says seconds; what the contract has there is a number of records.
type Lag struct {
	Behind    func(context.Context) (map[string]int64, error) // records by topic
	Threshold int64

	lag, threshold *prometheus.GaugeVec
}

// NewLag registers its gauges with reg.
func NewLag(reg prometheus.Registerer, threshold int64, behind func(context.Context) (map[string]int64, error)) *Lag {
	l := &Lag{
		Behind: behind, Threshold: threshold,
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "queue_lag_seconds", Help: "Records of a queue that its consumers have not committed."}, []string{"topic"}),
		threshold: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "queue_lag_threshold_seconds", Help: "Records above which a queue's lag is too high."}, []string{"topic"}),
	}
	reg.MustRegister(l.lag, l.threshold)
	return l
}

// Run sets the gauges once. Topics that nobody reads any more lose theirs.
func (l *Lag) Run(ctx context.Context) error {
	behind, err := l.Behind(ctx)
	if err != nil {
		return err
	}
	l.lag.Reset()
	l.threshold.Reset()
	shown := 0
	for topic, records := range behind {
		if shown++; shown > mostLagging {
			break
		}
		l.lag.WithLabelValues(topic).Set(float64(records))
		l.threshold.WithLabelValues(topic).Set(float64(l.Threshold))
	}
	return nil
}
