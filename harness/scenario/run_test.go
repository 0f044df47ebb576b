package scenario_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each kind of step holds on a stand that behaves, and fails, in words that
// say why, when what it sees is not what was expected.
func TestSteps(t *testing.T) {
	s := newStand(t)
	for _, c := range []struct{ name, steps, fails string }{
		{"http", `
- http: { method: POST, path: /echo, query: { a: [1, x] }, headers: { X-Test: h }, body: { k: 1.0 } }
  expect:
    status: 418
    headers: { x-seen: "yes" }
    text: { match: { contains: POST } }
    elapsed_ms: { match: { range: { min: 0 } } }
    body: { method: POST, query: { a: ["1", x] }, x: h, type: application/json, body: '{"k":1.0}' }
    cel: ["status == 418 && body.x == 'h'"]`, ""},
		{"http raw", `
- http: { method: PUT, path: /echo, raw: "{x", headers: { Content-Type: "" } }
  expect: { body: { method: PUT, body: "{x", type: "" } }
- http: { method: PUT, path: /echo, raw_base64: "//4=" }
  expect: { body: { base64: "//4=" } }
- http: { method: POST, path: /echo, body: {}, gzip: true }
  expect: { body: { encoding: gzip } }
- http: { target: dagmanager, path: /echo }
  expect: { status: 418 }`, ""},
		{"http status", `
- http: { path: /echo }
  expect: { status: 200 }`, "line 7, http: status: want 200, got 418"},
		{"http status list", `
- http: { path: /echo }
  expect: { status: [200, 404] }`, "status: want one of 200 | 404, got 418"},
		{"http body", `
- http: { path: /echo }
  expect: { body: { method: POST } }`, `body.method: want "POST", got "GET"`},
		{"http header", `
- http: { path: /echo }
  expect: { headers: { x-none: { match: any } } }`, "headers.x-none: want anything, got nothing"},
		{"http no answer in time", `
- http: { path: /slow, timeout: 50ms }
  expect: { status: 200 }`, "no answer within 50ms"},
		{"http broken off", `
- http: { path: /broken }
  expect: { status: 200 }`, "broke off after 1 bytes"},
		{"http no body", `
- http: { path: /metrics }
  expect: { body: {} }`, "body: want an object, got nothing"},
		{"http parallel", `
- http: { path: /echo, parallel: 5 }
  expect: { statuses: { match: { exact: { "418": 5 } } }, answers: { match: { len: 5 } } }`, ""},
		{"http parallel counts", `
- http: { path: /echo, parallel: 5 }
  expect: { statuses: { "418": 4 } }`, "statuses.418: want 4, got 5"},
		{"cel", `
- http: { path: /echo }
  expect: { cel: ["status == 200"] }`, `cel "status == 200" is false`},
		{"cel on nothing", `
- http: { path: /echo }
  expect: { cel: ["body.none.x == 1"] }`, "no such key"},
		{"save and use", `
- http: { path: /echo }
  expect: { status: 418, save: { m: body.method, all: body } }
- http: { path: "/echo", query: { m: "${m}", deep: "x-${all.method}", esc: "$${m}" } }
  expect: { body: { query: { m: ["${m}"], deep: [x-GET], esc: ["$${m}"] } } }`, ""},
		{"save of nothing", `
- http: { path: /echo }
  expect: { status: 418, save: { m: body.none } }`, "save m: there is no body.none"},
		{"submit", `
- submit: { dag: one-node }
  expect: { status: 202, save: { id: body.strategy_id, hash: sent.dag_hash } }
- submit: { dag: one-node, key_order: reversed, whitespace: indented, encode: plain }
  expect: { status: 409, body: { detail: { strategy_id: "${id}" } } }
- submit: { dag: one-node, variant: b }
  expect: { status: 202 }
- submit: { dag_text: "%%%" }
  expect: { status: 400 }
- dry_run: { dag: one-node }
  expect: { status: 200, body: { strategy_id: dryrun } }
- redis: { command: [GET, "dag_hash:${hash}"] }
  expect: { reply: "${id}" }
- redis: { command: [HGETALL, "strategy:${id}"] }
  expect: { reply: { match: { exact: { hash: "${hash}" } } } }
- redis: { command: [TTL, "strategy:${id}"] }
  expect: { reply: -1 }
- redis: { command: [GET, nothing] }
  expect: { reply: null }
- redis: { keys: "dag_hash:${hash}" }
  expect: { reply: ["dag_hash:${hash}"] }
- consume: { topic: gateway.ingest, key: "ingest:${id}" }
  expect: { records: [{ value: [gateway.ingest, 1, "${id}", { dag_hash: "${hash}" }] }] }`, ""},
		{"submit race", `
- submit: { dag: two-node, parallel: 8 }
  expect: { statuses: { match: { exact: { "202": 1, "409": 7 } } } }
- submit: { dag: two-node, parallel: 4, distinct: true, variant: d }
  expect: { statuses: { match: { exact: { "202": 4 } } } }`, ""},
		{"redis reply", `
- redis: { command: [GET, nothing] }
  expect: { reply: x }`, `reply: want "x", got null`},
		{"redis error", `
- redis: { command: [NONSENSE] }
  expect: { reply: x }`, "redis: NONSENSE"},
		{"produce and consume", `
- produce: { topic: out, key: "${uniq}", headers: { h: v }, value: { n: 1 } }
- produce: { topic: out, key: "${uniq}", times: 3, value: { n: "${n}" } }
- produce: { topic: out, key: "${uniq}", tombstone: true }
- produce: { topic: out, key_base64: "//4=", raw: "${uniq}", headers_base64: { b: "/w==" } }
- consume: { topic: out, key: "${uniq}", count: 5 }
  expect: { records: [{ value: { n: 1 }, headers: { h: v } }, { value: { n: 0 } }, { value: { n: 1 } }, { value: { n: 2 } }, { text: "" }] }
- consume: { topic: out, where: { text: "${uniq}" } }
  expect: { records: [{ headers: { b: { match: string } } }] }
- consume: { topic: out, key: nobody, count: 0, settle: 100ms }`, ""},
		{"consume too few", `
- produce: { topic: out, key: "${uniq}", value: 1 }
- consume: { topic: out, key: "${uniq}", count: 2, within: 300ms }`, "want 2 such records within 300ms, found 1"},
		{"consume too many", `
- produce: { topic: out, key: "${uniq}", value: 1, times: 2 }
- consume: { topic: out, key: "${uniq}" }`, "want 1 such records within 5s, found 2"},
		{"consume what must not be", `
- produce: { topic: out, key: "${uniq}", value: 1 }
- consume: { topic: out, key: "${uniq}", count: 0, settle: 300ms }`, "want 0 such records"},
		{"topics", `
- topics: { matching: "^(out|queue)$" }
  expect: { topics: [{ name: out, partitions: 1 }, { name: queue }] }`, ""},
		{"topics missing", `
- topics: { matching: "^none$" }
  expect: { topics: { match: { len: 1 } } }`, "topics length: want 1, got 0"},
		{"grpc", `
- grpc: { method: TagQuery/GetQueues, request: { tags: [a, b], interval: 60 } }
  expect: { code: OK, reply: { queues: [{ queue: a+b, global: true }] } }
- grpc: { method: qmtl.services.dagmanager.TagQuery/GetQueues, request: { interval: -1 } }
  expect: { code: INVALID_ARGUMENT, message: interval }
- grpc: { method: AdminService/Cleanup }
  expect: { code: [UNKNOWN, UNIMPLEMENTED] }
- grpc: { method: DiffService/AckChunk, request: { sentinel_id: nobody, chunk_id: 7 } }
  expect: { code: OK, reply: { match: { exact: { sentinel_id: nobody, chunk_id: 7 } } } }`, ""},
		{"grpc code", `
- grpc: { method: TagQuery/GetQueues, request: { interval: -1 } }
  expect: { code: OK }`, `code: want "OK", got "INVALID_ARGUMENT"`},
		{"grpc field", `
- grpc: { method: TagQuery/GetQueues, request: { intervall: 1 } }
  expect: { code: OK }`, "unknown field"},
		{"diff", `
- diff: { dag: chain-3 }
  expect:
    code: OK
    chunks: { match: { len: 2 } }
    version: v1
    queue_map: { match: { len: 3 } }
    buffer_nodes: []
    sentinel_id: { match: { regex: "-sentinel$" } }
    cel: ["crc32 == sent.node_ids_crc32", "crc32 == crc32(sent.node_ids)", "digest(sent.node_ids[0]).size() == 64"]`, ""},
		{"diff ack ahead", `
- diff: { dag: chain-3, ack: { policy: ahead, count: 2 } }
  expect: { code: OK, chunks: { match: { len: 2 } } }`, ""},
		{"diff ack none", `
- diff: { dag: chain-3, ack: { policy: none } }
  expect: { code: DEADLINE_EXCEEDED, message: { match: { contains: acknowledge } }, chunks: { match: { len: 1 } } }`, ""},
		{"diff ack only the first", `
- diff: { dag: chain-3, ack: { policy: first, count: 1 } }
  expect: { code: OK }`, `code: want "OK", got "DEADLINE_EXCEEDED"`},
		{"diff ack late", `
- diff: { dag: chain-3, ack: { policy: each, after: 700ms } }
  expect: { code: OK }`, `code: want "OK", got "DEADLINE_EXCEEDED"`},
		{"diff cancelled", `
- diff: { dag: chain-3, cancel_after: 1, ack: { policy: none } }
  expect: { code: CANCELLED, chunks: { match: { len: 1 } } }`, ""},
		{"diff deadline", `
- diff: { dag: chain-3, ack: { policy: none }, deadline: 50ms }
  expect: { code: DEADLINE_EXCEEDED }`, ""},
		{"diff text", `
- diff: { dag_json: "{x" }
  expect: { code: OK }`, `code: want "OK", got "INVALID_ARGUMENT"`},
		{"diff parallel", `
- diff: { dag: chain-3, parallel: 4, distinct: true }
  expect: { codes: { match: { exact: { OK: 4 } } }, cel: ["calls.map(c, c.sentinel_id).distinct().size() == 4"] }`, ""},
		{"metrics", `
- metrics: { snapshot: a }
- http: { path: /count }
  expect: { status: 200 }
- metrics:
    since: a
    series: [{ name: hits_total, labels: { kind: a }, by: 1 }, { name: hits_total, by: 1 }, { name: level, value: 2.5 }, { name: none_total, by: 0 }]`, ""},
		{"metrics by", `
- metrics: { snapshot: a }
- metrics: { since: a, series: [{ name: hits_total, by: 1 }] }`, "hits_totalmap[] by: want 1, got 0"},
		{"metrics value", `
- metrics: { series: [{ name: none, value: 1 }] }`, "none"},
		{"eventually", `
- http: { path: /count }
  expect: { status: 200, save: { n: body.n } }
- eventually:
    within: 5s
    every: 10ms
    steps:
      - http: { path: /count }
        expect: { body: { n: { match: { range: { min: 8 } } } } }`, ""},
		{"eventually never", `
- eventually:
    within: 100ms
    every: 10ms
    steps:
      - http: { path: /count }
        expect: { body: { n: -1 } }`, "not within 100ms: body.n: want -1"},
		{"for each", `
- for_each:
    as: m
    in: [GET, POST, PUT]
    steps:
      - http: { method: "${m}", path: /echo }
        expect: { body: { method: "${m}" } }
      - submit: { dag: one-node }
        expect: { status: 202 }`, ""},
		{"parallel", `
- parallel:
    - - http: { path: /echo }
        expect: { status: 418, save: { a: body.method } }
    - - http: { path: /echo }
        expect: { status: 418 }
- http: { path: /echo }
  expect: { body: { method: "${a}" } }`, ""},
		{"parallel fails with one", `
- parallel:
    - - http: { path: /echo }
        expect: { status: 418 }
    - - http: { path: /echo }
        expect: { status: 200 }`, "line 10, http: status: want 200, got 418"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expectOutcome(t, outcome(t, s.env, c.steps), c.fails)
		})
	}
}

