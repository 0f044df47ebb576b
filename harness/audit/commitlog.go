package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// stall is how long the log may give nothing before reading it is given up.
const stall = 15 * time.Second

// ingest is the first element of a submission's record (gateway.md 2.7).
const ingest = "gateway.ingest"

// readCommitLog reads the topic from its first record to the offsets that it
// ends at now. A topic that does not exist holds no record.
func (b *book) readCommitLog(ctx context.Context, c *clients, topic string) error {
	from, to, err := bounds(ctx, c.admin, topic)
	if err != nil || len(to) == 0 {
		return err
	}
	c.kafka.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	g, ctx := errgroup.WithContext(ctx)
	raw, read := make(chan *kgo.Record, 256), make(chan entry, 256)
	g.Go(func() error { defer close(raw); return poll(ctx, c.kafka, to, raw) })
	parsers, pctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		parsers.Go(func() error { return parseAll(pctx, raw, read) })
	}
	g.Go(func() error { defer close(read); return parsers.Wait() })
	g.Go(func() error {
		for e := range read {
			b.enter(e)
		}
		return nil
	})
	return g.Wait()
}

// bounds gives where each partition begins and ends; empty ones are left out.
func bounds(ctx context.Context, admin *kadm.Client, topic string) (map[int32]kgo.Offset, map[int32]int64, error) {
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	ends, err := admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	if err := ends.Error(); errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	from, to := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, o.Partition)
		if o.Offset > start.Offset {
			from[o.Partition], to[o.Partition] = kgo.NewOffset().At(start.Offset), o.Offset
		}
	})
	return from, to, nil
}

// poll hands on the records of every partition up to its end.
func poll(ctx context.Context, cl *kgo.Client, to map[int32]int64, out chan<- *kgo.Record) error {
	for len(to) > 0 {
		fetches, err := pollOnce(ctx, cl, to)
		if err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			if err := hand(ctx, it.Next(), to, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func pollOnce(ctx context.Context, cl *kgo.Client, to map[int32]int64) (kgo.Fetches, error) {
	limited, cancel := context.WithTimeoutCause(ctx, stall, fmt.Errorf("nothing for %v, still to read: up to %v", stall, to))
	defer cancel()
	fetches := cl.PollRecords(limited, 2000)
	if limited.Err() != nil {
		return nil, context.Cause(limited)
	}
	for _, e := range fetches.Errors() {
		return nil, fmt.Errorf("partition %d: %w", e.Partition, e.Err)
	}
	return fetches, nil
}

func hand(ctx context.Context, r *kgo.Record, to map[int32]int64, out chan<- *kgo.Record) error {
	end, open := to[r.Partition]
	if !open || r.Offset >= end {
		return nil // written since the ends were listed
	}
	if r.Offset == end-1 {
		delete(to, r.Partition)
	}
	if r.Attrs.IsControl() {
		return nil
	}
	select {
	case out <- r:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func parseAll(ctx context.Context, in <-chan *kgo.Record, out chan<- entry) error {
	for r := range in {
		e, ours := parseRecord(r)
		if !ours {
			continue
		}
		select {
		case out <- e:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// entry is one record of the commit log, digested.
type entry struct {
	id, key string
	hash    string // dag_hash as the record has it
	blob    uint64
	nodes   []node
	faults  []string

	unreadable bool // then id is the record's place
}

// seed of the digests that are compared within one audit.
var seed = maphash.MakeSeed()

func digest(s string) uint64 { return maphash.String(seed, s) }

// parseRecord digests a record. ours is false for records of other kinds.
// Nothing in entry shares memory with the record.
func parseRecord(r *kgo.Record) (e entry, ours bool) {
	v, err := pyjson.Parse(r.Value)
	if err != nil {
		at := fmt.Sprintf("%s[%d]@%d", r.Topic, r.Partition, r.Offset)
		e := entry{id: at, unreadable: true, faults: []string{fmt.Sprintf("the record bears the workload's mark but cannot be read: %v", err)}}
		return e, bytes.Contains(r.Value, []byte(load.KeyField))
	}
	parts := v.Elems()
	if len(parts) != 4 || str(parts[0]) != ingest {
		return entry{}, false
	}
	payload := parts[3]
	dag := payload.Member("dag")
	e = entry{
		id: strings.Clone(str(parts[2])), key: strings.Clone(str(dag.Member(load.KeyField))),
		hash: strings.Clone(str(payload.Member("dag_hash"))), blob: digest(str(payload.Member("dag_base64"))), nodes: nodesOf(dag),
	}
	e.check(string(r.Key), payload, dag)
	return e, true
}

func str(v pyjson.Value) string {
	s, _ := v.Str()
	return s
}

// check holds the contents of the record against each other (gateway.md 2.6, 2.7).
func (e *entry) check(kafkaKey string, payload, dag pyjson.Value) {
	wrong := func(when bool, format string, args ...any) {
		if when {
			e.faults = append(e.faults, fmt.Sprintf("its record "+format, args...))
		}
	}
	wrong(kafkaKey != "ingest:"+e.id, "has the key %q", kafkaKey)
	if id := str(payload.Member("strategy_id")); id != e.id {
		wrong(true, "names the strategy %q", id)
	}
	if want := contract.DAGHash(withoutSentinel(dag, e.id)); want != e.hash {
		wrong(true, "has dag_hash %s, its DAG hashes to %s", e.hash, want)
	}
	stored, err := contract.DecodeDAG(str(payload.Member("dag_base64")))
	wrong(err != nil, "has a dag_base64 that cannot be read: %v", err)
	wrong(err == nil && contract.DAGHash(stored) != contract.DAGHash(dag), "has a dag_base64 that is not its dag")
}

// withoutSentinel gives the DAG as it was submitted.
func withoutSentinel(dag pyjson.Value, id string) pyjson.Value {
	nodes := dag.Member("nodes").Elems()
	n := len(nodes)
	if n == 0 || str(nodes[n-1].Member("node_id")) != contract.SentinelID(id) {
		return dag
	}
	return dag.With("nodes", pyjson.OfArray(nodes[:n-1:n-1]...))
}

// enter accounts for a record of the workload; others pass.
func (b *book) enter(e entry) {
	if e.unreadable {
		b.orphans = append(b.orphans, finding(e.id, "%s", e.faults[0]))
		return
	}
	if b.ids[e.id] == nil && e.key == "" {
		return // somebody else's
	}
	s := b.submissionOf(e.id, e.key)
	s.records++
	s.hash, s.blob = e.hash, e.blob
	s.faults = append(s.faults, e.faults...)
	if s.acked && s.key != e.key {
		s.faults = append(s.faults, fmt.Sprintf("its record holds the DAG of submission %q, not of %q", e.key, s.key))
	}
	s.nodes = s.nodes[:0]
	for _, n := range e.nodes {
		s.nodes = append(s.nodes, b.intern(n))
	}
}
