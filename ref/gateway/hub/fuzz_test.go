package hub

import (
	"testing"
	"time"
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
