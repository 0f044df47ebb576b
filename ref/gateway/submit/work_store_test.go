package submit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func TestSettledDebtIsNotDeferred(t *testing.T) {
	r, srv := newRegistry(t)
	if err := r.DeferOwed(t.Context(), "a", time.Now()); err != nil {
		t.Error(err)
	}
	if srv.Exists(OwedKey) {
		t.Error("the debt is there again")
	}
}

func TestRequestIsTheDAGAsSubmitted(t *testing.T) {
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
			req, err := r.Request(t.Context(), id)
			if err != nil || req.GetDagJson() != string(contract.StoredJSON(v)) || req.GetWorldId() != "w" || req.GetAsOf() != "" {
				t.Errorf("request %v (%v)", req, err)
			}
		})
	}
}

func TestRequestThatCannotBeMade(t *testing.T) {
	for name, fields := range map[string][]string{
		"not registered":  {"hash", "h"},
		"no DAG":          {"dag", base64.StdEncoding.EncodeToString([]byte("nonsense"))},
		"lone surrogates": {"dag", base64.StdEncoding.EncodeToString([]byte(`{"nodes":[]}`)), "compute_as_of", "\xed\xa0\x80"},
	} {
		r, srv := newRegistry(t)
		srv.HSet("strategy:a", fields...)
		if _, err := r.Request(t.Context(), "a"); !errors.Is(err, errUnpayable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// accepted puts a confirmed strategy into r's Redis.
func accepted(t *testing.T, r *Registry, id string, owes time.Time) {
	t.Helper()
	g := Registration{ID: id, Hash: "hash-" + id, DAG: base64.StdEncoding.EncodeToString([]byte(`{"nodes":[]}`))}
	if _, err := r.Claim(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if err := r.Confirm(t.Context(), g, owes, false); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, r *Registry, owner string, n int, now time.Time) []Work {
	t.Helper()
	got, err := r.Take(t.Context(), owner, n, now)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func ids(work []Work) (all []string) {
	for _, w := range work {
		all = append(all, w.ID)
	}
	return all
}

func TestStrategiesAreTakenOnceInTheirOrder(t *testing.T) {
	r, srv := newRegistry(t)
	for _, id := range []string{"a", "b", "c"} {
		accepted(t, r, id, time.Time{})
	}
	now := time.Now()
	first, second, third := take(t, r, "x", 2, now), take(t, r, "y", 2, now), take(t, r, "z", 2, now)
	if !slices.Equal(ids(first), []string{"a", "b"}) || !slices.Equal(ids(second), []string{"c"}) || len(third) > 0 {
		t.Errorf("took %v, %v, %v", first, second, third)
	}
	if got := srv.HGet("strategy:a", "state"); got != string(StateProcessing) {
		t.Errorf("state %q while it is worked on", got)
	}
	if holder, _ := srv.Get("lock:a"); holder != "x" || srv.TTL("lock:a") != r.plan.Lease {
		t.Errorf("locked by %q for %s", holder, srv.TTL("lock:a"))
	}
}

func TestManyTakersShareWithoutDoubling(t *testing.T) {
	r, _ := newRegistry(t)
	const n = 200
	for i := range n {
		accepted(t, r, fmt.Sprint(i), time.Time{})
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for {
				got, err := r.Take(t.Context(), fmt.Sprint("owner", i), 7, time.Now())
				if err != nil || len(got) == 0 {
					return
				}
				mu.Lock()
				for _, w := range got {
					seen[w.ID]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was taken %d times", id, times)
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d were taken", len(seen), n)
	}
}

func TestWhatADeadWorkerHeldIsTakenAfterItsLease(t *testing.T) {
	r, srv := newRegistry(t)
	accepted(t, r, "a", time.Time{})
	now := time.Now()
	take(t, r, "dead", 1, now) // and nothing more is heard of it
	if got := take(t, r, "heir", 1, now.Add(r.plan.Lease/2)); len(got) > 0 {
		t.Fatalf("taken while the lease lasts: %v", got)
	}
	srv.FastForward(r.plan.Lease)
	got := take(t, r, "heir", 1, now.Add(r.plan.Lease))
	if len(got) != 1 || got[0].Attempt != 2 {
		t.Fatalf("after the lease: %v", got)
	}
	lost, err := r.Finish(t.Context(), "dead", []Outcome{{ID: "a", Event: EventFail}})
	if err != nil || !slices.Equal(lost, []string{"a"}) {
		t.Errorf("who lost its lease wrote: %v (%v)", lost, err)
	}
	if got := srv.HGet("strategy:a", "state"); got != string(StateProcessing) {
		t.Errorf("state %q", got)
	}
	if lost, err = r.Finish(t.Context(), "heir", []Outcome{{ID: "a", Event: EventComplete}}); err != nil || len(lost) > 0 {
		t.Errorf("the heir lost %v (%v)", lost, err)
	}
	wantDone(t, srv, "a", StateCompleted)
}

// wantDone: id ended in state, and nothing of the work is left.
func wantDone(t *testing.T, srv *miniredis.Miniredis, id string, state State) {
	t.Helper()
	if got := srv.HGet("strategy:"+id, "state"); got != string(state) {
		t.Errorf("state %q, want %q", got, state)
	}
	for _, key := range []string{"lock:" + id, inWorkKey, OwedKey, QueueKey} {
		if srv.Exists(key) {
			t.Errorf("%s is left", key)
		}
	}
	if got := srv.HGet("strategy:"+id, "attempts"); got != "" {
		t.Errorf("attempts %q are left", got)
	}
}

func TestRenewedLeaseLasts(t *testing.T) {
	r, srv := newRegistry(t)
	accepted(t, r, "a", time.Time{})
	now := time.Now()
	take(t, r, "x", 1, now)
	half := r.plan.Lease / 2
	srv.FastForward(half)
	if lost, err := r.Renew(t.Context(), "x", now.Add(half), []string{"a", "b"}); err != nil || !slices.Equal(lost, []string{"b"}) {
		t.Errorf("lost %v (%v)", lost, err)
	}
	srv.FastForward(half + half/2)
	if got := take(t, r, "y", 1, now.Add(2*half+half/2)); len(got) > 0 {
		t.Errorf("taken although renewed: %v", got)
	}
	srv.FastForward(half)
	if got := take(t, r, "y", 1, now.Add(3*half)); len(got) != 1 {
		t.Errorf("not taken after the renewed lease: %v", got)
	}
	if lost, err := r.Renew(t.Context(), "x", now, []string{"a"}); err != nil || len(lost) != 1 {
		t.Errorf("another's lease was renewed: %v (%v)", lost, err)
	}
}

func TestFailedAttemptComesUpWhenItIsDue(t *testing.T) {
	r, srv := newRegistry(t)
	now := time.Now()
	accepted(t, r, "a", now)
	if got := take(t, r, "x", 1, now); len(got) != 1 || got[0].Owed.UnixMilli() != now.UnixMilli() {
		t.Fatalf("took %v", got)
	}
	later := now.Add(time.Minute)
	if _, err := r.Finish(t.Context(), "x", []Outcome{{ID: "a", Event: EventFail, Due: later, Reason: "as told"}}); err != nil {
		t.Fatal(err)
	}
	if got := srv.HGet("strategy:a", "state") + " " + srv.HGet("strategy:a", "failure"); got != "failed as told" {
		t.Errorf("between two attempts: %s", got)
	}
	if got := take(t, r, "x", 1, later.Add(-time.Second)); len(got) > 0 {
		t.Errorf("too early: %v", got)
	}
	if got := take(t, r, "x", 1, later); len(got) != 1 || got[0].Attempt != 2 {
		t.Errorf("when due: %v", got)
	}
	if _, err := r.Finish(t.Context(), "x", []Outcome{{ID: "a", Event: EventComplete}}); err != nil {
		t.Fatal(err)
	}
	wantDone(t, srv, "a", StateCompleted)
	if got := srv.HGet("strategy:a", "failure"); got != "" {
		t.Errorf("a completed strategy keeps the failure %q", got)
	}
}

func TestStrategyPutOffLosesNoAttempt(t *testing.T) {
	r, _ := newRegistry(t)
	now := time.Now()
	accepted(t, r, "a", now)
	for range 10 {
		got := take(t, r, "x", 1, now)
		if len(got) != 1 || got[0].Attempt != 1 {
			t.Fatalf("took %v", got)
		}
		if _, err := r.Finish(t.Context(), "x", []Outcome{{ID: "a", Event: PutOff, Due: now}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleasedStrategyIsNotBroughtBack(t *testing.T) {
	r, srv := newRegistry(t)
	accepted(t, r, "a", time.Time{})
	take(t, r, "x", 1, time.Now())
	g := Registration{ID: "a", Hash: "hash-a"}
	if err := r.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Finish(t.Context(), "x", []Outcome{{ID: "a", Event: EventComplete}}); err != nil {
		t.Fatal(err)
	}
	if keys := srv.Keys(); len(keys) > 0 {
		t.Errorf("left: %v", keys)
	}
}

func TestStrategyLockedByAnotherWaitsForItsLock(t *testing.T) {
	r, srv := newRegistry(t)
	accepted(t, r, "a", time.Time{})
	if err := srv.Set("lock:a", "stranger"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if got := take(t, r, "x", 1, now); len(got) > 0 {
		t.Errorf("took %v", got)
	}
	srv.Del("lock:a")
	if got := take(t, r, "x", 1, now.Add(time.Second)); len(got) != 1 {
		t.Errorf("took %v once it was free", got)
	}
}

func TestStatesMoveByTheirEventsOnly(t *testing.T) {
	for from, can := range map[State]map[Event]State{
		StateQueued:     {EventProcess: StateProcessing},
		StateProcessing: {EventComplete: StateCompleted, EventFail: StateFailed},
		StateFailed:     {EventRetry: StateProcessing},
		StateCompleted:  {},
		"":              {},
	} {
		for _, e := range []Event{EventProcess, EventComplete, EventFail, EventRetry} {
			got, err := from.On(e)
			want, ok := can[e]
			if ok != (err == nil) || ok && got != want || !ok && got != from {
				t.Errorf("%q on %s: %q (%v)", from, e, got, err)
			}
		}
	}
}
