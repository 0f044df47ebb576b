package submit

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// headCodec is Protocol Buffers, but of a diff's chunks it reads only sentinel
// and CRC: a submission has no use for the queues of its nodes, and a map of a
// dozen is a seventh of all that a submission allocates.
type headCodec struct{ encoding.CodecV2 }

func newHeadCodec() headCodec { return headCodec{encoding.GetCodecV2("proto")} }

// Unmarshal reads a message.
func (c headCodec) Unmarshal(data mem.BufferSlice, v any) error {
	chunk, ok := v.(*pb.DiffChunk)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return readHead(whole.ReadOnlyData(), chunk)
}

// The fields of a DiffChunk that count; see dagmanager.proto.
const (
	chunkSentinel protowire.Number = 2
	chunkCRC      protowire.Number = 5
)

var errNotUTF8 = errors.New("sentinel_id is not UTF-8")

func readHead(b []byte, into *pb.DiffChunk) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("diff chunk: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return fmt.Errorf("diff chunk: field %d: %w", field, protowire.ParseError(n))
		}
		switch {
		case field == chunkSentinel && kind == protowire.BytesType:
			text, _ := protowire.ConsumeBytes(b) // was consumed already
			if !utf8.Valid(text) {
				return fmt.Errorf("diff chunk: %w", errNotUTF8)
			}
			into.SentinelId = string(text)
		case field == chunkCRC && kind == protowire.VarintType:
			crc, _ := protowire.ConsumeVarint(b)
			into.Crc32 = new(uint32(crc))
		}
		b = b[n:]
	}
	return nil
}
