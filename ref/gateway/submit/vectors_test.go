package submit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func newPipeline() *Pipeline {
	return &Pipeline{
		Contexts: NoWorldService, Metrics: NewMetrics(prometheus.NewRegistry()), Limits: DefaultLimits(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
	}
}

func parse(t *testing.T, raw json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(raw)
	if err != nil {
		t.Fatalf("vector: %v", err)
	}
	return v
}

// request makes the request of a vector through the real body model.
func request(t *testing.T, in pyjson.Value) *Request {
	t.Helper()
	body := pyjson.Append(nil, in, pyjson.ASCII)
	req, err := ParseRequest("application/json", body)
	if err != nil {
		t.Fatalf("vector's body: %v", err)
	}
	return req
}

func compact(v pyjson.Value) string {
	return string(pyjson.Append(nil, v, pyjson.Compact|pyjson.Sorted))
}

// crashes are the exceptions that end in a 500 of the original; the reference
// answers 400 E_SCHEMA_INVALID with one item instead (design section 9.8).
var crashes = map[string]bool{
	"JSONDecodeError": true, "AttributeError": true, "TypeError": true, "ValueError": true,
	"OverflowError": true, "UnicodeEncodeError": true, "UnicodeDecodeError": true, "RecursionError": true,
}

func TestSubmissionErrorsVectors(t *testing.T) {
	vectors.Run(t, "submission_errors", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		p, s := newPipeline(), &submission{req: request(t, in)}
		err := p.normalise(t.Context(), s)
		if class, ok := out.Member("error").Str(); ok {
			wantSchemaInvalid(t, class, err)
			return
		}
		if out.Member("ok").IsTrue() {
			wantIdentified(t, out, s, err)
			return
		}
		var problem *contract.Problem
		if !errors.As(err, &problem) {
			t.Fatalf("error %v, want a problem", err)
		}
		if got, want := compact(problem.Detail), compact(out.Member("detail")); got != want {
			t.Errorf("detail %s\nwant   %s", got, want)
		}
		if status, _ := out.Member("status").Int64(); int64(problem.Status) != status {
			t.Errorf("status %d, want %d", problem.Status, status)
		}
	})
}

func wantSchemaInvalid(t *testing.T, class string, err error) {
	t.Helper()
	var problem *contract.Problem
	if !errors.As(err, &problem) {
		t.Fatalf("error %v, want 400 for %s", err, class)
	}
	items := problem.Detail.Member("errors").Elems()
	if !crashes[class] || problem.Status != 400 || problem.Code() != contract.CodeSchemaInvalid || len(items) != 1 {
		t.Errorf("for %s: %d %s", class, problem.Status, problem.Body())
	}
}

func wantIdentified(t *testing.T, out pyjson.Value, s *submission, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if crc, _ := out.Member("computed_crc32").Int64(); int64(s.crc) != crc {
		t.Errorf("crc %d, want %d", s.crc, crc)
	}
	var ids []pyjson.Value
	for _, n := range s.nodes {
		if n.Kind() == pyjson.Object {
			ids = append(ids, n.Member("node_id"))
		}
	}
	if got, want := compact(pyjson.OfArray(ids...)), compact(out.Member("node_ids")); got != want {
		t.Errorf("node ids %s, want %s", got, want)
	}
}

// otherIssues are the ops of the commit_log family that are not submissions;
// each names what it belongs to.
var otherIssues = map[string]string{
	"rebalance_batch": "rebalancing publishes batches with /rebalancing/execute",
	"bucket":          "node caches publish buckets, not the gateway",
	"consume":         "the commit log's consumer is a process of its own",
}

func TestCommitLogVectors(t *testing.T) {
	vectors.Run(t, "commit_log", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		op, _ := in.Member("op").Str()
		if reason, ok := otherIssues[op]; ok {
			t.Log("not in this slice:", reason)
			return
		}
		if op != "submission" {
			t.Fatalf("unknown op %q", op)
		}
		record := out.Member("records").Elems()[0]
		e := recordOf(t, in)
		got, dag64 := appendRecord(nil, e)
		if want := textOf(record, "value"); string(got) != want {
			t.Errorf("value %s\nwant  %s", got, want)
		}
		if !bytes.Contains(got, append([]byte(`"dag_base64": "`), dag64...)) || contract.StoredBase64(e.DAG) != string(dag64) {
			t.Errorf("base64 of the stored DAG %s", dag64)
		}
		if got, want := base64.StdEncoding.EncodeToString([]byte(recordKey(e.ID))), textOf(record, "key_b64"); got != want {
			t.Errorf("key %s, want %s", got, want)
		}
	})
}

