package controlbus

import (
	"sync"
	"time"

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
	seen       map[partition]mark // also of partitions that are not owned any more
}

type partition struct {
	topic  string
	number int32
}

// A mark is how far a partition was handled in this process's life.
type mark struct {
	next   int64
	newest time.Time // of the records before next
}

func newOffsets() *offsets {
	return &offsets{read: positions{}, told: positions{}, seen: map[partition]mark{}}
}

// again says whether r was handled before: a group that lost its broker begins
// anew where it committed last, which may lie before where its effects ended.
// In a topic that was deleted and made anew the offsets begin again too; there
// the records are newer than any before.
func (o *offsets) again(r *kgo.Record) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := o.seen[partition{r.Topic, r.Partition}]
	return r.Offset < m.next && !r.Timestamp.After(m.newest)
}

// done notes that r was handled, now or before, or is held.
func (o *offsets) done(r *kgo.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read.set(r.Topic, r.Partition, kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1})
	at := partition{r.Topic, r.Partition}
	m := o.seen[at]
	switch {
	case r.Timestamp.After(m.newest): // as in a topic that was made anew
		m = mark{r.Offset + 1, r.Timestamp}
	case r.Offset >= m.next:
		m.next = r.Offset + 1
	}
	o.seen[at] = m
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
