package dagmanager

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func document(t *testing.T, raw json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// str is the text of a member, "" for null.
func str(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

// orNull is what an absent text is in a vector.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// helpers apply one op of the family; the result is compared as JSON.
var helpers = map[string]func(t *testing.T, in pyjson.Value) map[string]any{
	"normalize_version": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"version": contract.NormalizeVersion(in.Member("value"))}
	},
	"coerce_weight": func(_ *testing.T, in pyjson.Value) map[string]any {
		if w, ok := diff.CoerceWeight(in.Member("value")); ok {
			return map[string]any{"weight": w}
		}
		return map[string]any{"weight": nil}
	},
	"version_label": versionLabel,
	"asset_from_tags": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"asset": contract.AssetOf(in.Member("tags").Elems())}
	},
	"upsert_type": upsertType,
	"build_namespace": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"namespace": orNull(contract.Namespace(in.Member("world"), in.Member("domain")))}
	},
	"normalize_namespace": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"namespace": orNull(contract.NamespaceOf(in.Member("value")))}
	},
	"ensure_namespace": func(_ *testing.T, in pyjson.Value) map[string]any {
		ns := contract.NamespaceOf(in.Member("namespace"))
		return map[string]any{"topic": contract.EnsureNamespace(str(in, "topic"), ns)}
	},
	"gateway_diff_namespace": gatewayReply,
	"gateway_lookup_namespace": func(_ *testing.T, in pyjson.Value) map[string]any {
		domain := dag.ResolveDomain(pyjson.Strip(str(in, "execution_domain")))
		ns := contract.Namespace(in.Member("world_id"), pyjson.OfString(contract.DomainOrLive(pyjson.OfString(domain))))
		var prefixed []any
		for _, q := range in.Member("queues").Elems() {
			prefixed = append(prefixed, contract.EnsureNamespace(q.Text(), ns))
		}
		return map[string]any{"prefixed": prefixed}
	},
	"partition_key": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"key": contract.PartitionKey(
			str(in, "node_id"), in.Member("interval"), in.Member("bucket"), str(in, "compute_key"))}
	},
	"node_id_from_partition_key": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"node_id": contract.NodeIDOfPartitionKey(str(in, "key"))}
	},
	"stringify": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"text": contract.Stringify(in.Member("value"))}
	},
	"normalize_domain_default_live": func(_ *testing.T, in pyjson.Value) map[string]any {
		return map[string]any{"domain": contract.DomainOrLive(in.Member("value"))}
	},
	"get_config":   getConfig,
	"verify_topic": verifyTopic,
}

