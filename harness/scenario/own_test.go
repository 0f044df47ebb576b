package scenario_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/harness/neighbour"
	"qmtl.internal/plumbline/harness/record"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// own starts gateways that pass every request on to their WorldService, and ask
// their DAG Manager for its status at /dag.
type own struct {
	wishes  []neighbour.Wish
	running atomic.Int32
	dies    bool
	stop    error
}

func (o *own) starter(offers ...string) neighbour.Starter {
	return neighbour.Starter{Offers: offers, Start: func(_ context.Context, w neighbour.Wish) (*neighbour.Service, error) {
		o.wishes = append(o.wishes, w)
		if w.Settings["refuse"] == "true" {
			return nil, errors.New("no gateway today")
		}
		o.running.Add(1)
		dead := make(chan struct{})
		var died error
		if o.dies {
			died = errors.New("it died of boredom")
			close(dead)
		}
		m := http.NewServeMux()
		m.HandleFunc("/dag", func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(rw, dagStatus(r.Context(), w.DagManager))
		})
		m.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) { pass(rw, r, w.WorldService) })
		s := httptest.NewServer(m)
		return &neighbour.Service{Gateway: s.URL, Dead: dead, Err: func() error { return died }, Stop: func(context.Context) error {
			s.Close()
			o.running.Add(-1)
			return o.stop
		}}, nil
	}}
}

func pass(rw http.ResponseWriter, r *http.Request, to string) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.RequestURI(), r.Body)
	if err != nil {
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	rw.Header().Set("Cache-Control", resp.Header.Get("Cache-Control"))
	rw.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(rw, resp.Body)
}

func dagStatus(ctx context.Context, address string) string {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	got, err := pb.NewHealthCheckClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err.Error()
	}
	return got.GetNeo4J()
}

const withWorld = `
gateway:
  worldservice:
    - { on: "GET /worlds/{w}", where: { query: { v: "2" } }, status: 404, headers: { Cache-Control: max-age=7 }, body: { detail: "${uniq}" } }
    - { on: "GET /worlds/{w}", times: 1, body: { n: 1 } }
    - { on: "GET /worlds/{w}", fail: reset }
  dagmanager:
    - { on: Status, reply: { neo4j: error } }
  without: [kafka]
  settings: { version: 2 }
steps:
  - http: { path: /worlds/a, query: { v: 2 } }
    expect: { status: 404, body: { detail: "${uniq}" }, headers: { cache-control: max-age=7 } }
  - http: { path: /worlds/a }
    expect: { status: 200, body: { n: 1 } }
  - http: { path: /worlds/a }
    expect: { status: 502 }
  - worldservice: { calls: "GET /worlds/{w}", where: { query: { v: "2" } } }
    expect: { count: 1, calls: [{ method: GET, path: /worlds/a }] }
  - for_each:
      in: [{ on: "*", text: hello }, { on: "*", status: 503 }]
      steps:
        - worldservice: { forget: true, script: ["${row}"] }
        - http: { method: POST, path: /x, body: { a: [1] } }
          expect: { status: [200, 503] }
        - worldservice: {}
          expect: { calls: [{ method: POST, path: /x, body: { a: [1] }, headers: { content-type: { match: absent } } }] }
  - http: { path: /dag }
    expect: { status: 200, text: error }
  - dagmanager: { calls: Status, forget: true, script: [{ on: Status, code: NOT_FOUND }] }
    expect: { count: 1, calls: [{ method: Status }] }
  - http: { path: /dag }
    expect: { text: { match: { contains: as the script says } } }
  - dagmanager: {}
    expect: { count: 0 }
`

func TestAScenarioHasAGatewayToItselfAndItsNeighboursByScript(t *testing.T) {
	o := &own{}
	s := newStand(t)
	s.env.Beside = o.starter("worldservice", "dagmanager", "without.kafka", "setting.version")
	expectOutcome(t, outcome(t, s.env, withWorld), "")
	if len(o.wishes) != 1 || o.running.Load() != 0 {
		t.Fatalf("wishes %+v, %d still running", o.wishes, o.running.Load())
	}
	w := o.wishes[0]
	if w.Name == "" || w.WorldService == "" || w.DagManager == "" || w.Without[0] != "kafka" || w.Settings["version"] != "2" {
		t.Errorf("wish %+v", w)
	}
}

func TestAScenarioIsSkippedWhereTheSUTCannotGiveItSuchAGateway(t *testing.T) {
	s := newStand(t)
	for _, offers := range [][]string{nil, {"worldservice", "dagmanager", "without.kafka"}} {
		if offers != nil {
			s.env.Beside = (&own{}).starter(offers...)
		}
		got := outcome(t, s.env, withWorld)
		if got.Status != record.Skipped || !strings.Contains(got.Reason, "own-gateway.setting.version") {
			t.Errorf("offered %v: %s %s", offers, got.Status, got.Reason)
		}
	}
}

func TestWhatIsWrongWithTheOwnGatewayFailsTheScenario(t *testing.T) {
	const steps = `
gateway: { worldservice: [{ on: "GET /slow", fail: hang }, { on: "*", body: 1 }], settings: { refuse: "${run}" } }
steps:
  - http: { path: %s }
    expect: { status: 200 }
`
	for name, c := range map[string]struct {
		own        *own
		run, path  string
		wantReason string
	}{
		"not started":     {&own{}, "true", "/x", "no gateway today"},
		"died":            {&own{dies: true}, "run", "/slow", "it died of boredom"},
		"died unnoticed":  {&own{dies: true}, "run", "/x", "it died of boredom"},
		"did not stop":    {&own{stop: errors.New("it would not leave")}, "run", "/x", "it would not leave"},
		"nothing at all":  {&own{}, "run", "/x", ""},
		"answered oddly":  {&own{}, "run", "/health/no", ""},
		"wrong, was left": {&own{}, "run", "/worlds", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t)
			s.env.RunID, s.env.Beside = c.run, c.own.starter("worldservice", "setting.refuse")
			expectOutcome(t, outcome(t, s.env, strings.ReplaceAll(steps, "%s", c.path)), c.wantReason)
			if c.own.running.Load() != 0 {
				t.Error("its gateway still runs")
			}
		})
	}
}

func TestAnExpectationOfACallCanFail(t *testing.T) {
	for step, want := range map[string]string{
		`worldservice: {}
    expect: { count: 2 }`: "count: want 2, got 1",
		`worldservice: { calls: "GET /health" }
    expect: { calls: [{ path: /health }] }`: "calls",
		`worldservice: { where: { query: { v: 3 } } }
    expect: { count: 1 }`: "count: want 1, got 0",
		`dagmanager: { calls: Diff }
    expect: { count: { match: { range: { min: 1 } } } }`: "count",
	} {
		s := newStand(t)
		s.env.Beside = (&own{}).starter("worldservice", "dagmanager")
		expectOutcome(t, outcome(t, s.env, `
gateway: { worldservice: [], dagmanager: [] }
steps:
  - http: { path: "/worlds?v=2" }
    expect: { status: 404 }
  - `+step), want)
	}
}
