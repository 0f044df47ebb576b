package world

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

const liveDecision = `{"world_id":"w","effective_mode":"live","as_of":"D","ttl":"10s"}`

func TestADecisionIsAskedForOnceWhileItIsFresh(t *testing.T) {
	s := newStand(t, say(200, liveDecision))
	for range 2 {
		a, err := s.Decide(t.Context(), "w", "", nil)
		if err != nil || a.Stale || textOf(a.Body, "execution_domain") != "live" {
			t.Fatalf("%s, %v", compact(a.Body), err)
		}
	}
	if n := len(s.ws.seen()); n != 1 {
		t.Errorf("asked %d times", n)
	}
	s.clock.add(10 * time.Second)
	if _, err := s.Decide(t.Context(), "w", "", nil); err != nil || len(s.ws.seen()) != 1 {
		t.Errorf("not asked again after the time: %v", err)
	}
	if hits, ratio := s.metric(t, "worlds_cache_hits_total"), s.metric(t, "worlds_cache_hit_ratio"); hits != 1 || ratio != 1.0/3 {
		t.Errorf("hits %v, ratio %v", hits, ratio)
	}
}

func TestEachAsOfHasADecisionOfItsOwn(t *testing.T) {
	s := newStand(t, say(200, liveDecision))
	for _, asOf := range []string{"", " ", "2025-01-01", " 2025-01-01 "} {
		if _, err := s.Decide(t.Context(), "w/1", asOf, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := s.ws.seen()
	if len(seen) != 2 || seen[0].target != "/worlds/w%2F1/decide" || seen[1].target != "/worlds/w%2F1/decide?as_of=2025-01-01" {
		t.Errorf("asked %v", seen)
	}
}

func TestAnOldDecisionIsServedSafeWhileTheWorldServiceFails(t *testing.T) {
	for name, failure := range map[string]http.HandlerFunc{"500": say(500, ""), "429": say(429, ""), "408": say(408, ""), "dropped": drop} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, say(200, liveDecision))
			if _, err := s.Decide(t.Context(), "w", "", nil); err != nil {
				t.Fatal(err)
			}
			s.clock.add(time.Hour)
			s.ws.tell(failure)
			a, err := s.Decide(t.Context(), "w", "", nil)
			want := `{"world_id":"w","effective_mode":"compute-only","as_of":"D","ttl":"10s","execution_domain":"backtest",` +
				`"compute_context":{"execution_domain":"backtest","as_of":"D","partition":null,"dataset_fingerprint":null,"world_id":"w"}}`
			if err != nil || !a.Stale || compact(a.Body) != want {
				t.Errorf("%s, stale %v, %v\nwant %s", compact(a.Body), a.Stale, err, want)
			}
			if n := s.metric(t, "worlds_stale_responses_total"); n != 1 {
				t.Errorf("stale responses %v", n)
			}
		})
	}
}

func TestARefusalIsNoReasonToUseAnOldDecision(t *testing.T) {
	s := newStand(t, say(200, liveDecision))
	_, _ = s.Decide(t.Context(), "w", "", nil)
	s.clock.add(time.Hour)
	s.ws.tell(say(404, `{"detail":"gone"}`))
	_, err := s.Decide(t.Context(), "w", "", nil)
	var refused *Refusal
	if !errors.As(err, &refused) || refused.Status != 404 || compact(refused.Detail) != `"gone"` {
		t.Errorf("error %v", err)
	}
}

