// Package diffload offers diffs to a DAG Manager over gRPC, one after the other
// or by an open model, acknowledges their chunks, and holds every answer against
// what the contract says of it.
package diffload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// maxChunk is the most bytes of a chunk (dagmanager.md 9).
const maxChunk = 1 << 20

// maxReply lets answers in that are too large, so that they can be told.
const maxReply = 256 << 20

// DAG is a strategy graph to diff, a chain, and what its answer must hold.
type DAG struct {
	Nodes int
	Text  string // JSON
	CRC32 uint32
}

// NewDAG makes a chain of nodes whose ids nobody else has who gives another
// name: ids of 71 characters and two tags, about 270 bytes a node.
func NewDAG(nodes int, name string) (DAG, error) {
	type node struct {
		ID       string   `json:"node_id"`
		Type     string   `json:"node_type"`
		Code     string   `json:"code_hash"`
		Schema   string   `json:"schema_hash"`
		Interval int      `json:"interval"`
		Period   int      `json:"period"`
		Tags     []string `json:"tags"`
		Inputs   []string `json:"inputs"`
	}
	all, ids := make([]node, nodes), make([]string, nodes)
	for i := range all {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		digest := hex.EncodeToString(sum[:])
		ids[i] = "blake3:" + digest
		all[i] = node{ids[i], "IndicatorNode", digest[:16], "schema", 60, 5, []string{"diffload", name}, []string{}}
		if i > 0 {
			all[i].Inputs = ids[i-1 : i]
		}
	}
	b, err := json.Marshal(map[string]any{"nodes": all})
	return DAG{nodes, string(b), contract.CRC32(ids)}, err
}

// Client speaks to one DAG Manager. It is safe for concurrent use.
type Client struct {
	conn *grpc.ClientConn
	diff pb.DiffServiceClient
}

// Dial gives a client of the DAG Manager at HOST:PORT; it connects when needed.
func Dial(addr string) (*Client, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		return nil, fmt.Errorf("dag manager %s: %w", addr, err)
	}
	return &Client{conn, pb.NewDiffServiceClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Answer is the union of the chunks of one diff.
type Answer struct {
	Queues map[string]string // topic by key
	Chunks int
}

// WrongError says that an answer is not what the contract promises.
type WrongError struct{ Why string }

func (e *WrongError) Error() string { return e.Why }

func wrong(format string, a ...any) error { return &WrongError{fmt.Sprintf(format, a...)} }

// Diff diffs a DAG for a strategy, acknowledges each chunk as it comes, and
// checks the answer: every node has one queue, no chunk is over 1 MiB or tells
// again what another did, and the checksum is that of the nodes. What does not
// hold is a *WrongError.
func (c *Client) Diff(ctx context.Context, strategy string, d DAG) (Answer, error) {
	a := Answer{Queues: make(map[string]string, d.Nodes)}
	s, err := c.diff.Diff(ctx, &pb.DiffRequest{StrategyId: strategy, DagJson: d.Text})
	if err != nil {
		return a, err
	}
	for {
		chunk, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a, err
		}
		if err := a.add(chunk, d); err != nil {
			return a, err
		}
		ack := &pb.ChunkAck{SentinelId: chunk.GetSentinelId(), ChunkId: uint32(a.Chunks - 1)}
		if _, err := c.diff.AckChunk(ctx, ack); err != nil {
			return a, err
		}
	}
	if len(a.Queues) != d.Nodes {
		return a, wrong("%d queues for %d nodes", len(a.Queues), d.Nodes)
	}
	return a, nil
}

func (a *Answer) add(chunk *pb.DiffChunk, d DAG) error {
	a.Chunks++
	if size := proto.Size(chunk); size > maxChunk {
		return wrong("chunk %d holds %d bytes", a.Chunks, size)
	}
	if chunk.Crc32 == nil || chunk.GetCrc32() != d.CRC32 {
		return wrong("crc32 %d, want %d", chunk.GetCrc32(), d.CRC32)
	}
	had := len(a.Queues)
	maps.Copy(a.Queues, chunk.GetQueueMap())
	if len(a.Queues) != had+len(chunk.GetQueueMap()) {
		return wrong("chunk %d tells again what an earlier one did", a.Chunks)
	}
	return nil
}

// Topics counts the different topics of the answer.
func (a Answer) Topics() int {
	seen := make(map[string]bool, len(a.Queues))
	for _, topic := range a.Queues {
		seen[strings.ToLower(topic)] = true
	}
	return len(seen)
}
