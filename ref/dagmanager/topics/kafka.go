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
	hint   func(error) string // what may be set wrongly when the broker is not reached
}

// NewKafka wraps a client, which stays the caller's and which brings addresses,
// security and retry settings. See AdminSession.
func NewKafka(client *kgo.Client) *Kafka {
	return &Kafka{client: client, admin: kadm.NewClient(client), hint: AdminSession{}.hint}
}

// List implements Broker.
func (k *Kafka) List(ctx context.Context) (map[string]Shape, error) {
	all, err := k.admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, k.failure("list topics", err)
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
		return nil, k.failure("describe topics", err)
	}
	configs, err := k.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, k.failure("describe topic configurations", err)
	}
	out := make(map[string]Shape, len(names))
	for name, t := range details {
		if t.Err != nil {
			continue
		}
		s := shapeOf(t)
		s.Config, s.Own = entriesOf(configs, name)
		out[name] = s
	}
	return out, nil
}

// entriesOf leaves out what the broker would not tell, and says whether the
// retention was set for the topic.
func entriesOf(all kadm.ResourceConfigs, name string) (entries map[string]string, own bool) {
	entries = map[string]string{}
	found, err := all.On(name, nil)
	if err != nil || found.Err != nil {
		return entries, false
	}
	for _, c := range found.Configs {
		if c.Value != nil {
			entries[c.Key] = *c.Value
		}
		own = own || c.Key == retentionKey && c.Source == kmsg.ConfigSourceDynamicTopicConfig
	}
	return entries, own
}

// Extents implements Broker. A topic one of whose partitions does not answer is
// left out.
func (k *Kafka) Extents(ctx context.Context, names ...string) (map[string]Extent, error) {
	if len(names) == 0 {
		all, err := k.admin.ListTopics(ctx)
		if err != nil {
			return nil, k.failure("list topics", err)
		}
		if names = all.Names(); len(names) == 0 {
			return map[string]Extent{}, nil
		}
	}
	first, err := k.admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, k.failure("list first offsets", err)
	}
	last, err := k.admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, k.failure("list last offsets", err)
	}
	out := make(map[string]Extent, len(names))
	for _, name := range names {
		if e, whole := extentOf(first[name], last[name]); whole {
			out[name] = e
		}
	}
	return out, nil
}

// Lag returns by how many records consumer groups are behind, for each topic
// that they committed offsets of: of several groups the one that is furthest.
func (k *Kafka) Lag(ctx context.Context, groups ...string) (map[string]int64, error) {
	lag := map[string]int64{}
	for _, group := range groups {
		committed, err := k.admin.FetchOffsets(ctx, group)
		if err != nil {
			return nil, k.failure("offsets of group "+group, err)
		}
		topics := committed.Offsets().TopicsSet().Topics()
		if len(topics) == 0 {
			continue
		}
		last, err := k.admin.ListEndOffsets(ctx, topics...)
		if err != nil {
			return nil, k.failure("list last offsets", err)
		}
		for topic, parts := range committed {
			lag[topic] = max(lag[topic], behind(parts, last[topic]))
		}
	}
	return lag, nil
}

func behind(committed map[int32]kadm.OffsetResponse, last map[int32]kadm.ListedOffset) (records int64) {
	for p, end := range last {
		if at, there := committed[p]; there && end.Err == nil && at.Err == nil {
			records += max(0, end.Offset-max(0, at.At))
		}
	}
	return records
}

func extentOf(first, last map[int32]kadm.ListedOffset) (e Extent, whole bool) {
	for p, end := range last {
		begin, there := first[p]
		if end.Err != nil || !there || begin.Err != nil {
			return e, false
		}
		e.Written += end.Offset
		e.Held += max(0, end.Offset-begin.Offset)
	}
	return e, len(last) > 0
}

// Delete implements Broker.
func (k *Kafka) Delete(ctx context.Context, names []string) ([]error, error) {
	done, err := k.admin.DeleteTopics(ctx, names...)
	if err != nil {
		return nil, k.failure("delete topics", err)
	}
	errs := make([]error, len(names))
	for i, name := range names {
		err := done[name].Err
		if !errors.Is(err, kerr.UnknownTopicOrPartition) {
			errs[i] = verdictOf(Spec{Name: name}, err)
		}
	}
	return errs, nil
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
		return nil, k.failure("create topics", err)
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
func (k *Kafka) failure(what string, err error) error {
	kind := ErrUnavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		kind = ErrTimeout
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		kind = ErrLogin
	}
	return fmt.Errorf("%s: %w: %w%s", what, kind, err, k.hint(err))
}
