package hub_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"qmtl.internal/plumbline/ref/gateway/hub"
)

// TestFramesFitThePublishedSchemas compiles what /events/schema serves and
// holds frames to it.
func TestFramesFitThePublishedSchemas(t *testing.T) {
	schemas := published(t)
	for event, data := range map[string]struct{ good, bad string }{
		"queue_update":       {`{"tags":["a"],"interval":60,"queues":[{"queue":"q","global":false}],"match_mode":"all","etag":"e","ts":"t","version":1}`, `{"tags":["a"],"interval":"60","queues":[],"etag":"e","ts":"t","version":1}`},
		"tagquery.upsert":    {`{"tags":[],"interval":0,"queues":[],"version":1}`, `{"tags":[],"interval":0,"queues":[{"global":true}],"version":1}`},
		"sentinel_weight":    {`{"sentinel_id":"s","weight":0.5,"version":1}`, `{"sentinel_id":"s","weight":"0.5","version":1}`},
		"activation_updated": {`{"version":1,"world_id":"w","side":"long","sequence":null,"compute_context":{"as_of":null},"more":1}`, `{"version":1,"world_id":"w","side":"up"}`},
		"policy_updated":     {`{"version":1,"world_id":"w","policy_version":2}`, `{"version":1}`},
	} {
		schema := compile(t, event, schemas)
		for text, fits := range map[string]bool{data.good: true, data.bad: false} {
			frame := `{"specversion":"1.0","id":"i","source":"s","type":"` + event + `","time":"2026-01-01T00:00:00+00:00","datacontenttype":"application/json","data":` + text + `,"correlation_id":null,"seq_no":3}`
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(frame)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); (err == nil) != fits {
				t.Errorf("%s %s: %v", event, text, err)
			}
		}
	}
	if len(schemas) != 5 {
		t.Errorf("%d schemas, want 5", len(schemas))
	}
}

func published(t *testing.T) map[string]any {
	t.Helper()
	h, err := hub.New(hub.Config{Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(context.Background())
	keys, err := hub.NewKeys("k")
	if err != nil {
		t.Fatal(err)
	}
	s, err := hub.NewStream(h, keys, hub.StreamConfig{})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	s.Schema(rec, httptest.NewRequest(http.MethodGet, "/events/schema", nil))
	v, err := jsonschema.UnmarshalJSON(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return v.(map[string]any)
}

func compile(t *testing.T, event string, schemas map[string]any) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource(event+".json", schemas[event]); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(event + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
