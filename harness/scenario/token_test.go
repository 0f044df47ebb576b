package scenario_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/scenario"
)

// keySet serves a gateway's key set and nothing else.
func keySet(t *testing.T, keys string) scenario.Env {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{"keys":[`+keys+`]}`) }))
	t.Cleanup(web.Close)
	return scenario.Env{Gateway: web.URL, RunID: "run"}
}

func TestTokensAreSignedAsTheKeySetSays(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	okp := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"ours","x":%q}`, base64.RawURLEncoding.EncodeToString(public))
	other := `{"kty":"OKP","crv":"Ed25519","kid":"other","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	const oct = `{"kty":"oct","alg":"HS256","kid":"default","k":"c2VjcmV0"}`
	for _, c := range []struct{ name, keys, steps, fails string }{
		{"with a key of the harness", other + "," + okp, "- token: { sign: { strategy_id: s } }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { header: { alg: EdDSA, kid: ours, typ: JWT }, claims: { aud: controlbus, sub: s, jti: { match: uuid4 } } }", ""},
		{"with a published secret", oct, "- token: { sign: { strategy_id: s } }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { header: { alg: HS256, kid: default } }", ""},
		{"a claim is taken away", okp, "- token: { sign: { strategy_id: s, exp: null } }\n  expect: { claims: { exp: { match: absent } } }", ""},
		{"it lives as long as told", okp, "- token: { sign: { strategy_id: s }, lives: 2s }\n  expect: { cel: [claims.exp - claims.iat == 2] }", ""},
		{"the flaw is expiry", okp, "- token: { sign: { strategy_id: s }, flaw: expired }\n  expect: { cel: [claims.exp < claims.iat], save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { claims: { sub: s } }", ""},
		{"the flaw is the audience", okp, "- token: { sign: { strategy_id: s }, flaw: audience }\n  expect: { claims: { aud: controlbus } }", "aud: want"},
		{"the flaw is the signature", okp, "- token: { sign: { strategy_id: s }, flaw: signature }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { claims: { sub: s } }", "signature"},
		{"the flaw is the kid", okp, "- token: { sign: { strategy_id: s }, flaw: kid }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { claims: { sub: s } }", "not in the key set"},
		{"the flaw is no signature", oct, "- token: { sign: { strategy_id: s }, flaw: unsigned }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { claims: { sub: s } }", "alg none"},
		{"the flaw is a part too few", okp, "- token: { sign: { strategy_id: s }, flaw: cut }\n  expect: { save: { t: token } }\n- token: { read: \"${t}\" }\n  expect: { claims: { sub: s } }", "segments"},
		{"nobody trusts the harness", other, "- token: { sign: { strategy_id: s } }\n  expect: { token: { match: string } }", "no key \"ours\" of the harness"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := keySet(t, c.keys)
			env.EventKID, env.EventKey = "ours", private
			o := outcome(t, env, c.steps)
			if c.fails == "" && o.Status != record.Passed || c.fails != "" && (o.Status != record.Failed || !strings.Contains(o.Reason, c.fails)) {
				t.Errorf("%s: %s", o.Status, o.Reason)
			}
		})
	}
}

func TestEndsOfWebSocketsAreSeen(t *testing.T) {
	for _, c := range []struct {
		name, steps, fails string
		faults             []string
	}{
		{"a refused handshake has a status", "- ws: { open: a, path: /count }\n  expect: { status: 200 }", "", nil},
		{"which may be the wrong one", "- ws: { open: a, path: /count }\n  expect: { status: [401, 403] }", "status", nil},
		{"and is an error where nobody asks", "- ws: { open: a, path: /count }\n- ws: { on: a, frames: [] }", "status 200", nil},
		{"an accepted one is told, too", "- ws: { open: a }\n  expect: { status: 403 }", "101", nil},
		{"the close code is seen", "- ws: { open: a }\n- ws: { on: a, ended: true }\n  expect: { close_code: 1001 }", "", []string{"hang up"}},
		{"and may be the wrong one", "- ws: { open: a }\n- ws: { on: a, ended: true }\n  expect: { close_code: 1008 }", "close_code", []string{"hang up"}},
		{"what stays open has no end", "- ws: { open: a }\n- ws: { on: a, ended: true, within: 300ms }\n  expect: { close_code: 1008 }", "still open", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := outcome(t, newStand(t, c.faults...).env, c.steps)
			if c.fails == "" && o.Status != record.Passed || c.fails != "" && (o.Status != record.Failed || !strings.Contains(o.Reason, c.fails)) {
				t.Errorf("%s: %s", o.Status, o.Reason)
			}
		})
	}
}
