package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// submission writes a body around dag, a JSON text, in plain or in base64.
func submission(dag string) string {
	return `{"dag_json":` + jsonText(dag) + `,"meta":null,"world_ids":["w"],"node_ids_crc32":0}`
}

func submission64(dag string) string {
	return submission(base64.StdEncoding.EncodeToString([]byte(dag)))
}

// dagOf writes a DAG of one node with these members besides the usual ones.
func dagOf(members string) string {
	return `{"schema_version":"v1","nodes":[{` + members + `,"node_id":"x","node_type":"N","code_hash":"c","config_hash":"c","schema_hash":"c","schema_compat_id":"c"}]}`
}

// many repeats one text n times behind the first, parted by commas.
func many(one string, n int) string { return one + strings.Repeat(","+one, n-1) }

// bad is an input, and the answer that it gets: the status, and words of it.
type bad struct {
	body   string
	status int
	says   string
}

// dense is more values than may be sent.
const dense = 600_000

func badTexts() map[string]bad {
	deep := strings.Repeat(`[`, 1500) + strings.Repeat(`]`, 1500)
	return map[string]bad{
		"nothing":                         {``, 422, `"missing"`},
		"half an object":                  {`{"dag_json":"e30=",`, 422, `"json_invalid"`},
		"a number":                        {`5`, 422, `"model_attributes_type"`},
		"not UTF-8":                       {"{\"dag_json\":\"\xff\"}", 400, `There was an error parsing the body`},
		"a DAG that is not UTF-8":         {submission64("{\"schema_version\":\"v1\",\"nodes\":[],\"a\":\"\xff\"}"), 400, `E_SCHEMA_INVALID`},
		"overlong UTF-8":                  {"{\"dag_json\":\"\xc0\x80\"}", 400, `There was an error parsing the body`},
		"a lone surrogate for a world":    {`{"dag_json":"e30=","world_ids":["\ud800"],"node_ids_crc32":0}`, 422, `"string_unicode"`},
		"a lone surrogate for a DAG":      {`{"dag_json":"\udfff","world_ids":["w"],"node_ids_crc32":0}`, 422, `"string_unicode"`},
		"a lone surrogate in an identity": {submission(strings.ReplaceAll(dagOf(`"a":1`), `"N"`, `"\ud800"`)), 400, `E_SCHEMA_INVALID`},
		"deep":                            {`{"meta":{"a":` + deep + `}}`, 422, `nested deeper than 1000`},
		"deep and never closed":           {`{"meta":` + strings.Repeat(`{"a":`, 200_000), 422, `nested deeper than 1000`},
		"a deep DAG":                      {submission(`{"schema_version":"v1","a":` + deep + `}`), 400, `nested deeper than 1000`},
		"a deep DAG in base64":            {submission64(`{"schema_version":"v1","a":` + deep + `}`), 400, `E_SCHEMA_INVALID`},
		"values without end":              {`{"meta":{"a":[` + many("0", dense) + `]}}`, 413, `more than 500000 values`},
		"objects without end":             {`{"meta":{"a":[` + many("{}", dense) + `]}}`, 413, `more than 500000 values`},
		"a DAG of values":                 {submission(`{"nodes":[` + many("0", dense) + `]}`), 413, `more than 500000 values`},
		"a DAG of values in base64":       {submission64(`{"nodes":[` + many("0", dense) + `]}`), 413, `more than 500000 values`},
	}
}

func badNumbers() map[string]bad {
	crc := func(n string) string { return `{"dag_json":"e30=","world_ids":["w"],"node_ids_crc32":` + n + `}` }
	return map[string]bad{
		"an integer of 5,000 digits":         {crc(strings.Repeat("9", 5000)), 422, `integer of more than 4300 digits`},
		"an integer of a million digits":     {crc(strings.Repeat("9", 1_000_000)), 422, `integer of more than 4300 digits`},
		"a text of a million digits":         {crc(`"` + strings.Repeat("9", 1_000_000) + `"`), 422, `"int_parsing_size"`},
		"a float beyond all":                 {crc("1e400"), 422, `"finite_number"`},
		"a float beyond integers":            {crc("1e300"), 422, `"int_parsing"`},
		"NaN":                                {crc("NaN"), 422, `"finite_number"`},
		"a CRC of 4,000 digits":              {strings.Replace(submission(dagOf(`"a":1`)), `"node_ids_crc32":0`, `"node_ids_crc32":`+strings.Repeat("9", 4000), 1), 400, `E_CHECKSUM_MISMATCH`},
		"an interval beyond all":             {submission(dagOf(`"interval":1e400`)), 400, `E_SCHEMA_INVALID`},
		"an interval of 4,000 digits":        {submission(dagOf(`"interval":` + strings.Repeat("9", 4000))), 400, `E_`},
		"an exponent of a million digits":    {crc("1e" + strings.Repeat("9", 1_000_000)), 422, `"finite_number"`},
		"a fraction of a million digits":     {crc("0." + strings.Repeat("3", 1_000_000)), 422, `"int_from_float"`},
		"a period that is no number of ours": {submission(dagOf(`"interval":60,"period":-1e999`)), 400, `E_SCHEMA_INVALID`},
	}
}

