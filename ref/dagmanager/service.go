package dagmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/ref/internal/tracing"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Config is what a DAG Manager can be told by file, environment or flag.
type Config struct {
	Listen, HTTPListen string
	Kafka              topics.AdminSession // without brokers: topics in memory
	ControlBus         topics.AdminSession // without brokers: no events
	QueueTopic         string
	Graph              string // file; "" means an empty graph
	Namespaces         bool
	MaxRequest         int    // bytes
	Traces             string // where they go; "" means none

	Neo4j  nodestore.Neo4jOptions // without a URL: the graph is in memory
	Topics topics.Options
	Stream stream.Options
	GC     gcConfig
	Jobs   jobsConfig
}

// streamWorkers serve calls one after the other, each on a stack that has grown
// already; a goroutine a call would grow its own each time. More calls at once
// get goroutines of their own, so the number bounds nothing.
const streamWorkers = 64

func (c *Config) flags(fs *service.FlagSet) {
	fs.StringVar(&c.Listen, "listen", "127.0.0.1:0", "`HOST:PORT` of the gRPC interface; port 0 chooses one")
	fs.StringVar(&c.HTTPListen, "http-listen", "127.0.0.1:0", "`HOST:PORT` of /status; port 0 chooses one")
	c.Kafka.Flags(fs, "kafka", "Kafka, or a comma list; empty: topics in memory")
	c.Kafka.PatienceFlags(fs, "kafka")
	c.ControlBus.Flags(fs, "controlbus", "the ControlBus's Kafka, or a comma list; empty: no events")
	fs.StringVar(&c.QueueTopic, "controlbus-queue-topic", contract.QueueTopic, "`topic` of queue events")
	fs.StringVar(&c.Graph, "memory-repo", "", "`FILE` with a graph in node-link JSON to begin with; it is never written")
	neo4jFlags(fs, &c.Neo4j)
	fs.IntVar(&c.Neo4j.Cache, "neo4j-cache", 20000, "most `nodes` of the graph database that are remembered; 0: none")
	fs.DurationVar(&c.Neo4j.CacheAge, "neo4j-cache-age", time.Minute, "how `long` what is remembered of a node counts")
	fs.StringVar(&c.Traces, tracing.Flag, "", tracing.Help)
	fs.BoolVar(&c.Namespaces, "topic-namespaces", true, "prefix topics with the world and domain that a DAG names")
	fs.IntVar(&c.MaxRequest, "max-request", 4<<20, "largest request in `bytes`; what exceeds it is RESOURCE_EXHAUSTED")
	fs.IntVar(&c.Topics.Replication, "replication", 0, "replication `factor` of every topic; 0: as the topic's kind wants; a single broker needs 1")
	fs.DurationVar(&c.Topics.RefreshAge, "topic-refresh", time.Minute, "how `often` the list of topics is renewed")
	fs.DurationVar(&c.Topics.HalfOpen, "breaker-open", time.Second, "how `long` an open breaker waits before it tries again")
	fs.DurationVar(&c.Stream.AckTimeout, "ack-timeout", 30*time.Second, "how `long` a client may take to acknowledge a chunk")
	fs.DurationVar(&c.Stream.Replay, "ack-replay", time.Second, "how `often` unacknowledged chunks are sent again")
	fs.IntVar(&c.Stream.MaxStreams, "max-streams", 10000, "most diffs at a `time`")
	fs.Int64Var(&c.Stream.MaxBytes, "max-stream-bytes", 256<<20, "most `bytes` of answers that wait for acknowledgements; one more is RESOURCE_EXHAUSTED")
	c.GC.flags(fs)
	c.Jobs.flags(fs)
}

// keys are the names of the contract (dagmanager.md 8.2) where they are not
// the flags' own.
var keys = map[string]service.Key{
	"neo4j_dsn":              {Flag: "neo4j"},
	"memory_repo_path":       {Flag: "memory-repo"},
	"kafka_dsn":              {Flag: "kafka"},
	"controlbus_dsn":         {Flag: "controlbus"},
	"enable_topic_namespace": {Flag: "topic-namespaces"},
	"grpc_host":              {Flag: "listen", As: service.Host},
	"grpc_port":              {Flag: "listen", As: service.Port},
	"http_host":              {Flag: "http-listen", As: service.Host},
	"http_port":              {Flag: "http-listen", As: service.Port},
	"gc_interval_seconds":    {Flag: "gc-interval"},
	"gc_archive_bucket":      {Flag: "gc-archive"},
}

