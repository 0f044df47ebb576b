package topics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"qmtl.internal/plumbline/scenarios/contract"
)

// Kafka is a broker that speaks Kafka's protocol.
type Kafka struct {
	client *kgo.Client
	admin  *kadm.Client
}

// NewKafka wraps a client, which stays the caller's and which brings addresses,
// security and retry settings. See AdminOptions.
func NewKafka(client *kgo.Client) *Kafka {
	return &Kafka{client: client, admin: kadm.NewClient(client)}
}

// AdminOptions are the settings of a client for NewKafka: it fails within
// timeout rather than retrying for long, since the session's breaker and its
// callers decide about going on.
func AdminOptions(seeds []string, timeout time.Duration) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.DialTimeout(min(timeout, 2*time.Second)),
		kgo.RetryTimeout(timeout / 2),
		kgo.RequestRetries(4),
		kgo.RequestTimeoutOverhead(timeout),
		kgo.MetadataMinAge(10 * time.Millisecond), // else what it said last of a topic is repeated for 5 s
	}
}

// List implements Broker.
func (k *Kafka) List(ctx context.Context) (map[string]Shape, error) {
	all, err := k.admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, failure("list topics", err)
	}
	out := make(map[string]Shape, len(all))
	for name, t := range all {
		if t.Err == nil {
			out[name] = shapeOf(t)
		}
	}
	return out, nil
}

func shapeOf(t kadm.TopicDetail) Shape {
	return Shape{Partitions: len(t.Partitions), Replication: t.Partitions.NumReplicas()}
}

// Describe implements Broker.
func (k *Kafka) Describe(ctx context.Context, names []string) (map[string]Shape, error) {
	details, err := k.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, failure("describe topics", err)
	}
	configs, err := k.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, failure("describe topic configurations", err)
	}
	out := make(map[string]Shape, len(names))
	for name, t := range details {
		if t.Err != nil {
			continue
		}
		s := shapeOf(t)
		s.Config = entriesOf(configs, name)
		out[name] = s
	}
	return out, nil
}

// entriesOf leaves out what the broker would not tell.
func entriesOf(all kadm.ResourceConfigs, name string) map[string]string {
	entries := map[string]string{}
	found, err := all.On(name, nil)
	if err != nil || found.Err != nil {
		return entries
	}
	for _, c := range found.Configs {
		if c.Value != nil {
			entries[c.Key] = *c.Value
		}
	}
	return entries
}

// Create implements Broker.
func (k *Kafka) Create(ctx context.Context, specs []Spec) ([]error, error) {
	errs := make([]error, len(specs))
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = millisLeft(ctx)
	place := make(map[string]int, len(specs))
	for i, s := range specs {
		if err := contract.CheckTopicName(s.Name); err != nil {
			errs[i] = &NameError{err}
			continue
		}
		req.Topics = append(req.Topics, request(s))
		place[s.Name] = i
	}
	if len(place) == 0 {
		return errs, nil
	}
	resp, err := req.RequestWith(ctx, k.client)
	if err != nil {
		return nil, failure("create topics", err)
	}
	for _, i := range place {
		errs[i] = verdictOf(specs[i], kerr.UnknownServerError) // until the answer says better
	}
	for _, t := range resp.Topics {
		if i, asked := place[t.Topic]; asked {
			errs[i] = verdictOf(specs[i], kerr.ErrorForCode(t.ErrorCode))
		}
	}
	return errs, nil
}

func request(s Spec) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic = s.Name
	t.NumPartitions = int32(s.Partitions)
	t.ReplicationFactor = int16(s.Replication)
	for key, value := range s.Entries() {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = key, &value
		t.Configs = append(t.Configs, c)
	}
	return t
}

// millisLeft tells the broker how long anybody waits for its answer.
func millisLeft(ctx context.Context) int32 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return math.MaxInt32
	}
	return int32(min(max(time.Until(deadline).Milliseconds(), 1), math.MaxInt32))
}

// verdictOf says what a broker's answer about one topic means.
func verdictOf(s Spec, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.TopicAlreadyExists):
		return ErrExists
	case errors.Is(err, kerr.InvalidTopicException):
		return &NameError{fmt.Errorf("topic %s: %w", s.Name, err)}
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return &RefusedError{s.Name, fmt.Sprintf("it wants %d replicas; with fewer brokers set --replication", s.Replication), err}
	case kerr.IsRetriable(err):
		return &BusyError{s.Name, err}
	default:
		return &RefusedError{Topic: s.Name, Err: err}
	}
}

// failure sorts the error of a whole request.
func failure(what string, err error) error {
	kind := ErrUnavailable
	if errors.Is(err, context.DeadlineExceeded) {
		kind = ErrTimeout
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}
