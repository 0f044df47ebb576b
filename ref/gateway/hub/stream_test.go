package hub_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

type streamBench struct {
	*bench
	keys *hub.Keys
}

func startStream(t *testing.T) *streamBench {
	t.Helper()
	reg := prometheus.NewRegistry()
	h, err := hub.New(hub.Config{Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := hub.NewKeys("now")
	if err != nil {
		t.Fatal(err)
	}
	s, err := hub.NewStream(h, keys, hub.StreamConfig{URL: "ws://here/ws/evt", Fallback: "ws://here/ws"})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", h)
	mux.Handle("/ws/evt", s)
	mux.HandleFunc("/events/subscribe", s.Subscribe)
	mux.HandleFunc("/events/jwks", s.JWKS)
	server := httptest.NewServer(mux)
	t.Cleanup(func() { _ = h.Close(context.Background()); server.Close() })
	return &streamBench{bench: &bench{T: t, hub: h, reg: reg, url: server.URL}, keys: keys}
}

func (b *streamBench) post(body string) (int, pyjson.Value) {
	b.Helper()
	resp, err := http.Post(b.url+"/events/subscribe", "application/json", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	return resp.StatusCode, b.body(resp)
}

func (b *streamBench) body(resp *http.Response) pyjson.Value {
	b.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	v, err := pyjson.Parse(text)
	if err != nil {
		b.Fatalf("%v in %s", err, text)
	}
	return v
}

func (b *streamBench) token(world string, topics ...string) string {
	b.Helper()
	token, err := b.keys.Sign(world, "s", topics, time.Now(), time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	return token
}

// open connects with a token and waits until it is counted.
func (b *streamBench) open(token string) *websocket.Conn {
	b.Helper()
	before := b.metric("ws_connections_total", "")
	conn, _, err := websocket.Dial(b.Context(), b.url+"/ws/evt?token="+url.QueryEscape(token), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.CloseNow() })
	b.eventually(func() bool { return b.metric("ws_connections_total", "") > before })
	return conn
}

func (b *streamBench) send(conn *websocket.Conn, text string) {
	b.Helper()
	if err := conn.Write(b.Context(), websocket.MessageText, []byte(text)); err != nil {
		b.Fatal(err)
	}
}

func TestASubscriptionIsATokenThatThePublishedKeyVerifies(t *testing.T) {
	b := startStream(t)
	status, v := b.post(`{"world_id":"w","strategy_id":"s","topics":["queues","bogus"]}`)
	if got := fmt.Sprintln(status, v.Member("topics").Text(), v.Member("stream_url").Text(), v.Member("fallback_url").Text()); got != "200 ['queues', 'bogus'] ws://here/ws/evt ws://here/ws\n" {
		t.Errorf("got %s", got)
	}
	claims := b.claims(v.Member("token").Text())
	if got := fmt.Sprintln(claims["sub"], claims["world_id"], claims["strategy_id"], claims["topics"]); got != "s w s [queues bogus]\n" {
		t.Errorf("claims %s", got)
	}
	if claims["exp"].(float64)-claims["iat"].(float64) != 300 || len(claims["jti"].(string)) != 36 {
		t.Errorf("claims %v", claims)
	}
	if at, err := time.Parse(time.RFC3339Nano, v.Member("expires_at").Text()); err != nil || time.Until(at) > 300*time.Second {
		t.Errorf("expires_at %s, %v", at, err)
	}
}

// claims verifies a token with the published key.
func (b *streamBench) claims(token string) jwt.MapClaims {
	b.Helper()
	resp, err := http.Get(b.url + "/events/jwks")
	if err != nil {
		b.Fatal(err)
	}
	key := b.body(resp).Member("keys").Elems()[0]
	x, err := base64.RawURLEncoding.DecodeString(key.Member("x").Text())
	if err != nil {
		b.Fatal(err)
	}
	claims := jwt.MapClaims{}
	parsed, err := jwt.NewParser(jwt.WithAudience("controlbus"), jwt.WithExpirationRequired()).ParseWithClaims(token, claims,
		func(*jwt.Token) (any, error) { return ed25519.PublicKey(x), nil })
	if err != nil || parsed.Header["kid"] != "now" || parsed.Header["typ"] != "JWT" {
		b.Fatalf("%v, header %v", err, parsed.Header)
	}
	return claims
}

func TestSubscriptionsThatAreNotUnderstood(t *testing.T) {
	b := startStream(t)
	for body, want := range map[string]string{
		`{}`: "missing body world_id, missing body strategy_id", `{"world_id":1,"strategy_id":"s"}`: "string_type body world_id",
		`{"world_id":"w","strategy_id":"s","topics":"queues"}`: "list_type body topics", `{"world_id":"w","strategy_id":"s","topics":null}`: "list_type body topics",
		`{"world_id":"w","strategy_id":"s","topics":["a",5]}`: "string_type body topics 1", `{"world_id":`: "json_invalid body 12",
		`[]`: "model_attributes_type body", ``: "missing body",
	} {
		status, v := b.post(body)
		var got []string
		for _, d := range v.Member("detail").Elems() {
			text := d.Member("type").Text()
			for _, at := range d.Member("loc").Elems() {
				text += " " + at.Text()
			}
			got = append(got, text)
		}
		if status != http.StatusUnprocessableEntity || strings.Join(got, ", ") != want {
			t.Errorf("%s: %d %q, want %s", body, status, got, want)
		}
	}
	if status, v := b.post(`{"world_id":"","strategy_id":""}`); status != http.StatusOK || v.Member("topics").Text() != "[]" {
		t.Errorf("empty names: %d %s", status, v.Text())
	}
}

func TestWithoutAValidTokenTheHandshakeIsRefused(t *testing.T) {
	b := startStream(t)
	other, err := hub.NewKeys("now")
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := other.Sign("w", "s", nil, time.Now(), time.Minute)
	old, _ := b.keys.Sign("w", "s", nil, time.Now().Add(-time.Hour), time.Minute)
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"aud": hub.Audience}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	_, public := b.keys.Public()
	confused := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"aud": hub.Audience})
	confused.Header["kid"] = "now"
	secret, err := confused.SignedString([]byte(public)) // the public key is no secret
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"none": "", "garbage": "x.y.z", "foreign": foreign, "old": old, "alg none": none, "public key as secret": secret} {
		_, resp, err := websocket.Dial(b.Context(), b.url+"/ws/evt?token="+url.QueryEscape(token), nil)
		if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := b.metric("ws_auth_failures_total", ""); got != 6 {
		t.Errorf("%v refusals counted", got)
	}
}