// check gives every mistake.
func (c *Config) check() []error {
	errs := []error{service.CheckAddr("listen", c.Listen), service.CheckAddr("http-listen", c.HTTPListen)}
	errs = slices.Concat(errs, c.Kafka.Check("kafka"), c.ControlBus.Check("controlbus"), c.GC.check(), c.Jobs.check(c))
	if err := contract.CheckTopicName(c.QueueTopic); err != nil {
		errs = append(errs, service.Wrong("controlbus-queue-topic", "%s", err))
	}
	if err := tracing.Check(c.Traces); err != nil {
		errs = append(errs, service.Wrong(tracing.Flag, "%q: %v", c.Traces, err))
	}
	if c.Topics.Replication < 0 || c.Topics.Replication > maxReplication {
		errs = append(errs, service.Wrong("replication", "%d: want 0 to %d", c.Topics.Replication, maxReplication))
	}
	return slices.Concat(errs, c.checkGraph(), c.checkLimits())
}

const maxReplication = 1<<15 - 1

func (c *Config) checkLimits() (errs []error) {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"kafka-timeout", c.Kafka.Timeout}, {"topic-refresh", c.Topics.RefreshAge}, {"breaker-open", c.Topics.HalfOpen},
		{"ack-timeout", c.Stream.AckTimeout}, {"ack-replay", c.Stream.Replay},
		{"neo4j-timeout", c.Neo4j.Timeout}, {"neo4j-retry", c.Neo4j.Retry}, {"neo4j-cache-age", c.Neo4j.CacheAge},
	} {
		if f.d < time.Millisecond {
			errs = append(errs, service.Wrong(f.name, "%s: want at least 1ms", f.d))
		}
	}
	for _, f := range []struct {
		name string
		n    int
	}{{"max-request", c.MaxRequest}, {"max-streams", c.Stream.MaxStreams}, {"max-stream-bytes", int(c.Stream.MaxBytes)}} {
		if f.n < 1 {
			errs = append(errs, service.Wrong(f.name, "%d: want at least 1", f.n))
		}
	}
	return errs
}

// Spec describes the DAG Manager as a service.
func Spec() service.Spec {
	var c Config
	return service.Spec{Name: "dagmanager", About: commandsHelp(), Flags: c.flags, Keys: keys, Check: c.check,
		Env: map[string]string{tracing.Env: tracing.Flag}, Beside: []string{"gateway", "worldservice", "telemetry"}, Production: []string{"neo4j", "kafka", "controlbus", "controlbus-queue-topic"},
		Start: func(ctx context.Context, rt *service.Runtime) error { return start(ctx, rt, c) }}
}

// outboxGrace is how long events may take to leave once a stop began.
const outboxGrace = 2 * time.Second

// start opens what c names and serves. A broker that does not answer yet is no
// reason not to: requests that need it say so.
func start(ctx context.Context, rt *service.Runtime, c Config) error {
	m := newMetrics(rt.Metrics, rt.Log)
	traces, err := tracing.Open(rt.Life(), "dagmanager", c.Traces, rt.Log)
	if err != nil {
		return err
	}
	rt.OnStop("traces", traces.Close)
	store, err := openStore(ctx, rt, c)
	if err != nil {
		return err
	}
	session, kafka, err := openTopics(rt, c, m)
	if err != nil {
		return err
	}
	c.Stream.OnReplay = func(n int) { m.replays.Add(float64(n)) }
	s := &server{
		store: store, stages: newStages(rt.Metrics, traces), streams: stream.NewRegistry(c.Stream),
		metrics: m, namespaces: c.Namespaces, log: rt.Log, tokens: newTokens(),
	}
	s.topics = timedTopics{session, s.stages}
	s.nodes = timedNodes{store, s.stages}
	if c.Neo4j.URL != "" {
		s.nodes = timedNodes{nodestore.Gather(store), s.stages}
	}
	if s.outbox, err = openBus(rt, c, store, m, traces); err != nil {
		return err
	}
	rt.Metrics.MustRegister(
		gaugeFunc("dagmanager_streams_open", "Diffs that are being streamed.", func() float64 { return float64(s.streams.Open()) }),
		gaugeFunc("dagmanager_topics_known", "Topics in the view of the broker.", func() float64 { return float64(session.Count()) }),
	)
	if err := s.openJobs(rt, c, session, kafka); err != nil {
		return err
	}
	if err := rt.ServeHTTP("http", c.HTTPListen, s.httpHandler()); err != nil {
		return err
	}
	return serveGRPC(rt, c, s)
}

