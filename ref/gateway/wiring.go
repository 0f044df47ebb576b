package gateway

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	grpccreds "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/ref/gateway/controlbus"
	"qmtl.internal/plumbline/ref/gateway/degrade"
	"qmtl.internal/plumbline/ref/gateway/fills"
	"qmtl.internal/plumbline/ref/gateway/health"
	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/openapi"
	"qmtl.internal/plumbline/ref/gateway/rebalance"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/gateway/world"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/ref/internal/tracing"
)

// Spec is the gateway as a service.
func Spec() service.Spec {
	var c Config
	return service.Spec{
		Name:       "gateway",
		Flags:      c.flags,
		Keys:       keys,
		Env:        map[string]string{"QMTL_FILL_SECRET": "fill-secret", tracing.Env: tracing.Flag},
		Beside:     []string{"dagmanager", "worldservice", "telemetry"},
		Production: []string{"redis", "kafka", "controlbus-topics", "commitlog-topic"},
		Check:      c.check,
		Start:      func(ctx context.Context, rt *service.Runtime) error { return start(rt, &c) },
	}
}

// start wires a gateway. No dependency has to be up: each heals by itself, and
// /health tells.
func start(rt *service.Runtime, c *Config) error {
	traces, err := tracing.Open(rt.Life(), "gateway", c.Traces, rt.Log)
	if err != nil {
		return err
	}
	rt.OnStop("traces", traces.Close)
	rdb, conn, producer, err := openClients(rt, c, traces)
	if err != nil {
		return err
	}
	commitLog := openCommitLog(c, producer)
	events, err := openHub(rt, c)
	if err != nil {
		return err
	}
	if err := followControlBus(rt, c, events); err != nil {
		return err
	}
	worlds, err := openWorldService(rt, c)
	if err != nil {
		return err
	}
	registry := submit.NewRegistry(rdb, c.Plan)
	manager := submit.NewDagManager(conn, c.BreakerOpen, rt.Metrics)
	tokens, err := openKeys(c)
	if err != nil {
		return err
	}
	trades := newPretrade(rt.Metrics)
	stream, err := openStream(c, events, tokens, snapshots{manager, worlds}, trades.subscribed)
	if err != nil {
		return err
	}
	worker := submit.StartWorker(c.Workers, registry, manager, notifier(events), rt.Metrics, rt.Log)
	rt.OnStop("worker", worker.Close)
	limits := submit.DefaultLimits()
	limits.Diff, limits.DryRun, limits.Lookups = c.DiffLimit, c.DryRunLimit, c.LookupLimit
	monitor := health.NewMonitor(health.Collectors{
		Redis:        health.Probe(registry.Alive),
		Postgres:     health.Fixed(health.OK), // the strategies' database is this process's memory
		DagManager:   health.Probe(twice(manager.Healthy)),
		WorldService: worldCollector(worlds),
	}, c.Capabilities, health.ProbeLimit, health.CacheFor)
	level := openDegradation(rt, c, monitor, registry)
	doors := newAdmission(c.Places, c.Waiting, c.WaitLimit, rt.Metrics)
	g := &Gateway{
		rooms:   newRooms(),
		log:     rt.Log,
		metrics: rt.Metrics,
		events:  events,
		stream:  stream,
		doors:   doors,
		others:  doors.beside(),
		maxBody: c.MaxBody,
		guard:   !c.AllowLive,
		fills:   openFills(rt, c, tokens, producer),
		orders:  openRebalancing(rt, c, worlds, commitLog),
		proxy: &world.Proxy{
			Client: worlds, Guard: !c.AllowLive, Version: int64(c.Capabilities.RebalanceSchemaVersion), MaxBody: c.MaxBody,
		},
		pipeline: &submit.Pipeline{
			Contexts: contexts(worlds), Bindings: bindings(worlds), Registry: registry, CommitLog: commitLog, DagManager: manager, Worker: worker,
			Metrics: submit.NewMetrics(rt.Metrics), Traces: traces, Limits: limits, Hold: level.Hold, NoSentinel: c.NoSentinel, Log: rt.Log, Now: time.Now,
		},
		monitor: monitor,
		trades:  trades,
		level:   level,
	}
	if g.document, err = openapi.Document(); err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	return rt.ServeHTTP("http", c.Listen, traces.Handler(g.Handler()))
}

