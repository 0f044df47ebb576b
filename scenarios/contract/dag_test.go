package contract_test

import (
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestDAGHashVectors(t *testing.T) {
	vectors.Run(t, "dag_hash", func(t *testing.T, v vectors.Vector) {
		in, want := raw(t, v.Input), raw(t, v.Output)
		dag, err := contract.DecodeDAG(text(in, "dag_json"))
		stored := dag
		if err == nil && in.Member("insert_sentinel").IsTrue() {
			stored, err = contract.StoredDAG(dag, text(in, "strategy_id"), contract.SentinelVersion(in.Member("meta")))
		}
		if refused(t, want, err) {
			return
		}
		for key, got := range map[string]string{
			"dag_hash":    contract.DAGHash(dag),
			"dedupe_key":  "dag_hash:" + contract.DAGHash(dag),
			"stored_json": string(contract.StoredJSON(stored)),
			"dag_base64":  contract.StoredBase64(stored),
		} {
			if got != text(want, key) {
				t.Errorf("%s\n got %s\nwant %s", key, got, text(want, key))
			}
		}
	})
}

// tagQueryOps gives what this package makes of the input of one vector, by op.
var tagQueryOps = map[string]func(in pyjson.Value) (pyjson.Value, error){
	"split_tags": func(in pyjson.Value) (pyjson.Value, error) {
		tags, err := contract.SplitTags(in.Member("value"))
		return object("tags", texts(tags)), err
	},
	"normalize_match_mode": func(in pyjson.Value) (pyjson.Value, error) {
		mode, err := contract.NormalizeMatchMode(in.Member("value"))
		return object("mode", pyjson.OfString(mode)), err
	},
	"normalize_queues": func(in pyjson.Value) (pyjson.Value, error) {
		names, err := contract.NormalizeQueues(in.Member("value"))
		return object("queues", texts(names)), err
	},
	"canonical_params": canonicalParams,
	"queue_filter": func(in pyjson.Value) (pyjson.Value, error) {
		f := contract.ParseQueueFilter(text(in, "value"))
		return object("tags", texts(f.Tags), "interval", pyjson.OfInt(f.Interval)), nil
	},
}

func canonicalParams(in pyjson.Value) (pyjson.Value, error) {
	q, err := contract.TagQueryOf(in.Member("node"))
	if missing := q.Missing(); err == nil && in.Member("require").IsTrue() && missing != nil {
		err = contract.ErrNode
	}
	interval := pyjson.Value{}
	if q.Interval != nil {
		interval = pyjson.OfInt(*q.Interval)
	}
	return object("query_tags", texts(q.Tags), "match_mode", pyjson.OfString(q.MatchMode), "interval", interval), err
}

func object(pairs ...any) pyjson.Value {
	v := pyjson.OfObject()
	for i := 0; i < len(pairs); i += 2 {
		v = v.With(pairs[i].(string), pairs[i+1].(pyjson.Value))
	}
	return v
}

func texts(list []string) pyjson.Value {
	var elems []pyjson.Value
	for _, s := range list {
		elems = append(elems, pyjson.OfString(s))
	}
	return pyjson.OfArray(elems...)
}

// byOp runs a family whose vectors name the helper they were taken from.
func byOp(t *testing.T, family string, elsewhere map[string]bool, ops map[string]func(pyjson.Value) (pyjson.Value, error)) {
	vectors.Run(t, family, func(t *testing.T, v vectors.Vector) {
		in, want := raw(t, v.Input), raw(t, v.Output)
		if elsewhere[text(in, "op")] {
			return
		}
		op, known := ops[text(in, "op")]
		if !known {
			t.Fatalf("op %q is not covered", text(in, "op"))
		}
		got, err := op(in)
		if refused(t, want, err) {
			return
		}
		if g, w := canonical(got), canonical(want); g != w {
			t.Errorf("\n got %s\nwant %s", g, w)
		}
	})
}

func canonical(v pyjson.Value) string { return string(pyjson.Append(nil, v, pyjson.Sorted)) }

func TestTagQueryVectors(t *testing.T) {
	// The queue map asks the DAG Manager: ref/gateway/submit runs those vectors.
	byOp(t, "tag_query", map[string]bool{"queue_map": true}, tagQueryOps)
}

func TestIntervalsVectors(t *testing.T) {
	seconds := func(n int64, err error) (pyjson.Value, error) {
		return object("seconds", pyjson.OfInt(n)), err
	}
	filter := func(in pyjson.Value) (pyjson.Value, error) {
		return seconds(contract.ParseFilterInterval(in.Member("value").Text()))
	}
	byOp(t, "intervals", nil, map[string]func(pyjson.Value) (pyjson.Value, error){
		"parse_interval": func(in pyjson.Value) (pyjson.Value, error) {
			v := in.Member("value")
			got, err := seconds(contract.ParseInterval(v))
			return got.With("python_bool", pyjson.OfBool(v.Kind() == pyjson.Bool)), err
		},
		"parse_period": func(in pyjson.Value) (pyjson.Value, error) {
			v := in.Member("value")
			n, err := contract.ParsePeriod(v)
			got := object("value", pyjson.OfInt(n))
			if v.Kind() == pyjson.Bool {
				got = object("value", v)
			}
			return got, err
		},
		"validate_tag": func(in pyjson.Value) (pyjson.Value, error) {
			tag, err := contract.ValidateTag(in.Member("value"))
			return object("value", pyjson.OfString(tag)), err
		},
		"validate_name": func(in pyjson.Value) (pyjson.Value, error) {
			if in.Member("value").IsNull() { // no name is a name of none
				return object("value", pyjson.Value{}), nil
			}
			name, err := contract.ValidateName(in.Member("value"))
			return object("value", pyjson.OfString(name)), err
		},
		"filter_interval": filter, "parse_filter_interval": filter,
	})
}
