// Package dagmanager is the DAG Manager: it diffs strategy graphs against what
// is registered, makes the topics of new nodes, answers tag queries and
// announces new queues on the ControlBus.
package dagmanager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Store is all that the DAG Manager needs of a graph store.
type Store interface {
	diff.Nodes
	// Queues returns the queues of nodes with that interval in seconds and any,
	// or with mode "all" all, of the tags.
	Queues(ctx context.Context, tags []string, interval int64, mode string) ([]contract.QueueRef, error)
	// NodeByQueue returns the node that feeds a queue, nil when none does.
	NodeByQueue(ctx context.Context, topic string) (*diff.Node, error)
	// BufferingNodes returns the ids of nodes that buffer since before olderThan.
	BufferingNodes(ctx context.Context, olderThan time.Time, computeKey string) ([]string, error)
	// ClearBuffering takes the marks of a node away.
	ClearBuffering(ctx context.Context, nodeID, computeKey string) error
	// Owned says of each topic whether a queue has it, claimed or ready.
	Owned(ctx context.Context, topics []string) ([]bool, error)
	// OpenClaims returns queues that are claimed and not ready, at most most.
	OpenClaims(ctx context.Context, most int) ([]diff.Claimed, error)
	// Ping says whether the store answers.
	Ping(ctx context.Context) error
}

// server carries the gRPC services.
type server struct {
	pb.UnimplementedDiffServiceServer
	pb.UnimplementedTagQueryServer
	pb.UnimplementedAdminServiceServer
	pb.UnimplementedHealthCheckServer

	store      Store
	nodes      diff.Nodes // of the store, as diffs use them
	topics     diff.Topics
	sizes      func(ctx context.Context) (map[string]topics.Extent, error)
	collector  *gc.Collector
	stages     *stages
	streams    *stream.Registry
	outbox     *outbox // nil without a ControlBus
	weights    weights
	metrics    *metrics
	namespaces bool
	log        *slog.Logger
	tokens     tokens
}

func (s *server) register(g *grpc.Server) {
	pb.RegisterDiffServiceServer(g, s)
	pb.RegisterTagQueryServer(g, s)
	pb.RegisterAdminServiceServer(g, s)
	pb.RegisterHealthCheckServer(g, s)
}

// tokens names streams so that no two in the world are called alike.
type tokens struct {
	process string
	next    atomic.Uint64
}

func newTokens() tokens { return tokens{process: rand.Text()} }

func (t *tokens) take() string { return t.process + "-" + strconv.FormatUint(t.next.Add(1), 36) }

// Diff diffs a DAG and streams the answer, which the client acknowledges chunk
// by chunk.
func (s *server) Diff(req *pb.DiffRequest, out grpc.ServerStreamingServer[pb.DiffChunk]) error {
	start := time.Now()
	err := s.diffAndStream(req, out)
	if gone := out.Context().Err(); gone != nil && err != nil {
		err = fmt.Errorf("the client left: %w", gone) // what became of the stream then says nothing more
	}
	s.metrics.durations.add(time.Since(start))
	if err == nil {
		s.metrics.requests.Inc()
		return nil
	}
	s.metrics.failures.Inc()
	if errors.Is(err, stream.ErrNeverAcked) {
		s.metrics.neverAcked.Add(1)
	}
	s.log.Debug("diff failed", "strategy_id", clip(req.GetStrategyId()), "error", clip(err.Error()))
	return statusOf(err)
}

func (s *server) diffAndStream(req *pb.DiffRequest, out grpc.ServerStreamingServer[pb.DiffChunk]) error {
	ctx := out.Context()
	res, err := s.run(ctx, req)
	if err != nil {
		return err
	}
	who := identity(ctx, res.SentinelID)
	who.Token = s.tokens.take()
	if err := out.SetHeader(metadata.Pairs(contract.DiffStreamHeader, who.Token)); err != nil {
		return err
	}
	defer s.stages.time("stream", time.Now())
	return s.streams.Run(ctx, who, stream.Chunks(answerOf(res)), out.Send)
}

// run diffs a DAG and announces what it changed.
func (s *server) run(ctx context.Context, req *pb.DiffRequest) (*diff.Result, error) {
	if err := s.streams.Room(); err != nil {
		return nil, err
	}
	res, err := diff.Run(ctx, diff.ExecutionContext{
		StrategyID: req.GetStrategyId(),
		DAG:        req.GetDagJson(),
		Request: diff.RequestContext{
			WorldID:            req.GetWorldId(),
			ExecutionDomain:    req.GetExecutionDomain(),
			AsOf:               req.GetAsOf(),
			Partition:          req.GetPartition(),
			DatasetFingerprint: req.GetDatasetFingerprint(),
		},
		Namespaces: s.namespaces,
		Now:        time.Now(),
	}, s.nodes, s.topics)
	if err != nil {
		s.failed(err)
		return nil, err
	}
	s.announce(res)
	return res, nil
}

