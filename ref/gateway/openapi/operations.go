package openapi

import (
	"net/http"
	"slices"
)

// Operations is the table: every route of the gateway in the order in which the
// router tries them.
func Operations() []Operation {
	return slices.Concat(own(), worlds(), state())
}

// refused are the answers to a submission that is not accepted, dry or not.
func refused() []Answer {
	return []Answer{
		{http.StatusBadRequest, "Message", "the body is cut off, too slow or no text"},
		{http.StatusBadRequest, "E_SCHEMA_INVALID", "the DAG or its schema version cannot be used"},
		{http.StatusBadRequest, "E_NODE_ID_FIELDS", "a node lacks what its id is made of"},
		{http.StatusBadRequest, "E_SCHEMA_COMPAT_MISMATCH", "a node has two schema ids"},
		{http.StatusBadRequest, "E_CHECKSUM_MISMATCH", "node_ids_crc32 is wrong"},
		{http.StatusBadRequest, "E_NODE_ID_MISMATCH", "a node's id is not the canonical one"},
		{http.StatusRequestEntityTooLarge, "E_TOO_LARGE", "the body, its JSON or its record is too large"},
		{http.StatusUnprocessableEntity, "Mistakes", "the body is not JSON or not the model"},
		{http.StatusUnprocessableEntity, "E_WORLD_ID_DEPRECATED", "world_id is given"},
		{http.StatusUnprocessableEntity, "E_WORLD_IDS_REQUIRED", "world_ids names no world"},
		{http.StatusServiceUnavailable, "E_BUSY", "too many submissions at once; Retry-After says when to come again"},
	}
}

// misread are the answers to a body that cannot be taken in.
func misread() []Answer {
	return append(refusedUnread(), Answer{http.StatusUnprocessableEntity, "Mistakes", "the body is not JSON or not the model"})
}

// refusedUnread are those before anybody looks into the body.
func refusedUnread() []Answer {
	return []Answer{
		{http.StatusBadRequest, "Message", "the body is cut off, too slow or no text"},
		{http.StatusRequestEntityTooLarge, "E_TOO_LARGE", "the body or its JSON is too large"},
		{http.StatusServiceUnavailable, "E_BUSY", "too many requests at once; Retry-After says when to come again"},
	}
}

func noRegistry() Answer {
	return Answer{http.StatusServiceUnavailable, "E_REGISTRY", "the registration store is away"}
}

func unknownStrategy() Answer {
	return Answer{http.StatusNotFound, "Message", "there is no strategy of this id"}
}

