// Package stream carries the answer of a diff to its client: it cuts it into
// chunks, keeps a window of them unacknowledged, repeats what was not
// acknowledged, and ends clients that never do.
package stream

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Limits of one chunk (dagmanager.md 1.5 and 9).
const (
	ChunkItems = 100
	ChunkBytes = 1 << 20
)

// Answer is what a diff tells its client.
type Answer struct {
	SentinelID string
	Version    string
	CRC32      uint32
	New        []Queue // of nodes that were new, in the order of the diff
	Known      []Queue // of nodes that had their queue
	Buffer     []*pb.BufferInstruction
}

// Queue is one entry of the answer's queue map.
type Queue struct{ Key, Topic string }

// Chunks cuts an answer. Each chunk carries items of its own only: at most
// ChunkItems new queues, at most ChunkItems buffer instructions, known queues as
// there is room, and at most ChunkBytes on the wire, save for a single item that
// is larger. There is at least one chunk, and all name sentinel, version and CRC.
func Chunks(a Answer) []*pb.DiffChunk {
	var chunks []*pb.DiffChunk
	for len(chunks) == 0 || len(a.New)+len(a.Known)+len(a.Buffer) > 0 {
		chunks = append(chunks, cut(&a))
	}
	return chunks
}

// cut takes the items of one chunk from a.
func cut(a *Answer) *pb.DiffChunk {
	c := &pb.DiffChunk{SentinelId: a.SentinelID, Version: a.Version, Crc32: proto.Uint32(a.CRC32)}
	room := budget{left: ChunkBytes - proto.Size(c)}
	fresh := take(&a.New, ChunkItems, &room, queueSize)
	c.BufferNodes = take(&a.Buffer, ChunkItems, &room, instructionSize)
	known := take(&a.Known, len(a.Known), &room, queueSize)
	c.QueueMap = make(map[string]string, len(fresh)+len(known))
	for _, q := range fresh {
		c.QueueMap[q.Key] = q.Topic
	}
	for _, q := range known {
		c.QueueMap[q.Key] = q.Topic
	}
	return c
}

// budget is the room of a chunk. The first item always fits.
type budget struct {
	left int
	used bool
}

// take cuts from the front of list what fits, at most n items.
func take[T any](list *[]T, n int, room *budget, size func(T) int) []T {
	n = min(n, len(*list))
	got := 0
	for ; got < n; got++ {
		s := size((*list)[got])
		if s > room.left && room.used {
			break
		}
		room.left -= s
		room.used = true
	}
	taken := (*list)[:got]
	*list = (*list)[got:]
	return taken
}

// queueSize is the size of an entry of the queue map on the wire: tag and
// length around key and value, each with their own tag and length.
func queueSize(q Queue) int {
	entry := 2 + protowire.SizeBytes(len(q.Key)) + protowire.SizeBytes(len(q.Topic))
	return 1 + protowire.SizeBytes(entry)
}

func instructionSize(b *pb.BufferInstruction) int {
	return 1 + protowire.SizeBytes(proto.Size(b))
}
