package stream_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/ref/dagmanager/stream"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func queues(prefix string, n, size int) []stream.Queue {
	out := make([]stream.Queue, n)
	for i := range out {
		out[i] = stream.Queue{Key: fmt.Sprintf("%s%06d", prefix, i), Topic: strings.Repeat("t", size)}
	}
	return out
}

func instructions(n int) []*pb.BufferInstruction {
	out := make([]*pb.BufferInstruction, n)
	for i := range out {
		out[i] = &pb.BufferInstruction{NodeId: fmt.Sprint("b", i), Tags: []string{"x", "y"}}
	}
	return out
}

func TestChunkCounts(t *testing.T) {
	for _, c := range []struct {
		name               string
		fresh, known, size int
		buffer             int
		want               int
	}{
		{"nothing", 0, 0, 0, 0, 1},
		{"one new", 1, 0, 10, 0, 1},
		{"100 new", 100, 0, 10, 0, 1},
		{"101 new", 101, 0, 10, 0, 2},
		{"250 new", 250, 0, 10, 0, 3},
		{"all known", 0, 1000, 100, 0, 1},
		{"buffers decide", 50, 0, 10, 201, 3},
		{"known ones are bounded by bytes", 0, 2100, 1000, 0, 3},
		{"new ones are bounded by bytes", 100, 0, 100_000, 0, 10},
		{"a giant goes alone", 2, 0, 2 << 20, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := stream.Answer{SentinelID: "s-sentinel", Version: "v1",
				New: queues("n", c.fresh, c.size), Known: queues("k", c.known, c.size), Buffer: instructions(c.buffer)}
			chunks := stream.Chunks(a)
			if len(chunks) != c.want {
				t.Errorf("%d chunks, want %d", len(chunks), c.want)
			}
			checkUnion(t, chunks, c.fresh+c.known, c.buffer)
			checkLimits(t, chunks, c.size)
		})
	}
}

// checkUnion: every item is in exactly one chunk, buffer instructions in order.
func checkUnion(t *testing.T, chunks []*pb.DiffChunk, queues, buffer int) {
	t.Helper()
	seen := map[string]bool{}
	next := 0
	for _, c := range chunks {
		for key := range c.GetQueueMap() {
			if seen[key] {
				t.Fatalf("%s is in two chunks", key)
			}
			seen[key] = true
		}
		for _, b := range c.GetBufferNodes() {
			if b.GetNodeId() != fmt.Sprint("b", next) {
				t.Fatalf("buffer node %s, want b%d", b.GetNodeId(), next)
			}
			next++
		}
	}
	if len(seen) != queues || next != buffer {
		t.Errorf("%d queues and %d buffer nodes, want %d and %d", len(seen), next, queues, buffer)
	}
}

func checkLimits(t *testing.T, chunks []*pb.DiffChunk, item int) {
	t.Helper()
	for i, c := range chunks {
		if c.GetSentinelId() != "s-sentinel" || c.GetVersion() != "v1" || c.Crc32 == nil {
			t.Errorf("chunk %d lacks its head: %v", i, c)
		}
		if n := proto.Size(c); n > stream.ChunkBytes && item < stream.ChunkBytes {
			t.Errorf("chunk %d has %d bytes", i, n)
		}
		if n := len(c.GetBufferNodes()); n > stream.ChunkItems {
			t.Errorf("chunk %d has %d buffer nodes", i, n)
		}
	}
}
