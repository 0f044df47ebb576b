package world

import (
	"context"
	"net/http"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// activation is a remembered activation.
type activation struct {
	body pyjson.Value // augmented
	etag string
}

// Activation gives the activation of one side of a strategy in a world
// (controlbus.md 6.4). The WorldService is always asked; where it fails, the
// last answer is given as an inactive one. The error is as of Decide.
func (c *Client) Activation(ctx context.Context, world, strategy, side string, header http.Header) (Answer, error) {
	key := world + ":" + strategy + ":" + side
	last, known := c.activations.get(key)
	if known {
		header = header.Clone()
		if header == nil {
			header = http.Header{}
		}
		header.Set("If-None-Match", last.etag)
	}
	reply, err := c.do(ctx, Call{
		Method: http.MethodGet, Path: path("worlds", world, "activation"),
		Query: []Param{{"strategy_id", strategy}, {"side", side}}, Header: header,
	})
	switch {
	case known && failed(reply, err):
		c.metrics.stale.Inc()
		body, reason := staleActivation(world, strategy, side, last)
		c.metrics.downgraded(reason)
		return Answer{Body: body, Stale: true}, nil
	case err != nil:
		return Answer{}, err
	case known && reply.Status == http.StatusNotModified:
		c.metrics.hits.Inc()
		return Answer{Body: last.body}, nil
	}
	return c.activated(key, reply)
}

func (c *Client) activated(key string, reply *Reply) (Answer, error) {
	if err := reply.refusal(); err != nil {
		return Answer{}, err
	}
	given, err := reply.JSON()
	if err != nil {
		return Answer{}, err
	}
	body, reason := given, ""
	if given.Kind() == pyjson.Object {
		body, reason = dag.AugmentActivation(given)
	}
	c.metrics.downgraded(reason)
	if etag := reply.Header.Get("ETag"); etag != "" {
		c.activations.set(key, activation{body, etag})
	}
	return Answer{Body: body}, nil
}

// staleActivation is an activation that activates nothing.
func staleActivation(world, strategy, side string, last activation) (safe pyjson.Value, reason string) {
	body := last.body
	if body.Kind() != pyjson.Object {
		body = pyjson.OfObject()
	}
	for _, m := range []struct{ key, value string }{
		{"world_id", world}, {"strategy_id", strategy}, {"side", side}, {"etag", last.etag},
	} {
		if _, there := body.Get(m.key); !there {
			body = body.With(m.key, pyjson.OfString(m.value))
		}
	}
	body = disarmed(body).With("active", pyjson.OfBool(false)).With("weight", pyjson.OfFloat(0))
	return dag.AugmentActivation(body)
}