func (s *server) failed(err error) {
	var crossed *diff.ContextError
	var input *diff.InputError
	switch {
	case errors.As(err, &crossed):
		s.metrics.crossed(crossed)
	case errors.As(err, &input):
	default:
		s.metrics.createErrors.Inc()
	}
}

// announce counts what a diff did and tells the ControlBus.
func (s *server) announce(res *diff.Result) {
	if res.Gap {
		s.metrics.gap.Inc()
	}
	if w := res.Weight; w != nil {
		s.metrics.weighed(w.SentinelVersion, w.Weight)
		if s.weights.changed(*w) && s.outbox != nil {
			s.outbox.weightChanged(*w)
		}
	}
	if s.outbox == nil {
		return
	}
	for _, n := range res.Registered {
		if len(n.Tags) > 0 && n.Interval != nil {
			s.outbox.queueUpdated(n.Tags, *n.Interval)
		}
	}
}

func answerOf(res *diff.Result) stream.Answer {
	a := stream.Answer{SentinelID: res.SentinelID, Version: res.Version, CRC32: res.CRC32}
	a.Known = make([]stream.Queue, 0, len(res.Queues))
	for _, q := range res.Queues {
		entry := stream.Queue{Key: q.Key, Topic: q.Topic}
		if q.New {
			a.New = append(a.New, entry)
		} else {
			a.Known = append(a.Known, entry)
		}
	}
	for _, b := range res.Buffer {
		a.Buffer = append(a.Buffer, &pb.BufferInstruction{
			NodeId: b.NodeID, NodeType: b.NodeType, CodeHash: b.CodeHash,
			SchemaHash: b.SchemaHash, SchemaCompatId: b.SchemaCompatID,
			Interval: b.Interval, Period: b.Period, Lag: b.Lag, Tags: b.Tags,
		})
	}
	return a
}

// identity says on whose behalf a call comes.
func identity(ctx context.Context, sentinelID string) stream.Identity {
	who := stream.Identity{SentinelID: sentinelID}
	if p, ok := peer.FromContext(ctx); ok {
		who.Peer = p.Addr.String()
	}
	return who
}

// AckChunk acknowledges a chunk of a running Diff. The answer is an echo, also
// when no stream waits.
func (s *server) AckChunk(ctx context.Context, ack *pb.ChunkAck) (*pb.ChunkAck, error) {
	who := identity(ctx, ack.GetSentinelId())
	if values := metadata.ValueFromIncomingContext(ctx, contract.DiffStreamHeader); len(values) > 0 {
		who.Token = values[0]
	}
	s.streams.Ack(who, ack.GetChunkId())
	return ack, nil
}

// GetQueues answers a tag query (dagmanager.md 1.7 and 5.4).
func (s *server) GetQueues(ctx context.Context, req *pb.TagQueryRequest) (*pb.TagQueryReply, error) {
	queues, err := s.store.Queues(ctx, req.GetTags(), req.GetInterval(), req.GetMatchMode())
	if err != nil {
		return nil, statusOf(err)
	}
	reply := &pb.TagQueryReply{Queues: make([]*pb.QueueDescriptor, len(queues))}
	for i, q := range queues {
		reply.Queues[i] = &pb.QueueDescriptor{Queue: q.Queue, Global: q.Global}
	}
	return reply, nil
}

// RedoDiff diffs a DAG under the sentinel's id, without a stream: it counts as
// acknowledged.
func (s *server) RedoDiff(ctx context.Context, req *pb.RedoDiffRequest) (*pb.DiffResult, error) {
	start := time.Now()
	res, err := s.run(ctx, &pb.DiffRequest{StrategyId: req.GetSentinelId(), DagJson: req.GetDagJson()})
	s.metrics.durations.add(time.Since(start))
	if err != nil {
		s.metrics.failures.Inc()
		return nil, statusOf(err)
	}
	s.metrics.requests.Inc()
	out := &pb.DiffResult{SentinelId: res.SentinelID, Version: res.Version, QueueMap: make(map[string]string, len(res.Queues))}
	for _, q := range res.Queues {
		out.QueueMap[q.Key] = q.Topic
	}
	return out, nil
}

// The words of a health answer.
const (
	stateOK      = "ok"
	stateError   = "error"
	stateRunning = "running"
)

// pingLimit is how long a store may take to answer a health check.
const pingLimit = time.Second

// storeState is "ok" for a store that answers in time, else "error".
func (s *server) storeState(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	if s.store.Ping(ctx) != nil {
		return stateError
	}
	return stateOK
}

// Status tells the state of the graph store and of the process. A memory store
// that works is "ok": a gateway waits for that word before it retries a diff.
func (s *server) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusReply, error) {
	return &pb.StatusReply{Neo4J: s.storeState(ctx), State: stateRunning}, nil
}
