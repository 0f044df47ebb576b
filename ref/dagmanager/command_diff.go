package dagmanager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func diffFlags(in *invocation, fs *service.FlagSet) {
	fs.BoolVar(&in.dryRun, "dry-run", false, "diff here and make nothing; against --neo4j and --kafka where they are given, else against nothing")
	fs.StringVar(&in.target, "target", "127.0.0.1:50051", "`HOST:PORT` of a DAG Manager's gRPC interface")
	fs.StringVar(&in.strategy, "strategy", "cli", "`ID` of the strategy")
	fs.StringVar(&in.context.world, "world", "", "`world` of the request")
	fs.StringVar(&in.context.domain, "domain", "", "execution `domain` of the request")
	fs.StringVar(&in.context.asOf, "as-of", "", "`time` of the request's data")
	fs.StringVar(&in.context.partition, "partition", "", "`partition` of the request")
	graphFlags(in, fs)
	topicFlags(in, fs)
}

// answer is what a diff says, as the command prints it.
type diffAnswer struct {
	QueueMap   map[string]string `json:"queue_map"`
	SentinelID string            `json:"sentinel_id"`
	Version    string            `json:"version"`
	CRC32      uint32            `json:"crc32"`
	New        []string          `json:"new,omitempty"`          // node ids; a dry run knows them
	Buffer     []string          `json:"buffer_nodes,omitempty"` // node ids
	rows       [][]string
}

func runDiff(ctx context.Context, in *invocation) error {
	if len(in.args) != 1 {
		return fmt.Errorf("%d files; want one", len(in.args))
	}
	text, err := in.readDAG(in.args[0])
	if err != nil {
		return err
	}
	ask := in.remoteDiff
	if in.dryRun {
		ask = in.dryDiff
	}
	a, err := ask(ctx, text)
	if err != nil {
		return err
	}
	if in.format == "json" {
		return printJSON(in.Out, a)
	}
	if err := table(in.Out, []string{"NODE", "STATE", "TOPIC"}, a.rows); err != nil {
		return err
	}
	_, err = fmt.Fprintf(in.Out, "sentinel %s, version %s, crc32 %d\n", a.SentinelID, a.Version, a.CRC32)
	return err
}

func (in *invocation) readDAG(file string) (string, error) {
	if file == "-" {
		b, err := io.ReadAll(os.Stdin)
		return string(b), err
	}
	read := in.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	b, err := read(file)
	return string(b), err
}

// dryDiff diffs against the graph and the topics that are there, and leaves both
// as they are.
func (in *invocation) dryDiff(ctx context.Context, text string) (a *diffAnswer, err error) {
	real := Store(nodestore.NewMemory())
	if in.neo4j.URL != "" {
		g, err := nodestore.OpenNeo4j(in.neo4j)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, g.Close(context.WithoutCancel(ctx))) }()
		real = g
	}
	session := topics.NewSession(topics.NewMemory(), topics.Options{})
	if in.kafka.Brokers != "" {
		kafka, end, err := in.kafka.Open()
		if err != nil {
			return nil, err
		}
		defer end()
		session = topics.NewSession(kafka, topics.Options{Timeout: in.kafka.Timeout})
	}
	res, err := diff.Run(ctx, diff.ExecutionContext{
		StrategyID: in.strategy, DAG: text, Namespaces: true, Now: time.Now(),
		Request: diff.RequestContext{WorldID: in.context.world, ExecutionDomain: in.context.domain, AsOf: in.context.asOf, Partition: in.context.partition},
	}, &dryNodes{Store: real, taken: map[string]bool{}}, dryTopics{session})
	if err != nil {
		return nil, err
	}
	return planned(res), nil
}

func planned(res *diff.Result) *diffAnswer {
	a := &diffAnswer{QueueMap: map[string]string{}, SentinelID: res.SentinelID, Version: res.Version, CRC32: res.CRC32}
	buffers := map[string]bool{}
	for _, b := range res.Buffer {
		a.Buffer = append(a.Buffer, b.NodeID)
		buffers[b.NodeID] = true
	}
	for _, q := range res.Queues {
		a.QueueMap[q.Key] = q.Topic
		state := "known"
		switch {
		case q.New:
			state = "new"
			a.New = append(a.New, q.NodeID)
		case buffers[q.NodeID]:
			state = "buffers"
		}
		a.rows = append(a.rows, []string{q.NodeID, state, q.Topic})
	}
	return a
}

