package workload

import (
	"fmt"
	"strings"
	"testing"

	"qmtl.internal/plumbline/bench/load"
)

const (
	id1 = "5b0c0a52-0d3e-4b0e-9a52-4d2f7f1f8a10"
	id2 = "6b0c0a52-0d3e-4b0e-9a52-4d2f7f1f8a10"
)

func ack(id string) string {
	return fmt.Sprintf(`{"strategy_id":%q,"queue_map":{},"sentinel_id":%q,"node_ids_crc32":5,"downgraded":false,"downgrade_reason":null,"safe_mode":false}`, id, id+"-sentinel")
}

func refusal(id string) string {
	return fmt.Sprintf(`{"detail":{"code":"E_DUPLICATE","strategy_id":%q}}`, id)
}

func first() Submission { return Submission{Index: 1, Original: 1, Class: Catalogue, CRC: 5} }

func TestAnswersToOneSubmission(t *testing.T) {
	with := func(old, new string) string { return strings.Replace(ack(id1), old, new, 1) }
	for name, c := range map[string]struct {
		status int
		body   string
		fate   load.Fate
		why    string
	}{
		"accepted":             {202, ack(id1), load.Accepted, ""},
		"downgraded":           {202, with(`null`, `"missing_as_of"`), load.Accepted, ""},
		"member dropped":       {202, with(`"sentinel_id"`, `"sentinel"`), load.Unexpected, "202: no sentinel_id"},
		"no id":                {202, with(`"strategy_id":"`+id1+`",`, ``), load.Unexpected, "202: no strategy_id"},
		"id is no uuid":        {202, ack("dryrun"), load.Unexpected, "202: bad strategy_id"},
		"upper-case uuid":      {202, ack(strings.ToUpper(id1)), load.Unexpected, "202: bad strategy_id"},
		"uuid of version 1":    {202, ack("5b0c0a52-0d3e-1b0e-9a52-4d2f7f1f8a10"), load.Unexpected, "202: bad strategy_id"},
		"checksum of another":  {202, with(`:5`, `:6`), load.Unexpected, "202: bad node_ids_crc32"},
		"checksum as text":     {202, with(`:5`, `:"5"`), load.Unexpected, "202: bad node_ids_crc32"},
		"one member more":      {202, with(`{"str`, `{"x":1,"str`), load.Unexpected, "202: more than the seven members"},
		"null for bool":        {202, with(`"safe_mode":false`, `"safe_mode":null`), load.Unexpected, "202: bad safe_mode"},
		"reason is a number":   {202, with(`null`, `1`), load.Unexpected, "202: bad downgrade_reason"},
		"queue map is null":    {202, with(`{}`, `null`), load.Unexpected, "202: bad queue_map"},
		"queue of a stranger":  {202, with(`{}`, `{"n":[]}`), load.Unexpected, "202: bad queue_map"},
		"not JSON":             {202, `<html>`, load.Unexpected, "202: not a JSON object"},
		"empty":                {202, ``, load.Unexpected, "202: not a JSON object"},
		"cut short":            {202, ack(id1)[:40], load.Unexpected, "202: not a JSON object"},
		"array":                {202, `[]`, load.Unexpected, "202: not a JSON object"},
		"null":                 {202, `null`, load.Unexpected, "202: not a JSON object"},
		"200 for 202":          {200, ack(id1), load.Unexpected, "200"},
		"refused though fresh": {409, refusal(id1), load.Unexpected, "409: the DAG was sent once only"},
		"another conflict":     {409, `{"detail":{"code":"E_OTHER","strategy_id":"` + id1 + `"}}`, load.Unexpected, "409: code is not E_DUPLICATE"},
		"conflict in words":    {409, `{"detail":"conflict"}`, load.Unexpected, "409: no detail"},
		"conflict without id":  {409, `{"detail":{"code":"E_DUPLICATE"}}`, load.Unexpected, "409: bad strategy_id"},
		"checksum refused":     {400, `{"detail":{"code":"E_CHECKSUM_MISMATCH"}}`, load.Unexpected, "400"},
		"redirect":             {307, ``, load.Unexpected, "307"},
		"too many":             {429, ``, load.Unexpected, "429"},
		"server error":         {500, `Internal Server Error`, load.Unexpected, "500"},
		"unavailable":          {503, ``, load.Unexpected, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkload(t, 1)
			w.keys.leaves(1)
			r := w.Judge(first(), c.status, []byte(c.body))
			if r.Fate != c.fate || r.Why != c.why || r.Status != c.status {
				t.Errorf("Judge = %+v; want %s, %q", r, c.fate, c.why)
			}
			if c.fate == load.Unexpected && string(r.Body) != c.body {
				t.Errorf("sample %q; want the answer", r.Body)
			}
		})
	}
}

