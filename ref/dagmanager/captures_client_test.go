package dagmanager

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// heard is what a client is told, in a form that can be compared.
type heard struct {
	Code    string            // the number of HTTP, the name of gRPC's code, or "observed"
	Headers map[string]string // of HTTP: content-type and allow
	Body    any               // of HTTP or of a unary reply, as JSON
	Diff    *heardDiff
	Records []map[string]any // of the ControlBus

	Text string   // the message of an error; compared with Says only
	Says []string // one of these is part of the message, where that matters
}

// heardDiff is what the chunks of one diff say together.
type heardDiff struct {
	Chunks   int
	Sentinel string
	Version  string
	CRC      uint32
	Repeats  bool // several chunks, each with the whole queue map
	Queues   map[string]string
	Buffer   []any
	Differ   []string // what chunks say against each other
}

// ask has one exchange; begun is told once a diff is done and being streamed.
func (r *replayer) ask(ctx context.Context, c *capture, begun func()) outcome {
	var o outcome
	switch {
	case c.Request.Method == "KAFKA":
		o.heard, o.err = r.bus.observe(ctx, c)
	case c.Request.Method != "grpc":
		o.heard, o.err = r.http(ctx, c)
	case c.rawBody() != nil:
		o.heard, o.err = r.raw(ctx, c)
	case c.isDiff():
		if o.err = r.before(ctx, c); o.err == nil {
			o.heard, o.err = r.stream(ctx, c, begun)
		}
	default:
		o.heard, o.err = r.unary(ctx, c)
	}
	return o
}

// before prepares a diff: it marks what the ControlBus has heard, and gives a
// node whose queue serves another context that context, where the recording
// leaves out who did.
func (r *replayer) before(ctx context.Context, c *capture) error {
	if r.bus != nil {
		if err := r.bus.mark(ctx); err != nil {
			return err
		}
	}
	crossed := crossedNode.FindStringSubmatch(c.Response.Details)
	if crossed == nil || r.seen(crossed[1]) {
		return nil
	}
	dag, _, err := c.dagOf()
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(dag), &doc); err != nil {
		return err
	}
	delete(doc, "compute_context")
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = r.process.ask(ctx, &pb.DiffRequest{StrategyId: "before", DagJson: string(b)})
	if status.Code(err) == codes.FailedPrecondition { // the graph names a context of its own
		return nil
	}
	return err
}

var crossedNode = regexp.MustCompile(`Cross-context topic reuse detected for node '([^']*)'`)

// seen says whether an earlier exchange was about the node, and notes that one is.
func (r *replayer) seen(node string) bool {
	for _, c := range r.asked {
		if strings.Contains(string(c.Request.Body), node) && c.Response.Details == "" {
			return true
		}
	}
	return false
}

func (r *replayer) http(ctx context.Context, c *capture) (heard, error) {
	var body string
	if err := json.Unmarshal(c.Request.Body, &body); err != nil && string(c.Request.Body) != "null" {
		return heard{}, err
	}
	req, err := http.NewRequestWithContext(ctx, c.Request.Method, "http://"+r.ready.Addresses["http"]+c.Request.Path, strings.NewReader(body))
	if err != nil {
		return heard{}, err
	}
	req.Close = true
	for k, v := range c.Request.Headers {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return heard{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return heard{Code: strconv.Itoa(resp.StatusCode), Headers: comparedHeaders(resp.Header.Get), Body: libraryText(jsonOrText(b)), Text: string(b)}, err
}

// comparedHeaders are those that are the service's word and not the library's.
func comparedHeaders(get func(string) string) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"content-type", "allow"} {
		if v := get(name); v != "" {
			out[name] = v
		}
	}
	return out
}

func jsonOrText(b []byte) any {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return string(b)
	}
	return v
}

// rawBody are the bytes of a request that is no message; nil for others.
func (c *capture) rawBody() []byte {
	var text string
	if json.Unmarshal(c.Request.Body, &text) == nil {
		return []byte(text)
	}
	var coded struct{ Base64 *string }
	if json.Unmarshal(c.Request.Body, &coded) == nil && coded.Base64 != nil {
		b, err := base64.StdEncoding.DecodeString(*coded.Base64)
		if err == nil {
			return b
		}
	}
	return nil
}