func own() []Operation {
	get, post := http.MethodGet, http.MethodPost
	return []Operation{
		{Method: post, Path: "/strategies", ID: "submitStrategy", Summary: "Registers a strategy, exactly once for a DAG", Body: "StrategySubmit",
			Answers: slices.Concat([]Answer{{http.StatusAccepted, "StrategyAck", "accepted"}}, refused(), []Answer{
				{http.StatusConflict, "E_DUPLICATE", "the same DAG is registered"},
				{http.StatusServiceUnavailable, "E_PENDING", "the same DAG is still being decided"},
				noRegistry(),
				{http.StatusServiceUnavailable, "E_COMMITLOG", "the commit log took no record; nothing is registered"},
				{http.StatusServiceUnavailable, "", "the gateway is degraded to MINIMAL"},
			})},
		{Method: post, Path: "/strategies/dry-run", ID: "dryRunStrategy", Summary: "Checks a strategy and says what it would be bound to", Body: "StrategySubmit",
			Answers: slices.Concat([]Answer{{http.StatusOK, "StrategyAck", "it would be accepted"}}, refused())},
		{Method: get, Path: "/strategies/{strategy_id}/status", ID: "strategyStatus", Summary: "Tells how far a strategy is",
			Answers: []Answer{{http.StatusOK, "StrategyStatus", "its state"}, unknownStrategy(), noRegistry()}},
		{Method: post, Path: "/strategies/{strategy_id}/history", ID: "reportHistory", Summary: "Takes a report on the data that a node ran on", Body: "HistoryReport",
			Answers: slices.Concat([]Answer{{http.StatusNoContent, "", "written down"}, unknownStrategy(), noRegistry()}, misread())},
		{Method: get, Path: "/queues/by_tag", ID: "queuesByTag", Summary: "Finds the queues of a tag query; none while the DAG Manager is away",
			Query: []Param{
				{"tags", "string", true, "comma list"}, {"interval", "integer", true, "seconds"}, {"match_mode", "string", false, "any or all; anything else is any"},
				{"world_id", "string", false, "prefixes the queues with a namespace"}, {"execution_domain", "string", false, "of the namespace"}},
			Answers: []Answer{{http.StatusOK, "QueuesByTag", "the queues"}, {http.StatusUnprocessableEntity, "Mistakes", "a parameter is missing or wrong"}}},
		{Method: post, Path: "/fills", ID: "reportFill", Summary: "Takes a fill, with a bearer token or a signature", Body: "FillEnvelope",
			Headers: []Param{
				{"Authorization", "string", false, "Bearer and a token of the audience fills"}, {"X-Signature", "string", false, "HMAC-SHA256 of the body, hexadecimal"},
				{"X-World-ID", "string", false, "of a signed fill; else the body's world_id"}, {"X-Strategy-ID", "string", false, "of a signed fill; else the body's strategy_id"}},
			Answers: append(refusedUnread(), []Answer{
				{http.StatusAccepted, "", "stored"},
				{http.StatusBadRequest, "E_INVALID_JSON", "the body is no JSON"},
				{http.StatusBadRequest, "E_MISSING_IDS", "world or strategy is empty"},
				{http.StatusBadRequest, "E_CE_REQUIRED", "the body is no CloudEvent with data"},
				{http.StatusBadRequest, "InvalidFill", "the data are no fill"},
				{http.StatusUnauthorized, "E_AUTH", "nobody vouches for it"},
				{http.StatusServiceUnavailable, "E_FILLS", "Kafka did not take it"},
			}...)},
		{Method: post, Path: "/events/subscribe", ID: "subscribe", Summary: "Gives a token for the event stream", Body: "SubscribeRequest",
			Answers: slices.Concat([]Answer{{http.StatusOK, "Subscription", "the token, and where to take it"}}, misread())},
		{Method: get, Path: "/events/jwks", ID: "eventKeys", Summary: "Gives the public keys of event tokens", Answers: []Answer{{http.StatusOK, "JWKS", "the keys"}}},
		{Method: get, Path: "/events/schema", ID: "eventSchemas", Summary: "Gives a JSON Schema for each type of event", Answers: []Answer{{http.StatusOK, "EventSchemas", "the schemas"}}},
		{Method: post, Path: "/rebalancing/execute", ID: "executeRebalancing", Summary: "Makes orders of a rebalancing plan, and submits them if asked to", Body: "RebalanceRequest",
			Query: []Param{
				{"submit", "string", false, "1, true, yes or on: write the orders to the commit log"},
				{"shared_account", "string", false, "1, true or yes: orders of one shared account too"}, {"per_strategy", "string", false, "1, true or yes: orders by strategy too"}},
			Headers: []Param{allowLive()},
			Answers: slices.Concat([]Answer{{http.StatusOK, "RebalanceOrders", "the orders"}}, misread(), []Answer{
				notAllowed(),
				{http.StatusForbidden, "E_SHARED_ACCOUNT_DISABLED", "shared accounts are off"},
				{http.StatusUnprocessableEntity, "Message", "the mode is overlay without an overlay"},
				{http.StatusUnprocessableEntity, "E_OVERLAY_EXECUTION_AMBIGUOUS", "an overlay's symbol belongs to two worlds"},
				{http.StatusUnprocessableEntity, "E_OVERLAY_EXECUTION_UNMAPPED", "an overlay's symbol belongs to no world"},
				{http.StatusUnprocessableEntity, "E_SHARED_ACCOUNT_POLICY", "the account's limits are exceeded"},
				{http.StatusUnprocessableEntity, "E_SHADOW_ORDERS_BLOCKED", "a world only watches"},
				{http.StatusNotImplemented, "E_REBALANCE_MODE_UNSUPPORTED", "the mode is hybrid"},
				{http.StatusServiceUnavailable, "E_COMMITLOG_DISABLED", "there is no commit log"},
				{http.StatusServiceUnavailable, "E_COMMITLOG", "the commit log took no record"},
			}, mirrored())},
	}
}

