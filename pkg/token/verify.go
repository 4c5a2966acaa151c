package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxToken = 8 << 10 // bytes, checked before anything is decoded
	maxID    = 128     // bytes of a jti

	// cacheHalf bounds the cache to twice as many tokens.
	cacheHalf = 512
)

// ErrBadToken is what every refusal of a token wraps. Errors never quote the
// token.
var ErrBadToken = errors.New("bad token")

// ErrTokenExpired is wrapped, besides ErrBadToken, when a good token has ended.
var ErrTokenExpired = errors.New("the token has expired")

// Claims is what a verified token says.
type Claims struct {
	Subject   string
	Access    []Access
	IssuedAt  time.Time // in whole seconds
	ExpiresAt time.Time
	ID        string
	Session   string // empty: none that can be ended by itself
}

// Allows reports whether the token grants every one of actions on a resource.
func (c Claims) Allows(resourceType, name string, actions ...string) bool {
	for _, want := range actions {
		granted := false
		for _, a := range c.Access {
			granted = granted || a.Type == resourceType && a.Name == name && a.Allows(want)
		}
		if !granted {
			return false
		}
	}
	return len(actions) > 0
}

// Verifier checks tokens of one issuer for one audience. It is safe for
// concurrent use.
type Verifier struct {
	issuer, service string
	now             func() time.Time
	parser          *jwt.Parser

	mu          sync.Mutex
	keys        map[string]ed25519.PublicKey  // by kid; replaced as a whole; guarded by mu
	generation  int                           // counts replacements of keys; guarded by mu
	young, aged map[[sha256.Size]byte]*claims // verified tokens by hash; guarded by mu
}

// NewVerifier makes a verifier that believes the keys of a JWK set and no
// others. A host whose clock is off passes a now that was put right by the
// supernode's.
func NewVerifier(jwks []byte, issuer, service string, now func() time.Time) (*Verifier, error) {
	if issuer == "" || service == "" {
		return nil, fmt.Errorf("token verifier: issuer %q and service %q are both needed", issuer, service)
	}
	v := &Verifier{issuer: issuer, service: service, now: now, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithStrictDecoding(),
		jwt.WithoutClaimsValidation(), // checkClaims looks at all of them, for cached tokens too
	)}
	if err := v.Update(jwks); err != nil {
		return nil, err
	}
	return v, nil
}

// Update replaces the keys. Tokens of a key that is gone are refused from now
// on. On an error the old keys stay.
func (v *Verifier) Update(jwks []byte) error {
	keys, err := parseJWKS(jwks)
	if err != nil {
		return fmt.Errorf("token keys: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys, v.young, v.aged = keys, nil, nil
	v.generation++
	return nil
}

// Verify checks a token in full. Tokens that were verified a moment ago cost
// a hash; their times are looked at each time.
func (v *Verifier) Verify(raw string) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrBadToken, len(raw), maxToken)
	}
	if strings.ContainsAny(raw, "\r\n") { // encoding/base64 would skip them
		return Claims{}, fmt.Errorf("%w: line breaks in it", ErrBadToken)
	}
	sum := sha256.Sum256([]byte(raw))
	c, keys, generation := v.lookup(sum)
	if c == nil {
		c = &claims{}
		if err := v.parse(raw, keys, c); err != nil {
			return Claims{}, err
		}
	}
	if err := v.checkClaims(c); err != nil {
		return Claims{}, err
	}
	v.keep(sum, c, generation)
	access := make([]Access, len(c.Access))
	for i, a := range c.Access {
		access[i] = Access{Type: a.Type, Name: a.Name, Actions: append([]string(nil), a.Actions...)}
	}
	return Claims{Subject: c.Subject, Access: access, IssuedAt: c.IssuedAt.Time, ExpiresAt: c.ExpiresAt.Time, ID: c.ID, Session: c.Session}, nil
}

// parse checks header and signature and reads the claims.
func (v *Verifier) parse(raw string, keys map[string]ed25519.PublicKey, into *claims) error {
	kid, err := checkHeader(raw)
	if err != nil {
		return err
	}
	key, ok := keys[kid]
	if !ok {
		return fmt.Errorf("%w: signed with an unknown key", ErrBadToken)
	}
	_, err = v.parser.ParseWithClaims(raw, into, func(*jwt.Token) (any, error) { return key, nil })
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return fmt.Errorf("%w: malformed", ErrBadToken) // the library's text may quote the token
	case err != nil:
		return fmt.Errorf("%w: the signature is wrong", ErrBadToken)
	}
	return nil
}