// bytesCodec sends and takes bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (bytesCodec) Name() string                       { return "proto" }

func (r *replayer) raw(ctx context.Context, c *capture) (heard, error) {
	in, out := c.rawBody(), []byte{}
	err := r.conn.Invoke(ctx, c.Request.Path, &in, &out, grpc.ForceCodec(bytesCodec{}))
	return heardError(err), nil
}

func heardError(err error) heard {
	st := status.Convert(err)
	return heard{Code: codeName(st.Code()), Text: st.Message()}
}

// codeName is the code as gRPC's specification writes it.
func codeName(c codes.Code) string {
	for _, name := range []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
		"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"} {
		var named codes.Code
		if named.UnmarshalJSON([]byte(`"`+name+`"`)) == nil && named == c {
			return name
		}
	}
	return c.String()
}

// methodOf finds the descriptor of a path "/package.Service/Method".
func methodOf(path string) (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	s := pb.File_dagmanager_proto.Services().ByName(protoreflect.FullName(service).Name())
	if s == nil || string(s.FullName()) != service || s.Methods().ByName(protoreflect.Name(method)) == nil {
		return nil, fmt.Errorf("no method %s", path)
	}
	return s.Methods().ByName(protoreflect.Name(method)), nil
}

func (r *replayer) unary(ctx context.Context, c *capture) (heard, error) {
	m, err := methodOf(c.Request.Path)
	if err != nil {
		return heard{}, err
	}
	body := c.Request.Body
	if strings.HasSuffix(c.Request.Path, "/RedoDiff") { // its DAG may have been cut
		if body, err = c.withWholeDAG(); err != nil {
			return heard{}, err
		}
	}
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if err := protojson.Unmarshal(body, in); err != nil {
		return heard{}, err
	}
	if err := r.conn.Invoke(ctx, c.Request.Path, in, out); err != nil {
		return heardError(err), nil
	}
	return heard{Code: "OK", Body: asJSON(out)}, nil
}

func (c *capture) withWholeDAG() (json.RawMessage, error) {
	dag, _, err := c.dagOf()
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(c.Request.Body, &fields); err != nil {
		return nil, err
	}
	fields["dag_json"] = dag
	return json.Marshal(fields)
}

// asJSON is a message as the recordings write it: names of the file, numbers of
// 64 bits as text, and nothing left out.
func asJSON(m proto.Message) any {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return jsonOrText(b)
}

// manner is how a recorded client acknowledged.
type manner struct {
	each, cancel bool
	ahead        int           // so many after the first chunk, and none later
	late         time.Duration // after the first chunk, before the first acknowledgement
}

func (c *capture) manner() (manner, error) {
	var list []any
	if json.Unmarshal(c.Request.Client.Ack, &list) == nil && len(list) == 2 && list[0] == "late" {
		seconds, _ := list[1].(float64)
		return manner{each: true, late: time.Duration(seconds * float64(time.Second))}, nil
	}
	var word string
	_ = json.Unmarshal(c.Request.Client.Ack, &word) // an unknown form is told below
	switch word {
	case "each":
		return manner{each: true}, nil
	case "none":
		return manner{}, nil
	case "cancel":
		return manner{cancel: true}, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(word, "ahead"))
	if err != nil {
		return manner{}, fmt.Errorf("nothing is known of a client that acknowledges %s", c.Request.Client.Ack)
	}
	return manner{ahead: n}, nil
}

// stream diffs as the recorded client did.
func (r *replayer) stream(ctx context.Context, c *capture, begun func()) (heard, error) {
	how, err := c.manner()
	if err != nil {
		return heard{}, err
	}
	body, err := c.withWholeDAG()
	if err != nil {
		return heard{}, err
	}
	req := &pb.DiffRequest{}
	if err := protojson.Unmarshal(body, req); err != nil {
		return heard{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.Request.Client.Deadline*float64(time.Second)))
	defer cancel()
	s, err := r.diff.Diff(ctx, req)
	if err != nil {
		return heard{}, err
	}
	l := &listener{r: r, how: how, begun: begun}
	err = l.listen(ctx, s)
	if how.cancel && err == nil { // the recorder wrote OK for a diff that it left
		return heard{Code: "OK", Diff: l.sum()}, nil
	}
	out := heardError(err)
	out.Diff = l.sum()
	return out, nil
}

