package contract_test

import (
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
)

// The texts are those of gateway.md 1.3, 1.5, 2.2 and 2.3.
func TestErrorBodiesAreThoseOfTheContract(t *testing.T) {
	conflict := contract.SchemaConflict{SchemaCompatID: "ind-major", SchemaID: "other"}
	for _, c := range []struct {
		problem *contract.Problem
		status  int
		body    string
	}{
		{contract.WorldIDDeprecated(), 422, `{"detail":{"code":"E_WORLD_ID_DEPRECATED","message":"Use world_ids instead of world_id for strategy submissions."}}`},
		{contract.WorldIDsRequired(), 422, `{"detail":{"code":"E_WORLD_IDS_REQUIRED","message":"Strategy submissions must include at least one world_ids entry."}}`},
		{contract.SchemaRequired(), 400, `{"detail":{"code":"E_SCHEMA_INVALID","errors":[{"path":["schema_version"],"message":"schema_version is required","supported":["1","1.0","v1"]}]}}`},
		{contract.SchemaUnsupported("v9"), 400, `{"detail":{"code":"E_SCHEMA_INVALID","errors":[{"path":["schema_version"],"message":"unsupported schema version: v9","supported":["1","1.0","v1"]}]}}`},
		{contract.NodeIDFields([]contract.MissingFields{
			{Index: 0, Missing: []string{"config_hash", "schema_compat_id"}, NodeID: "blake3:deadbeef"}, {Index: 3, Missing: []string{"node_id"}},
		}), 400, `{"detail":{"code":"E_NODE_ID_FIELDS","message":"node_id validation requires node_type, code_hash, config_hash, schema_hash and schema_compat_id","missing_fields":[{"index":0,"missing":["config_hash","schema_compat_id"],"node_id":"blake3:deadbeef"},{"index":3,"missing":["node_id"]}],"hint":"Regenerate the DAG with an updated SDK so each node includes the hashes required by compute_node_id()."}}`},
		{contract.SchemaCompatMismatch([]contract.SchemaConflictAt{{Index: 0, NodeID: "blake3:d40a", SchemaConflict: conflict}}), 400,
			`{"detail":{"code":"E_SCHEMA_COMPAT_MISMATCH","message":"schema_compat_id and schema_id must match when both are provided","schema_conflicts":[{"index":0,"schema_compat_id":"ind-major","schema_id":"other","node_id":"blake3:d40a"}],"hint":"Send only schema_compat_id or ensure legacy schema_id matches it."}}`},
		{contract.ChecksumMismatch(), 400, `{"detail":{"code":"E_CHECKSUM_MISMATCH","message":"node id checksum mismatch"}}`},
		{contract.NodeIDMismatch([]contract.IDMismatch{{Index: 0, NodeID: "<é>", Expected: "blake3:d4"}}), 400,
			`{"detail":{"code":"E_NODE_ID_MISMATCH","message":"node_id does not match canonical compute_node_id output","node_id_mismatch":[{"index":0,"node_id":"<é>","expected":"blake3:d4"}],"hint":"Regenerate node_ids using compute_node_id() with all canonical fields populated."}}`},
		{contract.Duplicate("id-1"), 409, `{"detail":{"code":"E_DUPLICATE","strategy_id":"id-1"}}`},
		{contract.CommitLogUnavailable(), 503, `{"detail":{"code":"E_COMMITLOG","message":"commit log unavailable"}}`},
		{contract.StrategyNotFound(), 404, `{"detail":"strategy not found"}`},
		{contract.SchemaUnsupported("\xed\xa0\x80"), 400, `{"detail":{"code":"E_SCHEMA_INVALID","errors":[{"path":["schema_version"],"message":"unsupported schema version: \ud800","supported":["1","1.0","v1"]}]}}`},
	} {
		if c.problem.Status != c.status || c.problem.Error() != c.body {
			t.Errorf("%d %s\nwant %d %s", c.problem.Status, c.problem, c.status, c.body)
		}
	}
	if code := contract.Duplicate("x").Code() + contract.StrategyNotFound().Code(); code != "E_DUPLICATE" {
		t.Errorf("codes %q", code)
	}
}
