package hub

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// FuzzToken gives Verify tokens that nobody signed: none is accepted, whatever
// it says of itself.
func FuzzToken(f *testing.F) {
	keys, err := NewKeys("k")
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	good, err := keys.Sign("w", "s", []string{"queue"}, now, time.Minute)
	if err != nil {
		f.Fatal(err)
	}
	other := byte('A')
	if good[len(good)-20] == other {
		other = 'B'
	}
	f.Add(good[:len(good)-20] + string(other) + good[len(good)-19:])
	for _, s := range []string{
		"", ".", "..", "a.b.c", "eyJhbGciOiJub25lIiwia2lkIjoiayJ9.e30.", "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ.e30.AA",
		"eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.eyJleHAiOjFlOTk5fQ.AA", "eyJhbGciOiJFZERTQSIsImtpZCI6MX0.bnVsbA.AA",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if grant, err := keys.Verify(token, Audience, now); err == nil {
			t.Errorf("%q is accepted: %+v", token, grant)
		}
	})
}

// FuzzClaims signs any claims: what Verify accepts is for its audience and not
// over, and grants topics that there are; the rest is ErrToken.
func FuzzClaims(f *testing.F) {
	keys, err := NewKeys("k")
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	for _, s := range []string{
		``, `{}`, `[]`, `{"aud":"controlbus"}`, `{"aud":["controlbus"]}`, `{"aud":"controlbus","exp":1e999}`, `{"aud":"controlbus","exp":"1_9"}`,
		`{"aud":"controlbus","exp":18e8,"world_id":5,"strategy_id":"\ud800","topics":{"queue":1,"x":2}}`, `{"aud":"controlbus","exp":null,"topics":["activation",[],7]}`,
		`{"aud":"controlbus","exp":` + strings.Repeat("9", 5000) + `}`, `{"aud":"controlbus","exp":1,"exp":2000000000}`, `{"aud":"controlbus","exp":[1]}`,
	} {
		f.Add([]byte(s))
	}
	text := base64.RawURLEncoding.EncodeToString
	head := text([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "."
	f.Fuzz(func(t *testing.T, claims []byte) {
		signed := head + text(claims)
		grant, err := keys.Verify(signed+"."+text(ed25519.Sign(keys.private, []byte(signed))), Audience, now)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Errorf("%q: %v", claims, err)
			}
			return
		}
		wantGranted(t, claims, grant, now)
	})
}

// wantGranted holds what was accepted to what the claims say.
func wantGranted(t *testing.T, claims []byte, grant Grant, now time.Time) {
	t.Helper()
	said, err := pyjson.Parse(claims)
	if err != nil {
		return // the two readers of JSON may differ in what is none
	}
	if aud, _ := said.Member("aud").Str(); aud != Audience {
		t.Errorf("%q is accepted", claims)
	}
	if exp, ok := said.Member("exp").Int64(); ok && exp < now.Unix() {
		t.Errorf("%q is over", claims)
	}
	for topic := range grant.Topics {
		if !strings.Contains(" queue activation policy deprecation ", " "+topic+" ") {
			t.Errorf("%q grants %q", claims, topic)
		}
	}
}