// dryNodes are nodes of a store that are only read: claims live and die here.
type dryNodes struct {
	Store
	taken map[string]bool
}

// Claim implements diff.Nodes.
func (d *dryNodes) Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error) {
	out := make([]diff.Claimed, len(claims))
	for i, c := range claims {
		var failed error
		topic, err := c.Choose(func(topic string) bool {
			owned, err := d.Owned(ctx, []string{topic})
			failed = errors.Join(failed, err)
			return d.taken[topic] || err == nil && owned[0]
		})
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		d.taken[topic] = true
		out[i] = diff.Claimed{NodeID: c.Node.ID, Won: true, Binding: diff.Binding{
			ComputeKey: c.ComputeKey, CodeHash: c.Node.CodeHash, SchemaHash: c.Node.SchemaHash, Topic: topic}}
	}
	return out, nil
}

// Confirm implements diff.Nodes: all are fresh.
func (d *dryNodes) Confirm(_ context.Context, queues []diff.Claimed) ([]bool, error) {
	fresh := make([]bool, len(queues))
	for i := range fresh {
		fresh[i] = true
	}
	return fresh, nil
}

// Release implements diff.Nodes.
func (d *dryNodes) Release(context.Context, []diff.Claimed) error { return nil }

// Record implements diff.Nodes.
func (d *dryNodes) Record(context.Context, diff.Findings) error { return nil }

// dryTopics are topics that are looked at and never made.
type dryTopics struct{ *topics.Session }

// Ensure implements diff.Topics.
func (d dryTopics) Ensure(_ context.Context, wanted []diff.Topic) error {
	for _, t := range wanted {
		if err := contract.CheckTopicName(t.Name); err != nil {
			return &topics.NameError{Err: err}
		}
	}
	return nil
}

// remoteDiff asks a DAG Manager and acknowledges what it answers.
func (in *invocation) remoteDiff(ctx context.Context, text string) (*diffAnswer, error) {
	conn, err := grpc.NewClient(in.target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := pb.NewDiffServiceClient(conn)
	chunks, err := client.Diff(ctx, &pb.DiffRequest{
		StrategyId: in.strategy, DagJson: text, WorldId: in.context.world, ExecutionDomain: in.context.domain, AsOf: in.context.asOf, Partition: in.context.partition,
	})
	if err != nil {
		return nil, err
	}
	a := &diffAnswer{QueueMap: map[string]string{}}
	acks := ctx
	for n := uint32(0); ; n++ {
		c, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			acks = acksOf(ctx, chunks)
		}
		a.add(c)
		if _, err := client.AckChunk(acks, &pb.ChunkAck{SentinelId: c.GetSentinelId(), ChunkId: n}); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.QueueMap)) {
		state := "-"
		if slices.Contains(a.Buffer, contract.NodeIDOfPartitionKey(key)) {
			state = "buffers"
		}
		a.rows = append(a.rows, []string{contract.NodeIDOfPartitionKey(key), state, a.QueueMap[key]})
	}
	return a, nil
}

// acksOf names the stream in acknowledgements, where it has a name.
func acksOf(ctx context.Context, chunks grpc.ServerStreamingClient[pb.DiffChunk]) context.Context {
	header, err := chunks.Header()
	if err != nil {
		return ctx // the stream's own end tells
	}
	if name := firstOf(header.Get(contract.DiffStreamHeader)); name != "" {
		return metadata.AppendToOutgoingContext(ctx, contract.DiffStreamHeader, name)
	}
	return ctx
}

func (a *diffAnswer) add(c *pb.DiffChunk) {
	a.SentinelID, a.Version, a.CRC32 = c.GetSentinelId(), c.GetVersion(), c.GetCrc32()
	maps.Copy(a.QueueMap, c.GetQueueMap())
	for _, b := range c.GetBufferNodes() {
		a.Buffer = append(a.Buffer, b.GetNodeId())
	}
}
