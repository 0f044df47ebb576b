package submit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// HistoryModel is the body of POST /strategies/{id}/history (gateway.md 1.6).
func HistoryModel() model.Type {
	null := model.Nullable
	optional := func(key string, t model.Type) model.Field {
		return model.Field{Key: key, Type: null(t), Optional: true}
	}
	return model.Object(
		model.Field{Key: "node_id", Type: model.Text},
		model.Field{Key: "interval", Type: model.StrictInteger},
		optional("rows", model.StrictInteger),
		optional("coverage_bounds", model.PairOf(model.Integer)),
		optional("conformance_flags", model.MapOf(model.Integer)),
		optional("conformance_warnings", model.ListOf(model.Text)),
		optional("dataset_fingerprint", model.Text),
		optional("as_of", model.Text),
		optional("world_id", model.Text),
		optional("execution_domain", model.Text),
		optional("artifact", model.Object(
			model.Field{Key: "dataset_fingerprint", Type: model.Text},
			model.Field{Key: "as_of", Type: model.Text},
			model.Field{Key: "rows", Type: model.StrictInteger},
			optional("uri", model.Text),
		)),
	)
}

// A HistoryReport is what a strategy says about the data that a node ran on.
type HistoryReport struct {
	Fields  []any        // of the hash strategy:<id>, field and value by turns
	World   string       // whose WorldService hears of it; "" for none
	Forward pyjson.Value // what it hears
}

// NewHistoryReport reads a body of HistoryModel that came at now.
func NewHistoryReport(strategy string, body pyjson.Value, now time.Time) HistoryReport {
	artifact := body.Member("artifact")
	fingerprint, asOf := body.Member("dataset_fingerprint"), body.Member("as_of")
	if artifact.Kind() == pyjson.Object {
		fingerprint, asOf = unless(fingerprint, artifact.Member("dataset_fingerprint")), unless(asOf, artifact.Member("as_of"))
		if _, there := artifact.Get("uri"); !there {
			artifact = artifact.With("uri", pyjson.Value{})
		}
	}
	world, _ := body.Member("world_id").Str()
	domain := ""
	if named, _ := body.Member("execution_domain").Str(); named != "" {
		domain = dag.ResolveDomain(pyjson.Strip(named))
	}
	said := []pyjson.Member{
		member("node_id", body.Member("node_id")), member("interval", body.Member("interval")), member("rows", body.Member("rows")),
		member("coverage_bounds", body.Member("coverage_bounds")),
		member("conformance_flags", unless(body.Member("conformance_flags"), pyjson.OfObject())),
		member("conformance_warnings", unless(body.Member("conformance_warnings"), pyjson.OfArray())),
		member("artifact", artifact), member("dataset_fingerprint", fingerprint), member("as_of", asOf),
		text("updated_at", contract.ISOTime(now, "Z")),
	}
	r := HistoryReport{World: world}
	for _, one := range []struct{ key, value string }{{"world_id", world}, {"execution_domain", domain}} {
		if one.value != "" {
			said = append(said, text(one.key, one.value))
			r.Fields = append(r.Fields, "compute_"+one.key, one.value)
		}
	}
	for _, one := range []pyjson.Member{member("compute_as_of", asOf), member("compute_dataset_fingerprint", fingerprint)} {
		if value, _ := one.Value.Str(); value != "" {
			r.Fields = append(r.Fields, one.Key, value)
		}
	}
	report := pyjson.OfObject(said...)
	r.Fields = append(r.Fields, "seamless:"+body.Member("node_id").Text(), string(pyjson.Append(nil, report, pyjson.Spaced|pyjson.ASCII)))
	r.Forward = report.With("strategy_id", pyjson.OfString(strategy))
	return r
}

// unless gives v, or other in its place when it is null.
func unless(v, other pyjson.Value) pyjson.Value {
	if v.IsNull() {
		return other
	}
	return v
}

// Report writes a report down with its strategy; false when there is none of
// that id.
func (r *Registry) Report(ctx context.Context, id string, fields []any) (bool, error) {
	key := Registration{ID: id}.strategyKey()
	known := false
	write := func(tx *redis.Tx) error {
		n, err := tx.Exists(ctx, key).Result()
		if known = n > 0; err != nil || !known {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, key, fields...)
			return nil
		})
		return err
	}
	err := r.rdb.Watch(ctx, write, key)
	for range reportTries { // somebody else wrote to the strategy meanwhile
		if !errors.Is(err, redis.TxFailedErr) {
			break
		}
		err = r.rdb.Watch(ctx, write, key)
	}
	if err != nil {
		return false, fmt.Errorf("%w: report on strategy %s: %w", ErrRegistry, id, err)
	}
	return known, nil
}

// reportTries is how often a report is written anew.
const reportTries = 20
