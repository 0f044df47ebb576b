package dagmanager

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Cleanup collects one batch of orphans, of all strategies (dagmanager.md 1.7).
func (s *server) Cleanup(ctx context.Context, _ *pb.CleanupRequest) (*pb.CleanupResponse, error) {
	if _, err := s.collect(ctx, false, true); err != nil {
		return nil, statusOf(err)
	}
	return &pb.CleanupResponse{}, nil
}

// collect runs the collector, counts what it did and, when announce is set,
// tells the ControlBus.
func (s *server) collect(ctx context.Context, dry, announce bool) (*gc.Report, error) {
	report, err := s.collector.Run(ctx, dry)
	if err != nil {
		return nil, err
	}
	s.metrics.orphans.Set(float64(report.Observed))
	s.metrics.collected.Set(float64(time.Now().UnixMilli()) / 1000)
	if dry {
		return report, nil
	}
	for _, item := range report.Items {
		s.metrics.collect.WithLabelValues(item.Action, item.Reason).Inc()
	}
	if announce && s.outbox != nil && len(report.Processed) > 0 {
		s.announceEnds(report)
	}
	return report, nil
}

// announceEnds tells of every queue that went and then, for each tag and
// interval, which queues are left (dagmanager.md 7.5).
func (s *server) announceEnds(report *gc.Report) {
	type scope struct {
		tag      string
		interval int64
	}
	var scopes []scope
	seen := map[scope]bool{}
	for _, item := range report.Items {
		if item.Action == gc.ActionSkip {
			continue
		}
		end := contract.QueueLifecycle{Queue: item.Queue, Action: item.Action, Reason: item.Reason, Tag: item.Tag, Interval: item.Interval}
		if item.ArchiveStatus != nil {
			end.ArchiveStatus = *item.ArchiveStatus
		}
		s.outbox.queueEnded(end)
		if item.Tag == "" || item.Interval == nil {
			continue
		}
		if at := (scope{item.Tag, *item.Interval}); !seen[at] {
			seen[at] = true
			scopes = append(scopes, at)
		}
	}
	for _, at := range scopes {
		s.outbox.queueUpdated([]string{at.tag}, at.interval)
	}
}

// GetQueueStats returns how many records topics hold.
func (s *server) GetQueueStats(ctx context.Context, req *pb.QueueStatsRequest) (*pb.QueueStats, error) {
	extents, err := s.sizes(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	sizes := make(map[string]int64, len(extents))
	for topic, e := range extents {
		sizes[topic] = e.Held
	}
	filter := contract.ParseQueueFilter(req.GetFilter())
	if len(filter.Tags) == 0 || filter.Interval <= 0 || len(sizes) == 0 {
		return &pb.QueueStats{Sizes: sizes}, nil
	}
	found, err := s.store.Queues(ctx, filter.Tags, filter.Interval, contract.MatchAny)
	if err != nil {
		return nil, statusOf(err)
	}
	of := make(map[string]int64, len(found))
	for _, q := range found {
		if size, there := sizes[q.Queue]; there {
			of[q.Queue] = size
		}
	}
	return &pb.QueueStats{Sizes: of}, nil
}

// kafkaAdmin observes conversations with the broker.
func (m *metrics) kafkaAdmin(log *slog.Logger) func(op string, took time.Duration, err error) {
	var failures service.Throttle
	return func(op string, took time.Duration, err error) {
		outcome := outcomeOf(err)
		m.admin.WithLabelValues(op, outcome).Observe(took.Seconds())
		if err == nil || outcome == "circuit_open" {
			return
		}
		if unsaid, ok := failures.Pass(time.Now()); ok {
			log.Warn("kafka admin call failed", "operation", op, "outcome", outcome, "ms", took.Milliseconds(), "error", err, "more_unsaid", unsaid)
		}
	}
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, topics.ErrOpen):
		return "circuit_open"
	case errors.Is(err, topics.ErrTimeout):
		return "timeout"
	case errors.Is(err, topics.ErrLogin):
		return "login_refused"
	default:
		return "error"
	}
}
