package submit

import (
	"encoding/base64"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestOfManyClaimsOnOneDebtOneWins(t *testing.T) {
	r, srv := newRegistry(t)
	now := time.Now()
	if _, err := srv.ZAdd(OwedKey, float64(now.Add(-time.Hour).UnixMilli()), "a"); err != nil {
		t.Fatal(err)
	}
	due, all, err := r.Owed(t.Context(), now, 10)
	if err != nil || len(due) != 1 || all != 1 {
		t.Fatalf("due %v of %d (%v)", due, all, err)
	}
	until := now.Add(time.Minute)
	if won := claims(t, r, due[0], until); won != 1 {
		t.Errorf("%d claims won", won)
	}
	score, err := srv.ZScore(OwedKey, "a")
	if got := time.UnixMilli(int64(score)); err != nil || got.Before(until.Truncate(time.Millisecond)) || got.After(until.Add(time.Second)) {
		t.Errorf("due at %v, want %v", got, until)
	}
	if due, _, _ := r.Owed(t.Context(), now, 10); len(due) != 0 {
		t.Errorf("still due: %v", due)
	}
}

// claims tries eight claims at once and says how many won.
func claims(t *testing.T, r *Registry, o owed, until time.Time) int {
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			mine, err := r.ClaimOwed(t.Context(), o, until.Add(time.Duration(i)*time.Millisecond))
			if err != nil {
				t.Error(err)
			}
			if mine {
				won.Add(1)
			}
		})
	}
	all.Wait()
	return int(won.Load())
}

func TestSettledDebtIsNeitherClaimedNorDeferred(t *testing.T) {
	r, srv := newRegistry(t)
	mine, err := r.ClaimOwed(t.Context(), owed{"a", 1}, time.Now())
	if mine || err != nil {
		t.Errorf("claimed: %v (%v)", mine, err)
	}
	if err := r.DeferOwed(t.Context(), "a", time.Now()); err != nil {
		t.Error(err)
	}
	if srv.Exists(OwedKey) {
		t.Error("the debt is there again")
	}
}

func TestOwedRequestIsTheDAGAsSubmitted(t *testing.T) {
	const id = "11111111-2222-4333-8444-555555555555"
	for name, dag := range map[string]string{
		"nodes":           `{"nodes":[{"node_id":"a"},{"node_type":"VersionSentinel","node_id":"other-sentinel"}],"f":1.0,"s":"\ud800é"}`,
		"none":            `{"nodes":[]}`,
		"another's alone": `{"nodes":[{"node_type":"VersionSentinel","node_id":"x"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, srv := newRegistry(t)
			v, err := pyjson.ParseString(dag)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := contract.StoredDAG(v, id, "1.2")
			if err != nil {
				t.Fatal(err)
			}
			srv.HSet("strategy:"+id, "dag", contract.StoredBase64(stored), "compute_world_id", "w")
			req, err := r.OwedRequest(t.Context(), id)
			if err != nil || req.GetDagJson() != string(contract.StoredJSON(v)) || req.GetWorldId() != "w" || req.GetAsOf() != "" {
				t.Errorf("request %v (%v)", req, err)
			}
		})
	}
}

func TestOwedRequestThatCannotBeMade(t *testing.T) {
	for name, fields := range map[string][]string{
		"not registered":  {"hash", "h"},
		"no DAG":          {"dag", base64.StdEncoding.EncodeToString([]byte("nonsense"))},
		"lone surrogates": {"dag", base64.StdEncoding.EncodeToString([]byte(`{"nodes":[]}`)), "compute_as_of", "\xed\xa0\x80"},
	} {
		r, srv := newRegistry(t)
		srv.HSet("strategy:a", fields...)
		if _, err := r.OwedRequest(t.Context(), "a"); !errors.Is(err, errUnpayable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