// expectOutcome wants a pass, or a failure whose reason holds fails.
func expectOutcome(t *testing.T, o record.Outcome, fails string) {
	t.Helper()
	switch {
	case fails == "" && o.Status != record.Passed:
		t.Errorf("outcome %s: %s\nsteps %+v; want passed", o.Status, o.Reason, o.Steps)
	case fails != "" && (o.Status != record.Failed || !strings.Contains(o.Reason, fails)):
		t.Errorf("outcome %s: %q; want failed with %q", o.Status, o.Reason, fails)
	case fails != "" && len(o.Steps) != 1:
		t.Errorf("a failure without its step: %+v", o)
	}
}

func TestForEachNamesTheElement(t *testing.T) {
	s := newStand(t)
	o := outcome(t, s.env, `
- for_each:
    in: [{ m: GET }, { m: HEAD }]
    steps:
      - http: { path: /echo }
        expect: { body: { method: "${row.m}" } }`)
	expectOutcome(t, o, `with row 1 = {"m":"HEAD"}: body.method: want "HEAD", got "GET"`)
	if o.Steps[0].Line != 10 || o.Steps[0].Action != "http" {
		t.Errorf("step %+v; want the http step of line 10", o.Steps[0])
	}
}

func TestWebSocketSteps(t *testing.T) {
	produce := func(etags ...string) string {
		var b strings.Builder
		for _, e := range etags {
			b.WriteString(`
- produce: { topic: queue, key: k, event: { type: x, data: { version: 1, tags: ["${uniq}"], etag: ` + e + ` } } }`)
		}
		return b.String()
	}
	open := `
- ws: { open: a, ready: queue, within: 20s }`
	where := `where: { data: { tags: ["${uniq}"] } }`
	for _, c := range []struct{ name, fault, steps, fails string }{
		{"in order", "", open + produce("one", "two") + `
- ws: { on: a, ` + where + `, frames: [{ type: queue_update, data: { etag: one } }, { data: { etag: two } }] }
  expect: { cel: ["frames[0].seq_no < frames[1].seq_no"] }`, ""},
		{"wrong order", "", open + produce("one", "two") + `
- ws: { on: a, ` + where + `, frames: [{ data: { etag: two } }, { data: { etag: one } }] }`, `frames.0.data.etag: want "two", got "one"`},
		{"any order", "", open + produce("one", "two") + `
- ws: { on: a, ` + where + `, any_order: true, frames: [{ data: { etag: two } }, { data: { etag: one } }] }`, ""},
		{"count", "", open + produce("one", "two") + `
- ws: { on: a, ` + where + `, count: 2 }`, ""},
		{"none", "", open + `
- ws: { on: a, ` + where + `, frames: [], within: 100ms }`, ""},
		{"none, but one came", "", open + produce("one") + `
- ws: { on: a, ` + where + `, frames: [], within: 1s }`, "frames: want 0 items"},
		{"too few", "", open + produce("one") + `
- ws: { on: a, ` + where + `, frames: [{ data: { etag: one } }, { data: { etag: two } }], within: 300ms }`, "frames: want 2 items"},
		{"doubled", "double frames", open + produce("one") + `
- ws: { on: a, ` + where + `, frames: [{ data: { etag: one } }], settle: 300ms }`, "frames: want 1 items"},
		{"doubled, counted", "double frames", open + produce("one") + `
- ws: { on: a, ` + where + `, count: 1 }`, "number of frames: want 1, got 2"},
		{"never relayed", "deaf", `
- ws: { open: a, ready: queue, within: 500ms }
- ws: { on: a, frames: [{}] }`, "no probe record on topic queue was relayed within 500ms"},
		{"hung up", "hang up", `
- ws: { open: a }
- ws: { on: a, frames: [{}], within: 5s }`, "the connection had ended after 0 frames"},
		{"refused", "", `
- ws: { open: a, path: /nowhere }
- ws: { on: a, frames: [] }`, "status 404"},
		{"unknown connection", "", `
- ws: { on: b, frames: [] }`, `no connection "b" is open`},
		{"closed", "", `
- ws: { open: a }
- ws: { close: a }
- ws: { on: a, send: hello }
- ws: { on: a, frames: [] }`, "line 9, ws"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectOutcome(t, outcome(t, newStand(t, c.fault).env, c.steps), c.fails)
		})
	}
}

