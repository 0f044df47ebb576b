package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// DagManager is the client of a DAG Manager: diffs, tag lookups and health
// (gateway.md 2.9, 2.10). Diffs and lookups share one circuit breaker, which
// lets a trial call through after a while and so heals by itself.
type DagManager struct {
	diff    pb.DiffServiceClient
	tags    pb.TagQueryClient
	health  pb.HealthCheckClient
	breaker *gobreaker.CircuitBreaker[any]
	head    grpc.CallOption
	every   time.Duration // between looks at an unhealthy DAG Manager
}

const (
	diffAttempts   = 5
	healthWait     = 750 * time.Millisecond // for a DAG Manager that is down, before each repetition
	breakerTrips   = 3                      // consecutive failures
	breakerDefault = 2 * time.Second
)

// NewDagManager talks over conn, which the caller owns, and registers the
// breaker's families with reg. An open breaker allows a trial after openFor;
// zero means two seconds.
func NewDagManager(conn grpc.ClientConnInterface, openFor time.Duration, reg prometheus.Registerer) *DagManager {
	d := &DagManager{
		diff:   pb.NewDiffServiceClient(conn),
		tags:   pb.NewTagQueryClient(conn),
		health: pb.NewHealthCheckClient(conn),
		head:   grpc.ForceCodecV2(newHeadCodec()),
		every:  100 * time.Millisecond,
	}
	if openFor == 0 {
		openFor = breakerDefault
	}
	opened := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "dagclient_breaker_open_total", Help: "How often the DAG Manager's breaker opened."})
	d.breaker = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:        "dagmanager",
		Timeout:     openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		IsExcluded:  func(err error) bool { return err != nil && !errors.Is(err, errDown) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				opened.Inc()
			}
		},
	})
	reg.MustRegister(opened,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "dagclient_breaker_state", Help: "1 while the DAG Manager's breaker refuses calls."}, d.breakerState),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "dagclient_breaker_failures", Help: "Consecutive failures of the DAG Manager."}, func() float64 {
			return float64(d.breaker.Counts().ConsecutiveFailures)
		}))
	return d
}

func (d *DagManager) breakerState() float64 {
	if d.breaker.State() == gobreaker.StateOpen {
		return 1
	}
	return 0
}

// The ways a call to the DAG Manager ends without an answer.
var (
	// ErrNoReply: the breaker is open, or every attempt failed.
	ErrNoReply = errors.New("no reply from the DAG Manager")
	// errDown marks, inside, what the breaker counts: the DAG Manager could not
	// be reached or kept answering nonsense.
	errDown = errors.New("DAG Manager down")
)

// DiffReply is a diff put together from its chunks.
type DiffReply struct {
	QueueMap   map[string]string // topic by partition key
	SentinelID string            // the last one sent
	CRC32      uint32            // the chunks agree on it; 0 without chunks
}

// Diff asks for a diff and acknowledges each chunk by its own number. Failed
// attempts are repeated while ctx lasts. The error wraps ErrNoReply, or is that
// of ctx, which the breaker does not count.
func (d *DagManager) Diff(ctx context.Context, req *pb.DiffRequest) (*DiffReply, error) {
	return d.diffs(ctx, req)
}

// Register is Diff without the queue map, for who wants the nodes registered.
func (d *DagManager) Register(ctx context.Context, req *pb.DiffRequest) (*DiffReply, error) {
	return d.diffs(ctx, req, d.head)
}

func (d *DagManager) diffs(ctx context.Context, req *pb.DiffRequest, how ...grpc.CallOption) (*DiffReply, error) {
	reply, err := d.breaker.Execute(func() (any, error) {
		return retry(ctx, d, func() (*DiffReply, error) { return d.attempt(ctx, req, how...) })
	})
	if err != nil {
		return nil, noReply(ctx, "diff", err)
	}
	return reply.(*DiffReply), nil
}

// noReply keeps the end of ctx apart from the failures of the other side.
func noReply(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, errDown) {
		return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err) // err may say why there was nobody
	}
	return fmt.Errorf("%s: %w: %w", what, ErrNoReply, err)
}

// retry repeats call until it gives an answer, refuses for good, or has failed
// too often. Before each new attempt the DAG Manager must look healthy.
func retry[T any](ctx context.Context, d *DagManager, call func() (T, error)) (T, error) {
	var none T
	for attempt := 1; ; attempt++ {
		reply, err := call()
		switch {
		case err == nil:
			return reply, nil
		case ctx.Err() != nil:
			return none, err
		case final(err):
			return none, err
		case attempt == diffAttempts || !d.waitHealthy(ctx):
			return none, down(ctx, err)
		}
	}
}

