package scenario_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
)

// races is how often the two gateways are asked for the same at once.
const races = 1000

// Two whole references on the same backends: each of two identical submissions
// at once goes to another gateway, and one of them is accepted. Diffs of the
// same nodes by two DAG Managers, which do not share a store, make one topic
// a node.
func TestTwoReferencesOnTheSameBackends(t *testing.T) {
	bin := built(t)
	set, one := launched(t, bin, nil)
	_, two := launched(t, bin, set)
	env := scenario.Env{
		Gateway: inTurn(t, one.Endpoints().Gateway, two.Endpoints().Gateway),
		Kafka:   set.Kafka, Redis: set.Redis, Provider: set.Kind, RunID: "pair", Seed: 1, Dial: set.Dial,
	}
	t.Run("submissions", func(t *testing.T) {
		allPassed(t, outcomes(t, env, map[string]string{"T-1": `
timeout: 5m
steps:
- for_each:
    as: n
    in: [` + numbers(races) + `]
    steps:
      - submit: { dag: one-node, variant: "race-${n}", parallel: 2 }
        expect: { statuses: { match: { exact: { "202": 1, "409": 1 } } } }`}))
	})
	t.Run("diffs", func(t *testing.T) {
		const nodes, rounds = 5, 20
		before := len(topicsOf(t, set))
		var side sync.WaitGroup
		for _, dm := range []string{one.Endpoints().DagManager, two.Endpoints().DagManager} {
			own := env
			own.Gateway, own.DagManager = "", dm
			side.Go(func() {
				allPassed(t, outcomes(t, own, map[string]string{"T-2": fmt.Sprintf(`
timeout: 2m
steps:
- for_each:
    as: n
    in: [%s]
    steps:
      - diff: { dag: chain-%d, variant: "both-${n}" }
        expect: { code: OK, queue_map: { match: { len: %d } } }`, numbers(rounds), nodes, nodes)}))
			})
		}
		side.Wait()
		if got := len(topicsOf(t, set)) - before; got != nodes*rounds {
			t.Errorf("%d topics were made for %d nodes", got, nodes*rounds)
		}
	})
}

func allPassed(t *testing.T, all []record.Outcome) {
	t.Helper()
	for _, o := range all {
		if o.Status == record.Failed {
			t.Errorf("%s: %s\n%s", o.ID, o.Reason, steps(o))
		}
	}
	if all[0].Status != record.Passed {
		t.Errorf("%s is %s: %s", all[0].ID, all[0].Status, all[0].Reason)
	}
}

func numbers(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(i)
	}
	return strings.Join(out, ",")
}

// inTurn serves requests by the given servers in turn.
func inTurn(t *testing.T, urls ...string) string {
	t.Helper()
	proxies := make([]*httputil.ReverseProxy, len(urls))
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	for i, u := range urls {
		target, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		proxies[i] = httputil.NewSingleHostReverseProxy(target)
		proxies[i].Transport = transport
	}
	var n atomic.Uint64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxies[n.Add(1)%uint64(len(proxies))].ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Close()
		transport.CloseIdleConnections()
	})
	return s.URL
}

func topicsOf(t *testing.T, set *backend.Set) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(set.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return topics.Names()
}
