package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// subscribe asks for a token.
func (s *stand) subscribe(body string) (token string) {
	s.t.Helper()
	a := s.post("/events/subscribe", body)
	v, err := pyjson.ParseString(a.body)
	if err != nil || a.status != http.StatusOK {
		s.t.Fatalf("subscribe: %d %s", a.status, a.body)
	}
	token, _ = v.Member("token").Str()
	return token
}

// stream opens /ws/evt with a token.
func (s *stand) stream(token, query string) *websocket.Conn {
	s.t.Helper()
	conn, _, err := websocket.Dial(s.t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws/evt?"+query,
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// frame reads the next frame.
func (s *stand) frame(conn *websocket.Conn) (frame pyjson.Value) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 15*time.Second)
	defer cancel()
	_, text, err := conn.Read(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if frame, err = pyjson.Parse(text); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return frame
}

func TestStreamBeginsWithTheQueuesOfItsQuery(t *testing.T) {
	s := newStand(t, withManager(&manager{queues: func(context.Context, *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error) {
		return []*pb.QueueDescriptor{{Queue: "q"}}, nil
	}}))
	token := s.subscribe(`{"world_id":"w1","strategy_id":"s","topics":["queues"]}`)
	frame := s.frame(s.stream(token, "tags=btc,%20,eth&interval=60&match_mode=ALL"))
	data := string(pyjson.Append(nil, frame.Member("data"), pyjson.Compact))
	want := `{"tags":["btc","eth"],"interval":60,"queues":[{"queue":"w1.live.q","global":false}],"match_mode":"all","version":1}`
	if kind, _ := frame.Member("type").Str(); kind != "queue_update" || data != want {
		t.Errorf("frame %s %s\nwant %s", kind, data, want)
	}
	if _, numbered := frame.Get("seq_no"); numbered {
		t.Error("the snapshot is numbered")
	}
}

func TestStreamWithoutAQueryBeginsWithEvents(t *testing.T) {
	s := newStand(t, withBus)
	for name, c := range map[string]struct{ topics, query string }{
		"no query": {`["queue"]`, ""}, "no interval": {`["queue"]`, "tags=a"}, "no tags": {`["queue"]`, "tags=,&interval=60"},
	} {
		conn := s.stream(s.subscribe(`{"world_id":"w","strategy_id":"s","topics":`+c.topics+`}`), c.query)
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"ack","last_id":"`+name+`"}`)); err != nil {
			t.Fatal(err)
		}
		if id, _ := s.frame(conn).Member("last_id").Str(); id != name {
			t.Errorf("%s: the first frame is not the answer to its message", name)
		}
	}
}

func TestStreamWithoutATokenIsForbidden(t *testing.T) {
	s := newStand(t)
	_, resp, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws/evt?token=nonsense", nil)
	if err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("handshake: %v, %v", resp, err)
	}
	if a := s.get("/ws/evt"); a.status != http.StatusNotFound {
		t.Errorf("plain request: %d", a.status)
	}
	if got := s.metric("ws_auth_failures_total"); got != "1" {
		t.Errorf("ws_auth_failures_total = %s", got)
	}
}

func TestSchemaOfEventsIsServed(t *testing.T) {
	a := newStand(t).get("/events/schema")
	var schemas map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.body), &schemas); err != nil || a.status != http.StatusOK || len(schemas) != 5 {
		t.Errorf("%d %s (%v)", a.status, a.body, err)
	}
}

func TestSubscriptionsCountAsPretradeAttempts(t *testing.T) {
	s := newStand(t)
	for _, world := range []string{"a", "b", "b"} {
		if a := s.post("/events/subscribe", `{"world_id":"`+world+`","strategy_id":"s"}`); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	s.post("/events/subscribe", `{"world_id":"c"}`)
	if a := s.get("/status"); !strings.Contains(a.body, `"pretrade":{"attempts":2,"rejections":{},"ratio":0.0}`) {
		t.Errorf("status %s", a.body)
	}
	if got := s.metric(`gw_pretrade_attempts_total{world_id="b"}`); got != "2" {
		t.Errorf("attempts %s", got)
	}
}
