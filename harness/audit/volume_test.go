package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/audit"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// BenchmarkAudit audits a burst: 35,000 submissions of 12 nodes each. Its
// memory is what one audit keeps, not what it reads.
func BenchmarkAudit(b *testing.B) {
	const submissions, catalogue = 35000, 400
	w := newWorld(b)
	var outcomes bytes.Buffer
	lines := json.NewEncoder(&outcomes)
	for i := range catalogue {
		w.topic(topicOf(i))
	}
	for i := range submissions {
		s := big(i, catalogue)
		if err := lines.Encode(load.Outcome{Index: int64(i), Key: s.key, Fate: load.Accepted, Status: 202, ID: s.id}); err != nil {
			b.Fatal(err)
		}
		w.kafka.Produce(context.Background(), &kgo.Record{Topic: "gateway.ingest", Key: []byte(s.kafkaKey), Value: s.record()}, nil)
		w.register(s)
		w.hashKey(s)
		w.queue(s)
	}
	if err := w.kafka.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		got, err := audit.Run(context.Background(), w.where, audit.Snapshot{}, bytes.NewReader(outcomes.Bytes()))
		if err != nil || got.Records != submissions || len(got.Lost)+len(got.Duplicates)+len(got.Orphans) != 0 {
			b.Fatalf("Run = %d records, lost %d, %v", got.Records, len(got.Lost), err)
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-with-servers")
}

// big is a submission of 12 nodes that look like real ones.
func big(i, catalogue int) stored {
	s := stored{id: fmt.Sprintf("5b0c0a52-0d3e-4b0e-9a52-%012d", i), key: fmt.Sprintf("key-%d", i), state: "queued"}
	for k := range 12 {
		members := node((i*7 + k) % catalogue).Members()
		for _, field := range []string{"code_hash", "config_hash", "schema_hash", "schema_compat_id", "params"} {
			members = append(members, pyjson.Member{Key: field, Value: pyjson.OfString(fmt.Sprintf("%s-%064d", field, k))})
		}
		s.nodes = append(s.nodes, pyjson.OfObject(members...))
	}
	return s.seal()
}
