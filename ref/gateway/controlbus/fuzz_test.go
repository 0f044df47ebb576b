package controlbus

import (
	"context"
	"log/slog"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract"
)

// envelopes is a sink that holds every event to what clients can read.
type envelopes struct{ *testing.T }

func (e envelopes) Publish(_ string, event contract.Event) {
	if text := event.Envelope(contract.Stamp{ID: "id", Time: time.Unix(1, 0)}); !utf8.Valid(text) {
		e.Errorf("frame %q is not UTF-8", text)
	}
}

// letters counts what is buried.
type letters struct {
	nowhere
	n int
}

func (l *letters) bury(context.Context, *kgo.Record, error) { l.n++ }

// FuzzRecord gives the bridge any record of any topic, twice: it never stops,
// and what it cannot read is buried.
func FuzzRecord(f *testing.F) {
	topics := []string{"activation", "policy", "queue", "sentinel_weight", "rebalancing_planned", "other"}
	for i := range topics {
		for _, value := range []string{
			``, `{`, `[]`, `null`, "\xff", `{"data":{"version":1,"world_id":"w","requires_ack":true,"sequence":1,"ts":5}}`,
			`{"version":1,"tags":["a",1],"interval":"60s","queues":5,"etag":[1]}`, `{"version":1,"requires_ack":1,"sequence":1,"world_id":"\ud800","run_id":"\udfff","phase":"\ud800"}`,
			`{"data":{"version":1,"sentinel_id":"\ud800","weight":1}}`, `{"version":true,"sequence":99999999999999999999,"requires_ack":[0]}`,
			`{"data":{"version":1,"sentinel_id":"s","weight":1e999}}`, `{"world_id":"\ud800","plan":{"scale_world":1,"scale_by_strategy":{},"deltas":[{}]},"version":1}`,
		} {
			f.Add(uint8(i), []byte("key"), []byte(value), []byte("etag"))
		}
	}
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, topic uint8, key, value, etag []byte) {
		out := &letters{}
		p := newProcessor(envelopes{t}, out, m, slog.New(slog.DiscardHandler), time.Now, defaultGap)
		r := &kgo.Record{Topic: topics[int(topic)%len(topics)], Key: key, Value: value, Headers: []kgo.RecordHeader{{Key: "etag", Value: etag}}, Timestamp: time.Unix(1, 0)}
		readable, parseErr := parse(r)
		p.handle(t.Context(), r)
		if (parseErr != nil || readable.flaw != nil) && out.n != 1 {
			t.Errorf("a record that cannot be read was buried %d times", out.n)
		}
		p.handle(t.Context(), r)
		p.expire(t.Context())
	})
}
