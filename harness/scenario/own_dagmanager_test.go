package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/harness/neighbour"
	"qmtl.internal/plumbline/harness/record"
)

// ownManagers starts DAG Managers whose HTTP side tells the topics of their
// broker, or that they have none.
type ownManagers struct{ running int }

func (o *ownManagers) starter(offers ...string) neighbour.Starter {
	return neighbour.Starter{Offers: offers, Start: func(_ context.Context, w neighbour.Wish) (*neighbour.Service, error) {
		o.running++
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			told, err := topicsAt(r.Context(), w.Kafka)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(rw).Encode(told)
		}))
		return &neighbour.Service{DagManager: "127.0.0.1:1", DagManagerHTTP: s.URL, Dead: make(chan struct{}), Err: func() error { return nil },
			Stop: func(context.Context) error { s.Close(); o.running--; return nil }}, nil
	}}
}

// topicsAt are the entries of every topic's configuration that are its own.
func topicsAt(ctx context.Context, address string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	if address == "" {
		return all, nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	configs, err := admin.DescribeTopicConfigs(ctx, topics.Names()...)
	for _, c := range configs {
		all[c.Name] = map[string]string{"partitions": fmt.Sprint(len(topics[c.Name].Partitions))}
		for _, e := range c.Configs {
			if e.Value != nil && strings.HasPrefix(e.Key, "qmtl.") {
				all[c.Name][e.Key] = *e.Value
			}
		}
	}
	return all, err
}

const withBroker = `
dagmanager:
  kafka:
    - { name: "${uniq}-old", age: 216h, partitions: 3, config: { qmtl.tag: raw } }
    - { name: "${uniq}-new" }
steps:
  - http: { target: dagmanager, path: /topics }
    expect:
      status: 200
      body:
        match:
          all:
            - match: { len: 2 }
            - "${uniq}-old": { partitions: "3", qmtl.tag: raw, qmtl.created_at: { match: { regex: "^[0-9]{10}$" } } }
              "${uniq}-new": { match: { exact: { partitions: "1" } } }
  - http: { path: /count }
    expect: { status: 200, body: { n: 1 } }
`

func TestAScenarioHasADagManagerToItselfWithABrokerOfItsOwn(t *testing.T) {
	o := &ownManagers{}
	s := newStand(t)
	s.env.BesideDagManager = o.starter("kafka")
	expectOutcome(t, outcome(t, s.env, withBroker), "")
	expectOutcome(t, outcome(t, s.env, strings.Replace(withBroker, "partitions: 3", "partitions: 4", 1)+`
  - http: { target: dagmanager, path: /topics }
    expect: { cel: ['body[saved.uniq + "-old"].partitions == "3"'] }`), "partitions")
	expectOutcome(t, outcome(t, s.env, `
dagmanager: {}
steps:
  - http: { target: dagmanager, path: /topics }
    expect: { body: { match: { exact: {} } } }`), "")
	if o.running != 0 {
		t.Errorf("%d still run", o.running)
	}
}

func TestTopicsThatTheBrokerRefusesFailTheScenario(t *testing.T) {
	o := &ownManagers{}
	s := newStand(t)
	s.env.BesideDagManager = o.starter("kafka")
	got := outcome(t, s.env, `
dagmanager: { kafka: [{ name: twice }, { name: twice }] }
steps:
  - http: { path: /count }
    expect: { status: 200 }`)
	expectOutcome(t, got, `topic "twice"`)
	if o.running != 0 {
		t.Errorf("%d still run", o.running)
	}
}

func TestAScenarioIsSkippedWhereTheSUTCannotGiveItSuchADagManager(t *testing.T) {
	s := newStand(t)
	s.env.Beside = (&own{}).starter("kafka") // of gateways
	if got := outcome(t, s.env, withBroker); got.Status != record.Skipped || got.Reason != "needs own-dagmanager, own-dagmanager.kafka (provider stand)" {
		t.Errorf("%s %s", got.Status, got.Reason)
	}
}