// The oracle finds each way in which a gateway can lie.
func TestInvariants(t *testing.T) {
	submit := `
- submit: { dag: two-node }
  expect: { status: 202 }
- submit: { dag: two-node }
  expect: { status: [202, 409] }
- diff: { dag: two-node }
  expect: { code: OK }
- diff: { dag: two-node }
  expect: { code: OK }`
	for _, c := range []struct{ fault, id, finds string }{
		{"", "", ""},
		{"accept twice", "INV-ONE-ACCEPT", "was accepted as"},
		{"no registration", "INV-LOST", "dag_hash:"},
		{"no record", "INV-LOST", "has no commit-log record"},
		{"two records", "INV-DOUBLED", "has more than one commit-log record"},
		{"record of nobody", "INV-DOUBLED", "strategy nobody has a commit-log record but was never accepted"},
		{"new topic each time", "INV-TOPIC", "has the topics asset_N_v1 and asset_N_v2"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			for _, o := range outcomes(t, newStand(t, c.fault).env, map[string]string{"T-1": submit})[1:] {
				if o.ID == c.id || (c.fault == "accept twice" && o.ID == "INV-LOST") {
					if o.Status != record.Failed || (o.ID == c.id && !strings.Contains(o.Reason, c.finds)) {
						t.Errorf("%s is %s: %s; want failed with %q", o.ID, o.Status, o.Reason, c.finds)
					}
					continue
				}
				if o.Status != record.Passed {
					t.Errorf("%s is %s: %s; want passed", o.ID, o.Status, o.Reason)
				}
			}
		})
	}
}

