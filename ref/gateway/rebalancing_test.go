package gateway

import (
	"strings"
	"testing"
)

const (
	equity    = `{"total_equity":1000,"world_alloc_before":{"w1":0.5},"world_alloc_after":{"w1":0.6},"positions":[{"world_id":"w1","strategy_id":"s","symbol":"BTC","qty":1.0,"mark":100.0,"venue":"x"}]`
	plan      = `{"schema_version":1,"per_world":{"w1":{"world_id":"w1","scale_world":1.2,"deltas":[{"symbol":"BTC","delta_qty":0.27,"venue":"x"},{"symbol":"ETH","delta_qty":-1.5}]}},"global_deltas":[{"symbol":"BTC","delta_qty":0.27,"venue":"x"}]}`
	btc       = `{"symbol":"BTC","quantity":0.27,"side":"buy","time_in_force":"GTC","venue":"x"}`
	perWorld  = `{"orders_per_world":{"w1":[` + btc + `,{"symbol":"ETH","quantity":-1.5,"side":"sell","time_in_force":"GTC","reduce_only":true}]}`
	untouched = `"submitted":false,"rebalance_schema_version":1,"alpha_metrics_capable":false}`
)

// Each answer of gateway.md 1.12.
func TestRebalancingExecute(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws, "--shared-account", "--shared-account-max-gross", "50"))
	closed := newStand(t, withWorldService(ws))
	for name, c := range map[string]struct {
		s      *stand
		query  string
		body   string
		plan   string
		status int
		want   string
	}{
		"scaling":      {s, "", equity + `}`, plan, 200, perWorld + "," + untouched},
		"per strategy": {s, "?per_strategy=TRUE", equity + `}`, plan, 200, perWorld + `,"orders_per_strategy":[{"world_id":"w1","strategy_id":"s","order":` + btc + `}],` + untouched},
		"shared":       {s, "?shared_account=yes", equity + `}`, plan, 200, perWorld + `,"orders_global":[` + btc + `],` + untouched},
		"shared, policy": {s, "?shared_account=1", equity + `}`, strings.Replace(plan, `"global_deltas":[{"symbol":"BTC","delta_qty":0.27`, `"global_deltas":[{"symbol":"BTC","delta_qty":1`, 1), 422,
			`{"detail":{"code":"E_SHARED_ACCOUNT_POLICY","message":"gross notional 100.00 exceeds limit 50.00","context":{"total_equity":1000.0,"current_net_notional":100.0,"gross_notional":100.0,"net_notional_delta":100.0,"net_notional":200.0,"margin_headroom":0.8}}}`},
		"shared, off":       {closed, "?shared_account=1", equity + `}`, plan, 403, `{"detail":{"code":"E_SHARED_ACCOUNT_DISABLED","message":"shared-account execution is disabled"}}`},
		"hybrid":            {s, "?submit=1", equity + `,"mode":" Hybrid "}`, "", 501, `{"detail":{"code":"E_REBALANCE_MODE_UNSUPPORTED","message":"Hybrid mode is not implemented yet. Use mode='scaling' or 'overlay'."}}`},
		"guard":             {s, "?submit=on", equity + `}`, "", 403, `{"detail":{"code":"E_PERMISSION_DENIED","message":"live trading not allowed"}}`},
		"overlay, none":     {s, "", equity + `,"mode":"overlay"}`, plan, 422, `{"detail":"overlay config is required when mode='overlay'"}`},
		"overlay":           {s, "", equity + `,"mode":"overlay","overlay":{"instrument_by_world":{"w1":"P"}}}`, `{"per_world":{},"overlay_deltas":[{"symbol":"P","delta_qty":2}]}`, 200, `{"orders_per_world":{"w1":[{"symbol":"P","quantity":2.0,"side":"buy","time_in_force":"GTC"}]},"overlay_deltas":[{"symbol":"P","delta_qty":2.0,"venue":null}],` + untouched},
		"overlay, unmapped": {s, "", equity + `,"mode":"overlay","overlay":{"instrument_by_world":{"w1":"P"}}}`, `{"overlay_deltas":[{"symbol":"Z","delta_qty":2}]}`, 422, `{"detail":{"code":"E_OVERLAY_EXECUTION_UNMAPPED","message":"Gateway could not map an overlay delta back to a world","symbol":"Z"}}`},
		"no plan":           {s, "", equity + `}`, `[]`, 502, `{"detail":"WorldService's answer is no rebalancing plan"}`},
		"wrong delta":       {s, "", equity + `}`, `{"per_world":{"w":{"deltas":[{"symbol":"B","delta_qty":"x"}]}}}`, 502, `{"detail":"WorldService's answer is no rebalancing plan"}`},
		"version 0":         {s, "", equity + `,"schema_version":0}`, "", 422, `"type":"greater_than_equal","loc":["body","schema_version"]`},
		"no commit log":     {newStand(t, withWorldService(ws, "--allow-live")), "?submit=1", equity + `}`, plan, 503, `{"detail":{"code":"E_COMMITLOG_DISABLED","message":"commit log unavailable"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			ws.on(script{status: 200, body: c.plan})
			ws.seen()
			a := c.s.post("/rebalancing/execute"+c.query, c.body)
			if a.status != c.status || !strings.Contains(a.body, c.want) {
				t.Errorf("%d %s\nwant %d %s", a.status, a.body, c.status, c.want)
			}
			if n := len(ws.seen()); (n == 0) != (c.plan == "") {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestRebalancingMirrorsTheWorldService(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws))
	ws.on(script{status: 422, body: `{"detail":"bad"}`})
	if a := s.post("/rebalancing/execute", equity+`}`); a.status != 422 || a.body != `{"detail":"bad"}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	away := newStand(t, withArgs("--worldservice-url", "http://127.0.0.1:1", "--worldservice-retries", "0"))
	if a := away.post("/rebalancing/execute", equity+`}`); a.status != 503 || a.body != `{"detail":"WorldService unavailable"}` {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRebalancingNegotiatesItsVersion(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withWorldService(ws, "--rebalance-schema-version", "2", "--alpha-metrics-capable"))
	for reply, want := range map[string]string{
		`{"schema_version":2,"per_world":{},"alpha_metrics":{"per_world":{}}}`: `"rebalance_schema_version":2,"alpha_metrics_capable":true`,
		`{"schema_version":2,"per_world":{},"alpha_metrics":{}}`:               `"rebalance_schema_version":2,"alpha_metrics_capable":false`,
		`{"schema_version":1,"per_world":{},"alpha_metrics":{"a":1}}`:          `"rebalance_schema_version":1,"alpha_metrics_capable":false`,
	} {
		ws.on(script{status: 200, body: reply})
		ws.seen()
		a := s.post("/rebalancing/execute", equity+`,"schema_version":7}`)
		if seen := ws.seen(); len(seen) != 1 || !strings.Contains(seen[0].Body, `"schema_version":2`) || !strings.Contains(a.body, want) {
			t.Errorf("%d %s, want %s; asked %v", a.status, a.body, want, seen)
		}
	}
	if a := s.get("/health"); !strings.Contains(a.body, `"capabilities":{"rebalance_schema_version":2,"alpha_metrics_capable":true}`) {
		t.Errorf("health %s", a.body)
	}
}

func TestSubmittedOrdersAreInTheCommitLog(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withKafka, withWorldService(ws, "--allow-live", "--shared-account"))
	ws.on(script{status: 200, body: plan})
	ws.on(script{method: "GET", path: "/worlds/w1", status: 200, body: `{"world":{"mode":"paper"}}`})
	a := s.post("/rebalancing/execute?submit=true&shared_account=1", equity+`}`)
	if a.status != 200 || !strings.Contains(a.body, `"submitted":true`) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	records := s.recordsOf("gateway.ingest", 2)
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	for i, want := range []string{
		`"world_id": "w1", "scope": "per_world", "orders": [{"symbol": "BTC", "quantity": 0.27,`,
		`"world_id": "global", "scope": "global", "orders": [{"symbol": "BTC"`,
	} {
		if got := string(records[i].Value); !strings.Contains(got, want) || !strings.HasPrefix(got, `["gateway.rebalance", `) {
			t.Errorf("record %s, want %s", got, want)
		}
	}
	if got := string(records[0].Value); !strings.Contains(got, `"counts": {"total": 2, "reduce_only": 1}, "reduce_only_ratio": 0.5`) || !strings.HasSuffix(got, `"mode": "paper", "shared_account": true}]`) {
		t.Errorf("record %s", got)
	}
	if got := s.metric(`rebalance_batches_submitted_total{scope="per_world",world_id="w1"}`); got != "1" {
		t.Errorf("batches %s", got)
	}
}

func TestAWorldThatOnlyWatchesBlocksAllOrders(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withKafka, withWorldService(ws, "--allow-live"))
	ws.on(script{status: 200, body: `{"per_world":{"a":{"deltas":[{"symbol":"B","delta_qty":1}]},"b":{"deltas":[]}}}`})
	ws.on(script{method: "GET", path: "/worlds/b", status: 200, body: `{"effective_mode":"shadow"}`})
	a := s.post("/rebalancing/execute?submit=true", equity+`}`)
	if a.status != 422 || !strings.Contains(a.body, "E_SHADOW_ORDERS_BLOCKED") || len(s.records()) != 0 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestOrdersThatKafkaDoesNotTakeAreNotSubmitted(t *testing.T) {
	ws := newWorldService(t)
	s := newStand(t, withKafka, withWorldService(ws, "--allow-live", "--commitlog-timeout", "1s"))
	ws.on(script{status: 200, body: plan})
	s.kafka.Close()
	if a := s.post("/rebalancing/execute?submit=true", equity+`}`); a.status != 503 || a.body != `{"detail":{"code":"E_COMMITLOG","message":"commit log unavailable"}}` {
		t.Errorf("%d %s", a.status, a.body)
	}
}
