package gateway

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/gateway/world"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// openKeys reads or makes the keys of event tokens and trusts those of others.
func openKeys(c *Config) (*hub.Keys, error) {
	keys, err := c.eventKeys()
	if err != nil {
		return nil, err
	}
	others, err := c.trusted()
	for kid, public := range others {
		keys.Trust(kid, public)
	}
	return keys, err
}

// openStream puts the event stream behind tokens in front of h; new clients are
// told what first knows.
func openStream(c *Config, h *hub.Hub, keys *hub.Keys, first snapshots, subscribed func(world string)) (*hub.Stream, error) {
	s, err := hub.NewStream(h, keys, hub.StreamConfig{
		URL: c.EventsURL, Fallback: c.EventsFallbackURL, TTL: c.EventsTTL, Subscribed: subscribed,
		Snapshot: func(ctx context.Context, asked url.Values, grant hub.Grant) []contract.Event {
			ctx, cancel := context.WithTimeout(ctx, c.LookupLimit)
			defer cancel()
			return first.of(ctx, asked, grant)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("event stream: %w", err)
	}
	return s, nil
}

// eventKeys reads the keys of event tokens from their files; without any a key
// pair of this process signs.
func (c *Config) eventKeys() (*hub.Keys, error) {
	files := list(c.EventsKeys)
	if len(files) == 0 {
		return hub.NewKeys(c.EventsActiveKID)
	}
	texts := map[string][]byte{}
	for _, one := range files {
		kid, file, _ := strings.Cut(one, "=")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("event key %q: %w", kid, err)
		}
		texts[kid] = text
	}
	return hub.LoadKeys(c.EventsActiveKID, texts)
}

// snapshots make the state that a client of the stream begins with
// (controlbus.md 4.6).
type snapshots struct {
	manager *submit.DagManager
	worlds  *world.Client // nil: there is no WorldService
}

func (s snapshots) of(ctx context.Context, asked url.Values, grant hub.Grant) []contract.Event {
	var all []contract.Event
	if grant.Topics["queue"] {
		all = append(all, s.queues(ctx, asked, textOr(grant.World))...)
	}
	if s.worlds == nil || textOr(grant.World) == "" {
		return all
	}
	if grant.Topics["activation"] && textOr(grant.Strategy) != "" {
		all = append(all, s.activations(ctx, *grant.World, *grant.Strategy)...)
	}
	if grant.Topics["policy"] {
		all = append(all, s.policy(ctx, *grant.World)...)
	}
	return all
}

func textOr(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func snapshotEvent(kind string, data pyjson.Value) contract.Event {
	return contract.Event{Source: contract.GatewaySource, Type: kind, Data: data}
}

// activations gives both sides of a strategy, until one cannot be found out.
func (s snapshots) activations(ctx context.Context, worldID, strategy string) []contract.Event {
	var all []contract.Event
	for _, side := range []string{"long", "short"} {
		answer, err := s.worlds.Activation(ctx, worldID, strategy, side, nil)
		if err != nil || answer.Body.Kind() != pyjson.Object {
			return all
		}
		all = append(all, snapshotEvent("activation_updated", withVersion(answer.Body)))
	}
	return all
}

// withVersion gives data the schema version that an event has.
func withVersion(data pyjson.Value) pyjson.Value {
	if _, there := data.Get("version"); there {
		return data
	}
	return data.With("version", pyjson.OfInt(1))
}

func (s snapshots) policy(ctx context.Context, worldID string) []contract.Event {
	hash, err := s.worlds.StateHash(ctx, worldID, "policy")
	if err != nil || hash.Kind() != pyjson.Object {
		return nil
	}
	data := pyjson.OfObject(append([]pyjson.Member{{Key: "world_id", Value: pyjson.OfString(worldID)}}, hash.Members()...)...)
	return []contract.Event{snapshotEvent("policy_state_hash", data.With("version", pyjson.OfInt(1)))}
}

// queues gives those of the tag query in the handshake. Without an answer of the
// DAG Manager there are none.
func (s snapshots) queues(ctx context.Context, asked url.Values, worldID string) []contract.Event {
	query, err := tagQuery(asked)
	if err != nil || len(query.Tags) == 0 {
		return nil
	}
	queues, _ := s.manager.Queues(ctx, query, worldID, "live")
	tags, found := make([]pyjson.Value, len(query.Tags)), make([]pyjson.Value, len(queues))
	for i, tag := range query.Tags {
		tags[i] = pyjson.OfString(tag)
	}
	for i, q := range queues {
		found[i] = pyjson.OfObject(
			pyjson.Member{Key: "queue", Value: pyjson.OfString(q.Queue)}, pyjson.Member{Key: "global", Value: pyjson.OfBool(q.Global)})
	}
	return []contract.Event{snapshotEvent("queue_update", pyjson.OfObject(
		pyjson.Member{Key: "tags", Value: pyjson.OfArray(tags...)},
		pyjson.Member{Key: "interval", Value: pyjson.OfInt(*query.Interval)},
		pyjson.Member{Key: "queues", Value: pyjson.OfArray(found...)},
		pyjson.Member{Key: "match_mode", Value: pyjson.OfString(query.MatchMode)},
		pyjson.Member{Key: "version", Value: pyjson.OfInt(1)},
	))}
}

// notifier tells the clients of h how strategies get on (controlbus.md 2.10).
func notifier(h *hub.Hub) submit.Notifier {
	tell := func(kind, id, key string, v pyjson.Value) {
		h.Publish("", contract.Event{Source: contract.GatewaySource, Type: kind, Data: pyjson.OfObject(
			pyjson.Member{Key: "strategy_id", Value: pyjson.OfString(id)},
			pyjson.Member{Key: key, Value: v},
			pyjson.Member{Key: "version", Value: pyjson.OfInt(1)},
		)})
	}
	return submit.Notifier{
		Wanted:   func() bool { return h.Clients() > 0 },
		Progress: func(id string, s submit.State) { tell("progress", id, "status", pyjson.OfString(string(s))) },
		QueueMap: func(id string, topics map[string]string) { tell("queue_map", id, "queue_map", topicMap(topics)) },
	}
}

func topicMap(topics map[string]string) pyjson.Value {
	members := make([]pyjson.Member, 0, len(topics))
	for _, key := range slices.Sorted(maps.Keys(topics)) {
		members = append(members, pyjson.Member{Key: key, Value: pyjson.OfString(topics[key])})
	}
	return pyjson.OfObject(members...)
}