// A scenario may ask for invariants over its own history.
func TestOwnInvariants(t *testing.T) {
	steps := "invariants: [nothing-lost, one-accept-per-dag]\nsteps:\n- submit: { dag: one-node }\n"
	expectOutcome(t, outcome(t, newStand(t).env, steps), "")
	expectOutcome(t, outcome(t, newStand(t, "no record").env, steps), "invariants (nothing-lost): strategy ")
}

func TestSkipsSayWhy(t *testing.T) {
	s := newStand(t)
	env := s.env
	env.Kafka, env.Lacks, env.Classes = "", []string{"redis"}, []scenario.Class{scenario.Strict}
	fsys := fstest.MapFS{}
	for id, head := range map[string]string{
		"A-1": "class: strict\nneeds: [gateway, kafka, redis, faults]", "B-1": "class: reference", "C-1": "class: strict\nneeds: [gateway, no-worldservice]",
	} {
		fsys[id+".yaml"] = &fstest.MapFile{Data: []byte("id: " + id + "\ntitle: t\nclause: contract/a.md#x\n" + head + "\nsteps: [{ http: { path: /echo }, expect: { status: 418 } }]\n")}
	}
	all, err := scenario.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	got := scenario.Run(t.Context(), env, all)
	want := []struct {
		status record.Status
		reason string
	}{
		{record.Skipped, "needs kafka, redis, faults (provider stand)"},
		{record.Skipped, "class reference is not asked of this SUT"},
		{record.Passed, ""},
	}
	for i, w := range want {
		if got[i].Status != w.status || got[i].Reason != w.reason {
			t.Errorf("%s is %s: %q; want %s: %q", got[i].ID, got[i].Status, got[i].Reason, w.status, w.reason)
		}
	}
	for _, o := range got[3:] {
		if o.Status != record.Skipped || o.Reason == "" {
			t.Errorf("%s is %s: %q; want skipped with a reason, as nothing was submitted", o.ID, o.Status, o.Reason)
		}
	}
}