func TestWithoutAnOldDecisionTheFailureShows(t *testing.T) {
	s := newStand(t, drop)
	if _, err := s.Decide(t.Context(), "w", "", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if n := len(s.ws.seen()); n < 3 { // net/http itself repeats on a connection that it kept
		t.Errorf("%d attempts, want at least 3", n)
	}
}

func TestAnActivationThatCannotBeCheckedIsInactive(t *testing.T) {
	s := newStand(t, say(200, `{"world_id":"w","strategy_id":"s","side":"long","active":true,"weight":1.0,"effective_mode":"live"}`, "ETag", "e1"))
	s.wantActivation(t, nil, false, `"active":true,"weight":1.0,"effective_mode":"live","execution_domain":"live"`)
	s.ws.tell(say(304, ""))
	s.wantActivation(t, http.Header{"X-World-Roles": {"r"}}, false, `"active":true,"weight":1.0,"effective_mode":"live","execution_domain":"live"`)
	check(t, s.metric(t, "worlds_cache_hits_total") == 1, "304 is no hit")
	s.ws.tell(say(503, ""))
	s.wantActivation(t, nil, true, `"active":false,"weight":0.0,"effective_mode":"compute-only","etag":"e1","execution_domain":"backtest",`+
		`"compute_context":{"execution_domain":"backtest","as_of":null,"partition":null,"dataset_fingerprint":null,"world_id":"w","downgraded":true,"downgrade_reason":"missing_as_of","safe_mode":true}}`)
	seen := s.ws.seen()
	check(t, seen[0].header.Get("If-None-Match") == "", "the first call is conditional")
	check(t, seen[1].header.Get("If-None-Match") == "e1", "the second call is not conditional")
	check(t, seen[1].header.Get("X-World-Roles") == "r", "headers are lost: %v", seen[1].header)
	check(t, seen[1].target == "/worlds/w/activation?strategy_id=s&side=long", "asked %s", seen[1].target)
}

func (s *stand) wantActivation(t *testing.T, header http.Header, stale bool, part string) {
	t.Helper()
	a, err := s.Activation(t.Context(), "w", "s", "long", header)
	if body := compact(a.Body); err != nil || a.Stale != stale || !strings.Contains(body, part) {
		t.Errorf("%s, stale %v, %v\nwant stale %v and %s", body, a.Stale, err, stale, part)
	}
}

func check(t *testing.T, ok bool, format string, args ...any) {
	t.Helper()
	if !ok {
		t.Errorf(format, args...)
	}
}

func TestAnActivationWithoutETagIsNotRemembered(t *testing.T) {
	s := newStand(t, say(200, `{"active":true}`))
	_, _ = s.Activation(t.Context(), "w", "s", "long", nil)
	s.ws.tell(say(500, `{"detail":"broken"}`))
	var refused *Refusal
	if _, err := s.Activation(t.Context(), "w", "s", "long", nil); !errors.As(err, &refused) || refused.Status != 500 {
		t.Errorf("error %v", err)
	}
}

func TestABreakerOpensAfterThreeCallsAndHealsByItself(t *testing.T) {
	s := newStand(t, drop, func(c *Config) { c.Attempts, c.BreakerOpen = 1, 50*time.Millisecond })
	for range 3 {
		_, err := s.World(t.Context(), "w")
		check(t, errors.Is(err, ErrUnavailable), "error %v", err)
	}
	check(t, s.metric(t, "worlds_breaker_state") == 1, "the breaker is not open")
	check(t, s.metric(t, "worlds_breaker_failures") == 3, "failures %v", s.metric(t, "worlds_breaker_failures"))
	check(t, s.metric(t, "worlds_breaker_open_total") == 1, "opened %v", s.metric(t, "worlds_breaker_open_total"))
	s.ws.seen()
	_, err := s.World(t.Context(), "w")
	check(t, errors.Is(err, ErrUnavailable), "error %v", err)
	check(t, len(s.ws.seen()) == 0, "an open breaker lets a call through")
	s.ws.tell(say(500, "")) // an answer all the same
	for s.Open() {
		time.Sleep(time.Millisecond)
	}
	var refused *Refusal
	_, err = s.World(t.Context(), "w")
	check(t, errors.As(err, &refused), "not healed: %v", err)
	check(t, s.metric(t, "worlds_breaker_failures") == 0, "failures are left")
}

func TestACallerWhoLeavesIsNoFailureOfTheWorldService(t *testing.T) {
	s := newStand(t, dawdle)
	for range breakerTrips + 1 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := s.World(ctx, "w"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
			t.Errorf("error %v", err)
		}
		cancel()
	}
	if s.Open() || s.metric(t, "worlds_breaker_failures") != 0 {
		t.Error("counted")
	}
}

