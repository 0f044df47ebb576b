package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
)

// Embedded serves Kafka (kfake) and Redis (miniredis) from this process, over
// their real protocols, on 127.0.0.1. There is no graph server: the DAG
// Manager keeps its nodes in memory. Both servers hold what they are given
// until Close: a minute of submissions at 1,000 per second is about 1 GiB of
// records and half as much of keys.
type Embedded struct {
	KafkaPort int // 0: a free one
	RedisPort int // 0: a free one
	// DataDir takes Kafka's records, in a directory of their own that Close
	// removes. It halves the memory of a long run, but making a topic then
	// costs milliseconds once there are thousands. "": records stay in memory.
	DataDir string
}

// segmentBytes keeps kfake's segments small: at its default of 100 MiB the
// growth of one segment stalls the whole server for tens of milliseconds.
const segmentBytes = "1048576"

// embeddedWithin bounds the proof that both serve. They serve at once; without a
// bound a client would try for ever where the machine has no port left.
const embeddedWithin = 20 * time.Second

// Start serves both and proves each with a real operation.
func (e Embedded) Start(ctx context.Context, o Options) (_ *Set, err error) {
	var undo Unwind
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx))
		}
	}()
	kafka, err := e.kafka(o, &undo)
	if err != nil {
		return nil, err
	}
	red, err := e.redis(&undo)
	if err != nil {
		return nil, err
	}
	redisAt, err := o.FrontOf("redis", red.Addr())
	if err != nil {
		return nil, err
	}
	checking, stop := context.WithTimeoutCause(ctx, embeddedWithin, fmt.Errorf("not ready within %s", embeddedWithin))
	defer stop()
	if err := errors.Join(CheckKafka(checking, kafka.advertised, o.RunID), CheckRedis(checking, redisAt, o.RunID)); err != nil {
		return nil, err
	}
	o.Logger().Info("embedded backends serve", "kafka", kafka.advertised, "redis", redisAt)
	set := &Set{
		Kind: KindEmbedded, Reason: "asked for", Kafka: kafka.advertised, Redis: redisAt,
		Versions: map[string]string{
			"kafka": moduleVersion("github.com/twmb/franz-go/pkg/kfake"),
			"redis": moduleVersion("github.com/alicebob/miniredis/v2"),
		},
	}
	return Assemble(set, undo.Run, Faults{
		{Server: "kafka", Name: FaultStop, Apply: kafka.outage},
		{Server: "redis", Name: FaultStop, Apply: func(context.Context) (func(context.Context) error, error) {
			return stopRedis(red, redisAt)
		}},
	}), nil
}

func (e Embedded) kafka(o Options, undo *Unwind) (*gate, error) {
	g := &gate{front: o.FrontOf}
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(e.KafkaPort), kfake.ListenFn(g.listen),
		kfake.DefaultNumPartitions(1), kfake.AllowAutoTopicCreation(),
		kfake.SeedTopics(1, ControlTopics()...),
		kfake.BrokerConfigs(map[string]string{
			"log.segment.bytes":          segmentBytes,
			"default.replication.factor": "1",
		}),
	}
	if e.DataDir != "" {
		dir, err := os.MkdirTemp(e.DataDir, "plumbline-kafka-")
		if err != nil {
			return nil, fmt.Errorf("embedded kafka: %w; give a directory that can be written", err)
		}
		undo.Add(func(context.Context) error { return os.RemoveAll(dir) })
		opts = append(opts, kfake.DataDir(dir))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, listenError("embedded kafka", e.KafkaPort, err)
	}
	undo.Add(func(context.Context) error { cluster.Close(); return nil })
	return g, nil
}

func (e Embedded) redis(undo *Unwind) (*miniredis.Miniredis, error) {
	red := miniredis.NewMiniRedis()
	undo.Add(func(context.Context) error { red.Close(); return nil })
	undo.Add(age(red))
	if err := red.StartAddr(fmt.Sprintf("127.0.0.1:%d", e.RedisPort)); err != nil {
		return nil, listenError("embedded redis", e.RedisPort, err)
	}
	return red, nil
}

// age lets time pass for the keys of miniredis, which expire by themselves
// only when they are told to. Telling them stops the server for a moment, the
// longer the more keys there are, so it is done the more seldom. What it
// returns ends it.
func age(red *miniredis.Miniredis) func(context.Context) error {
	const step, share = 50 * time.Millisecond, 1000 // at most one part in share is spent on it
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		wake := time.NewTimer(step)
		defer wake.Stop()
		for last := time.Now(); ; {
			select {
			case <-wake.C:
				now := time.Now()
				red.FastForward(now.Sub(last))
				last = now
				wake.Reset(max(step, share*time.Since(now)))
			case <-stop:
				return
			}
		}
	}()
	return func(context.Context) error {
		close(stop)
		<-done
		return nil
	}
}

// stopRedis closes the server; its data stays and heal serves it again on the
// same port.
func stopRedis(red *miniredis.Miniredis, advertised string) (func(context.Context) error, error) {
	own := red.Addr()
	red.Close()
	return func(ctx context.Context) error {
		if err := again(ctx, func() error { return red.StartAddr(own) }); err != nil {
			return fmt.Errorf("embedded redis: serve %s again: %w", own, err)
		}
		return CheckRedis(ctx, advertised, "heal")
	}, nil
}

// again listens once more on a port that was given up for a while; somebody
// may just pass through it.
func again(ctx context.Context, listen func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		err := listen()
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return listen()
}

func listenError(what string, port int, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: port %d is in use; stop what listens there, or ask for port 0", what, port)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// moduleVersion of one dependency of this binary; "unknown" in a test binary
// that carries no build information.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Path[lastSlash(m.Path)+1:] + " " + m.Version
		}
	}
	return "unknown"
}

func lastSlash(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}
