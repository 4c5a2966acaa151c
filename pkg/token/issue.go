package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// Life is the usual life of a registry token.
	Life = 5 * time.Minute
	// MaxLife is the longest life that an issuer gives and a verifier believes.
	MaxLife = time.Hour
	// MaxSkew is how far a verifier's clock may be behind the issuer's.
	MaxSkew = 15 * time.Minute

	maxSubject = 256 // bytes
	maxSession = 64  // bytes
)

// claims is the token's payload.
type claims struct {
	jwt.RegisteredClaims
	Access []Access `json:"access"`
	// Session is the login that the token was made from, where it was one that
	// can be ended by itself.
	Session string `json:"sid,omitempty"`
}

// Issuer signs tokens for one audience.
type Issuer struct {
	keys            *Ring
	issuer, service string
	now             func() time.Time
}

// NewIssuer makes an issuer of one key that names itself issuer and makes
// tokens for service alone.
func NewIssuer(key ed25519.PrivateKey, issuer, service string, now func() time.Time) (*Issuer, error) {
	ring, err := NewRing(SigningKey{Private: key})
	if err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	return ring.Issuer(issuer, service, now)
}

// Issue signs a token for subject with exactly this access, good for ttl.
func (i *Issuer) Issue(subject string, access []Access, ttl time.Duration) (string, error) {
	return i.IssueIn("", subject, access, ttl)
}

// IssueIn is Issue for a token that ends with a session, for those who can
// look that up. The session's name is no secret.
func (i *Issuer) IssueIn(session, subject string, access []Access, ttl time.Duration) (string, error) {
	if len(session) > maxSession {
		return "", fmt.Errorf("issue a token: a session of %d bytes, want at most %d", len(session), maxSession)
	}
	if subject == "" || len(subject) > maxSubject {
		return "", fmt.Errorf("issue a token: subject of %d bytes, want 1 to %d", len(subject), maxSubject)
	}
	if ttl <= 0 || ttl > MaxLife || len(access) > maxAccess {
		return "", fmt.Errorf("issue a token for %q: a life of %v over %d resources, want at most %v and %d", subject, ttl, len(access), MaxLife, maxAccess)
	}
	for _, a := range access {
		if err := a.check(); err != nil {
			return "", fmt.Errorf("issue a token for %q: %w", subject, err)
		}
	}
	if access == nil {
		access = []Access{} // "access": null breaks clients
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("issue a token: %w", err)
	}
	now := i.now().Truncate(time.Second)
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: i.issuer, Subject: subject, Audience: jwt.ClaimStrings{i.service},
			ID:       base64.RawURLEncoding.EncodeToString(id),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-MaxSkew)), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Access: access, Session: session,
	})
	key := i.keys.signer(now)
	t.Header["kid"] = key.ID()
	raw, err := t.SignedString(key.Private)
	if err != nil {
		return "", fmt.Errorf("sign a token for %q: %w", subject, err)
	}
	if len(raw) > maxToken {
		return "", fmt.Errorf("issue a token for %q: %d bytes, at most %d are taken: ask for fewer scopes", subject, len(raw), maxToken)
	}
	return raw, nil
}

// Service is the audience of the tokens.
func (i *Issuer) Service() string { return i.service }

// Name is the issuer's own name, the iss claim.
func (i *Issuer) Name() string { return i.issuer }

// JWKS is the public halves of the keys as a JWK set.
func (i *Issuer) JWKS() []byte { return i.keys.JWKS() }
