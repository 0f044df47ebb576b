package scenario

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// tokenAction signs an event token of the scenario's own, or reads one of the
// gateway's (controlbus.md 4.2). Which algorithm and key serve is what the
// gateway's key set says: the original's publishes its shared secrets, others
// must have been told to trust the harness's key.
type tokenAction struct {
	Sign  map[string]any `json:"sign"`
	Flaw  string         `json:"flaw"`
	Lives duration       `json:"lives"`
	Read  *string        `json:"read"`
}

func (a tokenAction) validate() error {
	if err := exactlyOne(map[string]bool{"sign": a.Sign != nil, "read": a.Read != nil}, "sign", "read"); err != nil {
		return err
	}
	if a.Flaw != "" && a.Sign == nil {
		return &wrong{key: "/flaw", what: "flaw without sign", mend: "a token that is read has the flaws it has"}
	}
	return nil
}

func (a tokenAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	keys, err := x.wire.eventKeys(ctx)
	if err != nil {
		return nil, err
	}
	if a.Read != nil {
		return readToken(*a.Read, keys)
	}
	key, err := x.signingKey(keys)
	if err != nil {
		return nil, err
	}
	claims := a.claims(time.Now())
	signed, err := a.sign(key, claims)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	shown, err := plain(claims)
	return observation{"token": signed, "claims": shown}, err
}

// tokenKey is one key of a key set: a shared secret, or a public key.
type tokenKey struct {
	KID    string `json:"kid"`
	Type   string `json:"kty"`
	Curve  string `json:"crv"`
	Secret string `json:"k"`
	Public string `json:"x"`
	sign   any    // what signs under it; nil where nobody here can
}

// method is the algorithm of the key's type.
func (k tokenKey) method() jwt.SigningMethod {
	if k.Type == "oct" {
		return jwt.SigningMethodHS256
	}
	return jwt.SigningMethodEdDSA
}

// check gives what checks a signature under the key.
func (k tokenKey) check() (any, error) {
	text := k.Public
	if k.Type == "oct" {
		text = k.Secret
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("key %q of /events/jwks: %w", k.KID, err)
	case k.Type == "oct":
		return b, nil
	case k.Type == "OKP" && k.Curve == "Ed25519" && len(b) == ed25519.PublicKeySize:
		return ed25519.PublicKey(b), nil
	}
	return nil, fmt.Errorf("key %q of /events/jwks is %s %s, %d bytes; known are oct, and OKP Ed25519", k.KID, k.Type, k.Curve, len(b))
}

// eventKeys asks the gateway for its key set.
func (w *wire) eventKeys(ctx context.Context) ([]tokenKey, error) {
	base, err := w.gateway()
	if err != nil {
		return nil, err
	}
	o, err := w.ask(ctx, request{method: http.MethodGet, url: base + "/events/jwks", timeout: DefaultTimeout})
	if err != nil {
		return nil, err
	}
	var set struct{ Keys []tokenKey }
	if err := json.Unmarshal([]byte(text(o["text"])), &set); err != nil || len(set.Keys) == 0 {
		return nil, fmt.Errorf("GET /events/jwks: status %s, no key set: %.200s", o["status"], text(o["text"]))
	}
	return set.Keys, nil
}

// signingKey is a key of the set under which this run can sign.
func (x *execution) signingKey(keys []tokenKey) (tokenKey, error) {
	for _, k := range keys {
		switch {
		case k.Type == "oct":
			secret, err := k.check()
			k.sign = secret
			return k, err
		case x.env.EventKey != nil && k.KID == x.env.EventKID:
			k.sign = x.env.EventKey
			return k, nil
		}
	}
	return tokenKey{}, fmt.Errorf("the gateway's key set has no key %q of the harness; let the descriptor give it ${run.event_trust}", x.env.EventKID)
}

// claims adds what every event token has, and spoils what the flaw is about.
func (a tokenAction) claims(now time.Time) jwt.MapClaims {
	c := jwt.MapClaims{"aud": "controlbus", "sub": a.Sign["strategy_id"], "iat": now.Unix(), "exp": now.Add(a.Lives.or(5 * time.Minute)).Unix(), "jti": uuid.NewString()}
	maps.Copy(c, a.Sign)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	switch a.Flaw {
	case "expired":
		c["exp"] = now.Add(-5 * time.Second).Unix()
	case "audience":
		c["aud"] = "others"
	case "audience-list":
		c["aud"] = []string{"controlbus"}
	}
	return c
}

// sign writes the token, with the flaws that are not about claims.
func (a tokenAction) sign(key tokenKey, claims jwt.MapClaims) (string, error) {
	t := jwt.NewWithClaims(key.method(), claims)
	t.Header["kid"] = key.KID
	secret := key.sign
	var err error
	switch a.Flaw {
	case "kid":
		t.Header["kid"] = "nobody's"
	case "unsigned":
		t.Method, t.Header["alg"], secret = jwt.SigningMethodNone, "none", jwt.UnsafeAllowNoneSignatureType
	case "signature":
		if secret, err = strangersKey(key); err != nil {
			return "", err
		}
	}
	signed, err := t.SignedString(secret)
	if a.Flaw == "cut" {
		signed = signed[:max(0, strings.LastIndexByte(signed, '.'))]
	}
	return signed, err
}

// strangersKey is another key of the same type.
func strangersKey(key tokenKey) (any, error) {
	if key.Type == "oct" {
		return []byte(uuid.NewString()), nil
	}
	_, private, err := ed25519.GenerateKey(nil)
	return private, err
}

// readToken checks a token's signature by the key set and shows what it says;
// claims are for the scenario to judge.
func readToken(signed string, keys []tokenKey) (observation, error) {
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithJSONNumber())
	claims := jwt.MapClaims{}
	t, err := parser.ParseWithClaims(signed, claims, func(t *jwt.Token) (any, error) {
		i := slices.IndexFunc(keys, func(k tokenKey) bool { return k.KID == t.Header["kid"] })
		if i < 0 {
			return nil, fmt.Errorf("kid %v is not in the key set", t.Header["kid"])
		}
		if got := t.Method.Alg(); got != keys[i].method().Alg() {
			return nil, fmt.Errorf("alg %s under a key of type %s", got, keys[i].Type)
		}
		return keys[i].check()
	})
	if err != nil {
		return nil, fmt.Errorf("token %.60s…: %w", signed, err)
	}
	header, errHeader := plain(t.Header)
	body, errBody := plain(claims)
	return observation{"token": signed, "header": header, "claims": body}, errors.Join(errHeader, errBody)
}
