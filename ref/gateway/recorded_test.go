package gateway

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// credentials stand in for those of a recording. The original's tokens are
// signed with a secret that it publishes; here a private key signs (design
// section 9.7), so every recorded token is signed anew, good or bad as the
// recorded answer shows it to have been, and moved to the present.
type credentials struct {
	t        *testing.T
	trusted  issuer
	stranger issuer
}

func newCredentials(t *testing.T) credentials {
	t.Helper()
	return credentials{t, newIssuer(t), newIssuer(t)}
}

// args tell a gateway whom to believe.
func (c credentials) args() []string { return []string{"--events-trust", c.trusted.trust} }

// token signs a recorded token anew; what is none stays as it is. refused says
// that the original did not accept it at the door of audience.
func (c credentials) token(recorded, audience string, refused bool) string {
	parts := strings.Split(recorded, ".")
	if len(parts) != 3 {
		return recorded
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return recorded
	}
	claims := jwt.MapClaims{}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return recorded
	}
	fresh := present(claims)
	if refused && fresh && claims["aud"] == audience {
		return c.stranger.sign(c.t, claims) // nothing else is wrong with it
	}
	return c.trusted.sign(c.t, claims)
}

// longAgo is before any recording: what expired then was meant to be expired.
const longAgo = 1_700_000_000

// present moves a token's life to now, unless it was over when it was made.
func present(claims jwt.MapClaims) (fresh bool) {
	expires, dated := claims["exp"].(float64)
	if !dated {
		return true
	}
	if expires < longAgo {
		return false
	}
	claims["exp"] = time.Now().Add(time.Hour).Unix()
	return true
}

// bearer signs the token of an Authorization header anew.
func (c credentials) bearer(header, audience string, refused bool) string {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return header
	}
	return scheme + " " + c.token(token, audience, refused)
}
