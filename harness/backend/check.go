package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// CheckKafka makes a topic of its own at addr, produces one record with
// acks=all, consumes it and deletes the topic: nothing less proves that a
// broker serves. It gives up when ctx ends.
func CheckKafka(ctx context.Context, addr, runID string) (err error) {
	// A name never used before: a client may remember a topic that is gone.
	topic := fmt.Sprintf("plumbline.check.%s.%d", nameOr(runID, "run"), time.Now().UnixNano())
	defer func() { err = explain(ctx, "kafka "+addr, err) }()
	if err := dial(ctx, addr); err != nil {
		return err
	}
	cl, err := kafkaClient(addr)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := createTopics(ctx, cl, topic); err != nil {
		return err
	}
	return errors.Join(echo(ctx, addr, topic), deleteTopics(context.WithoutCancel(ctx), cl, topic))
}

// dial tells at once, and without the retries of a client, that nobody listens.
func dial(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

func kafkaClient(addr string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(addr),
		kgo.DialTimeout(2 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond), // a partition without a leader yet is asked for soon
	}, opts...)...)
}

func echo(ctx context.Context, addr, topic string) error {
	cl, err := kafkaClient(addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().AtStart()},
	}))
	if err != nil {
		return err
	}
	defer cl.Close()
	record := &kgo.Record{Topic: topic, Partition: 0, Value: []byte("plumbline")}
	if err := cl.ProduceSync(ctx, record).FirstErr(); err != nil {
		return fmt.Errorf("produce to %s: %w", topic, err)
	}
	fetched := cl.PollRecords(ctx, 1)
	if err := fetched.Err0(); err != nil {
		return fmt.Errorf("consume from %s: %w", topic, err)
	}
	if fetched.NumRecords() == 0 {
		return fmt.Errorf("consume from %s: the produced record did not come back: %v", topic, fetched.Errors())
	}
	return nil
}

// createTopics makes topics of one partition; one that exists already is fine.
func createTopics(ctx context.Context, cl *kgo.Client, topics ...string) error {
	made, err := kadm.NewClient(cl).CreateTopics(ctx, 1, -1, nil, topics...)
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	var errs []error
	for _, t := range made.Sorted() {
		if t.Err != nil && !errors.Is(t.Err, kerr.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("create topic %s: %w", t.Topic, t.Err))
		}
	}
	return errors.Join(errs...)
}

func deleteTopics(ctx context.Context, cl *kgo.Client, topics ...string) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	gone, err := kadm.NewClient(cl).DeleteTopics(ctx, topics...)
	if err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	var errs []error
	for _, t := range gone.Sorted() {
		if t.Err != nil && !errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("delete topic %s: %w", t.Topic, t.Err))
		}
	}
	return errors.Join(errs...)
}

// CreateControlTopics makes the control topics at addr, each behind prefix.
func CreateControlTopics(ctx context.Context, addr, prefix string) (err error) {
	defer func() { err = explain(ctx, "kafka "+addr, err) }()
	cl, err := kafkaClient(addr)
	if err != nil {
		return err
	}
	defer cl.Close()
	return createTopics(ctx, cl, prefixed(prefix)...)
}

func prefixed(prefix string) []string {
	topics := ControlTopics()
	for i := range topics {
		topics[i] = prefix + topics[i]
	}
	return topics
}

// CheckRedis sets a key of its own at addr, reads it back and deletes it. It
// gives up when ctx ends.
func CheckRedis(ctx context.Context, addr, runID string) (err error) {
	defer func() { err = explain(ctx, "redis "+addr, err) }()
	if err := dial(ctx, addr); err != nil {
		return err
	}
	cl := redisClient(addr)
	defer cl.Close()
	key := "plumbline:check:" + nameOr(runID, "run")
	if err := cl.Set(ctx, key, "1", time.Minute).Err(); err != nil {
		return fmt.Errorf("SET: %w", err)
	}
	got, err := cl.GetDel(ctx, key).Result()
	if err != nil {
		return fmt.Errorf("GETDEL: %w", err)
	}
	if got != "1" {
		return fmt.Errorf("GETDEL: got %q, want what was set", got)
	}
	return nil
}

func redisClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, DialTimeout: 2 * time.Second, MaxRetries: -1, ContextTimeoutEnabled: true,
		DisableIdentity: true,
	})
}

func nameOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// explain turns the errors of a server that is not there into one line that
// says how to mend it.
func explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	var netErr *net.OpError
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: no port is left to connect from (%w); end what holds them (ss -s), or widen net.ipv4.ip_local_port_range", what, syscall.EADDRNOTAVAIL)
	case errors.As(err, &netErr) && netErr.Op == "dial":
		return fmt.Errorf("%s: nothing answers there (%w); start it, or give another address", what, netErr.Err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no answer in time (%w: %s); look whether the server is up and reachable, and advertises this address",
			what, context.Cause(ctx), oneLine(err))
	}
	return fmt.Errorf("%s: %w", what, err)
}

func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
