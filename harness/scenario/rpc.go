package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// grpcAction is one unary call, by method name.
type grpcAction struct {
	Method   string         `json:"method"`
	Request  map[string]any `json:"request"`
	Deadline duration       `json:"deadline"`
}

func (a grpcAction) validate() error {
	_, err := a.descriptor()
	return err
}

// descriptor finds the method in the contract's protocol.
func (a grpcAction) descriptor() (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(a.Method, "/")
	service = service[strings.LastIndexByte(service, '.')+1:]
	var known []string
	services := pb.File_dagmanager_proto.Services()
	for i := range services.Len() {
		s := services.Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			if m.IsStreamingServer() {
				continue
			}
			if string(s.Name()) == service && string(m.Name()) == method {
				return m, nil
			}
			known = append(known, string(s.Name())+"/"+string(m.Name()))
		}
	}
	return nil, &wrong{key: "/method", what: fmt.Sprintf("unknown unary method %q", a.Method), mend: hint(a.Method, known) + "; for DiffService/Diff use the action diff"}
}

func (a grpcAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	method, err := a.descriptor()
	if err != nil {
		return nil, err
	}
	conn, err := x.wire.dagManager()
	if err != nil {
		return nil, err
	}
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	fields, err := json.Marshal(a.Request)
	if err != nil {
		return nil, err
	}
	if a.Request != nil {
		if err := (protojson.UnmarshalOptions{}).Unmarshal(fields, in); err != nil {
			return nil, fmt.Errorf("request of %s: %w", a.Method, err)
		}
	}
	limited, cancel := context.WithTimeout(ctx, a.Deadline.or(DefaultTimeout))
	defer cancel()
	start := time.Now()
	full := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	o := outcomeOf(conn.Invoke(limited, full, in, out, grpc.WaitForReady(false)))
	o["elapsed_ms"] = millis(time.Since(start))
	if o["code"] == codeName(codes.OK) {
		o["reply"], err = message(out)
	}
	return o, err
}

// outcomeOf gives a call's status code by its canonical name, and the message.
func outcomeOf(err error) observation {
	s := status.Convert(err)
	return observation{"code": codeName(s.Code()), "message": s.Message()}
}

func codeName(c codes.Code) string {
	names := [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
	if int(c) < len(names) {
		return names[c]
	}
	return c.String()
}

// message shows a protobuf message by its proto field names; 64-bit integers
// as numbers.
func message(m proto.Message) (any, error) {
	return shown(m.ProtoReflect()), nil
}

func shown(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			continue // an optional field that is not there stays absent
		}
		out[string(f.Name())] = shownField(f, m.Get(f))
	}
	return out
}

func shownField(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case f.IsMap():
		entries := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, item protoreflect.Value) bool {
			entries[k.String()] = shownOne(f.MapValue(), item)
			return true
		})
		return entries
	case f.IsList():
		items := make([]any, v.List().Len())
		for i := range items {
			items[i] = shownOne(f, v.List().Get(i))
		}
		return items
	}
	return shownOne(f, v)
}

func shownOne(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return shown(v.Message())
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BoolKind:
		return v.Bool()
	}
	return json.Number(fmt.Sprint(v.Interface()))
}

// diffAction is one streamed diff with its acknowledgements, or many at once.
type diffAction struct {
	dagSpec
	StrategyID         string    `json:"strategy_id"`
	DAGJSON            *string   `json:"dag_json"`
	PadBytes           int       `json:"pad_bytes"`
	WorldID            string    `json:"world_id"`
	ExecutionDomain    string    `json:"execution_domain"`
	AsOf               string    `json:"as_of"`
	Partition          string    `json:"partition"`
	DatasetFingerprint string    `json:"dataset_fingerprint"`
	Ack                ackPolicy `json:"ack"`
	CancelAfter        int       `json:"cancel_after"`
	Parallel           int       `json:"parallel"`
	Distinct           bool      `json:"distinct"`
	SameStrategy       bool      `json:"same_strategy"`
	Deadline           duration  `json:"deadline"`
}

// ackPolicy says which chunks are acknowledged, and when.
type ackPolicy struct {
	Policy string   `json:"policy"`
	Count  int      `json:"count"`
	After  duration `json:"after"`
}

func (a diffAction) validate() error { return checkFixture(a.DAG) }

func (a diffAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	if a.StrategyID == "" {
		a.StrategyID = fmt.Sprintf("%s%s-l%d", x.uniq, x.row, st.Line)
	}
	if a.Parallel == 0 {
		return a.once(ctx, x)
	}
	calls, tally := make([]any, a.Parallel), map[string]int{}
	errs := make([]error, a.Parallel)
	var wg sync.WaitGroup
	for i := range a.Parallel {
		wg.Go(func() {
			var o observation
			if o, errs[i] = a.nth(i).once(ctx, x); errs[i] == nil {
				calls[i] = map[string]any(o)
			}
		})
	}
	wg.Wait()
	for _, c := range calls {
		if m, ok := c.(map[string]any); ok {
			tally[text(m["code"])]++
		}
	}
	numbers, err := plain(tally)
	return observation{"calls": calls, "codes": numbers}, errors.Join(append(errs, err)...)
}

