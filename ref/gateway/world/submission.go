package world

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Context gives the compute context of a submission to world (gateway.md 2.5).
// Submissions that wait for the same decision share one call.
func (c *Client) Context(ctx context.Context, meta pyjson.Value, world string) dag.ComputeContext {
	got, cause := dag.Decided(meta, world, c.decision(ctx, world))
	switch cause {
	case dag.StaleDecision:
		c.metrics.downgraded(cause)
	case dag.DecisionUnavailable:
		c.metrics.stale.Inc()
		c.metrics.downgraded(cause)
	}
	return got
}

func (c *Client) decision(ctx context.Context, world string) dag.Decision {
	if last, ok := c.decisions.get(world); ok && c.cfg.Now().Before(last.until) {
		c.metrics.hits.Inc()
		return dag.Decision{Envelope: last.body, Known: true}
	}
	answer := c.asking.DoChan(world, func() (any, error) {
		// for everybody who waits, so not for the time of one of them
		return c.Decide(context.WithoutCancel(ctx), world, "", nil)
	})
	select {
	case <-ctx.Done():
		return dag.Decision{}
	case got := <-answer:
		if got.Err != nil {
			return dag.Decision{}
		}
		a := got.Val.(Answer)
		return dag.Decision{Envelope: a.Body, Known: true, Stale: a.Stale}
	}
}

// bindLimit is how long the bindings of one submission may take.
const bindLimit = time.Second

// Bind tells the WorldService which strategy runs in worlds, one after the other
// (gateway.md 2.11). It does its best: what failed is counted and logged, and
// nobody hears of it.
func (c *Client) Bind(ctx context.Context, strategy string, worlds []string) {
	ctx, cancel := context.WithTimeout(ctx, bindLimit)
	defer cancel()
	body := pyjson.OfObject(pyjson.Member{Key: "strategies", Value: pyjson.OfArray(pyjson.OfString(strategy))})
	for _, w := range worlds {
		_, err := c.JSON(ctx, Call{Method: http.MethodPost, Path: path("worlds", w, "bindings"), Body: body})
		var refused *Refusal
		if errors.As(err, &refused) && refused.Status == http.StatusConflict {
			err = nil // it is bound already
		}
		c.metrics.bound(err)
		if err != nil {
			c.cfg.Log.Debug("binding without effect", "strategy", strategy, "world", w, "error", err)
		}
	}
}

func (m *metrics) bound(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.bindings.WithLabelValues(outcome).Inc()
}

// History passes a history report on (gateway.md 1.6).
func (c *Client) History(ctx context.Context, world string, report pyjson.Value) error {
	_, err := c.JSON(ctx, Call{Method: http.MethodPost, Path: path("worlds", world, "history"), Body: report})
	return err
}

// World gives what the WorldService knows of a world.
func (c *Client) World(ctx context.Context, world string) (pyjson.Value, error) {
	return c.JSON(ctx, Call{Method: http.MethodGet, Path: path("worlds", world)})
}

// StateHash gives the hash of what the WorldService knows of a world under topic.
func (c *Client) StateHash(ctx context.Context, world, topic string) (pyjson.Value, error) {
	return c.JSON(ctx, Call{Method: http.MethodGet, Path: path("worlds", world, topic, "state_hash")})
}

// A Plan is a rebalancing plan and the version that was agreed on.
type Plan struct {
	Body    pyjson.Value
	Version int64
}

// Plan asks for a rebalancing plan in the schema version preferred, and where
// the WorldService does not know that, in the first (controlbus.md 5.5). What
// body says of a version is not passed on.
func (c *Client) Plan(ctx context.Context, preferred int64, body pyjson.Value, header http.Header) (Plan, error) {
	tries := planTries(preferred, 1, body)
	for i, t := range tries {
		got, err := c.JSON(ctx, Call{Method: http.MethodPost, Path: "/rebalancing/plan", Header: header, Body: t.body})
		if err == nil {
			return Plan{Body: got, Version: agreed(got, tries)}, nil
		}
		if i == len(tries)-1 || !otherVersion(t.version, err) {
			return Plan{}, err
		}
	}
	return Plan{}, ErrUnavailable // not reached: there is always a try
}

// planTry is a request in one schema version.
type planTry struct {
	version int64
	body    pyjson.Value
}

// planTries are body in the version preferred and, if that is a lower one, in
// the version fallback. The first version is not named.
func planTries(preferred, fallback int64, body pyjson.Value) []planTry {
	body = body.Without("schema_version")
	var tries []planTry
	for _, v := range []int64{max(1, preferred), max(1, fallback)} {
		if len(tries) > 0 && v >= tries[0].version {
			continue
		}
		in := body
		if v > 1 {
			in = body.With("schema_version", pyjson.OfInt(v))
		}
		tries = append(tries, planTry{v, in})
	}
	return tries
}

// otherVersion: the refusal may mean that the version is not known.
func otherVersion(version int64, err error) bool {
	var refused *Refusal
	return version > 1 && errors.As(err, &refused) && slices.Contains([]int{
		http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType,
		http.StatusUnprocessableEntity, http.StatusNotImplemented,
	}, refused.Status)
}

// agreed is the version that the plan names, else the lowest that was tried.
func agreed(plan pyjson.Value, tries []planTry) int64 {
	v := plan.Member("schema_version")
	if n, ok := v.Int64(); ok {
		return max(1, n)
	}
	if v.IsTrue() { // Python's True is an integer
		return 1
	}
	return tries[len(tries)-1].version
}
