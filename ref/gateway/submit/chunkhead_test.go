package submit

import (
	"testing"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // what the codec stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func chunks() []*pb.DiffChunk {
	return []*pb.DiffChunk{
		{},
		{SentinelId: "s-sentinel", Crc32: new(uint32(0))},
		{SentinelId: "é", Crc32: new(uint32(0xffffffff)), Version: "v1", QueueMap: map[string]string{"a": "b", "c": "d"},
			BufferNodes: []*pb.BufferInstruction{{}}},
	}
}

func TestHeadOfAChunkIsThatOfTheWholeChunk(t *testing.T) {
	for _, c := range chunks() {
		wire, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got pb.DiffChunk
		if err := newHeadCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire[:len(wire)/2]), mem.SliceBuffer(wire[len(wire)/2:])}, &got); err != nil {
			t.Fatal(err)
		}
		want := &pb.DiffChunk{SentinelId: c.SentinelId, Crc32: c.Crc32}
		if !proto.Equal(&got, want) {
			t.Errorf("%v, want %v", &got, want)
		}
	}
}

func TestHeadCodecReadsOtherMessagesWhole(t *testing.T) {
	want := &pb.ChunkAck{SentinelId: "s", ChunkId: 3}
	wire, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got pb.ChunkAck
	if err := newHeadCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("%v (%v)", &got, err)
	}
}

// Whatever the bytes, what Protocol Buffers takes is read alike.
func FuzzChunkHead(f *testing.F) {
	for _, c := range chunks() {
		wire, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	whole := encoding.GetCodecV2("proto")
	f.Fuzz(func(t *testing.T, wire []byte) {
		var want, got pb.DiffChunk
		if whole.Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &want) != nil {
			return // what is damaged elsewhere in the chunk may pass
		}
		if err := readHead(wire, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, &pb.DiffChunk{SentinelId: want.SentinelId, Crc32: want.Crc32}) {
			t.Errorf("%v, want the head of %v", &got, &want)
		}
	})
}
