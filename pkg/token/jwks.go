package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	maxJWKS = 64 << 10 // bytes
	maxKeys = 64
)

// ErrBadKeys is what a refused JWK set wraps.
var ErrBadKeys = errors.New("bad JWK set")

// jwk is a public Ed25519 key as RFC 8037, section 2, writes it.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Kid string `json:"kid"`
	Use string `json:"use,omitempty"`
	Alg string `json:"alg,omitempty"`
	D   string `json:"d,omitempty"` // only so that a private key can be refused
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

// KeyID is the key's JWK thumbprint (RFC 7638, with SHA-256).
func KeyID(public ed25519.PublicKey) string {
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// EncodeJWKS writes public keys as a JWK set (RFC 7517, section 5).
func EncodeJWKS(keys ...ed25519.PublicKey) []byte {
	set := jwks{Keys: make([]jwk, 0, len(keys))}
	for _, k := range keys {
		x := base64.RawURLEncoding.EncodeToString(k)
		set.Keys = append(set.Keys, jwk{Kty: "OKP", Crv: "Ed25519", X: x, Kid: KeyID(k), Use: "sig", Alg: "EdDSA"})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		panic(err) // strings alone cannot fail to encode
	}
	return raw
}

// parseJWKS reads a JWK set of Ed25519 keys. A set with any other key in it,
// or with a kid that is not the thumbprint, is refused as a whole.
func parseJWKS(raw []byte) (map[string]ed25519.PublicKey, error) {
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrBadKeys, len(raw), maxJWKS)
	}
	var set jwks
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKeys, err)
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: %d keys, want 1 to %d", ErrBadKeys, len(set.Keys), maxKeys)
	}
	out := make(map[string]ed25519.PublicKey, len(set.Keys))
	for _, k := range set.Keys {
		if k.D != "" {
			return nil, fmt.Errorf("%w: it holds a private key", ErrBadKeys)
		}
		if k.Kty != "OKP" || k.Crv != "Ed25519" || k.Alg != "" && k.Alg != "EdDSA" || k.Use != "" && k.Use != "sig" {
			return nil, fmt.Errorf("%w: a key that is not an Ed25519 signing key", ErrBadKeys)
		}
		public, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
		if err != nil || len(public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: a key that is not %d bytes in base64url", ErrBadKeys, ed25519.PublicKeySize)
		}
		if k.Kid != KeyID(public) {
			return nil, fmt.Errorf("%w: a kid that is not its key's thumbprint", ErrBadKeys)
		}
		out[k.Kid] = public
	}
	return out, nil
}