// listener reads the chunks of one diff.
type listener struct {
	r      *replayer
	how    manner
	begun  func() // told of each chunk
	chunks []*pb.DiffChunk
	ackers sync.WaitGroup
	ackErr error
}

func (l *listener) listen(ctx context.Context, s grpc.ServerStreamingClient[pb.DiffChunk]) error {
	defer l.ackers.Wait()
	acks := make(chan string, 10_000)
	defer close(acks)
	if l.how.late > 0 { // chunks go on arriving while it dawdles
		l.ackers.Go(func() { l.ackLate(ctx, acks) })
	}
	for {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return l.ackErr
		}
		if err != nil {
			return err
		}
		l.chunks = append(l.chunks, c)
		l.begun()
		if l.how.cancel {
			return nil
		}
		if l.how.late > 0 {
			acks <- c.GetSentinelId()
			continue
		}
		if err := l.ack(ctx, c.GetSentinelId(), l.due()); err != nil {
			return err
		}
	}
}

// due is how many acknowledgements the newest chunk is good for.
func (l *listener) due() int {
	switch {
	case l.how.each:
		return 1
	case len(l.chunks) == 1:
		return l.how.ahead
	default:
		return 0
	}
}

// ack numbers each chunk 0, as the original's clients do.
func (l *listener) ack(ctx context.Context, sentinel string, n int) error {
	for range n {
		if _, err := l.r.diff.AckChunk(ctx, &pb.ChunkAck{SentinelId: sentinel}); err != nil {
			return err
		}
	}
	return nil
}

func (l *listener) ackLate(ctx context.Context, acks <-chan string) {
	select {
	case <-time.After(l.how.late):
	case <-ctx.Done():
	}
	for sentinel := range acks {
		if l.ack(ctx, sentinel, 1) != nil {
			return // the stream says why
		}
	}
}

// sum is the union of the chunks, those that were sent again counted once.
func (l *listener) sum() *heardDiff {
	if len(l.chunks) == 0 {
		return nil
	}
	first := l.chunks[0]
	d := &heardDiff{Chunks: len(l.chunks), Sentinel: first.GetSentinelId(), Version: first.GetVersion(), CRC: first.GetCrc32(), Queues: map[string]string{}}
	d.Repeats = len(l.chunks) > 1 && !slices.ContainsFunc(l.chunks, func(c *pb.DiffChunk) bool { return !maps.Equal(c.GetQueueMap(), first.GetQueueMap()) })
	buffered := map[string]bool{}
	for _, c := range l.chunks {
		if c.GetSentinelId() != d.Sentinel || c.GetVersion() != d.Version || c.Crc32 == nil || c.GetCrc32() != d.CRC {
			d.Differ = append(d.Differ, fmt.Sprintf("%s %s %v", c.GetSentinelId(), c.GetVersion(), c.Crc32))
		}
		maps.Copy(d.Queues, c.GetQueueMap())
		for _, b := range c.GetBufferNodes() {
			if !buffered[b.GetNodeId()] {
				buffered[b.GetNodeId()] = true
				d.Buffer = append(d.Buffer, asJSON(b))
			}
		}
	}
	return d
}

// tap listens to the ControlBus.
type tap struct {
	p      *process
	client *kgo.Client
	admin  *kadm.Client
	mu     sync.Mutex
	seen   []*kgo.Record
	marks  []int // how much had been seen when a diff began, since the last observation
	looked int   // how much had been seen at the last observation
}

