package scenario_test

import (
	"testing"
	"testing/fstest"

	"qmtl.internal/plumbline/harness/scenario"
)

// A scenario as people are shown it first.
const example = `id: GW-DUP-003
title: the same DAG in another dress is a duplicate
class: strict
clause: contract/gateway.md#26-registration-duplicate-detection-sentinel
steps:
  - submit: { dag: one-node, worlds: [w1] }
    expect: { status: 202, body: { strategy_id: { match: uuid4 } }, save: { first: body.strategy_id } }
  - submit: { dag: one-node, encode: plain, key_order: reversed, worlds: [w2], meta: { user: other } }
    expect: { status: 409, body: { detail: { code: E_DUPLICATE, strategy_id: "${first}" } } }
`

func TestExampleRuns(t *testing.T) {
	all, err := scenario.Load(fstest.MapFS{"x.yaml": {Data: []byte(example)}})
	if err != nil {
		t.Fatal(err)
	}
	expectOutcome(t, scenario.Run(t.Context(), newStand(t).env, all)[0], "")
}