func TestTopicHelpersVectors(t *testing.T) {
	vectors.Run(t, "topic_helpers", func(t *testing.T, v vectors.Vector) {
		in := document(t, v.Input)
		apply, known := helpers[str(in, "op")]
		if !known {
			t.Fatalf("no helper for op %q", str(in, "op"))
		}
		b, err := json.Marshal(apply(t, in))
		if err != nil {
			t.Fatal(err)
		}
		got, want := vectors.Decode[any](t, b), vectors.Decode[any](t, v.Output)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

func versionLabel(t *testing.T, in pyjson.Value) map[string]any {
	plain, sentinels, err := diff.Separate(in.Member("dag"))
	if err != nil {
		t.Fatal(err)
	}
	v := diff.VersionOf(in.Member("dag"), sentinels)
	return map[string]any{"version": v.Label, "weight": v.Weight, "sentinel_requested": v.Sentinel, "remaining_nodes": len(plain)}
}

func upsertType(t *testing.T, in pyjson.Value) map[string]any {
	name, err := contract.TopicName(contract.TopicSpec{
		Asset: str(in, "asset"), NodeType: str(in, "node_type"), NodeID: str(in, "node_id"),
		Version: str(in, "version"), CodeHash: str(in, "code_hash"),
	}, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	c, err := topics.ConfigOf(diff.KindOf(str(in, "node_type")))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"topic": name, "num_partitions": c.Partitions, "replication_factor": c.Replication, "config": c.Entries()}
}

func gatewayReply(_ *testing.T, in pyjson.Value) map[string]any {
	world := contract.Stringify(in.Member("world_id"))
	domain := contract.Stringify(in.Member("execution_domain"))
	asked := domain
	if asked == "" {
		asked = contract.Stringify(in.Member("dag").Member("meta").Member("execution_domain"))
	}
	ns := contract.ReplyNamespace(in.Member("dag"), world, domain)
	return map[string]any{"applied": orNull(ns), "request_world_id": world, "request_execution_domain": asked,
		"prefixed": contract.EnsureNamespace("t", ns)}
}

func getConfig(_ *testing.T, in pyjson.Value) map[string]any {
	c, err := topics.ConfigOf(diff.Kind(str(in, "type")))
	if err != nil {
		return map[string]any{"error": "ValueError"}
	}
	return map[string]any{"partitions": c.Partitions, "replication_factor": c.Replication,
		"retention_ms": c.Retention.Milliseconds(), "cleanup_policy": orNull(c.Cleanup)}
}

// shapeOf reads what a vector says of a topic.
func shapeOf(v pyjson.Value) topics.Shape {
	s := topics.Shape{Config: map[string]string{}}
	for key, field := range map[string]*int{"num_partitions": &s.Partitions, "replication_factor": &s.Replication} {
		if n, err := pyjson.ToInt(v.Member(key)); err == nil {
			*field = int(n)
		}
	}
	for _, m := range v.Member("config").Members() {
		s.Config[m.Key] = m.Value.Text()
	}
	return s
}

func verifyTopic(t *testing.T, in pyjson.Value) map[string]any {
	want, err := topics.ConfigOf(diff.Kind(str(in, "type")))
	if err != nil {
		t.Fatal(err)
	}
	existing := map[string]topics.Shape{}
	for _, m := range in.Member("metadata").Members() {
		existing[m.Key] = shapeOf(m.Value)
	}
	err = topics.Verify(str(in, "name"), want, existing)
	out := map[string]any{"ok": err == nil, "message": nil, "collisions": []string{}, "diagnostics": map[string]any{"reason": "verified"}}
	var collision *topics.CollisionError
	var mismatch *topics.MismatchError
	switch {
	case errors.Is(err, topics.ErrMissing):
		out["diagnostics"] = map[string]any{"reason": "missing"}
	case errors.As(err, &collision):
		out["message"] = "name collision for topic '" + collision.Topic + "'"
		out["collisions"] = collision.Others
		out["diagnostics"] = map[string]any{"collisions": collision.Others}
	case errors.As(err, &mismatch):
		out["message"] = mismatch.What + " mismatch for topic '" + mismatch.Topic + "'"
		out["diagnostics"] = diagnostics(mismatch)
	}
	return out
}

func diagnostics(e *topics.MismatchError) map[string]any {
	key := map[string]string{"partition": "partitions", "replication": "replication_factor",
		"retention": "retention.ms", "cleanup policy": "cleanup.policy"}[e.What]
	if n, err := strconv.Atoi(e.Has); err == nil && e.What != "retention" {
		return map[string]any{key: n}
	}
	return map[string]any{key: e.Has}
}

func TestContextMergeVectors(t *testing.T) {
	type request struct {
		World     string `json:"world_id"`
		Domain    string `json:"execution_domain"`
		AsOf      string `json:"as_of"`
		Partition string `json:"partition"`
		Dataset   string `json:"dataset_fingerprint"`
	}
	vectors.Run(t, "dm_context_merge", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct {
			DAG     json.RawMessage
			Request request
		}](t, v.Input)
		doc := document(t, in.DAG)
		inferred := diff.InferContext(doc)
		merged := diff.MergeContext(inferred, diff.RequestContext{WorldID: in.Request.World, ExecutionDomain: in.Request.Domain,
			AsOf: in.Request.AsOf, Partition: in.Request.Partition, DatasetFingerprint: in.Request.Dataset})
		got := map[string]any{"inferred": fields(inferred), "merged": fields(merged),
			"namespace": orNull(diff.NamespaceOf(doc, inferred))}
		if d := cmp.Diff(vectors.Decode[map[string]any](t, v.Output), got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

func fields(c dag.ComputeContext) map[string]any {
	return map[string]any{
		"world_id": c.WorldID, "execution_domain": c.ExecutionDomain, "as_of": orNull(c.AsOf), "partition": orNull(c.Partition),
		"dataset_fingerprint": orNull(c.DatasetFingerprint), "downgraded": c.Downgraded,
		"downgrade_reason": orNull(c.DowngradeReason), "safe_mode": c.SafeMode,
	}
}
