package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/jobs"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// shown are the samples of a registry whose line begins so.
func shown(t *testing.T, reg *prometheus.Registry, begins string) (lines []string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, begins) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestAJobThatFailsGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		keeper := jobs.NewKeeper(reg, slog.New(slog.DiscardHandler))
		ctx, end := context.WithTimeout(t.Context(), 5*time.Minute+time.Second)
		defer end()
		runs := 0
		keeper.Keep(ctx, jobs.Job{Name: "j", Every: time.Minute, Run: func(context.Context) error {
			if runs++; runs%2 == 0 {
				return errors.New("no luck")
			}
			return nil
		}})
		same(t, "runs", runs, 6) // the first at once
		same(t, "outcomes", shown(t, reg, "dagmanager_job_runs_total"),
			[]string{`dagmanager_job_runs_total{job="j",outcome="error"} 3`, `dagmanager_job_runs_total{job="j",outcome="ok"} 3`})
	})
}

func TestAJobThatRunsIsCutOffAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		ctx, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		jobs.NewKeeper(reg, slog.New(slog.DiscardHandler)).Keep(ctx, jobs.Job{Name: "j", Every: time.Minute,
			Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		same(t, "outcomes of a run that did not end", shown(t, reg, "dagmanager_job_runs_total"), []string(nil))
	})
}

func number(n int64) *int64 { return &n }

// buffering is a graph whose nodes buffer since given ages.
func buffering(t *testing.T, now time.Time, nodes map[string]time.Duration, edit func(*diff.Node)) *nodestore.Memory {
	t.Helper()
	m := nodestore.NewMemory()
	for id, age := range nodes {
		n := diff.Node{ID: id, NodeType: "N", CodeHash: "c", SchemaHash: "s", Interval: number(60), Tags: []string{"x"}, HasQueue: true, Topic: "topic-" + id}
		edit(&n)
		if err := m.Put(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if err := m.MarkBuffering(t.Context(), []diff.Mark{{NodeID: id, ComputeKey: "k"}}, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestRecompute(t *testing.T) {
	now := time.Date(2026, 1, 8, 0, 0, 0, 0, time.UTC)
	const week = 7 * 24 * time.Hour
	nodes := buffering(t, now, map[string]time.Duration{"old": week + time.Millisecond, "young": week, "bad": week * 2, "elsewhere": week * 2},
		func(n *diff.Node) {
			n.ComputeKeys = []string{dag.ComputeKey(n.ID, dag.ComputeContext{})}
			if n.ID == "elsewhere" {
				n.ComputeKeys = []string{"blake3:another"}
			}
		})
	var diffed, announced []string
	r := jobs.Recompute{
		Nodes: nodes, Age: week, Now: func() time.Time { return now },
		Diff: func(ctx context.Context, id, text string) error {
			diffed = append(diffed, id)
			if id == "bad" {
				return errors.New("no broker")
			}
			res, err := diff.Run(ctx, diff.ExecutionContext{StrategyID: id, DAG: text, Now: now}, nodes, topics.NewSession(topics.NewMemory(), topics.Options{}))
			if err == nil && (len(res.Queues) != 1 || res.Queues[0].Topic != "topic-"+id || res.Queues[0].New) {
				t.Errorf("the diff of %s found %+v", id, res.Queues)
			}
			return err
		},
		Announce: func(tags []string, interval int64) { announced = append(announced, fmt.Sprint(tags, interval)) },
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "node bad: no broker") {
		t.Errorf("error %v", err)
	}
	slices.Sort(diffed)
	same(t, "diffed", diffed, []string{"bad", "old"})
	same(t, "announced", announced, []string{"[x] 60", "[x] 60"})
	left, err := nodes.BufferingNodes(t.Context(), now.Add(time.Hour), "")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(left)
	same(t, "what still buffers", left, []string{"bad", "young"})
}

func TestCompletion(t *testing.T) {
	sizes := map[string]topics.Extent{"a": {}, "nobody": {}, "untagged": {}}
	var announced []string
	c := jobs.Completion{
		Sizes: func(context.Context) (map[string]topics.Extent, error) { return sizes, nil },
		Node: func(_ context.Context, topic string) (*diff.Node, error) {
			switch topic {
			case "a":
				return &diff.Node{Tags: []string{"x"}, Interval: number(60)}, nil
			case "untagged":
				return &diff.Node{Interval: number(60)}, nil
			}
			return nil, nil
		},
		Announce: func(tags []string, interval int64) { announced = append(announced, fmt.Sprint(tags, interval)) },
	}
	step := func(written int64, want int) {
		t.Helper()
		sizes["a"] = topics.Extent{Written: written}
		if err := c.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint("announced at ", written), len(announced), want)
	}
	step(5, 0) // seen
	step(5, 0) // unchanged once
	step(6, 0) // growth begins anew
	step(6, 0)
	step(6, 1)
	step(6, 1)
	step(9, 1) // complete for good
	step(9, 1)
	step(9, 1)
	same(t, "what", announced, []string{"[x] 60"})
}

func TestLag(t *testing.T) {
	reg := prometheus.NewRegistry()
	behind := map[string]int64{"a": 7, "b": 0}
	l := jobs.NewLag(reg, 5, func(context.Context) (map[string]int64, error) { return behind, nil })
	if err := l.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	delete(behind, "b")
	if err := l.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "gauges", shown(t, reg, "queue_lag"), []string{`queue_lag_seconds{topic="a"} 7`, `queue_lag_threshold_seconds{topic="a"} 5`})
}

// hook is a webhook that answers with a status.
type hook struct {
	mu     sync.Mutex
	status int
	bodies []string
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.bodies = append(h.bodies, string(b))
	}
	w.WriteHeader(h.status)
}

// take gives what came since, sorted.
func (h *hook) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.Sort(h.bodies)
	got := h.bodies
	h.bodies = nil
	return got
}