func allowLive() Param {
	return Param{"X-Allow-Live", "string", false, "true: the caller means to trade live"}
}

func notAllowed() Answer {
	return Answer{http.StatusForbidden, "E_PERMISSION_DENIED", "the live guard is on and X-Allow-Live is not true"}
}

// mirrored are the answers of a route that asks the WorldService.
func mirrored() []Answer {
	return []Answer{
		{http.StatusBadGateway, "Message", "the WorldService answered with what cannot be used"},
		{http.StatusServiceUnavailable, "Message", "there is no WorldService, or it is away"},
		{0, "Refusal", "what the WorldService refused with, its status and detail"},
	}
}

// row is an operation that passes on to the WorldService.
type row struct {
	method, path, id, summary string
	query                     []string
	body, guarded             bool
}

func worlds() []Operation {
	const (
		w    = "/worlds/{world_id}"
		runs = w + "/strategies/{strategy_id}/runs"
		run  = runs + "/{run_id}"
		live = w + "/promotions/live"
	)
	get, post, put := http.MethodGet, http.MethodPost, http.MethodPut
	rows := []row{
		{method: post, path: "/rebalancing/plan", id: "planRebalancing", summary: "Asks for a rebalancing plan in the version that both sides know", body: true},
		{method: get, path: "/allocations", id: "allocations", summary: "Tells what worlds are allocated", query: []string{"world_id"}},
		{method: post, path: "/worlds", id: "createWorld", summary: "Makes a world", body: true},
		{method: get, path: "/worlds", id: "listWorlds", summary: "Lists worlds"},
		{method: get, path: w, id: "getWorld", summary: "Gives a world"},
		{method: get, path: w + "/describe", id: "describeWorld", summary: "Describes a world"},
		{method: put, path: w, id: "updateWorld", summary: "Changes a world", body: true},
		{method: http.MethodDelete, path: w, id: "deleteWorld", summary: "Removes a world"},
		{method: post, path: w + "/policies", id: "addPolicy", summary: "Adds a policy", body: true},
		{method: get, path: w + "/policies", id: "listPolicies", summary: "Lists policies"},
		{method: post, path: w + "/set-default", id: "setDefaultPolicy", summary: "Chooses the default policy", body: true},
		{method: post, path: w + "/bindings", id: "bindStrategies", summary: "Binds strategies", body: true},
		{method: get, path: w + "/bindings", id: "listBindings", summary: "Lists bindings"},
		{method: post, path: w + "/decisions", id: "decideStrategies", summary: "Sets decisions", body: true},
		{method: get, path: w + "/decisions", id: "listDecisions", summary: "Lists decisions"},
		{method: put, path: w + "/activation", id: "setActivation", summary: "Activates or deactivates", body: true},
		{method: get, path: w + "/audit", id: "worldAudit", summary: "Gives the audit log"},
		{method: get, path: w + "/decide", id: "decide", summary: "Decides in which mode a world runs; a remembered decision when the WorldService is away", query: []string{"as_of"}},
		{method: get, path: w + "/activation", id: "getActivation", summary: "Tells what is active; remembered like decisions", query: []string{"strategy_id", "side"}},
		{method: get, path: w + "/{topic}/state_hash", id: "stateHash", summary: "Gives the hash of a topic's state"},
		{method: post, path: w + "/evaluate", id: "evaluateWorld", summary: "Evaluates a world", body: true},
		{method: get, path: runs, id: "listRuns", summary: "Lists the runs of a strategy"},
		{method: get, path: run, id: "getRun", summary: "Gives a run"},
		{method: get, path: run + "/metrics", id: "runMetrics", summary: "Gives a run's metrics"},
		{method: get, path: run + "/history", id: "runHistory", summary: "Gives a run's history"},
		{method: post, path: run + "/override", id: "overrideRun", summary: "Overrides a run's outcome", body: true},
		{method: post, path: run + "/ex-post-failures", id: "reportExPostFailure", summary: "Reports a failure found later", body: true},
		{method: post, path: live + "/approve", id: "approvePromotion", summary: "Approves a promotion", body: true},
		{method: post, path: live + "/reject", id: "rejectPromotion", summary: "Rejects a promotion", body: true},
		{method: get, path: live + "/plan", id: "planPromotion", summary: "Plans a promotion", query: []string{"strategy_id", "run_id"}},
		{method: get, path: live + "/candidates", id: "promotionCandidates", summary: "Lists candidates", query: []string{"limit", "include_plan"}},
		{method: get, path: w + "/campaign/status", id: "campaignStatus", summary: "Tells how a campaign is", query: []string{"strategy_id"}},
		{method: post, path: w + "/campaign/tick", id: "campaignTick", summary: "Takes a campaign a step on", query: []string{"strategy_id"}, body: true},
		{method: post, path: live + "/apply", id: "applyPromotion", summary: "Promotes", body: true, guarded: true},
		{method: post, path: live + "/auto-apply", id: "autoApplyPromotion", summary: "Promotes by policy", body: true, guarded: true},
		{method: post, path: w + "/apply", id: "applyWorld", summary: "Applies a world's plan", body: true, guarded: true},
	}
	var all []Operation
	for _, one := range rows {
		all = append(all, one.operation())
	}
	return all
}

