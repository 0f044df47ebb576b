package contract_test

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// producers maps the op of a vector to the record that the contract makes of it.
var producers = map[string]func(*testing.T, json.RawMessage, contract.Stamp) contract.Record{
	"queue_updated": func(t *testing.T, args json.RawMessage, s contract.Stamp) contract.Record {
		in := vectors.Decode[struct {
			Tags     []string
			Interval int64
			Queues   []contract.QueueRef
		}](t, args)
		return contract.QueueUpdate{Tags: in.Tags, Interval: in.Interval, Queues: in.Queues}.Record(s)
	},
	"queue_lifecycle": func(t *testing.T, args json.RawMessage, s contract.Stamp) contract.Record {
		in := vectors.Decode[struct {
			Queue, Action, Reason, Tag string
			Version                    int
			Interval                   *int64
			ArchiveStatus              string `json:"archive_status"`
		}](t, args)
		return contract.QueueLifecycle{
			Queue: in.Queue, Action: in.Action, Reason: in.Reason, Version: in.Version,
			Tag: in.Tag, Interval: in.Interval, ArchiveStatus: in.ArchiveStatus,
		}.Record(s)
	},
	"sentinel_weight": func(t *testing.T, args json.RawMessage, s contract.Stamp) contract.Record {
		in := vectors.Decode[struct {
			ID      string `json:"sentinel_id"`
			Weight  float64
			Version string `json:"sentinel_version"`
			World   string `json:"world_id"`
		}](t, args)
		return contract.SentinelWeight{
			SentinelID: in.ID, Weight: in.Weight, SentinelVersion: in.Version, WorldID: in.World,
		}.Record(s)
	},
}

// othersProduce are the records of this family that a DAG Manager never writes,
// with who does.
var othersProduce = map[string]string{
	"activation_updated":         "WorldService",
	"policy_updated":             "WorldService",
	"rebalancing_planned":        "WorldService",
	"evaluation_run_created":     "WorldService",
	"evaluation_run_updated":     "WorldService",
	"validation_profile_changed": "WorldService",
	"risk_snapshot_updated":      "WorldService",
	"activation_ack":             "Gateway",
}

func TestBusProducerRecordsVectors(t *testing.T) {
	type input struct {
		Op      string
		Args    json.RawMessage
		Now     time.Time
		EventID string `json:"event_id"`
	}
	type output struct {
		Topic, Value string
		Key          string `json:"key_b64"`
	}
	vectors.Run(t, "bus_producer_records", func(t *testing.T, v vectors.Vector) {
		in, want := vectors.Decode[input](t, v.Input), vectors.Decode[output](t, v.Output)
		if who, other := othersProduce[in.Op]; other {
			t.Logf("%s is written by the %s, not by a DAG Manager", in.Op, who)
			return
		}
		produce, known := producers[in.Op]
		if !known {
			t.Fatalf("no producer for op %q", in.Op)
		}
		rec := produce(t, in.Args, contract.Stamp{ID: in.EventID, Time: in.Now})
		got := output{rec.Topic, string(rec.Value), base64.StdEncoding.EncodeToString(rec.Key)}
		if got != want {
			t.Errorf("record\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestRevisedQueueUpdateChangesItsKeysOnly(t *testing.T) {
	s := contract.Stamp{ID: "x", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	read := func(revision uint64) map[string]any {
		rec := contract.QueueUpdate{Tags: []string{"a"}, Interval: 60, Revision: revision}.Record(s)
		var e struct {
			Time string
			Data map[string]any
		}
		if err := json.Unmarshal(rec.Value, &e); err != nil {
			t.Fatal(err)
		}
		if e.Time != "2026-01-02T03:04:05+00:00" {
			t.Errorf("time %q: whole seconds have no fraction in Python", e.Time)
		}
		return e.Data
	}
	a, b := read(1), read(2)
	for key := range a {
		same := key != "etag" && key != "idempotency_key"
		if equal := jsonText(t, a[key]) == jsonText(t, b[key]); equal != same {
			t.Errorf("%s: %v and %v", key, a[key], b[key])
		}
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