// nth is the i-th of several diffs at once.
func (a diffAction) nth(i int) diffAction {
	if !a.SameStrategy {
		a.StrategyID = fmt.Sprintf("%s-%d", a.StrategyID, i)
	}
	if a.Distinct {
		a.Variant = fmt.Sprintf("%s-%d", a.Variant, i)
	}
	return a
}

func (a diffAction) request(x *execution) (*pb.DiffRequest, builtDAG, error) {
	dag, err := a.build(x.token(a.Variant), dressing{})
	if err != nil {
		return nil, dag, err
	}
	if a.PadBytes > 0 {
		root := maps.Clone(dag.root)
		root["padding"] = strings.Repeat("x", a.PadBytes)
		if dag, err = finish(root, dressing{}); err != nil {
			return nil, dag, err
		}
	}
	if a.DAGJSON != nil {
		dag = builtDAG{text: *a.DAGJSON}
	}
	return &pb.DiffRequest{
		StrategyId: a.StrategyID, DagJson: dag.text, WorldId: a.WorldID, ExecutionDomain: a.ExecutionDomain,
		AsOf: a.AsOf, Partition: a.Partition, DatasetFingerprint: a.DatasetFingerprint,
	}, dag, nil
}

func (a diffAction) once(ctx context.Context, x *execution) (observation, error) {
	conn, err := x.wire.dagManager()
	if err != nil {
		return nil, err
	}
	req, dag, err := a.request(x)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, a.Deadline.or(DefaultTimeout))
	defer cancel()
	start := time.Now()
	s := &diffStream{client: pb.NewDiffServiceClient(conn), policy: a.Ack, cancelAfter: a.CancelAfter, start: start}
	ended := s.read(limited, cancel, req)
	o := s.merge(outcomeOf(ended))
	o["elapsed_ms"] = millis(time.Since(start))
	o["sent"] = dag.sent()
	x.past.diff(dag, o)
	return o, nil
}

// diffStream reads one answer.
type diffStream struct {
	client      pb.DiffServiceClient
	policy      ackPolicy
	cancelAfter int
	start       time.Time
	chunks      []*pb.DiffChunk
	at          []time.Duration
}

// read takes chunks until the stream ends and acknowledges as told. nil: the
// server ended it well.
func (s *diffStream) read(ctx context.Context, cancel context.CancelFunc, req *pb.DiffRequest) error {
	stream, err := s.client.Diff(ctx, req)
	if err != nil {
		return err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.chunks, s.at = append(s.chunks, chunk), append(s.at, time.Since(s.start))
		if s.cancelAfter > 0 && len(s.chunks) >= s.cancelAfter {
			cancel() // Recv then says CANCELLED
			continue
		}
		if err := s.acknowledge(ctx, chunk.GetSentinelId()); err != nil {
			return fmt.Errorf("acknowledging chunk %d: %w", len(s.chunks)-1, err)
		}
	}
}

func (s *diffStream) acknowledge(ctx context.Context, sentinel string) error {
	n := len(s.chunks) // chunks so far
	if n == 1 && s.policy.After > 0 {
		if err := sleep(ctx, time.Duration(s.policy.After)); err != nil {
			return err
		}
	}
	for range s.acks(n) {
		_, err := s.client.AckChunk(ctx, &pb.ChunkAck{SentinelId: sentinel, ChunkId: uint32(n - 1)})
		if err != nil {
			return err
		}
	}
	return nil
}

// acks is how many acknowledgements the n-th chunk gets.
func (s *diffStream) acks(n int) int {
	switch s.policy.Policy {
	case "none":
		return 0
	case "ahead":
		if n == 1 {
			return s.policy.Count
		}
		return 0
	case "first":
		if n > s.policy.Count {
			return 0
		}
	}
	return 1
}

// merge adds to o what the chunks say together.
func (s *diffStream) merge(o observation) observation {
	merged, buffers, chunks := map[string]any{}, []any{}, []any{}
	for i, c := range s.chunks {
		m := shown(c.ProtoReflect())
		m["at_ms"] = millis(s.at[i])
		chunks = append(chunks, m)
		maps.Copy(merged, m["queue_map"].(map[string]any))
		buffers = append(buffers, m["buffer_nodes"].([]any)...)
		for _, part := range []string{"sentinel_id", "version", "crc32"} {
			if v, ok := m[part]; ok {
				o[part] = v
			}
		}
	}
	o["chunks"], o["queue_map"], o["buffer_nodes"] = chunks, merged, buffers
	return o
}