func textOf(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

// recordOf runs a vector through the stages up to the record, without the
// identity check, which the recording left out.
func recordOf(t *testing.T, in pyjson.Value) *entry {
	t.Helper()
	p := newPipeline()
	p.NoSentinel = !in.Member("insert_sentinel").IsTrue()
	submitted, err := time.Parse(time.RFC3339Nano, textOf(in, "now"))
	if err != nil {
		t.Fatal(err)
	}
	ms, _ := in.Member("timestamp_ms").Int64()
	s := &submission{req: request(t, in)}
	s.claim.ID = textOf(in, "strategy_id")
	if s.worlds, err = s.req.checkWorlds(); err != nil {
		t.Fatal(err)
	}
	if s.dag, s.text, err = decodeDAG(s.req.DAGJSON); err != nil {
		t.Fatal(err)
	}
	if err = p.context(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	e, err := p.entry(s, submitted)
	if err != nil {
		t.Fatal(err)
	}
	e.At = time.UnixMilli(ms)
	return e
}

func TestSubmissionContextVectors(t *testing.T) {
	vectors.Run(t, "submission_context", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		worlds := normalizeWorlds(stringsOf(in.Member("world_ids")))
		primary := ""
		if len(worlds) > 0 {
			primary = worlds[0]
		}
		c := decided(in, primary)
		got := map[string]any{
			"worlds": worlds, "context": string(pyjson.Append(nil, c.Value(), pyjson.Spaced|pyjson.ASCII)),
			"downgraded": c.Downgraded, "reason": c.DowngradeReason, "safe": c.SafeMode,
		}
		want := map[string]any{
			"worlds": stringsOf(out.Member("worlds")), "context": textOf(out, "context_json"),
			"downgraded": out.Member("downgraded").IsTrue(), "reason": textOf(out, "downgrade_reason"), "safe": out.Member("safe_mode").IsTrue(),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(pairsOf(out.Member("redis")), pairs(c.RedisFields())); diff != "" {
			t.Error("redis:", diff)
		}
	})
}

// decided resolves a vector's context; without a world the original asks nobody.
func decided(in pyjson.Value, primary string) dag.ComputeContext {
	meta, ws := in.Member("meta"), in.Member("worldservice")
	if s, _ := ws.Str(); s == "none_configured" || primary == "" {
		return NoWorldService(context.Background(), meta, primary)
	}
	c, _ := dag.Decided(meta, primary, dag.Decision{
		Envelope: ws.Member("payload"), Known: ws.Kind() == pyjson.Object, Stale: ws.Member("stale").IsTrue(),
	})
	return c
}

func stringsOf(v pyjson.Value) []string {
	all := []string{}
	for _, e := range v.Elems() {
		s, _ := e.Str()
		all = append(all, s)
	}
	return all
}

func pairsOf(v pyjson.Value) map[string]string {
	all := map[string]string{}
	for _, m := range v.Members() {
		all[m.Key], _ = m.Value.Str()
	}
	return all
}

func pairs(flat []any) map[string]string {
	all := map[string]string{}
	for i := 0; i < len(flat); i += 2 {
		all[flat[i].(string)] = flat[i+1].(string)
	}
	return all
}

func TestTagQueryQueueMapVectors(t *testing.T) {
	vectors.Run(t, "tag_query", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		if textOf(in, "op") != "queue_map" {
			return // the helpers' ops are tested where they live, in scenarios/contract
		}
		if strings.HasSuffix(v.Name, "/queue_map_text_items") {
			t.Log("not on the wire: a gRPC reply has descriptors only, never plain texts")
			return
		}
		table := newTable(t, in)
		got := resolve(t.Context(), time.Minute, in.Member("dag").Member("nodes").Elems(), table.worlds(in), textOf(in, "execution_domain"), table.ask)
		if diff := cmp.Diff(compact(out.Member("queue_map")), sortedJSON(t, got.appendJSON(nil))); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(sortedTexts(out.Member("calls").Elems()), sortedTexts(table.calls)); diff != "" {
			t.Error("calls:", diff)
		}
	})
}

func sortedJSON(t *testing.T, b []byte) string {
	t.Helper()
	return compact(parse(t, b))
}

func sortedTexts(all []pyjson.Value) map[string]int {
	counted := map[string]int{}
	for _, v := range all {
		counted[compact(v)]++
	}
	return counted
}

// table answers lookups by world.
type table struct {
	t       *testing.T
	replies pyjson.Value
	mu      sync.Mutex
	calls   []pyjson.Value
}

func newTable(t *testing.T, in pyjson.Value) *table {
	return &table{t: t, replies: in.Member("replies")}
}

func (tb *table) worlds(in pyjson.Value) []string {
	if worlds := stringsOf(in.Member("worlds")); len(worlds) > 0 {
		return worlds
	}
	return []string{textOf(in, "default_world")}
}

func (tb *table) ask(_ context.Context, q contract.TagQuery, world, domain string) ([]contract.QueueRef, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.calls = append(tb.calls, pyjson.OfArray(texts(q.Tags), pyjson.OfInt(*q.Interval), pyjson.OfString(q.MatchMode),
		pyjson.OfString(world), pyjson.OfString(domain)))
	reply := tb.replies.Member(world)
	if reply.Kind() == pyjson.String {
		return nil, errors.New("as told")
	}
	var queues []contract.QueueRef
	for _, e := range reply.Elems() {
		if name := textOf(e, "queue"); name != "" { // as the client drops descriptors without a name
			queues = append(queues, contract.QueueRef{Queue: name, Global: e.Member("global").IsTrue()})
		}
	}
	return queues, nil
}

// rootErrors: what the bare model calls a root that is no object; the endpoint
// has its own words for it.
var rootErrors = map[string]string{
	"validate_StrategySubmit/validate_StrategySubmit_null":           "model_attributes_type",
	"validate_StrategySubmit/validate_StrategySubmit_text":           "model_attributes_type",
	"validate_StrategySubmit/validate_StrategySubmit_empty":          "missing",
	"validate_StrategySubmit/validate_StrategySubmit_lone_surrogate": "string_unicode",
}

func TestHealthAndModelsValidateVectors(t *testing.T) {
	vectors.Run(t, "health_and_models", func(t *testing.T, v vectors.Vector) {
		in, out := parse(t, v.Input), parse(t, v.Output)
		if textOf(in, "op") != "validate" || textOf(in, "model") != "StrategySubmit" {
			return // op health: package health; the other models come with their routes
		}
		req, err := ParseRequest("application/json", []byte(textOf(in, "json")))
		if accepted := textOf(out, "accepted_json"); accepted != "" {
			wantAccepted(t, accepted, req, err)
			return
		}
		var problem *contract.Problem
		if !errors.As(err, &problem) || problem.Status != 422 {
			t.Fatalf("error %v, want 422", err)
		}
		if word, ok := rootErrors[v.Name]; ok {
			if got := textOf(problem.Detail.Elems()[0], "type"); got != word {
				t.Errorf("type %s, want %s", got, word)
			}
			return
		}
		wantFindings(t, out, problem)
	})
}

func wantAccepted(t *testing.T, accepted string, req *Request, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	want := parse(t, json.RawMessage(accepted))
	if req.DAGJSON != textOf(want, "dag_json") || req.CRC32 != want.Member("node_ids_crc32").Text() ||
		compact(req.Meta) != compact(want.Member("meta")) || req.WorldID != nil ||
		!cmp.Equal(append([]string{}, req.WorldIDs...), stringsOf(want.Member("world_ids"))) {
		t.Errorf("request %+v, want %s", req, accepted)
	}
}

func wantFindings(t *testing.T, out pyjson.Value, problem *contract.Problem) {
	t.Helper()
	var locs, types []pyjson.Value
	for _, e := range problem.Detail.Elems() {
		locs = append(locs, pyjson.OfArray(e.Member("loc").Elems()[1:]...))
		types = append(types, e.Member("type"))
	}
	if got, want := compact(pyjson.OfArray(locs...)), compact(out.Member("locs")); got != want {
		t.Errorf("locations %s, want %s", got, want)
	}
	if got, want := compact(pyjson.OfArray(types...)), compact(out.Member("types")); got != want {
		t.Errorf("types %s, want %s", got, want)
	}
}

// TestWholeSecondsHaveNoFraction: datetime.isoformat leaves it out.
func TestWholeSecondsHaveNoFraction(t *testing.T) {
	for at, want := range map[time.Time]string{
		time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC):  `"submitted_at": "2026-01-02T03:04:05+00:00"`,
		time.Date(2026, 1, 2, 3, 4, 5, 1000, time.UTC): `"submitted_at": "2026-01-02T03:04:05.000001+00:00"`,
	} {
		record, _ := appendRecord(nil, &entry{CRC32: "0", SubmittedAt: at})
		if !strings.Contains(string(record), want) {
			t.Errorf("record %s\nlacks %s", record, want)
		}
	}
}