func TestQueueMapHoldsTheTagQueryNodes(t *testing.T) {
	s := first()
	s.Queries = []string{"n1"}
	for queues, ok := range map[string]bool{
		`{"n1":[]}`:                               true,
		`{"n1":[{"queue":"q","global":true}]}`:    true,
		`{}`:                                      false,
		`{"n2":[]}`:                               false,
		`{"n1":null}`:                             false,
		`{"n1":[],"n2":[]}`:                       false,
		`{"n1":[{"queue":"q"}]}`:                  false,
		`{"n1":[{"global":true}]}`:                false,
		`{"n1":["q"]}`:                            false,
		`{"n1":[{"queue":"","global":false}]}`:    false,
		`{"n1":[{"queue":"q","global":"false"}]}`: false,
	} {
		w := newWorkload(t, 1)
		r := w.Judge(s, 202, []byte(strings.Replace(ack(id1), `{}`, queues, 1)))
		if (r.Fate == load.Accepted) != ok {
			t.Errorf("queue_map %s: %+v; want accepted %v", queues, r, ok)
		}
	}
}

// An exchange is one answer in the order in which answers came.
type exchange struct {
	dup    bool
	status int
	id     string
	want   string // fate, or why
}

func TestAnswersToOneDAGMustAgree(t *testing.T) {
	for name, c := range map[string][]exchange{
		"as it should be":               {{false, 202, id1, "accepted"}, {true, 409, id1, "rejected"}},
		"duplicate accepted too":        {{false, 202, id1, "accepted"}, {true, 202, id2, "202: the DAG was accepted before"}},
		"original overtaken":            {{true, 202, id2, "accepted"}, {false, 409, id2, "rejected"}},
		"refusal names another":         {{false, 202, id1, "accepted"}, {true, 409, id2, "409: strategy_id of another submission"}},
		"refused before accepted":       {{true, 409, id1, "rejected"}, {false, 202, id1, "accepted"}},
		"accepted under another id":     {{true, 409, id1, "rejected"}, {false, 202, id2, "202: its duplicate was told another strategy_id"}},
		"failed first, then accepted":   {{false, 503, "", "503"}, {true, 202, id2, "accepted"}},
		"both refused, for two reasons": {{true, 409, id1, "rejected"}, {false, 409, id2, "409: strategy_id of another submission"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkload(t, 1)
			w.keys.leaves(1)
			w.keys.leaves(1)
			for k, x := range c {
				if got := judged(w, x); got != x.want {
					t.Errorf("answer %d: %s; want %s", k, got, x.want)
				}
			}
		})
	}
}

func judged(w *Workload, x exchange) string {
	s, body := first(), ack(x.id)
	if x.dup {
		s.Index, s.Class = 2000, Duplicate
	}
	if x.status == 409 {
		body = refusal(x.id)
	}
	r := w.Judge(s, x.status, []byte(body))
	if r.Fate == load.Unexpected {
		return r.Why
	}
	return string(r.Fate)
}

// The original was dropped, so its duplicate is the first to arrive.
func TestDuplicateOfADroppedOriginal(t *testing.T) {
	dup := Submission{Index: 2000, Original: 1, Class: Duplicate, CRC: 5}
	w := newWorkload(t, 1)
	w.keys.leaves(1)
	if r := w.Judge(dup, 202, []byte(ack(id1))); r.Fate != load.Accepted {
		t.Errorf("Judge = %+v; want accepted", r)
	}
	w = newWorkload(t, 1)
	w.keys.leaves(1)
	if r := w.Judge(dup, 409, []byte(refusal(id1))); r.Fate != load.Unexpected {
		t.Errorf("Judge = %+v; want unexpected: nobody else sent the DAG", r)
	}
}

// Another generator may have sent the original.
func TestSharedScheduleTrustsARefusal(t *testing.T) {
	w, err := New(Options{Profile: profile(), Tag: "t", Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	w.keys.leaves(1)
	if r := w.Judge(first(), 409, []byte(refusal(id1))); r.Fate != load.Rejected {
		t.Errorf("Judge = %+v; want rejected", r)
	}
}

func TestKeysForgetTheOldestOnly(t *testing.T) {
	k := newKeys(false)
	for i := range int64(3 * remembered) {
		k.leaves(i)
		k.accept(i, "id")
	}
	last := int64(3*remembered - 1)
	if k.accept(last, "id") == "" || k.accept(last-remembered+1, "id") == "" {
		t.Error("a recent key was forgotten")
	}
	if wrong := k.accept(0, "id"); wrong != "" || k.refuse(0, "other") != "" {
		t.Errorf("accept of a forgotten key = %q; want no complaint", wrong)
	}
	if len(k.slots) != remembered {
		t.Errorf("%d slots; want %d", len(k.slots), remembered)
	}
}
