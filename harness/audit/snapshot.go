package audit

import (
	"context"
	"errors"
	"fmt"
)

// Snapshot is what was there before the load: what dangled then, and topics
// that an earlier life of the SUT made, are not the load's doing. The zero
// Snapshot saw nothing.
type Snapshot struct {
	ids    map[string]bool // strategies that dag_hash keys and the queue pointed to
	topics map[string]bool
}

// Look takes a Snapshot.
func Look(ctx context.Context, w World) (Snapshot, error) {
	c, err := dial(w)
	if err != nil {
		return Snapshot{}, err
	}
	defer c.close()
	s := Snapshot{ids: map[string]bool{}, topics: map[string]bool{}}
	see := func(id string) { s.ids[id] = true }
	err = errors.Join(
		eachHashKey(ctx, c.redis, func(_, id string) { see(id) }),
		eachQueued(ctx, c.redis, see),
	)
	if err != nil {
		return Snapshot{}, fmt.Errorf("redis %s: %w", w.Redis, err)
	}
	names, err := listTopics(ctx, c.admin)
	if err != nil {
		return Snapshot{}, fmt.Errorf("topics of kafka %s: %w", w.Kafka, err)
	}
	for _, n := range names {
		s.topics[n] = true
	}
	return s, nil
}
