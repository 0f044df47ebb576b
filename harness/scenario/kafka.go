package scenario

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// produceAction writes records.
type produceAction struct {
	Topic         string            `json:"topic"`
	Key           *string           `json:"key"`
	KeyBase64     *string           `json:"key_base64"`
	Headers       map[string]string `json:"headers"`
	HeadersBase64 map[string]string `json:"headers_base64"`
	Value         *any              `json:"value"`
	Event         *event            `json:"event"`
	Raw           *string           `json:"raw"`
	RawBase64     *string           `json:"raw_base64"`
	Tombstone     bool              `json:"tombstone"`
	Times         int               `json:"times"`
}

// event is data for a CloudEvents envelope.
type event struct {
	Type   string         `json:"type"`
	Source string         `json:"source"`
	Data   map[string]any `json:"data"`
	Pad    int            `json:"pad_bytes"`
}

func (a produceAction) validate() error {
	values := map[string]bool{"value": a.Value != nil, "event": a.Event != nil, "raw": a.Raw != nil, "raw_base64": a.RawBase64 != nil, "tombstone": a.Tombstone}
	if err := exactlyOne(values, "value", "event", "raw", "raw_base64", "tombstone"); err != nil {
		return err
	}
	return atMostOne(map[string]bool{"key": a.Key != nil, "key_base64": a.KeyBase64 != nil}, "key", "key_base64")
}

func (a produceAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	cl, err := x.wire.broker()
	if err != nil {
		return nil, err
	}
	records, err := a.records(x, st)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		r.Topic = x.wire.topic(r.Topic)
	}
	results := cl.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		return nil, fmt.Errorf("topic %s: %w", a.Topic, err)
	}
	seen := make([]any, len(records))
	for i, r := range records {
		seen[i] = shownRecord(r)
	}
	return observation{"records": seen}, nil
}

// records expands the record once for each of times, with n counting up.
func (a produceAction) records(x *execution, st *Step) ([]*kgo.Record, error) {
	if a.Times == 0 {
		r, err := a.record()
		return []*kgo.Record{r}, err
	}
	out := make([]*kgo.Record, a.Times)
	for n := range out {
		args, err := x.scope.with("n", count(n)).expand(st.args)
		if err != nil {
			return nil, err
		}
		one, err := decode[produceAction](args)
		if err != nil {
			return nil, err
		}
		if out[n], err = one.record(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a produceAction) record() (*kgo.Record, error) {
	r := &kgo.Record{Topic: a.Topic}
	var errKey, errValue error
	if r.Key, errKey = bytesOf(a.Key, a.KeyBase64); errKey != nil {
		return nil, fmt.Errorf("key_base64: %w", errKey)
	}
	for _, k := range slices.Sorted(maps.Keys(a.Headers)) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(a.Headers[k])})
	}
	for _, k := range slices.Sorted(maps.Keys(a.HeadersBase64)) {
		b, err := base64.StdEncoding.DecodeString(a.HeadersBase64[k])
		if err != nil {
			return nil, fmt.Errorf("headers_base64 %s: %w", k, err)
		}
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: b})
	}
	if r.Value, errValue = a.value(); errValue != nil {
		return nil, errValue
	}
	return r, nil
}

func (a produceAction) value() ([]byte, error) {
	switch {
	case a.Event != nil:
		return a.Event.envelope(), nil
	case a.Value != nil:
		return appendJSON(nil, *a.Value, dressing{}, 0), nil
	}
	return bytesOf(a.Raw, a.RawBase64)
}

func bytesOf(plain, encoded *string) ([]byte, error) {
	switch {
	case plain != nil:
		return []byte(*plain), nil
	case encoded != nil:
		return base64.StdEncoding.DecodeString(*encoded)
	}
	return nil, nil
}

// envelope is CloudEvents 1.0 in structured JSON (controlbus.md 1.4).
func (e event) envelope() []byte {
	source := e.Source
	if source == "" {
		source = "qmtl.services.dagmanager"
	}
	data := e.Data
	if e.Pad > 0 {
		data = maps.Clone(data)
		data["padding"] = strings.Repeat("x", e.Pad)
	}
	return appendJSON(nil, map[string]any{
		"specversion": "1.0", "id": uuid.NewString(), "source": source, "type": e.Type,
		"time": time.Now().UTC().Format("2006-01-02T15:04:05.000000-07:00"), "datacontenttype": "application/json",
		"data": data, "correlation_id": uuid.NewString(),
	}, dressing{}, 0)
}

// consumeAction reads what was added to a topic since the run began.
type consumeAction struct {
	Topic  string   `json:"topic"`
	Key    *string  `json:"key"`
	Where  *any     `json:"where"`
	Count  *int     `json:"count"`
	Within duration `json:"within"`
	Settle duration `json:"settle"`
}