// Of a repeated key the last value counts, as in Python, so each of these breaks
// the rule that its last value breaks.
func badKeys() map[string]bad {
	twice := func(first, last string) string {
		return `{"dag_json":"e30=",` + first + `,"node_ids_crc32":0,` + last + `}`
	}
	return map[string]bad{
		"worlds given, then taken":   {twice(`"world_ids":["w"]`, `"world_ids":[]`), 422, `E_WORLD_IDS_REQUIRED`},
		"a DAG given, then a number": {twice(`"world_ids":["w"]`, `"dag_json":5`), 422, `"string_type"`},
		"one key 100,000 times":      {twice(many(`"world_ids":["w"]`, 100_000), `"world_ids":7`), 422, `"list_type"`},
		"100,000 keys":               {`{` + members(100_000) + `}`, 422, `"missing"`},
		"an identity given twice":    {submission(dagOf(`"a":1`)[:len(dagOf(`"a":1`))-3] + `,"node_type":null}]}`), 400, `E_NODE_ID_FIELDS`},
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":%d,`, i, i)
	}
	return b.String() + `"z":0`
}

// Whatever is sent, the answer says what is wrong with it, and nothing of it
// stays: not in Redis, not in Kafka, not at the DAG Manager.
func TestBadInputIsToldWhyAndLeavesNothing(t *testing.T) {
	s := newStand(t, withKafka)
	for _, group := range []map[string]bad{badTexts(), badNumbers(), badKeys()} {
		for name, c := range group {
			t.Run(name, func(t *testing.T) {
				for _, path := range []string{"/strategies", "/strategies/dry-run"} {
					a := s.post(path, c.body)
					if a.status != c.status || !strings.Contains(a.body, c.says) {
						t.Errorf("%s: answer %d %.300s, want %d with %s", path, a.status, a.body, c.status, c.says)
					}
				}
			})
		}
	}
	s.untouched()
}

// untouched: nothing was stored or asked, and the gateway serves on.
func (s *stand) untouched() {
	s.t.Helper()
	s.wantNothingStored()
	if n := len(s.records()); n != 0 {
		s.t.Errorf("%d records in the commit log", n)
	}
	if n := len(s.dmDiffs()); n != 0 {
		s.t.Errorf("%d diffs were asked for", n)
	}
	if got := s.metric("lost_requests_total"); got != "0" {
		s.t.Errorf("lost_requests_total = %s", got)
	}
	s.accepted(body(oneNode("a good one"), "w"))
}

// An answer names so many mistakes and no more, else it would be larger than
// what it answers.
func TestMistakesWithoutEndAreNotAllNamed(t *testing.T) {
	s := newStand(t, withKafka)
	for name, c := range map[string]struct{ body, list string }{
		"worlds": {`{"dag_json":"e30=","node_ids_crc32":0,"world_ids":[` + many("0", 50_000) + `]}`, `"string_type"`},
		"nodes":  {submission(`{"schema_version":"v1","nodes":[` + many("{}", 50_000) + `]}`), `"missing"`},
		"ids":    {submission(`{"schema_version":"v1","nodes":[` + many(strings.TrimSuffix(strings.SplitAfterN(dagOf(`"a":1`), "[", 2)[1], `]}`), 5_000) + `]}`), `CHECKSUM`},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.post("/strategies", c.body)
			if n := strings.Count(a.body, c.list); a.status/100 != 4 || n < 1 || n > 1000 || len(a.body) > 1<<20 {
				t.Errorf("answer %d, %d bytes, %d mistakes: %.200s", a.status, len(a.body), n, a.body)
			}
		})
	}
	s.untouched()
}

// raw sends bytes over a connection of their own and gives the answer.
func (s *stand) raw(text string) (status int, answer string) {
	s.t.Helper()
	conn := s.connect()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	return s.hear(conn)
}

func (s *stand) connect() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// hear reads one answer.
func (s *stand) hear(conn net.Conn) (status int, answer string) {
	s.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const postHead = "POST /strategies HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"

// What goes wrong below JSON is told too.
func TestBadRequestsAreToldWhy(t *testing.T) {
	s := newStand(t, withKafka)
	for name, c := range map[string]bad{
		"no HTTP":                              {"hello\r\n\r\n", 400, "400 Bad Request"},
		"a head without end":                   {"POST /strategies HTTP/1.1\r\nHost: g\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", 431, "431"},
		"two lengths":                          {postHead + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", 400, "400 Bad Request"},
		"a length below zero":                  {postHead + "Content-Length: -1\r\n\r\n", 400, "400 Bad Request"},
		"a length beyond numbers":              {postHead + "Content-Length: 99999999999999999999\r\n\r\n", 400, "400 Bad Request"},
		"a length beyond limits, asked before": {postHead + "Expect: 100-continue\r\nContent-Length: 1099511627776\r\n\r\n", 413, "E_TOO_LARGE"},
		"chunks that are none":                 {postHead + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "There was an error parsing the body"},
		"a coding that is none":                {postHead + "Transfer-Encoding: gzip\r\n\r\n", 501, "501"},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := s.raw(c.body)
			if status != c.status || !strings.Contains(answer, c.says) && status != 501 {
				t.Errorf("answer %d %.200s, want %d with %s", status, answer, c.status, c.says)
			}
		})
	}
	s.untouched()
}