func (r row) operation() Operation {
	op := Operation{Method: r.method, Path: r.path, ID: r.id, Summary: r.summary}
	if r.method == http.MethodDelete {
		op.Answers = []Answer{{http.StatusNoContent, "", "done"}}
	} else {
		op.Answers = []Answer{{http.StatusOK, Any, "the WorldService's answer"}}
	}
	for _, name := range r.query {
		op.Query = append(op.Query, Param{name, "string", false, "passed on"})
	}
	if r.body {
		op.Body = "Dict"
		op.Answers = slices.Concat(op.Answers, misread())
	}
	if r.guarded {
		op.Headers = []Param{allowLive()}
		op.Answers = append(op.Answers, notAllowed())
	}
	for _, a := range mirrored() {
		if r.method != http.MethodDelete || a.Status != http.StatusBadGateway { // what the answer to a removal holds does not matter
			op.Answers = append(op.Answers, a)
		}
	}
	return op
}

func state() []Operation {
	get := http.MethodGet
	return []Operation{
		{Method: get, Path: "/health", ID: "health", Summary: "Tells how the dependencies are", Answers: []Answer{{http.StatusOK, "Health", "their states"}}},
		{Method: get, Path: "/status", ID: "status", Summary: "Tells how dependencies and gateway are", Answers: []Answer{{http.StatusOK, "Status", "the states"}}},
		{Method: get, Path: "/metrics", ID: "metrics", Summary: "Gives metrics as Prometheus reads them", Answers: []Answer{{http.StatusOK, Text, "the metrics"}}},
		{Method: get, Path: "/openapi.json", ID: "openapi", Summary: "Gives this document", Answers: []Answer{{http.StatusOK, "Dict", "the document"}}},
	}
}
