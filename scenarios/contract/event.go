package contract

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Names of the ControlBus topics that a DAG Manager writes (dagmanager.md 7.1).
const (
	QueueTopic          = "queue" // the default; configurable
	SentinelWeightTopic = "sentinel_weight"
)

// DAGManagerSource is the source of a DAG Manager's events.
const DAGManagerSource = "qmtl.services.dagmanager"

// eventVersion is the version of every event's data.
const eventVersion = 1

// Stamp is what makes one event this event: its id, a UUID, and its time.
type Stamp struct {
	ID   string
	Time time.Time
}

// Event is one CloudEvent before it is stamped.
type Event struct {
	Source        string
	Type          string
	CorrelationID string
	Data          pyjson.Value
}

// Record is one message for Kafka.
type Record struct {
	Topic      string
	Key, Value []byte
}

// Envelope writes the event in the shape of the bus: JSON, ", " and ": ",
// members in a fixed order, ASCII escapes.
func (e Event) Envelope(s Stamp) []byte {
	return pyjson.Append(nil, pyjson.OfObject(
		field("specversion", pyjson.OfString("1.0")),
		field("id", pyjson.OfString(s.ID)),
		field("source", pyjson.OfString(e.Source)),
		field("type", pyjson.OfString(e.Type)),
		field("time", pyjson.OfString(ISOTime(s.Time, "+00:00"))),
		field("datacontenttype", pyjson.OfString("application/json")),
		field("data", e.Data),
		field("correlation_id", pyjson.OfString(e.CorrelationID)),
	), pyjson.Spaced|pyjson.ASCII)
}

func field(key string, v pyjson.Value) pyjson.Member { return pyjson.Member{Key: key, Value: v} }

// ISOTime writes t as Python's datetime.isoformat does in UTC: microseconds
// only when there are any. zone is "+00:00" or "Z".
func ISOTime(t time.Time, zone string) string {
	t = t.UTC().Truncate(time.Microsecond)
	layout := "2006-01-02T15:04:05.000000"
	if t.Nanosecond() == 0 {
		layout = "2006-01-02T15:04:05"
	}
	var room [40]byte
	return string(append(t.AppendFormat(room[:0], layout), zone...))
}

// QueueRef names a queue that carries a node's output.
type QueueRef struct {
	Queue  string `json:"queue"`
	Global bool   `json:"global"`
}

// QueueUpdate says which queues nodes with any of the tags and that interval
// feed (dagmanager.md 7.2).
type QueueUpdate struct {
	Topic    string   // "" is QueueTopic
	Tags     []string // in the order of the node
	Interval int64    // seconds
	Queues   []QueueRef
	// Revision, when it is not zero, becomes the last part of etag and
	// idempotency key, so that a consumer that drops repeated keys sees that
	// the queues changed. Zero gives the keys of dagmanager.md 7.2, which are
	// the same for every update of one tag set and interval.
	Revision uint64
}

// Record is the update as it goes to Kafka.
func (u QueueUpdate) Record(s Stamp) Record {
	sorted := slices.Sorted(slices.Values(u.Tags))
	scope := strings.Join(sorted, ".") + ":" + strconv.FormatInt(u.Interval, 10)
	version := revised(eventVersion, u.Revision)
	return Record{
		Topic: topicOr(u.Topic),
		Key:   []byte(strings.Join(u.Tags, ",")),
		Value: Event{
			Source:        DAGManagerSource,
			Type:          "queue_updated",
			CorrelationID: "queue:" + scope,
			Data: pyjson.OfObject(
				field("type", pyjson.OfString("QueueUpdated")),
				field("tags", texts(u.Tags)),
				field("interval", pyjson.OfInt(u.Interval)),
				field("queues", queueRefs(u.Queues)),
				field("match_mode", pyjson.OfString(MatchAny)),
				field("version", pyjson.OfInt(eventVersion)),
				field("etag", pyjson.OfString("q:"+scope+":"+version)),
				field("ts", pyjson.OfString(ISOTime(s.Time, "Z"))),
				field("idempotency_key", pyjson.OfString("queue_updated:"+scope+":"+MatchAny+":"+version)),
			),
		}.Envelope(s),
	}
}

func topicOr(topic string) string {
	if topic == "" {
		return QueueTopic
	}
	return topic
}

