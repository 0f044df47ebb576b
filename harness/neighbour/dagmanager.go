package neighbour

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The calls that a DAG Manager answers.
const (
	CallDiff      = "Diff"
	CallAckChunk  = "AckChunk"
	CallGetQueues = "GetQueues"
	CallStatus    = "Status"
)

// Methods are the calls that a DagRule may name.
func Methods() []string { return []string{CallDiff, CallAckChunk, CallGetQueues, CallStatus} }

// The checksums that a chunk may bear.
const (
	CRCRight  = "right"  // of the DAG that was sent
	CRCWrong  = "wrong"  // any other
	CRCAbsent = "absent" // none
)

// A Chunk is one piece of the answer to a diff.
type Chunk struct {
	CRC      string // one of the checksums above; "": the right one
	Sentinel *string
	Version  string
	QueueMap map[string]string
}

// A DagRule is what a DAG Manager does with calls of one kind. Of the replies
// the one of its call counts; without it the call is answered as by a DAG
// Manager in good health that knows no queue.
type DagRule struct {
	On    string // one of Methods
	Where func(DagCall) bool
	Times int

	Delay   time.Duration
	Hang    bool
	Code    codes.Code // other than OK: the call ends with it, a diff after its chunks
	Message string

	Chunks []Chunk // of Diff; nil: one that is right
	Queues *pb.TagQueryReply
	State  *pb.StatusReply
}

// Check tells what is wrong with r, nil for nothing.
func (r DagRule) Check() error {
	if !slices.Contains(Methods(), r.On) {
		return fmt.Errorf("on %q: want one of %v", r.On, Methods())
	}
	for i, c := range r.Chunks {
		if !slices.Contains([]string{"", CRCRight, CRCWrong, CRCAbsent}, c.CRC) {
			return fmt.Errorf("chunk %d: crc %q: want %s, %s or %s", i, c.CRC, CRCRight, CRCWrong, CRCAbsent)
		}
	}
	return nil
}

// A DagCall is one call as it came.
type DagCall struct {
	Method  string
	Request proto.Message
}

// DagManager answers gRPC on loopback by its script. Its methods may be called
// from any goroutine.
type DagManager struct {
	pb.UnimplementedDiffServiceServer
	pb.UnimplementedTagQueryServer
	pb.UnimplementedHealthCheckServer

	address string
	server  *grpc.Server
	life    context.Context
	end     context.CancelCauseFunc
	serving sync.WaitGroup

	mu     sync.Mutex
	script []DagRule // guarded by mu
	tally  *tally    // guarded by mu; of script
	calls  []DagCall // guarded by mu
}

// StartDagManager starts one that knows no rule. Close must be called.
func StartDagManager(ctx context.Context) (*DagManager, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("dagmanager: %w", err)
	}
	d := &DagManager{address: l.Addr().String(), tally: &tally{}, server: grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true))}
	d.life, d.end = context.WithCancelCause(context.WithoutCancel(ctx))
	pb.RegisterDiffServiceServer(d.server, d)
	pb.RegisterTagQueryServer(d.server, d)
	pb.RegisterHealthCheckServer(d.server, d)
	d.serving.Go(func() { _ = d.server.Serve(l) }) // ends when stopped
	return d, nil
}

// Address is its host:port.
func (d *DagManager) Address() string { return d.address }

// Script replaces all rules. The error names every rule that is wrong; then
// nothing was replaced.
func (d *DagManager) Script(rules []DagRule) error {
	var errs []error
	for i, r := range rules {
		if err := r.Check(); err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script, d.tally = slices.Clone(rules), &tally{used: make([]int, len(rules))}
	return nil
}

// Calls are the calls so far, in the order in which they came.
func (d *DagManager) Calls() []DagCall {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Forget drops the calls so far.
func (d *DagManager) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = nil
}

// Close ends every call and waits for its end.
func (d *DagManager) Close() {
	d.end(errClosed)
	d.server.Stop() // waits for the calls
	d.serving.Wait()
}

// note remembers a call and finds what is to be done with it; a rule that does
// nothing when none fits.
func (d *DagManager) note(c DagCall) DagRule {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, c)
	i := d.tally.next(
		func(i int) bool {
			return c.Method == d.script[i].On && (d.script[i].Where == nil || d.script[i].Where(c))
		},
		func(i int) int { return d.script[i].Times },
	)
	if i < 0 {
		return DagRule{On: c.Method}
	}
	return d.script[i]
}

// begin notes a call and waits as long as its rule says.
func (d *DagManager) begin(ctx context.Context, method string, request proto.Message) (DagRule, error) {
	rule := d.note(DagCall{method, request})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.life, func() { cancel(errClosed) })()
	if rule.Hang {
		<-ctx.Done()
		return rule, status.Error(codes.Unavailable, "hung until the end")
	}
	return rule, pause(ctx, rule.Delay)
}

func (r DagRule) failure() error {
	if r.Code == codes.OK {
		return nil
	}
	return status.Error(r.Code, r.Message)
}

// Diff answers a diff by the script, without waiting for acknowledgements.
func (d *DagManager) Diff(q *pb.DiffRequest, stream grpc.ServerStreamingServer[pb.DiffChunk]) error {
	rule, err := d.begin(stream.Context(), CallDiff, q)
	if err != nil {
		return err
	}
	chunks := rule.Chunks
	if chunks == nil && rule.Code == codes.OK {
		chunks = []Chunk{{}}
	}
	for _, c := range chunks {
		if err := stream.Send(c.of(q)); err != nil {
			return err
		}
	}
	return rule.failure()
}

// of is the chunk as an answer to q.
func (c Chunk) of(q *pb.DiffRequest) *pb.DiffChunk {
	out := &pb.DiffChunk{QueueMap: c.QueueMap, Version: c.Version, SentinelId: q.GetStrategyId() + "-sentinel"}
	if c.Sentinel != nil {
		out.SentinelId = *c.Sentinel
	}
	crc := checksum(q.GetDagJson())
	switch c.CRC {
	case CRCAbsent:
		return out
	case CRCWrong:
		crc ^= 1
	}
	out.Crc32 = &crc
	return out
}

// checksum is that of a DAG's node ids in their order; 0 for what is no DAG.
func checksum(dag string) uint32 {
	v, err := pyjson.ParseString(dag)
	if err != nil {
		return 0
	}
	ids, err := contract.NodeIDsOf(v)
	if err != nil {
		return 0
	}
	return contract.CRC32(ids)
}

// AckChunk echoes, unless the script says otherwise.
func (d *DagManager) AckChunk(ctx context.Context, q *pb.ChunkAck) (*pb.ChunkAck, error) {
	rule, err := d.begin(ctx, CallAckChunk, q)
	return q, errors.Join(err, rule.failure())
}

// GetQueues knows the queues of the script.
func (d *DagManager) GetQueues(ctx context.Context, q *pb.TagQueryRequest) (*pb.TagQueryReply, error) {
	rule, err := d.begin(ctx, CallGetQueues, q)
	if err == nil {
		err = rule.failure()
	}
	if rule.Queues == nil {
		rule.Queues = &pb.TagQueryReply{}
	}
	return rule.Queues, err
}

// Status is as well as the script says.
func (d *DagManager) Status(ctx context.Context, q *pb.StatusRequest) (*pb.StatusReply, error) {
	rule, err := d.begin(ctx, CallStatus, q)
	if err == nil {
		err = rule.failure()
	}
	if rule.State == nil {
		rule.State = &pb.StatusReply{Neo4J: "ok", State: "running"}
	}
	return rule.State, err
}