func TestAnOlderKeyIsTrustedAndTheHeaderWins(t *testing.T) {
	b := startStream(t)
	older, err := hub.NewKeys("before")
	if err != nil {
		t.Fatal(err)
	}
	kid, public := older.Public()
	b.keys.Trust(kid, public)
	token, _ := older.Sign("w", "s", []string{"queue"}, time.Now(), time.Minute)
	conn, _, err := websocket.Dial(b.Context(), b.url+"/ws/evt?token=bad", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	_, resp, err := websocket.Dial(b.Context(), b.url+"/ws/evt?token="+token, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer bad"}}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a bad header was passed over: %v", err)
	}
}

func TestTheTokenDecidesWhatAClientGets(t *testing.T) {
	b := startStream(t)
	conn := b.open(b.token("a", "queues", "rebalancing"))
	b.hub.Publish("queue", ofWorld(1, "b"))
	b.hub.Publish("activation", ofWorld(2, "a"))
	b.hub.Publish("queue", ofWorld(3, "a"))
	if got := number(b.read(conn)); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
	b.send(conn, `{"type":"refresh","token":"`+b.token("b", "activation")+`"}`)
	if got := b.read(conn); got.Member("type").Text() != "refresh_ack" {
		t.Errorf("got %s", got.Text())
	}
	b.hub.Publish("queue", ofWorld(4, "b"))
	b.hub.Publish("activation", ofWorld(5, "a"))
	b.hub.Publish("activation", ofWorld(6, "b"))
	if got := number(b.read(conn)); got != 6 {
		t.Errorf("got %d, want 6", got)
	}
}

func (b *streamBench) wantReply(conn *websocket.Conn, want string) {
	b.Helper()
	v := b.read(conn)
	if got := v.Member("type").Text() + " " + v.Member("last_id").Text(); got != want || len(v.Members()) != 3 {
		b.Errorf("reply %s, want %s", v.Text(), want)
	}
}

func TestWhatAClientOfTheStreamSaysIsAnswered(t *testing.T) {
	b := startStream(t)
	conn := b.open(b.token("w", "queue"))
	for _, text := range []string{"hello", "[1]", "5", `{"type":"x"}`, `{"type":"ACK"}`, `{"type":"refresh"}`, `{"type":"refresh","token":5}`, `{"type":"ack","last_id":[1]}`} {
		b.send(conn, text)
	}
	b.wantReply(conn, "ack [1]")
	b.send(conn, `{"event":"ack"}`)
	b.wantReply(conn, "ack None")
	for family, want := range map[string]float64{"ws_acks_total": 2, "ws_heartbeats_total": 5, "ws_refreshes_total": 2, "ws_refresh_failures_total": 0} {
		if got := b.metric(family, ""); got != want {
			t.Errorf("%s is %v, want %v", family, got, want)
		}
	}
	b.send(conn, `{"type":"refresh","token":"bad"}`)
	_, _, err := conn.Read(b.Context())
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("closed with %v, want 1008", err)
	}
	b.eventually(func() bool {
		return b.metric("ws_disconnects_total", "") == 1 && b.metric("ws_refresh_failures_total", "") == 1
	})
}

func TestABinaryMessageEndsAClientOfTheStream(t *testing.T) {
	b := startStream(t)
	conn := b.open(b.token("w", "queue"))
	if err := conn.Write(b.Context(), websocket.MessageBinary, []byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(b.Context()); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
		t.Errorf("closed with %v, want 1003", err)
	}
}

func pemOf(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestKeysFromFilesAcceptTheOldAndSignWithTheNew(t *testing.T) {
	oldPublic, oldPrivate, _ := ed25519.GenerateKey(nil)
	_, newPrivate, _ := ed25519.GenerateKey(nil)
	privatePEM := func(k ed25519.PrivateKey) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		return pemOf(t, "PRIVATE KEY", der, err)
	}
	der, err := x509.MarshalPKIXPublicKey(oldPublic)
	oldPublicPEM := pemOf(t, "PUBLIC KEY", der, err)
	before, err := hub.LoadKeys("old", map[string][]byte{"old": privatePEM(oldPrivate)})
	if err != nil {
		t.Fatal(err)
	}
	now, err := hub.LoadKeys("new", map[string][]byte{"old": oldPublicPEM, "new": privatePEM(newPrivate)})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*hub.Keys{before, now} {
		token, err := k.Sign("w", "s", nil, time.Now(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := now.Verify(token, hub.Audience, time.Now()); err != nil {
			t.Error(err)
		}
	}
	for name, texts := range map[string]map[string][]byte{
		"no private key": {"new": oldPublicPEM}, "nonsense": {"new": []byte("secret text")}, "other kid": {"old": privatePEM(oldPrivate)},
	} {
		if _, err := hub.LoadKeys("new", texts); err == nil || strings.Contains(err.Error(), "secret text") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
