package floor_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"

	"qmtl.internal/plumbline/bench/floor"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// dagManager answers every diff with one chunk and wants it acknowledged.
type dagManager struct {
	dagmanagerpb.UnimplementedDiffServiceServer
	dag  atomic.Value
	acks atomic.Int64
}

func (d *dagManager) Diff(r *dagmanagerpb.DiffRequest, s grpc.ServerStreamingServer[dagmanagerpb.DiffChunk]) error {
	d.dag.Store(r.GetDagJson())
	return s.Send(&dagmanagerpb.DiffChunk{SentinelId: r.GetStrategyId() + "-sentinel"})
}

func (d *dagManager) AckChunk(_ context.Context, a *dagmanagerpb.ChunkAck) (*dagmanagerpb.ChunkAck, error) {
	d.acks.Add(1)
	return a, nil
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The floor does the input and output of a submission: Redis, a diff with its
// acknowledgement, Kafka, an answer.
func TestOneSubmission(t *testing.T) {
	rdb := miniredis.RunT(t)
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	dm, l := &dagManager{}, listen(t)
	server := grpc.NewServer()
	dagmanagerpb.RegisterDiffServiceServer(server, dm)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	g, err := floor.New(floor.Addresses{Redis: rdb.Addr(), Kafka: kafka.ListenAddrs()[0], DagManager: l.Addr().String(), Topic: "log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	front := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- floor.Serve(ctx, front, g) }()
	ack := submit(t, "http://"+front.Addr().String(), `{"nodes":[]}`)
	if dm.dag.Load() != `{"nodes":[]}` || dm.acks.Load() != 1 || ack.NodeIDsCRC32 != 7 || ack.SentinelID != ack.StrategyID+"-sentinel" {
		t.Errorf("diff of %v, %d acknowledged, answer %+v", dm.dag.Load(), dm.acks.Load(), ack)
	}
	if got := rdb.HGet("floor:"+ack.StrategyID, "dag"); got == "" {
		t.Error("nothing was registered")
	}
	stored(t, kafka.ListenAddrs()[0], ack.StrategyID)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func submit(t *testing.T, url, dag string) (ack contract.StrategyAck) {
	t.Helper()
	body := `{"dag_json":"` + base64.StdEncoding.EncodeToString([]byte(dag)) + `","world_ids":["w"],"node_ids_crc32":7}`
	resp, err := http.Post(url+"/strategies", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusAccepted || json.Unmarshal(b, &ack) != nil {
		t.Fatalf("status %d: %s, %v", resp.StatusCode, b, err)
	}
	return ack
}

func stored(t *testing.T, addr, id string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("log"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	records := c.PollFetches(ctx).Records()
	if len(records) != 1 || string(records[0].Key) != id {
		t.Errorf("%d records; want one of %s", len(records), id)
	}
}