// openTopics opens the session with the broker that c names; kafka is nil for
// topics in memory.
func openTopics(rt *service.Runtime, c Config, m *metrics) (session *topics.Session, kafka *topics.Kafka, err error) {
	c.Topics.Log, c.Topics.OnOpen, c.Topics.Timeout = rt.Log, m.breakerOpen.Inc, c.Kafka.Timeout
	c.Topics.Observe = m.kafkaAdmin(rt.Log)
	if c.Kafka.Brokers == "" {
		return topics.NewSession(topics.NewMemory(), c.Topics), nil, nil
	}
	kafka, end, err := c.Kafka.Open()
	if err != nil {
		return nil, nil, err
	}
	rt.OnStop("kafka client", func(context.Context) error { end(); return nil })
	session = topics.NewSession(kafka, c.Topics)
	rt.Go("topic view", func(ctx context.Context) error { session.Run(ctx); return nil })
	return session, kafka, nil
}

// openBus opens the outbox to the ControlBus that c names; nil without one.
func openBus(rt *service.Runtime, c Config, store queueFinder, m *metrics, traces *tracing.Tracer) (*outbox, error) {
	if c.ControlBus.Brokers == "" {
		return nil, nil
	}
	opts, err := c.ControlBus.Options()
	if err != nil {
		return nil, fmt.Errorf("controlbus %s: %w", c.ControlBus.Brokers, err)
	}
	client, err := kgo.NewClient(slices.Concat(opts, busOptions(), traces.Kafka())...)
	if err != nil {
		return nil, fmt.Errorf("controlbus %s: %w", c.ControlBus.Brokers, err)
	}
	bus := &kafkaBus{client: client, topics: []string{c.QueueTopic, contract.SentinelWeightTopic}, log: rt.Log}
	o := newOutbox(bus.publish, store, c.QueueTopic, m, rt.Log)
	rt.Metrics.MustRegister(gaugeFunc("dagmanager_events_waiting", "Events in the outbox.", o.waiting))
	life, end := context.WithCancel(context.WithoutCancel(rt.Life()))
	gone := make(chan struct{})
	rt.Go("outbox", func(context.Context) error {
		defer close(gone)
		defer client.Close()
		o.run(life, outboxGrace)
		return nil
	})
	// Undone after the gRPC server, whose last diffs still have news.
	rt.OnStop("outbox", func(context.Context) error { end(); <-gone; return nil })
	return o, nil
}

// serveGRPC listens and serves until the stop, which lets diffs in flight end.
func serveGRPC(rt *service.Runtime, c Config, s *server) error {
	l, err := rt.Listen("grpc", c.Listen)
	if err != nil {
		return err
	}
	g := grpc.NewServer(append(s.stages.traces.Serve(),
		grpc.Creds(transport(rt.TLS, rt.Log)),
		grpc.MaxRecvMsgSize(c.MaxRequest),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ChainUnaryInterceptor(s.metrics.unary),
		grpc.ChainStreamInterceptor(s.metrics.stream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)...)
	s.register(g)
	state := health.NewServer()
	healthpb.RegisterHealthServer(g, state)
	reflection.Register(g)
	rt.OnStop("grpc server", func(ctx context.Context) error {
		state.Shutdown()
		stopGRPC(ctx, g)
		s.streams.Wait()
		return nil
	})
	rt.Go("grpc server", func(context.Context) error {
		if err := g.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	return nil
}

// stopGRPC waits for calls in flight as long as ctx allows, less what the outbox
// needs afterwards, then cuts them off.
func stopGRPC(ctx context.Context, g *grpc.Server) {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(left/2, left-outboxGrace-time.Second))
		defer cancel()
	}
	done := make(chan struct{})
	go func() { g.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		g.Stop()
		<-done
	}
}