func (a consumeAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	want := 1
	if a.Count != nil {
		want = *a.Count
	}
	x.shared.evaluated.Add(1)
	filter := a.filter()
	a.Topic = x.wire.topic(a.Topic)
	reader, err := x.wire.reader(ctx, a.Topic)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	found, err := a.collect(ctx, reader, want, filter)
	o := observation{"records": found}
	if err != nil {
		return o, err
	}
	if len(found) != want {
		return o, fmt.Errorf("topic %s: want %d such records within %s, found %d", a.Topic, want, a.Within.or(5*time.Second), len(found))
	}
	return o, nil
}

func (a consumeAction) filter() pattern {
	p := partial{}
	if a.Key != nil {
		p["key"] = equal{*a.Key}
	}
	if a.Where == nil {
		return p
	}
	return all{p, compile(*a.Where, "", func(string, string, string) {})}
}

// collect reads until it has want records, and then on for the settling time.
func (a consumeAction) collect(ctx context.Context, reader *kgo.Client, want int, filter pattern) ([]any, error) {
	found := []any{}
	end := time.Now().Add(a.Within.or(5 * time.Second))
	if want == 0 {
		end = time.Now().Add(a.Settle.or(time.Second))
	}
	settling := want == 0
	for {
		limited, cancel := context.WithDeadline(ctx, end)
		fetches := reader.PollFetches(limited)
		cancel()
		if err := fetchError(fetches); err != nil {
			return found, fmt.Errorf("topic %s: %w", a.Topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if seen := shownRecord(r); !r.Attrs.IsControl() && matches(filter, seen) {
				found = append(found, seen)
			}
		})
		if ctx.Err() != nil {
			return found, context.Cause(ctx)
		}
		if !settling && len(found) >= want {
			settling, end = true, time.Now().Add(a.Settle.or(300*time.Millisecond))
		}
		if !time.Now().Before(end) {
			return found, nil
		}
	}
}

// fetchError gives what is wrong beyond the end of the waiting time.
func fetchError(f kgo.Fetches) error {
	for _, e := range f.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
			return e.Err
		}
	}
	return nil
}

// reader consumes a topic from where the run began. A topic that does not
// exist yet is read from its first record once it does.
func (w *wire) reader(ctx context.Context, topic string) (*kgo.Client, error) {
	cl, err := w.broker()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	topics, err := kadm.NewClient(cl).ListTopics(limited, topic)
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", topic, err)
	}
	from := map[int32]kgo.Offset{}
	for _, p := range topics[topic].Partitions.Numbers() {
		from[p] = kgo.NewOffset().At(w.began(topic, p))
	}
	seeds, err := w.seeds()
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return w.client(seeds, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(200*time.Millisecond), kgo.UnknownTopicRetries(-1), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return w.client(seeds, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(100*time.Millisecond), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

// shownRecord is a record as patterns see it.
func shownRecord(r *kgo.Record) map[string]any {
	h := map[string]any{}
	for _, one := range r.Headers {
		h[one.Key] = string(one.Value)
	}
	out := map[string]any{
		"topic": r.Topic, "key": string(r.Key), "headers": h, "text": string(r.Value), "partition": count(int(r.Partition)),
		"offset": json.Number(strconv.FormatInt(r.Offset, 10)), "timestamp_ms": json.Number(strconv.FormatInt(r.Timestamp.UnixMilli(), 10)),
	}
	if v, err := parseJSON(r.Value); err == nil {
		out["value"] = v
	}
	return out
}

// topicsAction lists topics.
type topicsAction struct {
	Matching string `json:"matching"`
}

func (a topicsAction) validate() error {
	if _, err := regexp.Compile(a.Matching); err != nil {
		return &wrong{key: "/matching", what: err.Error(), mend: "write a regular expression that Go's regexp reads"}
	}
	return nil
}

func (a topicsAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	re, err := regexp.Compile(a.Matching)
	if err != nil {
		return nil, err
	}
	cl, err := x.wire.broker()
	if err != nil {
		return nil, err
	}
	adm := kadm.NewClient(cl)
	details, err := adm.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	found := []any{}
	for _, t := range details.Sorted() {
		if !re.MatchString(t.Topic) {
			continue
		}
		configs, err := topicConfigs(ctx, adm, t.Topic)
		if err != nil {
			return nil, err
		}
		found = append(found, map[string]any{
			"name": t.Topic, "partitions": count(len(t.Partitions)), "replication": count(t.Partitions.NumReplicas()), "configs": configs,
		})
	}
	return observation{"topics": found}, nil
}

// topicConfigs gives every config of a topic that has a value.
func topicConfigs(ctx context.Context, adm *kadm.Client, topic string) (map[string]any, error) {
	out := map[string]any{}
	all, err := adm.DescribeTopicConfigs(ctx, topic)
	if err == nil {
		var one kadm.ResourceConfig
		if one, err = all.On(topic, nil); err == nil {
			err = one.Err
		}
		for _, c := range one.Configs {
			if c.Value != nil {
				out[c.Key] = *c.Value
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("topic %s: configs: %w", topic, err)
	}
	return out, nil
}
