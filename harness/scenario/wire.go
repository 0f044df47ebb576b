package scenario

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// wire holds the clients of one Run. They are made when first needed and
// closed with the run.
type wire struct {
	env  Env
	http *http.Client

	mu      sync.Mutex
	dm      *grpc.ClientConn   // guarded by mu
	kafka   *kgo.Client        // guarded by mu
	redis   *redis.Client      // guarded by mu
	offsets kadm.ListedOffsets // ends of all topics when the run began; guarded by mu
}

func newWire(env Env) *wire {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // the SUT is always addressed directly
	t.MaxIdleConnsPerHost = 64
	t.IdleConnTimeout = 2 * time.Second // well before servers close idle connections under our feet
	return &wire{env: env, http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// toward gives clients of their own for another gateway, with the same view of
// when the run began.
func (w *wire) toward(env Env) *wire {
	other := newWire(env)
	w.mu.Lock()
	defer w.mu.Unlock()
	other.offsets = w.offsets
	return other
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.http.CloseIdleConnections()
	if w.dm != nil {
		_ = w.dm.Close() // nothing is in flight any more
	}
	if w.kafka != nil {
		w.kafka.Close()
	}
	if w.redis != nil {
		_ = w.redis.Close() // likewise
	}
}

// mark notes where every topic ends now: consume and the invariants look at
// what this run adds.
func (w *wire) mark(ctx context.Context) {
	if w.env.Kafka == "" {
		return
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cl, err := w.broker()
	if err != nil {
		return // the first step that needs Kafka says so
	}
	ends, err := kadm.NewClient(cl).ListEndOffsets(limited)
	if err != nil {
		return
	}
	w.mu.Lock()
	w.offsets = ends
	w.mu.Unlock()
}

// began gives the offset of a partition when the run began; 0 for later ones.
func (w *wire) began(topic string, partition int32) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.offsets.Lookup(topic, partition)
	if !ok || o.Err != nil {
		return 0
	}
	return o.Offset
}

func (w *wire) gateway() (string, error) {
	if w.env.Gateway == "" {
		return "", errors.New("the run has no gateway address; add gateway to needs")
	}
	return baseURL(w.env.Gateway), nil
}

func (w *wire) dmHTTP() (string, error) {
	if w.env.DagManagerHTTP == "" {
		return "", errors.New("the run has no HTTP address of the DAG Manager; add dagmanager-http to needs")
	}
	return baseURL(w.env.DagManagerHTTP), nil
}

func baseURL(address string) string {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	return strings.TrimRight(address, "/")
}

// dagManager gives the one gRPC connection of the run.
func (w *wire) dagManager() (*grpc.ClientConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dm != nil {
		return w.dm, nil
	}
	if w.env.DagManager == "" {
		return nil, errors.New("the run has no gRPC address of the DAG Manager; add dagmanager to needs")
	}
	var err error
	w.dm, err = grpc.NewClient("passthrough:///"+w.env.DagManager,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	return w.dm, err
}

// broker gives the one Kafka client that produces and asks; listings must not
// come from its cache, so that is kept for a moment only. Consumers have
// their own.
func (w *wire) broker() (*kgo.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kafka != nil {
		return w.kafka, nil
	}
	seeds, err := w.seeds()
	if err != nil {
		return nil, err
	}
	w.kafka, err = w.client(seeds, kgo.AllowAutoTopicCreation(), kgo.MetadataMinAge(10*time.Millisecond), kgo.ProducerLinger(0), kgo.RecordRetries(5), kgo.RecordDeliveryTimeout(10*time.Second))
	return w.kafka, err
}

// client makes a Kafka client that reaches the broker whatever the SUT sees.
func (w *wire) client(seeds []string, opts ...kgo.Opt) (*kgo.Client, error) {
	opts = append(opts, kgo.SeedBrokers(seeds...))
	if w.env.Dial != nil {
		opts = append(opts, kgo.Dialer(w.env.Dial))
	}
	return kgo.NewClient(opts...)
}

func (w *wire) seeds() ([]string, error) {
	if w.env.Kafka == "" {
		return nil, errors.New("the run has no Kafka address; add kafka to needs")
	}
	return strings.Split(w.env.Kafka, ","), nil
}

// store gives the one Redis client.
func (w *wire) store() (*redis.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.redis != nil {
		return w.redis, nil
	}
	if w.env.Redis == "" {
		return nil, errors.New("the run has no Redis address; add redis to needs")
	}
	o := &redis.Options{Addr: w.env.Redis}
	if strings.Contains(w.env.Redis, "://") {
		var err error
		if o, err = redis.ParseURL(w.env.Redis); err != nil {
			return nil, err
		}
	}
	if w.env.Dial != nil {
		o.Dialer = w.env.Dial
	}
	w.redis = redis.NewClient(o)
	return w.redis, nil
}

// topic gives the name on this broker of one of the control plane's own
// topics; any other name is meant as it stands.
func (w *wire) topic(name string) string {
	switch name {
	case "gateway.ingest":
		return w.env.CommitLogTopic
	case "activation", "policy", "queue", "sentinel_weight", "rebalancing_planned", "control.activation.ack":
		return w.env.TopicPrefix + name
	}
	return name
}