func (h *hook) answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

func TestMonitorTellsOnceAndAgain(t *testing.T) {
	h := &hook{status: http.StatusOK}
	server := httptest.NewServer(h)
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var active []jobs.Alert
	m := jobs.Monitor{
		Probes:  []jobs.Probe{func(context.Context) []jobs.Alert { return active }},
		Alerter: jobs.NewAlerter(prometheus.NewRegistry(), map[string]string{jobs.Slack: server.URL + "/secret"}, client),
		Repeat:  10 * time.Minute, Now: func() time.Time { return now },
	}
	step := func(want ...string) error {
		t.Helper()
		err := m.Run(t.Context())
		got := h.take()
		if !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
		now = now.Add(5 * time.Minute)
		return err
	}
	lag := jobs.Alert{Channel: jobs.Slack, Text: "Queue lag high", Topic: "t"}
	nobody := jobs.Alert{Channel: jobs.PagerDuty, Text: "Neo4j leader down"}
	const said = `{"text":"Queue lag high","topic":"t"}`
	for _, s := range []struct {
		active []jobs.Alert
		want   []string
	}{{nil, nil}, {[]jobs.Alert{lag, nobody}, []string{said}}, {[]jobs.Alert{lag}, nil}, {[]jobs.Alert{lag}, []string{said}}, {nil, nil}, {[]jobs.Alert{lag}, []string{said}}} {
		active = s.active
		if err := step(s.want...); err != nil {
			t.Error(err)
		}
	}
	active = []jobs.Alert{{Channel: jobs.Slack, Text: "Kafka session lost"}}
	h.answer(http.StatusBadGateway)
	if err := step(`{"text":"Kafka session lost"}`); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a refusal: %v", err)
	}
	h.answer(http.StatusOK)
	if err := step(`{"text":"Kafka session lost"}`); err != nil { // not told yet
		t.Error(err)
	}
	server.Close()
	active = []jobs.Alert{lag}
	if err := step(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a webhook that is away: %v", err)
	}
}