// openClients gives the clients of what a submission goes through; producer is nil
// without Kafka.
func openClients(rt *service.Runtime, c *Config, traces *tracing.Tracer) (rdb *redis.Client, conn *grpc.ClientConn, producer *kgo.Client, err error) {
	if rdb, err = openRedis(rt, c); err != nil {
		return nil, nil, nil, err
	}
	if conn, err = openDagManager(rt, c, traces); err != nil {
		return nil, nil, nil, err
	}
	producer, err = openProducer(rt, c, traces)
	return rdb, conn, producer, err
}

// openDegradation looks at health while the service lives.
func openDegradation(rt *service.Runtime, c *Config, monitor *health.Monitor, registry *submit.Registry) *degrade.Driver {
	cfg := degrade.Config{Ask: monitor.Fresh, Every: c.DegradeEvery, Queue: registry, Metrics: rt.Metrics, Log: rt.Log}
	if c.DegradeBusy {
		cfg.Busy = degrade.Busy()
	}
	driver := degrade.New(cfg)
	rt.Go("degradation", driver.Run)
	return driver
}

// openWorldService gives nil when there is none.
func openWorldService(rt *service.Runtime, c *Config) (*world.Client, error) {
	if c.WorldService == "" || c.NoWorldService {
		return nil, nil
	}
	client, err := world.New(world.Config{
		URL: c.WorldService, Timeout: c.WorldServiceTimeout, Attempts: c.WorldServiceRetries + 1, BreakerOpen: c.BreakerOpen,
		Metrics: rt.Metrics, Log: rt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("--worldservice-url: %w", err)
	}
	rt.OnStop("worldservice client", func(context.Context) error { client.Close(); return nil })
	return client, nil
}

func contexts(worlds *world.Client) submit.Contexts {
	if worlds == nil {
		return submit.NoWorldService
	}
	return worlds.Context
}

func bindings(worlds *world.Client) submit.Bindings {
	if worlds == nil {
		return nil
	}
	return worlds.Bind
}

func worldCollector(worlds *world.Client) health.Collector {
	if worlds == nil {
		return health.Fixed(health.Unknown)
	}
	return health.Breaker(worlds.Open)
}

// twice asks again after a short pause when the first answer is bad.
func twice(ask func(context.Context) (bool, error)) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		if ok, err := ask(ctx); ok && err == nil {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(healthEvery):
			return ask(ctx)
		}
	}
}

// openHub makes the WebSocket hub; it ends its clients at the stop.
func openHub(rt *service.Runtime, c *Config) (*hub.Hub, error) {
	h, err := hub.New(hub.Config{Log: rt.Log, Metrics: rt.Metrics, RatePerSec: c.WebSocketRate})
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	rt.OnStop("websocket clients", h.Close)
	return h, nil
}

// followControlBus relays the bus to the hub while the service lives; brokers
// that are away are waited for. Without brokers or topics there is no bus.
func followControlBus(rt *service.Runtime, c *Config, events *hub.Hub) error {
	topics := list(c.ControlBusTopics)
	if c.Kafka == "" || len(topics) == 0 {
		return nil
	}
	consumer, err := controlbus.New(controlbus.Config{
		Brokers: c.seeds(), Topics: topics, Group: c.ControlBusGroup, Metrics: rt.Metrics, Log: rt.Log,
	}, events)
	if err != nil {
		return err
	}
	rt.Go("controlbus", consumer.Run)
	return nil
}

func openRedis(rt *service.Runtime, c *Config) (*redis.Client, error) {
	o, err := c.redisOptions()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	o.PoolSize = c.RedisPool
	o.DialTimeout = time.Second
	o.DialerRetries = 1
	o.ReadTimeout = 2 * time.Second
	o.WriteTimeout = 2 * time.Second
	o.PoolTimeout = 2 * time.Second
	o.MaxRetries = -1 // a repeated RPUSH would queue a strategy twice
	o.ContextTimeoutEnabled = true
	o.DisableIdentity = true
	o.Protocol = 2 // no push messages to look for after each command
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	rdb := redis.NewClient(o)
	rt.OnStop("redis client", func(context.Context) error { return rdb.Close() })
	return rdb, nil
}

