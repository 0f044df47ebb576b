package controlbus

import (
	"context"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// differences are the vectors to which the reference gives a better answer, by
// what is expected instead.
var differences = map[string]struct{ reason, frames, acks string }{
	"activation_seq/other_world_same_key": {
		reason: "controlbus.md errata, section 3: two worlds that share a record key do not hide each other (design 9.9)",
		frames: "w1 v1 w2", acks: "w1 v1 w2",
	},
}

// A recorder keeps what a processor does.
type recorder struct {
	frames []contract.Event
	topics []string
	acks   []ack
	buried []error
}

func (r *recorder) Publish(topic string, e contract.Event) {
	r.topics, r.frames = append(r.topics, topic), append(r.frames, e)
}
func (r *recorder) ack(_ context.Context, a ack) { r.acks = append(r.acks, a) }
func (r *recorder) bury(_ context.Context, _ *kgo.Record, why error) {
	r.buried = append(r.buried, why)
}

func (r *recorder) flush(context.Context) {}

type rig struct {
	*recorder
	*processor
	clock time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{recorder: &recorder{}, clock: time.Unix(1_800_000_000, 0)}
	r.processor = newProcessor(r.recorder, r.recorder, m, slog.New(slog.DiscardHandler),
		func() time.Time { return r.clock }, defaultGap)
	return r
}

func total(t *testing.T, c *prometheus.CounterVec) (sum float64) {
	t.Helper()
	ch := make(chan prometheus.Metric, 100)
	c.Collect(ch)
	close(ch)
	for m := range ch {
		var out dto.Metric
		if err := m.Write(&out); err != nil {
			t.Fatal(err)
		}
		sum += out.GetCounter().GetValue()
	}
	return sum
}

type step struct {
	Topic      string
	Key        *string     `json:"key_b64"`
	Value      *string     `json:"value_b64"`
	Headers    [][2]string // name, base64
	GapTimeout bool        `json:"gap_timeout"`
}

func bytesOf(t *testing.T, b64 *string) []byte {
	if b64 == nil {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(*b64)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *rig) step(t *testing.T, s step) {
	if s.GapTimeout {
		at, armed := r.series.due()
		if !armed {
			t.Fatal("no gap is waited for")
		}
		r.clock = at
		r.expire(t.Context())
		return
	}
	rec := &kgo.Record{Topic: s.Topic, Key: bytesOf(t, s.Key), Value: bytesOf(t, s.Value), Timestamp: r.clock}
	for _, h := range s.Headers {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h[0], Value: bytesOf(t, &h[1])})
	}
	r.handle(t.Context(), rec)
}

// effect counts what one step did, in the words of the vectors.
type effect struct {
	Frames, Acks    int
	Events, Dropped float64
	Error           *string
}

func (r *rig) counts(t *testing.T) effect {
	return effect{Frames: len(r.frames), Acks: len(r.acks), Events: total(t, r.metrics.events), Dropped: total(t, r.metrics.dropped)}
}

func (r *rig) checkStep(t *testing.T, i int, s step, want effect) {
	t.Helper()
	before, buried := r.counts(t), len(r.buried)
	r.step(t, s)
	after := r.counts(t)
	got := effect{Frames: after.Frames - before.Frames, Acks: after.Acks - before.Acks, Events: after.Events - before.Events, Dropped: after.Dropped - before.Dropped}
	failed := want.Error != nil
	want.Error = nil
	if got != want {
		t.Errorf("step %d did %+v, want %+v", i, got, want)
	}
	if failed && len(r.buried) == buried {
		t.Errorf("step %d: the original raised, nothing was buried", i)
	}
}

func (r *rig) checkFrames(t *testing.T, want []pyjson.Value) {
	t.Helper()
	for i, w := range want {
		if i >= len(r.frames) {
			t.Fatalf("frame %d is missing: %s", i, w.Text())
		}
		got := []string{r.topics[i], r.frames[i].Type, r.frames[i].Source, string(pyjson.Append(nil, r.frames[i].Data, pyjson.Spaced|pyjson.ASCII))}
		for j, key := range []string{"hub_topic", "type", "source", "data"} {
			if got[j] != w.Member(key).Text() {
				t.Errorf("frame %d %s\n got %s\nwant %s", i, key, got[j], w.Member(key).Text())
			}
		}
	}
	if len(r.frames) > len(want) {
		t.Errorf("%d frames too many", len(r.frames)-len(want))
	}
}

func (r *rig) checkAcks(t *testing.T, want []pyjson.Value) {
	t.Helper()
	var got []pyjson.Value
	for _, a := range r.acks {
		got = append(got, pyjson.OfObject(
			member("world_id", pyjson.OfString(a.world)), member("run_id", pyjson.OfString(a.run)),
			member("sequence", a.sequence), member("phase", pyjson.OfString(a.phase)), member("etag", a.etag)))
	}
	g, w := pyjson.OfArray(got...).Text(), pyjson.OfArray(want...).Text()
	if g != w {
		t.Errorf("acks\n got %s\nwant %s", g, w)
	}
}

func TestBusConsumerFramesVectors(t *testing.T) {
	met := map[string]bool{}
	vectors.Run(t, "bus_consumer_frames", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct{ Steps []step }](t, v.Input)
		effects := vectors.Decode[struct {
			Effects []effect `json:"step_effects"`
		}](t, v.Output).Effects
		out, err := pyjson.Parse(v.Output)
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t)
		if better, ok := differences[v.Name]; ok {
			met[v.Name] = true
			for _, s := range in.Steps {
				r.step(t, s)
			}
			r.checkBetter(t, better.frames, better.acks)
			return
		}
		for i, s := range in.Steps {
			r.checkStep(t, i, s, effects[i])
		}
		r.checkFrames(t, out.Member("frames").Elems())
		r.checkAcks(t, out.Member("acks").Elems())
	})
	for name, d := range differences {
		if !met[name] {
			t.Errorf("no vector %s: the difference (%s) is out of date", name, d.reason)
		}
	}
}

// checkBetter compares frames and acks, each written world and number.
func (r *rig) checkBetter(t *testing.T, frames, acks string) {
	t.Helper()
	var f, a []string
	for _, e := range r.frames {
		f = append(f, e.Data.Member("world_id").Text()+e.Data.Member("sequence").Text())
	}
	for _, k := range r.acks {
		a = append(a, k.world+k.sequence.Text())
	}
	if strings.Join(f, " ") != frames || strings.Join(a, " ") != acks {
		t.Errorf("frames %v, acks %v, want %s and %s", f, a, frames, acks)
	}
}
