package hub

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Audience is the aud of every token of the event stream.
const Audience = "controlbus"

// ErrToken is wrapped by every reason to refuse a token.
var ErrToken = errors.New("event token")

// Keys sign and check event tokens with Ed25519. What is published are public
// keys only; the original signs with a shared secret and publishes that.
type Keys struct {
	active  string
	private ed25519.PrivateKey
	public  map[string]ed25519.PublicKey // by kid, the active one too
}

// NewKeys makes a key pair of this process alone; tokens do not outlive it.
func NewKeys(kid string) (*Keys, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("event keys: %w", err)
	}
	return &Keys{active: kid, private: private, public: map[string]ed25519.PublicKey{kid: public}}, nil
}

// LoadKeys reads the keys that several gateways share, each a PEM text under its
// kid: the active one an Ed25519 private key (PKCS #8), the others private or
// public (PKIX). Tokens of all of them are accepted. The error names the kid and
// repeats nothing of the text.
func LoadKeys(active string, texts map[string][]byte) (*Keys, error) {
	k := &Keys{active: active, public: map[string]ed25519.PublicKey{}}
	for kid, text := range texts {
		private, public, err := parseKey(text)
		if err != nil {
			return nil, fmt.Errorf("event key %q: %w", kid, err)
		}
		k.public[kid] = public
		if kid == active {
			k.private = private
		}
	}
	if k.private == nil {
		return nil, fmt.Errorf("event key %q: it is the active one, and there is no private key for it", active)
	}
	return k, nil
}

var errNoKey = errors.New("want an Ed25519 key in PEM, as `openssl genpkey -algorithm ed25519` writes it")

// parseKey gives the public key of text, and the private one if it is there.
func parseKey(text []byte) (ed25519.PrivateKey, ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, errNoKey
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if private, ok := key.(ed25519.PrivateKey); ok {
			public, _ := private.Public().(ed25519.PublicKey)
			return private, public, nil
		}
	}
	if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
		if public, ok := key.(ed25519.PublicKey); ok {
			return nil, public, nil
		}
	}
	return nil, nil, errNoKey
}

// Trust also accepts tokens that were signed with the private half of public,
// under kid: the key before, or that of another instance. Call it before the
// keys are in use.
func (k *Keys) Trust(kid string, public ed25519.PublicKey) { k.public[kid] = public }

// Public gives the active key's kid and public half, for other instances to
// trust.
func (k *Keys) Public() (kid string, public ed25519.PublicKey) {
	return k.active, k.public[k.active]
}

// A Grant is what a token lets its bearer listen to.
type Grant struct {
	World    *string // nil: the token names none
	Strategy *string
	Topics   map[string]bool // normalised
}

// Sign makes a token for a strategy of a world that is valid from now for ttl.
// topics go in as they are asked for.
func (k *Keys) Sign(world, strategy string, topics []string, now time.Time, ttl time.Duration) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"aud": Audience, "sub": strategy, "world_id": world, "strategy_id": strategy, "topics": topics,
		"jti": uuid.NewString(), "iat": now.Unix(), "exp": now.Add(ttl).Unix(),
	})
	t.Header["kid"] = k.active
	token, err := t.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("sign event token: %w", err)
	}
	return token, nil
}

// Verify gives what a token of the stream grants; see Claims.
func (k *Keys) Verify(token, audience string, now time.Time) (Grant, error) {
	claims, err := k.Claims(token, audience, now)
	if err != nil {
		return Grant{}, err
	}
	return Grant{World: textOf(claims["world_id"]), Strategy: textOf(claims["strategy_id"]), Topics: NormalizeTopics(claims["topics"])}, nil
}

// Claims checks signature, audience (Audience for the stream) and expiry, in whole seconds; a token
// without exp never expires. Anything else than EdDSA, "none" above all, is
// refused.
func (k *Keys) Claims(token, audience string, now time.Time) (map[string]any, error) {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithJSONNumber())
	claims := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(token, claims, k.find); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if aud, ok := claims["aud"].(string); !ok || aud != audience {
		return nil, fmt.Errorf("%w: audience %v, want %s", ErrToken, claims["aud"], audience)
	}
	if err := expired(claims["exp"], now); err != nil {
		return nil, err
	}
	return claims, nil
}

func (k *Keys) find(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	if public, ok := k.public[kid]; ok {
		return public, nil
	}
	return nil, fmt.Errorf("unknown key %q", kid)
}

// expired takes exp as Python's int() does.
func expired(exp any, now time.Time) error {
	if exp == nil {
		return nil
	}
	v, err := pyjson.ParseString(fmt.Sprint(exp)) // a json.Number as it was written
	if s, isText := exp.(string); isText {
		v, err = pyjson.OfString(s), nil
	}
	if err != nil {
		return fmt.Errorf("%w: exp %v: %w", ErrToken, exp, err)
	}
	whole, err := pyjson.ToInteger(v)
	if err != nil {
		return fmt.Errorf("%w: exp: %w", ErrToken, err)
	}
	n, _ := new(big.Int).SetString(whole.Text(), 10)
	if n.Cmp(big.NewInt(now.Unix())) < 0 {
		return fmt.Errorf("%w: expired at %s", ErrToken, n)
	}
	return nil
}

func textOf(v any) *string {
	if s, ok := v.(string); ok {
		return &s
	}
	return nil
}

// NormalizeTopics gives the hub topics that a token's topics stand for; what is
// no list or object of known names stands for none.
func NormalizeTopics(v any) map[string]bool {
	topics := map[string]bool{}
	switch list := v.(type) {
	case []any:
		for _, t := range list {
			addTopic(topics, t)
		}
	case map[string]any:
		for t := range maps.Keys(list) {
			addTopic(topics, t)
		}
	}
	return topics
}

func addTopic(topics map[string]bool, v any) {
	switch v {
	case "queue", "queues":
		topics["queue"] = true
	case "activation", "policy", "deprecation":
		topics[v.(string)] = true
	}
}

// JWKS is the body of GET /events/jwks: the public keys, by kid.
func (k *Keys) JWKS() []byte {
	var keys []pyjson.Value
	for _, kid := range slices.Sorted(maps.Keys(k.public)) {
		keys = append(keys, object(
			"kty", pyjson.OfString("OKP"), "use", pyjson.OfString("sig"), "alg", pyjson.OfString(jwt.SigningMethodEdDSA.Alg()),
			"crv", pyjson.OfString("Ed25519"), "kid", pyjson.OfString(kid),
			"x", pyjson.OfString(base64.RawURLEncoding.EncodeToString(k.public[kid]))))
	}
	return pyjson.Append(nil, object("keys", pyjson.OfArray(keys...)), pyjson.ASCII)
}

// object makes an object of keys and values by turns.
func object(pairs ...any) pyjson.Value {
	members := make([]pyjson.Member, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		key, _ := pairs[i].(string)
		value, _ := pairs[i+1].(pyjson.Value)
		members = append(members, pyjson.Member{Key: key, Value: value})
	}
	return pyjson.OfObject(members...)
}