// A client that announces more than it sends is told so once its time is over,
// whatever it announced, and holds up nobody before.
func TestBodiesThatDoNotComeEndInAnAnswer(t *testing.T) {
	const slow = 400 // more than there are places
	s := newStand(t, withKafka, withArgs("--max-in-work", "8", "--wait-limit", "1s"))
	conns := make([]net.Conn, slow)
	for i := range conns {
		conns[i] = s.connect()
		defer conns[i].Close()
		fmt.Fprintf(conns[i], "%sContent-Length: %d\r\n\r\n%s", postHead, 60_000, `{"dag_json":`)
	}
	huge := s.connect()
	defer huge.Close()
	fmt.Fprintf(huge, "%sContent-Length: %d\r\n\r\n", postHead, int64(1)<<40)
	s.refused("/strategies", submission(dagOf(`"a":1`)), 400, "E_CHECKSUM_MISMATCH") // somebody is served meanwhile
	for _, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if status, answer := s.hear(conn); status != 400 || !strings.Contains(answer, "error parsing the body") {
			t.Fatalf("answer %d %s", status, answer)
		}
	}
	_ = huge.SetDeadline(time.Now().Add(time.Minute))
	if status, answer := s.hear(huge); status != 413 || !strings.Contains(answer, "E_TOO_LARGE") {
		t.Errorf("answer %d %s", status, answer)
	}
	s.untouched()
}

// Room for large bodies is waited for no longer than for a place.
func TestWaitingForRoomEnds(t *testing.T) {
	s := newStand(t, withArgs("--wait-limit", "100ms"))
	holder := s.connect()
	defer holder.Close()
	fmt.Fprintf(holder, "%sContent-Length: %d\r\n\r\n", postHead, 30<<20)
	s.eventually("a large body finds no room", func() bool {
		a := s.post("/strategies", strings.Repeat(" ", 1<<20))
		return a.status == 503 && strings.Contains(a.body, "E_BUSY") && a.header.Get("Retry-After") == "1"
	})
}

// peak is the most heap that work came to need beside what there was, garbage
// included.
func peak(work func()) int64 {
	old := debug.SetGCPercent(10) // little garbage
	defer debug.SetGCPercent(old)
	debug.FreeOSMemory()
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	now := func() int64 { metrics.Read(heap); return int64(heap[0].Value.Uint64()) }
	base, most := now(), int64(0)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.Tick(time.Millisecond); ; {
			select {
			case <-tick:
				most = max(most, now())
			case <-done:
				return
			}
		}
	}()
	work()
	close(done)
	<-stopped
	return most - base
}

// together posts the same body n times at once.
func (s *stand) together(n int, path, body string) {
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url+path, strings.NewReader(body))
			if err != nil {
				s.t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := s.client.Do(req)
			if err != nil {
				s.t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	clients.Wait()
}

// Two bytes of JSON may become more than a hundred of memory, in whatever
// number of requests.
func TestDenseBodiesTakeBoundedMemory(t *testing.T) {
	const mib = 1 << 20
	hold := make(chan struct{})
	s := newStand(t, withArgs("--diff-limit", "20s"), withManager(&manager{
		chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
			select {
			case <-hold:
			case <-time.After(20 * time.Millisecond):
			}
			return goodChunk(ctx, r)
		}}))
	defer close(hold)
	values := func(bytes int) string {
		return `{"dag_json":"` + base64.StdEncoding.EncodeToString([]byte(`{"schema_version":"v1","nodes":[],"a":[`+many("0", bytes/2)+`]}`)) +
			`","meta":{"a":[` + many("0", bytes/4) + `]},"world_ids":["w"],"node_ids_crc32":0}`
	}
	for name, c := range map[string]struct {
		n    int
		body string
		path string
	}{
		"small":           {256, values(32 << 10), "/strategies"},
		"large":           {12, values(600 << 10), "/strategies"},
		"larger":          {8, `{"meta":{"a":[` + many("0", 8*mib) + `]}}`, "/strategies"},
		"fills":           {12, `[` + many("0", 400_000) + `]`, "/fills"},
		"history reports": {12, `{"a":[` + many("0", 400_000) + `]}`, "/strategies/x/history"},
	} {
		t.Run(name, func(t *testing.T) {
			got := peak(func() { s.together(c.n, c.path, c.body) })
			t.Logf("%d × %d bytes: %d MiB", c.n, len(c.body), got/mib)
			if got > 160*mib {
				t.Errorf("%d bodies of %d bytes took %d MiB", c.n, len(c.body), got/mib)
			}
		})
	}
}