// down counts for the breaker unless the caller's time was up, or the DAG Manager
// answered that this call asks too much of it: that is no news of it, and large
// DAGs of one client must not shut out the others.
func down(ctx context.Context, err error) error {
	if ctx.Err() != nil || status.Code(err) == codes.ResourceExhausted {
		return err
	}
	return fmt.Errorf("%w: %w", errDown, err)
}

// final: the DAG Manager understood and refused; asking again changes nothing.
func final(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.Unimplemented, codes.PermissionDenied:
		return true
	default:
		return false
	}
}

// waitHealthy returns at once when the DAG Manager is healthy; false when it
// was not within healthWait or ctx ended.
func (d *DagManager) waitHealthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	for {
		if ok, err := d.Healthy(ctx); err == nil && ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d.every):
		}
	}
}

// attempt runs one diff stream to its end. One that is abandoned ends with ctx.
func (d *DagManager) attempt(ctx context.Context, req *pb.DiffRequest, how ...grpc.CallOption) (*DiffReply, error) {
	stream, err := d.diff.Diff(ctx, req, how...)
	if err != nil {
		return nil, err
	}
	var m merge
	for n := uint32(0); ; n++ {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return m.reply()
		}
		if err != nil {
			return nil, err
		}
		m.add(chunk)
		ack := &pb.ChunkAck{SentinelId: chunk.GetSentinelId(), ChunkId: n}
		if _, err := d.diff.AckChunk(ctx, ack); err != nil {
			return nil, fmt.Errorf("acknowledge chunk %d: %w", n, err)
		}
	}
}

// merge unites the chunks of one stream.
type merge struct {
	into   DiffReply
	chunks int
	bad    error
}

func (m *merge) add(c *pb.DiffChunk) {
	m.chunks++
	switch {
	case c.Crc32 == nil:
		m.bad = fmt.Errorf("chunk %d has no crc32", m.chunks-1)
	case m.chunks > 1 && c.GetCrc32() != m.into.CRC32:
		m.bad = fmt.Errorf("chunk %d has crc32 %08x, the one before %08x", m.chunks-1, c.GetCrc32(), m.into.CRC32)
	}
	m.into.CRC32 = c.GetCrc32()
	m.into.SentinelID = c.GetSentinelId()
	if m.into.QueueMap == nil {
		m.into.QueueMap = c.GetQueueMap()
		return
	}
	for key, topic := range c.GetQueueMap() {
		m.into.QueueMap[key] = topic
	}
}

func (m *merge) reply() (*DiffReply, error) {
	if m.bad != nil {
		return nil, m.bad
	}
	return &m.into, nil
}

// Queues looks up the queues that feed a tag query; their names get the
// namespace of world and domain. The error wraps ErrNoReply or is that of ctx.
func (d *DagManager) Queues(ctx context.Context, q contract.TagQuery, world, domain string) ([]contract.QueueRef, error) {
	req := &pb.TagQueryRequest{Tags: q.Tags, Interval: *q.Interval, MatchMode: q.MatchMode}
	reply, err := d.breaker.Execute(func() (any, error) {
		return retry(ctx, d, func() (*pb.TagQueryReply, error) { return d.tags.GetQueues(ctx, req) })
	})
	if err != nil {
		return nil, noReply(ctx, "tag query", err)
	}
	return namespaced(reply.(*pb.TagQueryReply).GetQueues(), world, domain), nil
}

func namespaced(found []*pb.QueueDescriptor, world, domain string) []contract.QueueRef {
	ns := contract.Namespace(pyjson.OfString(world), pyjson.OfString(contract.DomainOrLive(pyjson.OfString(domain))))
	queues := make([]contract.QueueRef, 0, len(found))
	for _, q := range found {
		if q.GetQueue() == "" {
			continue
		}
		queues = append(queues, contract.QueueRef{Queue: contract.EnsureNamespace(q.GetQueue(), ns), Global: q.GetGlobal()})
	}
	return queues
}

// Healthy asks the DAG Manager how it is, past the breaker: the answer is the
// truth of now, and asking neither opens nor closes anything.
func (d *DagManager) Healthy(ctx context.Context) (bool, error) {
	s, err := d.health.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false, err
	}
	return s.GetNeo4J() == "ok" && s.GetState() == "running", nil
}
