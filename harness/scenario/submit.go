package scenario

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// submitAction posts a strategy, as a submission or as a dry run.
type submitAction struct {
	dagSpec
	dressing
	DAGText  *string  `json:"dag_text"`
	Encode   string   `json:"encode"`
	Worlds   []any    `json:"worlds"`
	Meta     *any     `json:"meta"`
	CRC      *any     `json:"crc"`
	Body     edit     `json:"body"`
	Parallel int      `json:"parallel"`
	Distinct bool     `json:"distinct"`
	Timeout  duration `json:"timeout"`
	// Unanswered allows that no answer comes, as when the gateway is killed.
	Unanswered bool `json:"unanswered"`
	path       string
}

type dryRunAction struct{ submitAction }

func readDryRun(args any) (action, error) {
	a, err := readAs[submitAction](args)
	if err != nil {
		return nil, err
	}
	return dryRunAction{a.(submitAction)}, nil
}

func (a submitAction) validate() error {
	return checkFixture(a.DAG)
}

// checkFixture refuses unknown names before anything runs.
func checkFixture(dag any) error {
	name, ok := dag.(string)
	if !ok {
		return nil
	}
	if _, err := fixture(name); err != nil {
		return &wrong{key: "/dag", what: fmt.Sprintf("unknown DAG %q", name), mend: "known: empty, one-node, two-node, two-worlds-tagquery, chain-N, wide-N"}
	}
	return nil
}

func (a dryRunAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	return a.send(ctx, x, "/strategies/dry-run")
}

func (a submitAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	return a.send(ctx, x, "/strategies")
}

func (a submitAction) send(ctx context.Context, x *execution, path string) (observation, error) {
	a.path = path
	if a.Parallel == 0 {
		return a.once(ctx, x, a.Variant)
	}
	return together(a.Parallel, func(i int) (observation, error) {
		variant := a.Variant
		if a.Distinct {
			variant = fmt.Sprintf("%s-%d", variant, i)
		}
		return a.once(ctx, x, variant)
	})
}

// once sends one body and adds what became of it to the history.
func (a submitAction) once(ctx context.Context, x *execution, variant string) (observation, error) {
	base, err := x.wire.gateway()
	if err != nil {
		return nil, err
	}
	a.Variant = variant
	dag, err := a.build(x.token(variant), a.dressing)
	if err != nil {
		return nil, err
	}
	body, err := a.body(dag)
	if err != nil {
		return nil, err
	}
	q := request{method: "POST", url: base + a.path, body: body, timeout: a.Timeout.or(DefaultTimeout)}
	began := time.Now()
	o, err := x.wire.ask(ctx, q)
	x.past.submission(x.scenario.ID, a.path, a.DAGText == nil, dag, began, o)
	switch {
	case err == nil:
		o["sent"] = dag.sent()
	case a.Unanswered && ctx.Err() == nil:
		return observation{"sent": dag.sent()}, nil
	}
	return o, err
}

// token makes a fresh DAG the same within one variant; without a variant each
// element of a for_each has its own.
func (x *execution) token(variant string) string {
	if variant != "" {
		return x.uniq
	}
	return x.uniq + x.row
}

// body lays out the request; a member that is to be left out is removed by Body.
func (a submitAction) body(dag builtDAG) ([]byte, error) {
	m := map[string]any{"dag_json": a.encoded(dag), "node_ids_crc32": a.crc(dag), "world_ids": a.worlds()}
	if a.Meta != nil {
		m["meta"] = *a.Meta
	}
	maps.Copy(m, a.Body.Set)
	for _, k := range a.Body.Remove {
		delete(m, k)
	}
	return appendJSON(nil, m, dressing{}, 0), nil
}

func (a submitAction) worlds() any {
	if a.Worlds == nil {
		return []any{"w1"}
	}
	return a.Worlds
}

func (a submitAction) encoded(dag builtDAG) string {
	switch {
	case a.DAGText != nil:
		return *a.DAGText
	case a.Encode == "plain":
		return dag.text
	}
	return base64.StdEncoding.EncodeToString([]byte(dag.text))
}

func (a submitAction) crc(dag builtDAG) any {
	if a.CRC == nil || *a.CRC == "auto" {
		return json.Number(fmt.Sprint(dag.crc))
	}
	if *a.CRC == "wrong" {
		return json.Number(fmt.Sprint(dag.crc ^ 1))
	}
	return *a.CRC
}
