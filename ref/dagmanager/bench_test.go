package dagmanager

import (
	"fmt"
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// BenchmarkDiffKnown is the diff of a DAG whose nodes are all known, without the wire.
func BenchmarkDiffKnown(b *testing.B) {
	for _, nodes := range []int{12, 100, 1000, 10000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			store, session := nodestore.NewMemory(), topics.NewSession(topics.NewMemory(), topics.Options{})
			x := diff.ExecutionContext{StrategyID: "s", DAG: chain(nodes, "k"), Namespaces: true, Now: time.Now()}
			if _, err := diff.Run(b.Context(), x, store, session); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				res, err := diff.Run(b.Context(), x, store, session)
				if err != nil {
					b.Fatal(err)
				}
				stream.Chunks(answerOf(res))
			}
		})
	}
}

// BenchmarkDiffNew is the diff of a DAG whose nodes are all new, with topics in
// memory.
func BenchmarkDiffNew(b *testing.B) {
	for _, nodes := range []int{12, 1000, 10000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			dag := chain(nodes, "k")
			b.ReportAllocs()
			for b.Loop() {
				store, session := nodestore.NewMemory(), topics.NewSession(topics.NewMemory(), topics.Options{})
				x := diff.ExecutionContext{StrategyID: "s", DAG: dag, Namespaces: true, Now: time.Now()}
				if _, err := diff.Run(b.Context(), x, store, session); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWireKnown is a whole call over loopback, client and acknowledgements
// included.
func BenchmarkWireKnown(b *testing.B) {
	for _, nodes := range []int{12, 1000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			p := run(b)
			req := &pb.DiffRequest{StrategyId: "s", DagJson: chain(nodes, "w")}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.ask(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
