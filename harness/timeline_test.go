package harness

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func TestParseFault(t *testing.T) {
	got, err := parseFault("10s:redis.latency:1m30s:latency=50ms+jitter=20ms+tail=1.5")
	want := plannedFault{
		text: "10s:redis.latency:1m30s:latency=50ms+jitter=20ms+tail=1.5", at: 10 * time.Second, lasts: 90 * time.Second,
		target: "redis", kind: "latency", params: backend.Params{Latency: 50 * time.Millisecond, Jitter: 20 * time.Millisecond, Tail: 1.5},
	}
	if err != nil || got != want {
		t.Errorf("parseFault = %+v, %v; want %+v", got, err, want)
	}
	for text, why := range map[string]string{
		"":                              "is no fault on a timeline",
		"kafka.stop":                    "is no fault on a timeline",
		"10s:kafka:5s":                  "is no fault on a timeline",
		"ten:kafka.stop:5s":             `"ten" and "5s" must be times`,
		"10s:kafka.stop:-5s":            `"10s" and "-5s" must be times`,
		"1s:redis.latency:5s:late=1s":   `there is no parameter "late"; have latency, jitter, tail, rate`,
		"1s:redis.bandwidth:5s:rate=xl": `"xl" is no size`,
	} {
		if _, err := parseFault(text); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "10s:kafka.stop:5s") {
			t.Errorf("parseFault(%q) = %v; want %q and an example", text, err, why)
		}
	}
}

func TestFaultsMustFitTheLoad(t *testing.T) {
	asked := verdict.FaultPolicy{RecoveryS: 5, LatencyMS: 150}
	for _, c := range []struct {
		at, in []string
		policy verdict.FaultPolicy
		want   string
	}{
		{[]string{"12s:kafka.stop:5s", "4s:gateway.kill:1s"}, nil, asked, ""},
		{nil, []string{"10s:kafka.stop:5s"}, asked, ""},
		{[]string{"1s:kafka.stop:5s"}, nil, asked, "must lie within the window, 2s to 22s, with 5s to recover"},
		{[]string{"13s:kafka.stop:5s"}, nil, asked, "must lie within the window"},
		{[]string{"10s:kafka.stop:5s"}, nil, verdict.FaultPolicy{}, "the policy does not say"},
	} {
		k := &checked{Plan: Plan{Stages: []string{verdict.StageLoad}, FaultAt: c.at, Recovery: c.policy}}
		k.profile = load.Profile{WarmUp: 2 * time.Second, Window: 20 * time.Second, Faults: c.in}
		err := k.timeline()
		if c.want == "" && (err != nil || len(k.planned) != len(c.at)+len(c.in)) {
			t.Errorf("%v: %v, planned %v", c.at, err, k.planned)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v; want %q", c.at, err, c.want)
		}
	}
}

// harms notes what a timeline does.
type harms struct {
	mu   sync.Mutex
	seen []string // guarded by mu
}

func (h *harms) fault(name string, harm, heal error) harmful {
	note := func(what string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen = append(h.seen, what)
	}
	return harmful{
		plannedFault: plannedFault{text: name, target: name, kind: "stop"}, own: name == "gateway",
		fault: backend.Fault{Apply: func(context.Context) (func(context.Context) error, error) {
			note("harm " + name)
			return func(ctx context.Context) error { note("heal " + name); return errors.Join(heal, ctx.Err()) }, harm
		}},
	}
}

func TestTimelineHarmsHealsAndTellsWhen(t *testing.T) {
	h := &harms{}
	first, second := h.fault("kafka", nil, nil), h.fault("gateway", nil, nil)
	first.lasts, second.at, second.lasts = 50*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond
	got, err := startTimeline(t.Context(), time.Now(), []harmful{second, first}).wait()
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if seen := strings.Join(h.seen, ", "); seen != "harm kafka, heal kafka, harm gateway, heal gateway" {
		t.Errorf("did %s", seen)
	}
	k, g := got[0], got[1]
	if k.Fault != "kafka.stop" || k.End <= k.Start || k.Relief != k.End || g.Start < 0.2 || g.Relief != g.HealBegan {
		t.Errorf("outages %+v", got)
	}
}

func TestTimelineHealsWhenTheLoadEndsEarly(t *testing.T) {
	h := &harms{}
	now, later := h.fault("kafka", nil, nil), h.fault("redis", nil, nil)
	now.lasts, later.at = time.Hour, time.Hour
	ctx, stop := context.WithCancel(t.Context())
	line := startTimeline(ctx, time.Now(), []harmful{now, later})
	for !strings.Contains(h.String(), "harm kafka") {
		time.Sleep(time.Millisecond)
	}
	stop()
	if _, err := line.wait(); err != nil {
		t.Error(err)
	}
	if got := h.String(); got != "harm kafka, heal kafka" {
		t.Errorf("did %s", got)
	}
}

