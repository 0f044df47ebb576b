package controlbus

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// positions are offsets by topic and partition, each the next one to read.
type positions map[string]map[int32]kgo.EpochOffset

func (p positions) set(topic string, partition int32, at kgo.EpochOffset) {
	if p[topic] == nil {
		p[topic] = map[int32]kgo.EpochOffset{}
	}
	p[topic][partition] = at
}

// offsets knows how far the owned partitions were read and committed.
type offsets struct {
	mu         sync.Mutex
	read, told positions
}

func newOffsets() *offsets { return &offsets{read: positions{}, told: positions{}} }

// done notes that r was handled, or is held.
func (o *offsets) done(r *kgo.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read.set(r.Topic, r.Partition, kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1})
}

// ready gives what may be committed and is not yet: up to the first record of
// a partition that still waits for its effect.
func (o *offsets) ready(waiting []*kgo.Record) positions {
	o.mu.Lock()
	defer o.mu.Unlock()
	limit := positions{}
	for topic, partitions := range o.read {
		for partition, at := range partitions {
			limit.set(topic, partition, at)
		}
	}
	for _, r := range waiting {
		if at, owned := limit[r.Topic][r.Partition]; owned && r.Offset < at.Offset {
			limit.set(r.Topic, r.Partition, kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset})
		}
	}
	ready := positions{}
	for topic, partitions := range limit {
		for partition, at := range partitions {
			if told, any := o.told[topic][partition]; !any || told != at {
				ready.set(topic, partition, at)
			}
		}
	}
	return ready
}

func (o *offsets) committed(at positions) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for topic, partitions := range at {
		for partition, offset := range partitions {
			o.told.set(topic, partition, offset)
		}
	}
}

// forget drops partitions that another consumer has now.
func (o *offsets) forget(partitions map[string][]int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for topic, list := range partitions {
		for _, partition := range list {
			delete(o.read[topic], partition)
			delete(o.told[topic], partition)
		}
	}
}