func TestASlowWorldServiceIsAskedAgainWithinTheBudget(t *testing.T) {
	s := newStand(t, dawdle, func(c *Config) { c.Timeout, c.Budget = 10*time.Millisecond, 20*time.Second })
	if _, err := s.World(t.Context(), "w"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if n := len(s.ws.seen()); n != 3 {
		t.Errorf("%d attempts", n)
	}
	short := newStand(t, dawdle, func(c *Config) { c.Timeout, c.Budget = time.Minute, 10*time.Millisecond })
	if _, err := short.World(t.Context(), "w"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if n := len(short.ws.seen()); n > 1 {
		t.Errorf("%d attempts beyond the budget", n)
	}
}

func TestSubmissionsThatWaitForTheSameDecisionShareOneCall(t *testing.T) {
	release := make(chan struct{})
	s := newStand(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		say(200, liveDecision)(w, nil)
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if c := s.Context(t.Context(), pyjson.Value{}, "w"); c.ExecutionDomain != dag.Live {
				t.Errorf("context %+v", c)
			}
		})
	}
	for len(s.ws.peek()) == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	if n := len(s.ws.seen()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestASubmissionIsDowngradedWhileNobodyDecides(t *testing.T) {
	meta, _ := pyjson.ParseString(`{"execution_domain":"live"}`)
	s := newStand(t, say(404, ""))
	if c := s.Context(t.Context(), meta, "w"); c.DowngradeReason != dag.DecisionUnavailable || s.downgrades(dag.DecisionUnavailable) != 1 || s.metric(t, "worlds_stale_responses_total") != 1 {
		t.Errorf("context %+v", c)
	}
	s.ws.tell(say(200, liveDecision))
	if c := s.Context(t.Context(), meta, "w"); c.Downgraded || c.ExecutionDomain != dag.Live {
		t.Errorf("context %+v", c)
	}
	s.clock.add(time.Hour)
	s.ws.tell(say(500, ""))
	if c := s.Context(t.Context(), meta, "w"); c.DowngradeReason != dag.StaleDecision || s.downgrades(dag.StaleDecision) != 1 {
		t.Errorf("context %+v", c)
	}
}

func TestBindingsGoToEveryWorldInOrderWhateverOneAnswers(t *testing.T) {
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		say(map[bool]int{true: 409, false: 500}[strings.Contains(r.URL.Path, "/a/")], "")(w, r)
	})
	s.Bind(t.Context(), "id", []string{"a", "b"})
	seen := s.ws.seen()
	if len(seen) != 2 || seen[0].target != "/worlds/a/bindings" || seen[1].target != "/worlds/b/bindings" || seen[0].body != `{"strategies":["id"]}` {
		t.Errorf("asked %v", seen)
	}
}

func TestAPlanFallsBackToTheFirstVersion(t *testing.T) {
	body, _ := pyjson.ParseString(`{"schema_version":7,"a":1}`)
	s := newStand(t, say(400, ""))
	_, err := s.Plan(t.Context(), 2, body, nil)
	check(t, err != nil, "no error")
	seen := s.ws.seen()
	check(t, len(seen) == 2, "asked %v", seen)
	check(t, seen[0].body == `{"a":1,"schema_version":2}`, "asked %s first", seen[0].body)
	check(t, seen[1].body == `{"a":1}`, "asked %s then", seen[1].body)
}

func TestThePlanSaysWhichVersionItHas(t *testing.T) {
	for reply, want := range map[string]int64{`{"schema_version":2}`: 2, `{}`: 1, `{"schema_version":0}`: 1, `{"schema_version":"2"}`: 1, `[]`: 1} {
		s := newStand(t, say(200, reply))
		p, err := s.Plan(t.Context(), 2, pyjson.OfObject(), nil)
		check(t, err == nil, "%s: %v", reply, err)
		check(t, p.Version == want, "%s: version %d, want %d", reply, p.Version, want)
	}
}

func TestTheCacheForgetsWhatWasNotUsedForLongest(t *testing.T) {
	c := newCache[int](2)
	c.set("a", 1)
	c.set("b", 2)
	c.get("a")
	c.set("c", 3)
	_, a := c.get("a")
	_, b := c.get("b")
	if _, ok := c.get("c"); !a || b || !ok {
		t.Errorf("a %v, b %v, c %v", a, b, ok)
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	for _, url := range []string{"", "localhost:80", "ftp://x", "http://", ":"} {
		if _, err := New(Config{URL: url}); err == nil || !strings.Contains(err.Error(), "want http://HOST:PORT") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
