package controlbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// A strategy is how messages of one topic are treated: check, then, once per
// marker, effect.
type strategy struct {
	check  func(*message) error // nil: everything passes. An error: the message counts for nothing
	marker func(*message) string
	effect func(context.Context, *processor, *message) error
}

// strategies is the table by topic; the name of the topic alone decides, never
// the type in the envelope (controlbus.md 1.1).
func strategies() map[string]strategy {
	return map[string]strategy{
		"activation":          {marker: activationMarker, effect: relayActivation},
		"policy":              {marker: policyMarker, effect: relayPolicy},
		"queue":               {marker: etagMarker, effect: relayQueue},
		"sentinel_weight":     {check: checkWeight, marker: weightMarker, effect: relayWeight},
		"rebalancing_planned": {check: checkPlan, marker: planMarker, effect: relayPlan},
	}
}

// unknown treats the topics that are not in the table: counted, not relayed.
func unknown() strategy { return strategy{marker: etagMarker, effect: relayNothing} }

func etagMarker(m *message) string { return marker(m.etag, m.runID) }

// activationMarker of a sequenced activation names its world, run and number,
// so that worlds that share a record key do not hide each other.
func activationMarker(m *message) string {
	if m.sequence == nil {
		return etagMarker(m)
	}
	return marker(pyjson.OfString(m.world()), m.data.Member("run_id").Or(m.runID), m.data.Member("sequence"))
}

func policyMarker(m *message) string {
	return marker(m.data.Member("checksum"), m.data.Member("policy_version"))
}

func weightMarker(m *message) string { return marker(m.frame, m.data.Member("version")) }

func planMarker(m *message) string {
	return marker(m.frame.Member("version"), m.frame.Member("run_id"), m.frame.Member("plan"))
}

func relayNothing(_ context.Context, p *processor, m *message) error {
	if p.relayable(m) {
		p.log.Warn("controlbus_topic_unhandled", "topic", m.topic)
	}
	return nil
}

func relayPolicy(_ context.Context, p *processor, m *message) error {
	if p.relayable(m) {
		p.publish("policy", "policy_updated", m.data)
	}
	return nil
}

// relayActivation acknowledges first: the acknowledgement says that the event
// came in order, not that clients saw it.
func relayActivation(ctx context.Context, p *processor, m *message) error {
	if m.acked() {
		if err := p.acknowledge(ctx, m); err != nil {
			return err
		}
	}
	if !p.relayable(m) {
		return nil
	}
	data, reason := dag.AugmentActivation(m.data)
	if reason != "" {
		p.metrics.downgrades.WithLabelValues(reason).Inc()
	}
	p.publish("activation", "activation_updated", data)
	return nil
}

func relayQueue(_ context.Context, p *processor, m *message) error {
	if !p.relayable(m) {
		return nil
	}
	if kind, _ := m.data.Member("type").Str(); kind == "QueueLifecycle" {
		data := m.data
		if _, there := data.Get("etag"); !there {
			data = data.With("etag", m.etag)
		}
		p.publish("queue", "queue_lifecycle", data)
		return nil
	}
	return p.relayQueueUpdate(m)
}

// relayQueueUpdate sends queue_update and, the first time for these tags,
// interval and domain, tagquery.upsert. Tags or an interval that no tag query
// can have are an error; the update itself is relayed all the same.
func (p *processor) relayQueueUpdate(m *message) error {
	tags := m.or("tags", pyjson.OfArray())
	interval := m.or("interval", pyjson.OfInt(0))
	queues := m.or("queues", pyjson.OfArray())
	query := []pyjson.Member{{Key: "tags", Value: tags}, {Key: "interval", Value: interval}, {Key: "queues", Value: queues}}

	update := append(slices.Clone(query), pyjson.Member{Key: "match_mode", Value: matchMode(m.data.Member("match_mode"))})
	for _, key := range [...]string{"world_id", "execution_domain"} {
		if v := m.data.Member(key); v.Truthy() {
			update = append(update, pyjson.Member{Key: key, Value: v})
		}
	}
	for _, v := range [...]pyjson.Member{{Key: "etag", Value: m.or("etag", m.etag)}, {Key: "ts", Value: m.data.Member("ts")}} {
		if !v.Value.IsNull() {
			update = append(update, v)
		}
	}
	p.publish("queue", "queue_update", pyjson.OfObject(append(update, versionOne())...))

	key, err := upsertKey(tags, interval, m.data.Member("execution_domain"))
	if err != nil {
		return err
	}
	if _, known := p.upserts.get(key); !known {
		p.upserts.put(key, struct{}{})
		p.publish("queue", "tagquery.upsert", pyjson.OfObject(append(query, versionOne())...))
	}
	return nil
}

// or gives a member of data, or other when the member is absent.
func (m *message) or(key string, other pyjson.Value) pyjson.Value {
	if v, ok := m.data.Get(key); ok {
		return v
	}
	return other
}

func versionOne() pyjson.Member { return pyjson.Member{Key: "version", Value: pyjson.OfInt(1)} }

// matchMode is exact: anything but "all" is "any".
func matchMode(v pyjson.Value) pyjson.Value {
	if s, _ := v.Str(); s == contract.MatchAll {
		return v
	}
	return pyjson.OfString(contract.MatchAny)
}

var errTags = errors.New("tags cannot be sorted")

// upsertKey names a tag query whatever the order of its tags.
func upsertKey(tags, interval, domain pyjson.Value) (string, error) {
	items, err := contract.Iterate(tags)
	if err != nil {
		return "", fmt.Errorf("tags: %w", err)
	}
	sorted, err := sortable(items)
	if err != nil {
		return "", err
	}
	seconds, err := pyjson.ToInteger(interval)
	if err != nil {
		return "", fmt.Errorf("interval: %w", err)
	}
	if k := domain.Kind(); domain.Truthy() && (k == pyjson.Array || k == pyjson.Object) {
		return "", fmt.Errorf("execution_domain is a JSON %s", k)
	}
	return marker(pyjson.OfArray(sorted...), seconds, domain.Or(pyjson.OfString(""))), nil
}

// sortable sorts tags into one order, if Python could sort and hash them: all of
// them text or all of them numbers, or null alone.
func sortable(items []pyjson.Value) ([]pyjson.Value, error) {
	for _, item := range items {
		if class(item) != class(items[0]) || class(item) == "" && !(item.IsNull() && len(items) == 1) {
			return nil, errTags
		}
	}
	sorted := make([]pyjson.Value, len(items))
	for i, item := range items {
		sorted[i] = plain(item)
	}
	slices.SortFunc(sorted, func(a, b pyjson.Value) int { return strings.Compare(a.Text(), b.Text()) })
	return sorted, nil
}

// class tells text from numbers; what cannot be sorted has none.
func class(v pyjson.Value) string {
	switch v.Kind() {
	case pyjson.String:
		return "text"
	case pyjson.Bool, pyjson.Int, pyjson.Float:
		return "number"
	default:
		return ""
	}
}
