package gateway

import (
	"context"
	"fmt"
	"net/url"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// keyID names the one key that signs this process's event tokens.
const keyID = "default"

// openStream puts the event stream behind tokens in front of h; new clients are
// told the queues that manager knows.
func openStream(rt *service.Runtime, c *Config, h *hub.Hub, manager *submit.DagManager) (*hub.Stream, error) {
	keys, err := hub.NewKeys(keyID)
	if err != nil {
		return nil, err
	}
	s, err := hub.NewStream(h, keys, hub.StreamConfig{
		URL: c.EventsURL, Fallback: c.EventsFallbackURL, TTL: c.EventsTTL,
		Snapshot: func(ctx context.Context, asked url.Values, grant hub.Grant) []contract.Event {
			ctx, cancel := context.WithTimeout(ctx, c.LookupLimit)
			defer cancel()
			return snapshot(ctx, manager, asked, grant)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("event stream: %w", err)
	}
	return s, nil
}

// snapshot is the state that a client of the stream begins with
// (controlbus.md 4.6): the queues of the tag query in its handshake. Without an
// answer of the DAG Manager there are none.
func snapshot(ctx context.Context, manager *submit.DagManager, asked url.Values, grant hub.Grant) []contract.Event {
	query, err := tagQuery(asked)
	if err != nil || !grant.Topics["queue"] || len(query.Tags) == 0 {
		return nil
	}
	world := ""
	if grant.World != nil {
		world = *grant.World
	}
	queues, _ := manager.Queues(ctx, query, world, "live")
	tags, found := make([]pyjson.Value, len(query.Tags)), make([]pyjson.Value, len(queues))
	for i, tag := range query.Tags {
		tags[i] = pyjson.OfString(tag)
	}
	for i, q := range queues {
		found[i] = pyjson.OfObject(
			pyjson.Member{Key: "queue", Value: pyjson.OfString(q.Queue)}, pyjson.Member{Key: "global", Value: pyjson.OfBool(q.Global)})
	}
	return []contract.Event{{Source: contract.GatewaySource, Type: "queue_update", Data: pyjson.OfObject(
		pyjson.Member{Key: "tags", Value: pyjson.OfArray(tags...)},
		pyjson.Member{Key: "interval", Value: pyjson.OfInt(*query.Interval)},
		pyjson.Member{Key: "queues", Value: pyjson.OfArray(found...)},
		pyjson.Member{Key: "match_mode", Value: pyjson.OfString(query.MatchMode)},
		pyjson.Member{Key: "version", Value: pyjson.OfInt(1)},
	)}}
}
