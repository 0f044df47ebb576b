package gateway

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// issuer signs tokens that a gateway trusts by trust.
type issuer struct {
	private ed25519.PrivateKey
	trust   string
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{private, "other=" + base64.RawURLEncoding.EncodeToString(public)}
}

func (i issuer) sign(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["kid"] = "other"
	signed, err := token.SignedString(i.private)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

const fill = `{"specversion":"1.0","id":"i","type":"t","source":"s","time":"x","world_id":"w","data":{"order_id":"o","symbol":"BTC","side":"buy","quantity":1,"price":2.5,"foo":1}}`

func signature(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func (s *stand) fill(body string, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+"/fills", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return s.send(req)
}

// Each step of gateway.md 1.11 and its answer.
func TestFillsLadder(t *testing.T) {
	who := newIssuer(t)
	s := newStand(t, withArgs("--fill-secret", "k", "--events-trust", who.trust))
	claims := func(more jwt.MapClaims) string {
		more["aud"] = "fills"
		return "Bearer " + who.sign(t, more)
	}
	ids := jwt.MapClaims{"world_id": "w", "strategy_id": "s"}
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		part    string
	}{
		"no JSON":           {`{`, nil, 400, `{"code":"E_INVALID_JSON"}`},
		"no UTF-8":          {"\xff{}", nil, 400, `{"code":"E_INVALID_JSON"}`},
		"nobody":            {fill, nil, 401, `{"code":"E_AUTH"}`},
		"wrong signature":   {fill, []string{"X-Signature", "00"}, 401, `{"code":"E_AUTH"}`},
		"upper case":        {fill, []string{"X-Signature", strings.ToUpper(signature("k", fill))}, 401, `{"code":"E_AUTH"}`},
		"scheme":            {fill, []string{"Authorization", "bearer x"}, 401, `{"code":"E_AUTH"}`},
		"other audience":    {fill, []string{"Authorization", "Bearer " + who.sign(t, jwt.MapClaims{"aud": "controlbus"})}, 401, `{"code":"E_AUTH"}`},
		"expired":           {fill, []string{"Authorization", claims(jwt.MapClaims{"exp": 1})}, 401, `{"code":"E_AUTH"}`},
		"token wins":        {fill, []string{"Authorization", "Bearer x", "X-Signature", signature("k", fill)}, 401, `{"code":"E_AUTH"}`},
		"empty id":          {fill, []string{"Authorization", claims(jwt.MapClaims{"world_id": ""})}, 400, `{"code":"E_MISSING_IDS"}`},
		"null id":           {fill, []string{"Authorization", claims(jwt.MapClaims{"strategy_id": nil})}, 400, `{"code":"E_MISSING_IDS"}`},
		"empty header":      {fill, []string{"X-Signature", signature("k", fill), "X-World-ID", ""}, 400, `{"code":"E_MISSING_IDS"}`},
		"array":             {`[1]`, []string{"X-Signature", signature("k", `[1]`)}, 400, `"code":"E_CE_REQUIRED"`},
		"no data":           {`{"specversion":"1.0"}`, []string{"Authorization", claims(ids)}, 400, `"message":"CloudEvents 1.0 envelope required with 'data' object"`},
		"wrong data":        {`{"specversion":"1","data":{"order_id":1}}`, []string{"Authorization", claims(ids)}, 400, `{"code":"E_SCHEMA_INVALID","errors":[{"type":"string_type","loc":["order_id"]`},
		"signed":            {fill, []string{"X-Signature", signature("k", fill)}, 202, ``},
		"token without ids": {fill, []string{"Authorization", claims(jwt.MapClaims{})}, 202, ``},
	} {
		t.Run(name, func(t *testing.T) {
			if a := s.fill(c.body, c.headers...); a.status != c.status || !strings.Contains(a.body, c.part) || c.part == "" && a.body != "" {
				t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.part)
			}
		})
	}
	for series, want := range map[string]string{
		`fills_accepted_total{strategy_id="unknown",world_id="w"}`:                             "1",
		`fills_rejected_total{reason="invalid_json",strategy_id="unknown",world_id="unknown"}`: "2",
		`fills_rejected_total{reason="schema",strategy_id="s",world_id="w"}`:                   "1",
	} {
		if got := s.metric(series); got != want {
			t.Errorf("%s = %s, want %s", series, got, want)
		}
	}
}

func TestAnAcceptedFillIsInKafka(t *testing.T) {
	s := newStand(t, withKafka, withArgs("--fill-secret", "k"))
	if a := s.fill(fill, "X-Signature", signature("k", fill), "X-Strategy-ID", "s1"); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	records := s.recordsOf("trade.fills", 1)
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	const value = `{"order_id": "o", "client_order_id": null, "correlation_id": null, "symbol": "BTC", "side": "buy", "quantity": 1.0, "price": 2.5, ` +
		`"commission": null, "slippage": null, "market_impact": null, "tif": null, "fill_time": null, "status": null, "seq": null, "etag": null}`
	var names []string
	for _, h := range records[0].Headers {
		names = append(names, h.Key)
	}
	if r := records[0]; string(r.Key) != "w|s1|BTC|o" || string(r.Value) != value || !slices.Equal(names, []string{"rfp", "ce_id", "ce_type", "ce_source", "ce_time"}) {
		t.Errorf("key %s, headers %v, value %s\nwant %s", r.Key, names, r.Value, value)
	}
}

func TestAFillThatKafkaDoesNotTakeIsNotAccepted(t *testing.T) {
	s := newStand(t, withKafka, withArgs("--fill-secret", "k", "--commitlog-timeout", "1s"))
	s.kafka.Close()
	if a := s.fill(fill, "X-Signature", signature("k", fill)); a.status != 503 || !strings.Contains(a.body, `"code":"E_FILLS"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := s.metric(`fills_accepted_total{strategy_id="unknown",world_id="w"}`); got != "0" {
		t.Errorf("accepted %s", got)
	}
}

// recordsOf waits for n records of a topic.
func (s *stand) recordsOf(topic string, n int) []*kgo.Record {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := contextFor(s.t, 20*time.Second)
	defer cancel()
	var all []*kgo.Record
	for len(all) < n && ctx.Err() == nil {
		all = append(all, cl.PollFetches(ctx).Records()...)
	}
	return all
}
