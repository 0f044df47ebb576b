package gateway

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
)

func ackOf(t *testing.T, a answer) contract.StrategyAck {
	t.Helper()
	var ack contract.StrategyAck
	if err := json.Unmarshal([]byte(a.body), &ack); err != nil {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	return ack
}

var uuid4 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestSubmitStoresEverythingOnceAndForGood(t *testing.T) {
	s := newStand(t, withKafka)
	a := s.post("/strategies", bodyWith(oneNode("a"), `{"execution_domain":"backtest","as_of":"2025-01-01T00:00:00Z","version":" 1.2.3 "}`, " alpha ", "beta", "alpha"))
	ack := ackOf(t, a)
	if a.status != 202 || !uuid4.MatchString(ack.StrategyID) || ack.SentinelID != ack.StrategyID+"-sentinel" {
		t.Fatalf("answer %d %s", a.status, a.body)
	}
	want := `{"strategy_id":"` + ack.StrategyID + `","queue_map":{},"sentinel_id":"` + ack.SentinelID +
		`","node_ids_crc32":1023661098,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`
	if a.body != want {
		t.Errorf("body %s\nwant %s", a.body, want)
	}
	key := "strategy:" + ack.StrategyID
	for field, want := range map[string]string{
		"state": "queued", "compute_execution_domain": "backtest", "compute_as_of": "2025-01-01T00:00:00Z", "compute_world_id": "alpha",
	} {
		if got := s.redis.HGet(key, field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	hash := s.redis.HGet(key, "hash")
	if got, _ := s.redis.Get("dag_hash:" + hash); got != ack.StrategyID {
		t.Errorf("dag_hash:%s = %q", hash, got)
	}
	if q, _ := s.redis.List("strategy_queue"); len(q) != 1 || q[0] != ack.StrategyID {
		t.Errorf("queue %v", q)
	}
	for _, k := range s.redis.Keys() {
		if ttl := s.redis.TTL(k); ttl != 0 {
			t.Errorf("key %s expires in %s", k, ttl)
		}
	}
	stored, err := base64.StdEncoding.DecodeString(s.redis.HGet(key, "dag"))
	if err != nil || !strings.HasSuffix(string(stored), `{"node_type": "VersionSentinel", "node_id": "`+ack.SentinelID+`", "version": "1.2.3"}]}`) {
		t.Errorf("stored dag %s (%v)", stored, err)
	}
	records := s.records()
	if len(records) != 1 || string(records[0].Key) != "ingest:"+ack.StrategyID || records[0].Headers[0].Key != "rfp" {
		t.Fatalf("records %v", records)
	}
	if got := string(records[0].Value); !strings.Contains(got, `"dag_hash": "`+hash+`", "dag": `+string(stored)+`, "dag_base64": "`+s.redis.HGet(key, "dag")+`"`) ||
		!strings.Contains(got, `"world_ids": ["alpha", "beta"]`) {
		t.Errorf("record %s", got)
	}
	if got := s.get("/strategies/" + ack.StrategyID + "/status").body; got != `{"status":"queued"}` {
		t.Errorf("status %s", got)
	}
	diffs, acks, _ := s.dm.seen()
	if len(diffs) != 1 || diffs[0].GetWorldId() != "alpha" || diffs[0].GetExecutionDomain() != "backtest" || strings.Contains(diffs[0].GetDagJson(), "Sentinel") {
		t.Errorf("diffs %v", diffs)
	}
	if len(acks) != 1 || acks[0].GetChunkId() != 0 || acks[0].GetSentinelId() != ack.SentinelID {
		t.Errorf("acks %v", acks)
	}
}
