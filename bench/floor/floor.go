// Package floor is the least a gateway can do: the same bytes in and out, the
// same commands of Redis, the same record to Kafka and the same exchange with a
// DAG Manager as the contract asks for one submission, and nothing else: nothing
// is checked, hashed, kept or healed. What a real gateway costs above it is the
// price of what it does.
package floor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// Addresses of the servers, host:port each, and the topic of the commit log.
type Addresses struct {
	Redis, Kafka, DagManager, Topic string
}

// Gateway is the floor. Close it.
type Gateway struct {
	rdb   *redis.Client
	kafka *kgo.Client
	conn  *grpc.ClientConn
	diffs dagmanagerpb.DiffServiceClient
	topic string
}

// keep is how long a registration of the floor lives.
const keep = time.Minute

// New connects to the servers.
func New(a Addresses) (*Gateway, error) {
	kafka, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(a.Kafka, ",")...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	conn, err := grpc.NewClient(a.DagManager, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		kafka.Close()
		return nil, fmt.Errorf("dagmanager: %w", err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: a.Redis, PoolSize: 64})
	return &Gateway{rdb: rdb, kafka: kafka, conn: conn, diffs: dagmanagerpb.NewDiffServiceClient(conn), topic: a.Topic}, nil
}

// Close ends the connections.
func (g *Gateway) Close() error {
	g.kafka.Close()
	return errors.Join(g.rdb.Close(), g.conn.Close())
}

// ServeHTTP answers POST /strategies.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ack, err := g.submit(r.Context(), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(ack) // a client that has gone needs no answer
}

func (g *Gateway) submit(ctx context.Context, body io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var s contract.StrategySubmit
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	dag, err := base64.StdEncoding.DecodeString(s.DAGJSON)
	if err != nil {
		dag = []byte(s.DAGJSON)
	}
	id := uuid.NewString()
	if err := g.register(ctx, id, s.DAGJSON); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	world := ""
	if len(s.WorldIDs) > 0 {
		world = s.WorldIDs[0]
	}
	if err := g.diff(ctx, id, world, string(dag)); err != nil {
		return nil, fmt.Errorf("dagmanager: %w", err)
	}
	if err := g.kafka.ProduceSync(ctx, &kgo.Record{Topic: g.topic, Key: []byte(id), Value: raw}).FirstErr(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return json.Marshal(contract.StrategyAck{
		StrategyID: id, QueueMap: map[string][]contract.QueueRef{}, SentinelID: id + "-sentinel", NodeIDsCRC32: s.NodeIDsCRC32,
	})
}

// register writes what a registration writes, in one round trip.
func (g *Gateway) register(ctx context.Context, id, dag string) error {
	_, err := g.rdb.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.SetArgs(ctx, "floor:hash:"+id, id, redis.SetArgs{Mode: "NX", TTL: keep})
		tx.HSet(ctx, "floor:"+id, "dag", dag)
		tx.Expire(ctx, "floor:"+id, keep)
		return nil
	})
	return err
}

// diff asks for one diff and acknowledges each of its chunks.
func (g *Gateway) diff(ctx context.Context, id, world, dag string) error {
	stream, err := g.diffs.Diff(ctx, &dagmanagerpb.DiffRequest{StrategyId: id, DagJson: dag, WorldId: world})
	if err != nil {
		return err
	}
	for n := uint32(0); ; n++ {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := g.diffs.AckChunk(ctx, &dagmanagerpb.ChunkAck{SentinelId: chunk.GetSentinelId(), ChunkId: n}); err != nil {
			return err
		}
	}
}

// Serve serves g on l until ctx ends, and waits for what is under way.
func Serve(ctx context.Context, l net.Listener, g *Gateway) error {
	s := &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.Shutdown(leaving)
	<-ended // ErrServerClosed
	return err
}
