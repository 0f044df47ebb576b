package world

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// An Answer is a decision or an activation as a client of the Gateway sees it.
type Answer struct {
	Body  pyjson.Value
	Stale bool // the WorldService failed; Body is the last one, made safe
}

// decision is a remembered decision.
type decision struct {
	body  pyjson.Value // augmented
	until time.Time    // fresh
}

// path joins segments, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}

// Decide gives what the WorldService decided about a world as of asOf, "" for
// now (controlbus.md 6.4): from memory while that is fresh; where the
// WorldService fails, the last decision however old, in a safe mode. The error
// is a *Refusal, or wraps ErrUnavailable or that of ctx.
func (c *Client) Decide(ctx context.Context, world, asOf string, header http.Header) (Answer, error) {
	asOf = pyjson.Strip(asOf)
	key := decisionKey(world, asOf)
	last, known := c.decisions.get(key)
	if known && c.cfg.Now().Before(last.until) {
		c.metrics.hits.Inc()
		return Answer{Body: last.body}, nil
	}
	call := Call{Method: http.MethodGet, Path: path("worlds", world, "decide"), Header: header}
	if asOf != "" {
		call.Query = []Param{{"as_of", asOf}}
	}
	reply, err := c.do(ctx, call)
	if known && failed(reply, err) {
		c.metrics.stale.Inc()
		body, reason := staleDecision(world, last.body)
		c.metrics.downgraded(reason)
		return Answer{Body: body, Stale: true}, nil
	}
	if err == nil {
		err = reply.refusal()
	}
	if err != nil {
		return Answer{}, err
	}
	return c.remember(world, key, reply)
}

func (c *Client) remember(world, key string, reply *Reply) (Answer, error) {
	given, err := reply.JSON()
	if err != nil {
		return Answer{}, err
	}
	body, reason := dag.AugmentDecision(world, given)
	c.metrics.downgraded(reason)
	if ttl := decideTTL(given, reply.Header.Get("Cache-Control")); ttl > 0 {
		c.decisions.set(key, decision{body: body, until: c.cfg.Now().Add(ttl)})
	}
	return Answer{Body: body}, nil
}

// failed: the answer, or that there is none, is a reason to use an old one.
// Somebody who left is none.
func failed(reply *Reply, err error) bool {
	if err != nil {
		return errors.Is(err, ErrUnavailable)
	}
	return reply.Status >= http.StatusInternalServerError ||
		reply.Status == http.StatusRequestTimeout || reply.Status == http.StatusTooManyRequests
}

// decisionKey is the name of a decision in memory.
func decisionKey(world, asOf string) string {
	if asOf == "" {
		return world
	}
	return world + ":as_of:" + asOf
}

// defaultTTL is how long a decision is fresh that does not say it.
const defaultTTL = 300 * time.Second

// longestTTL bounds what a decision may say, so that it can be added to a time.
const longestTTL = 100 * 365 * 24 * time.Hour

// decideTTL is how long a decision is fresh: what the header says, else its
// member ttl, else five minutes. Zero: it is not to be remembered.
func decideTTL(body pyjson.Value, cacheControl string) time.Duration {
	if ttl := maxAge(cacheControl); ttl > 0 {
		return ttl
	}
	given := body.Member("ttl")
	switch given.Kind() {
	case pyjson.Null:
		return defaultTTL
	case pyjson.String:
		text, _ := given.Str()
		number, inSeconds := strings.CutSuffix(text, "s")
		if !inSeconds {
			return 0
		}
		return seconds(pyjson.OfString(number))
	default:
		return seconds(given)
	}
}

// maxAge reads max-age as the original does: up to the next comma, and in lower
// case only.
func maxAge(header string) time.Duration {
	_, after, ok := strings.Cut(header, "max-age=")
	if !ok {
		return 0
	}
	number, _, _ := strings.Cut(after, ",")
	return seconds(pyjson.OfString(number))
}

// seconds gives zero for what is no positive integer.
func seconds(v pyjson.Value) time.Duration {
	n, err := pyjson.ToInt(v)
	if err != nil || n <= 0 {
		return 0
	}
	if n > int64(longestTTL/time.Second) {
		return longestTTL
	}
	return time.Duration(n) * time.Second
}

// staleDecision makes a remembered decision safe to use although nobody knows
// whether it still holds. One that says nothing about computing stays as it is.
func staleDecision(world string, body pyjson.Value) (safe pyjson.Value, reason string) {
	says := false
	for _, key := range []string{"effective_mode", "execution_domain", "compute_context"} {
		_, there := body.Get(key)
		says = says || there
	}
	if !says {
		return body, ""
	}
	if _, there := body.Get("world_id"); !there {
		body = body.With("world_id", pyjson.OfString(world))
	}
	return dag.AugmentDecision(world, disarmed(body))
}

// disarmed takes away what an old answer said about where to compute.
func disarmed(body pyjson.Value) pyjson.Value {
	return body.With("effective_mode", pyjson.OfString("compute-only")).Without("execution_domain").Without("compute_context")
}