func revised(version int, revision uint64) string {
	if revision == 0 {
		return strconv.Itoa(version)
	}
	return fmt.Sprintf("%d:%x", version, revision)
}

func texts(list []string) pyjson.Value {
	out := make([]pyjson.Value, len(list))
	for i, s := range list {
		out[i] = pyjson.OfString(s)
	}
	return pyjson.OfArray(out...)
}

func queueRefs(queues []QueueRef) pyjson.Value {
	out := make([]pyjson.Value, len(queues))
	for i, q := range queues {
		out[i] = pyjson.OfObject(
			field("queue", pyjson.OfString(q.Queue)),
			field("global", pyjson.OfBool(q.Global)))
	}
	return pyjson.OfArray(out...)
}

// QueueLifecycle says that a queue was dropped or archived (dagmanager.md 7.3).
type QueueLifecycle struct {
	Topic         string // "" is QueueTopic
	Queue         string
	Action        string // drop, archive
	Reason        string
	Version       int // 0 is 1
	Tag           string
	Interval      *int64
	ArchiveStatus string
}

// Record is the event as it goes to Kafka; an empty Tag, Interval or
// ArchiveStatus is left out.
func (l QueueLifecycle) Record(s Stamp) Record {
	version := max(l.Version, eventVersion)
	scope := fmt.Sprintf("%s:%s:%s:%d", l.Queue, l.Action, l.Reason, version)
	data := []pyjson.Member{
		field("type", pyjson.OfString("QueueLifecycle")),
		field("queue", pyjson.OfString(l.Queue)),
		field("action", pyjson.OfString(l.Action)),
		field("reason", pyjson.OfString(l.Reason)),
		field("version", pyjson.OfInt(int64(version))),
		field("etag", pyjson.OfString("ql:"+scope)),
		field("ts", pyjson.OfString(ISOTime(s.Time, "Z"))),
		field("idempotency_key", pyjson.OfString("queue_lifecycle:"+scope)),
	}
	data = optional(data, "tag", l.Tag)
	if l.Interval != nil {
		data = append(data, field("interval", pyjson.OfInt(*l.Interval)))
	}
	data = optional(data, "archive_status", l.ArchiveStatus)
	return Record{
		Topic: topicOr(l.Topic),
		Key:   []byte(l.Queue),
		Value: Event{
			Source:        DAGManagerSource,
			Type:          "queue_lifecycle",
			CorrelationID: "queue_lifecycle:" + l.Queue,
			Data:          pyjson.OfObject(data...),
		}.Envelope(s),
	}
}

func optional(data []pyjson.Member, key, text string) []pyjson.Member {
	if text == "" {
		return data
	}
	return append(data, field(key, pyjson.OfString(text)))
}

// SentinelWeight says which share of the traffic a version gets (dagmanager.md 7.4).
type SentinelWeight struct {
	SentinelID      string
	Weight          float64 // clamped to 0..1
	SentinelVersion string  // left out when empty
	WorldID         string  // left out when empty
}

// Record is the event as it goes to Kafka.
func (w SentinelWeight) Record(s Stamp) Record {
	weight := min(max(w.Weight, 0), 1)
	scope := fmt.Sprintf("%s:%s:%.6f:%d", w.SentinelID, w.SentinelVersion, weight, eventVersion)
	data := []pyjson.Member{
		field("type", pyjson.OfString("SentinelWeightUpdated")),
		field("sentinel_id", pyjson.OfString(w.SentinelID)),
		field("weight", pyjson.OfFloat(weight)),
		field("version", pyjson.OfInt(eventVersion)),
		field("etag", pyjson.OfString("sw:"+scope)),
		field("ts", pyjson.OfString(ISOTime(s.Time, "Z"))),
		field("idempotency_key", pyjson.OfString("sentinel_weight_updated:"+scope)),
	}
	data = optional(data, "sentinel_version", w.SentinelVersion)
	data = optional(data, "world_id", w.WorldID)
	return Record{
		Topic: SentinelWeightTopic,
		Key:   []byte(w.SentinelID),
		Value: Event{
			Source:        DAGManagerSource,
			Type:          "sentinel_weight_updated",
			CorrelationID: "sentinel:" + w.SentinelID + ":" + w.WorldID,
			Data:          pyjson.OfObject(data...),
		}.Envelope(s),
	}
}