func newTap(t *testing.T, addr string, p *process) *tap {
	cl := kafkaClient(t, addr, kgo.ConsumeTopics("queue", "sentinel_weight"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	return &tap{p: p, client: cl, admin: kadm.NewClient(cl)}
}

// settle reads all that the DAG Manager has announced so far.
func (b *tap) settle(ctx context.Context) error {
	for {
		text, err := page(ctx, "http://"+b.p.ready.Addresses["admin"]+"/metrics")
		if err != nil {
			return err
		}
		if strings.Contains(text, "\ndagmanager_events_waiting 0\n") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	ends, err := b.admin.ListEndOffsets(ctx, "queue", "sentinel_weight")
	if err != nil {
		return err
	}
	var all int64
	ends.Each(func(o kadm.ListedOffset) { all += o.Offset })
	for int64(len(b.seen)) < all {
		fetches := b.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		b.seen = append(b.seen, fetches.Records()...)
	}
	return nil
}

func page(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// mark notes that a diff begins.
func (b *tap) mark(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.settle(ctx)
	b.marks = append(b.marks, len(b.seen))
	return err
}

// observe gives the records since the last observation, or since a diff after
// it where the recording leaves out an observation between. What was caused by
// a diff that the recording leaves out is caused by one like it.
func (b *tap) observe(ctx context.Context, c *capture) (heard, error) {
	want, err := c.records()
	if err != nil {
		return heard{}, err
	}
	if len(b.marks) == 0 {
		for _, e := range want {
			if err := b.cause(ctx, e); err != nil {
				return heard{}, err
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.settle(ctx); err != nil {
		return heard{}, err
	}
	from := b.looked
	for _, mark := range b.marks {
		if len(b.seen)-from == len(want) {
			break
		}
		from = mark
	}
	out := heard{Code: "observed"}
	for _, r := range b.seen[from:] {
		out.Records = append(out.Records, recordOf(r))
	}
	b.marks, b.looked = nil, len(b.seen)
	return out, nil
}

func recordOf(r *kgo.Record) map[string]any {
	return record(r.Topic, string(r.Key), len(r.Headers), r.Value)
}

// record is one of the ControlBus without what is another one each time.
func record(topic, key string, headers int, value []byte) map[string]any {
	event, _ := jsonOrText(value).(map[string]any)
	data, _ := event["data"].(map[string]any)
	name(event, "id", oneUUID, "uuid")
	name(event, "time", oneTime, "time")
	name(data, "ts", oneTime, "time")
	name(data, "etag", revision, "$1:revision")
	name(data, "idempotency_key", revision, "$1:revision")
	if queues, ok := data["queues"].([]any); ok && len(queues) > 0 {
		data["queues"] = "named"
	}
	return map[string]any{"topic": topic, "key": key, "headers": headers, "value": event}
}

var (
	oneUUID  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	oneTime  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(Z|\+00:00)$`)
	revision = regexp.MustCompile(`^(.*):[0-9a-f]{10,}$`)
)

// name replaces a member that has a form by the name of the form.
func name(m map[string]any, member string, form *regexp.Regexp, as string) {
	if text, ok := m[member].(string); ok {
		m[member] = form.ReplaceAllString(text, as)
	}
}

// cause makes a diff of which a record like e comes.
func (b *tap) cause(ctx context.Context, e map[string]any) error {
	event, _ := e["value"].(map[string]any)
	data, _ := event["data"].(map[string]any)
	node := map[string]any{"node_id": fmt.Sprint("cause-", len(b.seen), "-", e["key"]), "node_type": "IndicatorNode", "code_hash": "c", "schema_hash": "s"}
	req := &pb.DiffRequest{StrategyId: "cause"}
	switch event["type"] {
	case "queue_updated":
		node["tags"], node["interval"] = data["tags"], data["interval"]
	case "sentinel_weight_updated":
		id, _ := data["sentinel_id"].(string)
		world, _ := data["world_id"].(string)
		req.StrategyId, req.ExecutionDomain, req.WorldId = strings.TrimSuffix(id, "-sentinel"), "live", world
		node = map[string]any{"node_type": "VersionSentinel", "version": data["sentinel_version"], "weight": data["weight"]}
	default:
		return fmt.Errorf("no diff is known that causes an event of type %v", event["type"])
	}
	dag, err := json.Marshal(map[string]any{"nodes": []any{node}})
	if err != nil {
		return err
	}
	req.DagJson = string(dag)
	_, err = b.p.ask(ctx, req)
	return err
}

// records are what a recorded observation saw.
func (c *capture) records() ([]map[string]any, error) {
	var seen []struct {
		Topic, Key, Raw string
		Headers         []any
	}
	if err := json.Unmarshal(c.Response.Body, &seen); err != nil {
		return nil, err
	}
	var out []map[string]any
	for _, r := range seen {
		out = append(out, record(r.Topic, r.Key, len(r.Headers), []byte(r.Raw)))
	}
	return out, nil
}