// checkHeader takes exactly the members alg, kid and typ, with the values
// this project writes, and returns the kid. So there is no place for a key
// (jwk, jku, x5c, x5u), for a critical extension (crit) or for another
// algorithm.
func checkHeader(raw string) (kid string, err error) {
	segment, _, ok := strings.Cut(raw, ".")
	if !ok || strings.Count(raw, ".") != 2 {
		return "", fmt.Errorf("%w: not three parts", ErrBadToken)
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return "", fmt.Errorf("%w: the header is not base64url", ErrBadToken)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", fmt.Errorf("%w: the header is no JSON object", ErrBadToken)
	}
	members := map[string]string{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("%w: the header is no JSON object", ErrBadToken)
		}
		value, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("%w: the header is no JSON object", ErrBadToken)
		}
		n, _ := name.(string)
		s, isText := value.(string)
		if _, twice := members[n]; twice || !isText || n != "alg" && n != "kid" && n != "typ" {
			return "", fmt.Errorf("%w: header member %.40q", ErrBadToken, n)
		}
		members[n] = s
	}
	if members["alg"] != jwt.SigningMethodEdDSA.Alg() || members["typ"] != "JWT" || members["kid"] == "" {
		return "", fmt.Errorf("%w: alg, typ or kid is not as it must be", ErrBadToken)
	}
	return members["kid"], nil
}

// checkClaims looks at who made the token, for whom, and when.
func (v *Verifier) checkClaims(c *claims) error {
	now := v.now()
	switch {
	case c.Issuer != v.issuer:
		return fmt.Errorf("%w: from another issuer", ErrBadToken)
	case len(c.Audience) != 1 || c.Audience[0] != v.service:
		return fmt.Errorf("%w: for another audience", ErrBadToken)
	case c.Subject == "" || len(c.Subject) > maxSubject:
		return fmt.Errorf("%w: no subject", ErrBadToken)
	case c.ID == "" || len(c.ID) > maxID:
		return fmt.Errorf("%w: no jti", ErrBadToken)
	case len(c.Session) > maxSession:
		return fmt.Errorf("%w: a session of %d bytes", ErrBadToken, len(c.Session))
	case c.ExpiresAt == nil || c.NotBefore == nil || c.IssuedAt == nil:
		return fmt.Errorf("%w: exp, nbf and iat are all needed", ErrBadToken)
	case !now.Before(c.ExpiresAt.Time):
		return fmt.Errorf("%w: %w", ErrBadToken, ErrTokenExpired)
	case now.Before(c.NotBefore.Time):
		return fmt.Errorf("%w: not good yet; check the clocks", ErrBadToken)
	case now.Before(c.IssuedAt.Add(-MaxSkew)):
		return fmt.Errorf("%w: issued in the future; check the clocks", ErrBadToken)
	case c.ExpiresAt.Sub(c.IssuedAt.Time) <= 0 || c.ExpiresAt.Sub(c.IssuedAt.Time) > MaxLife:
		return fmt.Errorf("%w: made out for longer than %v", ErrBadToken, MaxLife)
	case len(c.Access) > maxAccess:
		return fmt.Errorf("%w: %d resources", ErrBadToken, len(c.Access))
	}
	for _, a := range c.Access {
		if err := a.check(); err != nil {
			return fmt.Errorf("%w: %w", ErrBadToken, err)
		}
	}
	return nil
}

func (v *Verifier) lookup(sum [sha256.Size]byte) (*claims, map[string]ed25519.PublicKey, int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.young[sum]
	if !ok {
		c = v.aged[sum]
	}
	return c, v.keys, v.generation
}

// keep remembers a verified token, unless the keys changed meanwhile.
func (v *Verifier) keep(sum [sha256.Size]byte, c *claims, generation int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if generation != v.generation {
		return
	}
	if _, ok := v.young[sum]; ok {
		return
	}
	if v.young == nil || len(v.young) >= cacheHalf {
		v.young, v.aged = map[[sha256.Size]byte]*claims{}, v.young
	}
	v.young[sum] = c
}
