package submit

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t *testing.T) (*Registry, *miniredis.Miniredis) {
	t.Helper()
	srv := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr(), MaxRetries: -1})
	t.Cleanup(func() {
		if err := rdb.Close(); err != nil {
			t.Error(err)
		}
	})
	return NewRegistry(rdb, DefaultPlan()), srv
}

func claim(t *testing.T, r *Registry, g Registration) Holder {
	t.Helper()
	h, err := r.Claim(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestClaimIsWonOnceAndMayBeRepeatedByItsHolder(t *testing.T) {
	r, srv := newRegistry(t)
	first, second := Registration{ID: "1", Hash: "h", DAG: "d"}, Registration{ID: "2", Hash: "h", DAG: "d"}
	if got := claim(t, r, first); got != (Holder{ID: "1"}) {
		t.Errorf("first claim: %+v", got)
	}
	if got := claim(t, r, second); got != (Holder{ID: "1"}) {
		t.Errorf("second claim: %+v", got)
	}
	if srv.Exists("strategy:2") {
		t.Error("the loser left its record")
	}
	if got := claim(t, r, first); got != (Holder{ID: "1"}) {
		t.Errorf("repeated claim: %+v", got)
	}
	if err := r.Confirm(t.Context(), first, time.Time{}, false, "compute_world_id", "w"); err != nil {
		t.Fatal(err)
	}
	if got := claim(t, r, second); got != (Holder{ID: "1", Settled: true}) {
		t.Errorf("claim after confirmation: %+v", got)
	}
}

func TestUnconfirmedClaimExpiresWhole(t *testing.T) {
	r, srv := newRegistry(t)
	claim(t, r, Registration{ID: "1", Hash: "h", DAG: "d"})
	srv.FastForward(time.Minute)
	if keys := srv.Keys(); len(keys) != 0 {
		t.Errorf("keys %v outlive their process", keys)
	}
}

func TestConfirmingAnExpiredClaimFailsAndCanBeTakenBack(t *testing.T) {
	r, srv := newRegistry(t)
	late, other := Registration{ID: "1", Hash: "h", DAG: "d"}, Registration{ID: "2", Hash: "h", DAG: "d"}
	claim(t, r, late)
	srv.FastForward(time.Minute)
	claim(t, r, other)
	if err := r.Confirm(t.Context(), late, time.Time{}, false); !errors.Is(err, ErrRegistry) || !errors.Is(err, errExpired) {
		t.Errorf("error %v", err)
	}
	if err := r.Release(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if got := srv.Keys(); !slices.Equal(got, []string{"dag_hash:h", "strategy:2"}) {
		t.Errorf("keys %v, want the other's only", got)
	}
}

func TestReleaseTakesAConfirmedRegistrationBackToo(t *testing.T) {
	r, srv := newRegistry(t)
	g := Registration{ID: "1", Hash: "h", DAG: "d"}
	claim(t, r, g)
	if err := r.Confirm(t.Context(), g, time.Time{}, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if keys := srv.Keys(); len(keys) != 0 {
		t.Errorf("keys left: %v", keys)
	}
}