// window is how many bytes the DAG Manager may send ahead.
const window = 1 << 20

func openDagManager(rt *service.Runtime, c *Config, traces *tracing.Tracer) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	secured, err := service.ClientTLS(c.DagManagerCA, c.DagManagerCert, c.DagManagerKey)
	if err != nil {
		return nil, fmt.Errorf("dagmanager tls: %w", err)
	}
	if secured != nil {
		transport = grpccreds.NewTLS(secured)
	}
	conn, err := grpc.NewClient("passthrough:///"+c.DagManager, append(traces.Dial(),
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window), // fixed: no pings to measure one
		grpc.WithDisableRetry(), // retried here, with an eye on its health; so no call is kept for it
		grpc.WithConnectParams(grpc.ConnectParams{ // back within a second of the other side
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("dagmanager %s: %w", c.DagManager, err)
	}
	rt.OnStop("dagmanager client", func(context.Context) error { return conn.Close() })
	return conn, nil
}

// openCommitLog gives nil when there is no Kafka.
func openCommitLog(c *Config, producer *kgo.Client) *submit.CommitLog {
	if producer == nil {
		return nil
	}
	return submit.NewCommitLog(producer, c.CommitLogTopic, fingerprint(), c.CommitLogTimeout, c.CommitLogBytes)
}

func openFills(rt *service.Runtime, c *Config, tokens *hub.Keys, producer *kgo.Client) *fills.Handler {
	return fills.New(fills.Config{
		Claims: func(token string, now time.Time) (map[string]any, error) {
			return tokens.Claims(token, fills.Audience, now)
		},
		Secret: c.FillSecret, Producer: producer, Limit: c.CommitLogTimeout, Fingerprint: fingerprint(), MaxBody: c.MaxBody,
		Metrics: rt.Metrics, Log: rt.Log,
	})
}

func openRebalancing(rt *service.Runtime, c *Config, worlds *world.Client, commitLog *submit.CommitLog) *rebalance.Handler {
	e := &rebalance.Executor{
		Worlds: worlds, Version: int64(c.Capabilities.RebalanceSchemaVersion), Alpha: c.Capabilities.AlphaMetricsCapable,
		Account: rebalance.Account{
			Enabled: c.SharedAccount, MaxGross: c.SharedMaxGross.value, MaxNet: c.SharedMaxNet.value, MinHeadroom: c.SharedMinHeadroom.value,
		},
		Metrics: rebalance.NewMetrics(rt.Metrics),
	}
	if commitLog != nil {
		e.Log = commitLog
	}
	return &rebalance.Handler{Executor: e, Guard: !c.AllowLive, MaxBody: c.MaxBody, Logger: rt.Log}
}

// openProducer gives what writes to Kafka, nil when there is none.
func openProducer(rt *service.Runtime, c *Config, traces *tracing.Tracer) (*kgo.Client, error) {
	if c.Kafka == "" {
		return nil, nil
	}
	client, err := kgo.NewClient(append(traces.Kafka(),
		kgo.SeedBrokers(c.seeds()...),
		kgo.ClientID("gateway"),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.AllowAutoTopicCreation(),
		kgo.ProducerLinger(c.CommitLogLinger),
		kgo.ProducerBatchMaxBytes(int32(c.CommitLogBytes)),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedBytes(16<<20),
		kgo.RecordDeliveryTimeout(c.CommitLogTimeout),
		// A record that was given up must not be sent when Kafka is back: its
		// submission was refused. It is never produced again by itself, so the
		// duplicates that this option warns of cannot come about.
		kgo.AllowIdempotentProduceCancellation(),
		kgo.ProduceRequestTimeout(c.CommitLogTimeout),
		kgo.RequestTimeoutOverhead(c.CommitLogTimeout),
		kgo.DialTimeout(time.Second),
		kgo.MetadataMinAge(500*time.Millisecond),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka %s: %w", c.Kafka, err)
	}
	rt.OnStop("kafka producer", func(context.Context) error { client.Close(); return nil })
	return client, nil
}

// fingerprint says what wrote a record.
func fingerprint() string {
	return fmt.Sprintf("go=%s;os=%s-%s;plumbline=1", runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