func (h *harms) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.seen, ", ")
}

func TestTimelineTellsWhatFailed(t *testing.T) {
	h := &harms{}
	_, err := startTimeline(t.Context(), time.Now(), []harmful{h.fault("a", errors.New("no leave"), nil), h.fault("b", nil, errors.New("stays down"))}).wait()
	for _, want := range []string{"fault a: no leave", "fault b: stays down"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// ask is a request due at s seconds, done after ms.
func ask(s float64, ms int, fate load.Fate, status int, key string) load.Outcome {
	due := time.Duration(s * float64(time.Second))
	return load.Outcome{Window: true, Key: key, Fate: fate, Status: status, Due: due, Sent: due, Done: due + time.Duration(ms)*time.Millisecond}
}

// everyTenth gives good requests from a to b seconds, ten a second.
func everyTenth(a, b float64) (out []load.Outcome) {
	for i := int(a * 10); i < int(b*10); i++ {
		out = append(out, ask(float64(i)/10, 2, load.Accepted, 202, "k"))
	}
	return out
}

func TestOutagesExplainOnlyWhatTheyTouch(t *testing.T) {
	all := []load.Outcome{
		ask(1, 2, load.Accepted, 202, "a"),
		ask(2, 2, load.Unexpected, 503, "b"),   // before the fault: not its doing
		ask(3, 2, load.Lost, 0, "c"),           // likewise
		ask(4.9, 500, load.Lost, 0, "d"),       // under way when it began
		ask(6, 3000, load.Unexpected, 503, ""), // refused
		ask(7, 2, load.Unexpected, 500, "f"),   // no clear refusal
		ask(8.5, 2, load.Unexpected, 503, "g"), // within the allowance
		ask(20, 2, load.Unexpected, 503, "d"),  // its twin got no answer
		ask(21, 2, load.Unexpected, 503, "h"),  // long after
	}
	got := weighOutages([]record.Outage{{Start: 5, Relief: 7.5, End: 7.5}}, all, 30*time.Second, verdict.FaultPolicy{RecoveryS: 2, LatencyMS: 150})
	if got.Unanswered != 1 || got.Refused != 3 {
		t.Errorf("unanswered %d, refused %d; want 1 and 3", got.Unanswered, got.Refused)
	}
	if got.Calm.N != 3 { // a, b and h were answered; c has no latency
		t.Errorf("calm timing of %d requests; want 3", got.Calm.N)
	}
}

func TestRecoveryIsAWholeGoodSecond(t *testing.T) {
	for _, c := range []struct {
		name   string
		all    []load.Outcome
		until  float64
		want   float64 // negative: none
		within float64
	}{
		{"at once", everyTenth(10, 20), 20, 0, 0},
		{"after refusals", append([]load.Outcome{ask(10, 1, load.Unexpected, 503, ""), ask(10.8, 1, load.Unexpected, 503, ""), ask(11.5, 1, load.Unexpected, 503, "")}, everyTenth(11.6, 20)...), 20, 1.5, 0.001},
		{"after slow answers", append([]load.Outcome{ask(10.2, 400, load.Accepted, 202, "")}, everyTenth(10.3, 20)...), 20, 0.2, 0.001},
		{"a later stumble is another matter", append(everyTenth(10, 12), ask(12, 1, load.Lost, 0, "")), 20, 0, 0},
		{"never", []load.Outcome{ask(10, 1, load.Lost, 0, ""), ask(10.9, 1, load.Lost, 0, ""), ask(11.8, 1, load.Lost, 0, "")}, 12.5, -1, 0},
	} {
		got := recovery(10, c.until, c.all, 150)
		switch {
		case c.want < 0 && got != nil:
			t.Errorf("%s: recovered after %v; want never", c.name, *got)
		case c.want >= 0 && (got == nil || *got < c.want || *got > c.want+c.within):
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestTheShippedFaultsFitTheirLoad(t *testing.T) {
	p, err := load.ReadProfile("../bench/profiles/faults.json")
	if err != nil {
		t.Fatal(err)
	}
	k := &checked{Plan: Plan{Stages: []string{verdict.StageLoad}, Recovery: verdict.FaultPolicy{RecoveryS: 5, LatencyMS: 150}}, profile: p}
	if err := k.timeline(); err != nil || len(k.planned) != 4 {
		t.Errorf("%d faults, %v", len(k.planned), err)
	}
}
