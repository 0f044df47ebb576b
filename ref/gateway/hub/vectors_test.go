package hub

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// differing are the ops in which the reference is better than the recorded
// answer, all for one reason: tokens are signed with a private key and only
// public keys are published (design 9.7). What they assert instead is in the
// functions.
var differing = map[string]func(*testing.T, *Keys, pyjson.Value, pyjson.Value){
	"sign":     signedElsewhere,
	"validate": validated,
	"jwks":     published,
}

func TestEventTokensVectors(t *testing.T) {
	keys, err := NewKeys("default")
	if err != nil {
		t.Fatal(err)
	}
	vectors.Run(t, "event_tokens", func(t *testing.T, v vectors.Vector) {
		in, out := parsed(t, v.Input), parsed(t, v.Output)
		switch op := in.Member("op").Text(); op {
		case "normalize_topics":
			topics := vectors.Decode[struct{ Topics any }](t, v.Input).Topics
			want := vectors.Decode[struct{ Topics []string }](t, v.Output).Topics
			if got := slices.Sorted(maps.Keys(NormalizeTopics(topics))); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		case "world_filter":
			filtered(t, in, out)
		default:
			check, known := differing[op]
			if !known {
				t.Fatalf("op %q is not covered", op)
			}
			check(t, keys, in, out)
		}
	})
}

func parsed(t *testing.T, b json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func filtered(t *testing.T, in, out pyjson.Value) {
	frame, _ := pyjson.ParseString(in.Member("frame").Text())
	world := worldOf(frame.Member("data"))
	var got []pyjson.Value
	for _, w := range in.Member("client_worlds").Elems() {
		f := Filter{}
		if s, ok := w.Str(); ok {
			f.World = &s
		}
		got = append(got, pyjson.OfBool(f.passes("queue", world)))
	}
	if g, w := pyjson.OfArray(got...).Text(), out.Member("delivered").Text(); g != w {
		t.Errorf("delivered %s, want %s", g, w)
	}
}

// signedElsewhere: a token of the shared secret opens nothing here.
func signedElsewhere(t *testing.T, keys *Keys, in, out pyjson.Value) {
	refused(t, keys, in, out.Member("token").Text())
}

func refused(t *testing.T, keys *Keys, in pyjson.Value, token string) {
	t.Helper()
	if _, err := keys.Verify(token, Audience, instant(in)); err == nil {
		t.Errorf("a token that another key signed is accepted: %s", token)
	}
}

func instant(in pyjson.Value) time.Time {
	now, _ := in.Member("now").Int64()
	return time.Unix(now, 0)
}

// validated: the recorded token is refused, and its claims, signed by the key
// of this process, are judged as the original judges them. Where the original
// looked at signature or header alone there is nothing to judge again.
func validated(t *testing.T, keys *Keys, in, out pyjson.Value) {
	token := in.Member("token").Text()
	refused(t, keys, in, token)
	parts := strings.Split(token, ".")
	_, raised := out.Get("error")
	if raised && strings.Contains(t.Name(), "/validate_bad/") || len(parts) != 3 {
		return
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"default","typ":"JWT"}`))
	text := header + "." + strings.TrimRight(parts[1], "=")
	token = text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(keys.private, []byte(text)))
	if _, err := keys.Verify(token, in.Member("audience").Text(), instant(in)); (err != nil) != raised {
		t.Errorf("%v, the original raised: %t", err, raised)
	}
}

// published: no secret, whatever the keys are.
func published(t *testing.T, keys *Keys, _, _ pyjson.Value) {
	set := parsed(t, keys.JWKS())
	for _, key := range set.Member("keys").Elems() {
		var names []string
		for _, m := range key.Members() {
			names = append(names, m.Key)
		}
		if got := strings.Join(names, " "); got != "kty use alg crv kid x" || key.Member("kty").Text() != "OKP" {
			t.Errorf("a published key has %s", got)
		}
	}
	if len(set.Member("keys").Elems()) == 0 {
		t.Error("no key is published")
	}
}