// When the SUT dies the caller ends ctx: what runs fails at once with the
// cause, what has not begun fails as not run, and nothing is left behind.
func TestDeathEndsTheRunAtOnce(t *testing.T) {
	s := newStand(t)
	env := s.env
	env.Parallel = 1
	fsys := fstest.MapFS{}
	for _, id := range []string{"A-1", "B-1"} {
		fsys[id+".yaml"] = &fstest.MapFile{Data: []byte("id: " + id + "\ntitle: t\nclass: strict\nclause: contract/a.md#x\nsteps: [{ http: { path: /slow }, expect: { status: 200 } }]\n")}
	}
	all, err := scenario.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { kill(errors.New("process gateway died: exit status 2")) })
	got := scenario.Run(ctx, env, all)
	if !strings.Contains(got[0].Reason, "process gateway died") || got[0].Status != record.Failed {
		t.Errorf("running scenario: %s %q; want failed with the cause", got[0].Status, got[0].Reason)
	}
	if want := "not run: process gateway died: exit status 2"; got[1].Reason != want || got[1].Status != record.Failed {
		t.Errorf("waiting scenario: %s %q; want failed with %q", got[1].Status, got[1].Reason, want)
	}
}

func TestTimeoutNamesTheLimit(t *testing.T) {
	expectOutcome(t, outcome(t, newStand(t).env, "timeout: 200ms\nsteps:\n- http: { path: /slow }\n  expect: { status: 200 }\n"), "the scenario took longer than 200ms")
}

// Names differ from run to run and from seed to seed, and are the same when
// both are: a failed scenario can be repeated.
func TestNamesAreFreshAndRepeatable(t *testing.T) {
	s := newStand(t)
	name := func(run string, seed uint64) string {
		env := s.env
		env.RunID, env.Seed = run, seed
		o := outcome(t, env, "- http: { path: /echo, query: { u: \"${uniq}\" } }\n  expect: { body: { query: { u: [\"\"] } } }\n")
		return o.Reason
	}
	first := name("r1", 1)
	if first != name("r1", 1) {
		t.Error("the same run and seed give other names")
	}
	if first == name("r2", 1) || first == name("r1", 2) {
		t.Error("another run or seed gives the same names")
	}
}
