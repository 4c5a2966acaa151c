package token

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxRing bounds the keys of a ring: fewer than a verifier takes.
const maxRing = maxKeys / 2

// ErrRotating is wrapped when a ring has no room for one key more.
var ErrRotating = errors.New("too many keys are in use")

// SigningKey is a key and when it begins to sign.
type SigningKey struct {
	Private ed25519.PrivateKey
	From    time.Time // zero: ever since
}

// ID is the kid of the key.
func (k SigningKey) ID() string { return KeyID(k.Private.Public().(ed25519.PublicKey)) }

// Rotate is keys with one more, which signs from a time on, and without those
// that are done.
func Rotate(keys []SigningKey, next SigningKey, now time.Time) ([]SigningKey, error) {
	out := append(Retire(keys, now), next)
	if len(out) > maxRing {
		return nil, fmt.Errorf("%w, %d: wait until the tokens of the oldest one are out, %v after its successor signs", ErrRotating, maxRing, MaxLife)
	}
	return out, nil
}

// Retire is keys without those whose tokens are all out: the next one has
// signed for longer than a token lives. One key always stays.
func Retire(keys []SigningKey, now time.Time) []SigningKey {
	out := slices.Clone(keys)
	for len(out) > 1 && now.Sub(out[1].From) > MaxLife {
		out = out[1:]
	}
	return out
}

// signer is the last of the keys whose time has come; while a clock says that
// none has, the first.
func signer(keys []SigningKey, now time.Time) SigningKey {
	for _, k := range slices.Backward(keys) {
		if !now.Before(k.From) {
			return k
		}
	}
	return keys[0]
}

// Ring is the keys of an issuer, in the order in which they sign. Verifiers
// are told of a key before it signs and until its last token is out, so that
// no good token is refused when keys change. It is safe for concurrent use.
type Ring struct {
	mu   sync.RWMutex
	keys []SigningKey // never empty, never changed in place; guarded by mu
}

// NewRing makes a ring of at least one key.
func NewRing(keys ...SigningKey) (*Ring, error) {
	r := &Ring{}
	return r, r.Set(keys)
}

// Set replaces the keys.
func (r *Ring) Set(keys []SigningKey) error {
	if len(keys) == 0 || len(keys) > maxRing {
		return fmt.Errorf("a ring of %d token keys, want 1 to %d", len(keys), maxRing)
	}
	for _, k := range keys {
		if len(k.Private) != ed25519.PrivateKeySize {
			return fmt.Errorf("a token key of %d bytes, want %d", len(k.Private), ed25519.PrivateKeySize)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = slices.Clone(keys)
	return nil
}

// Keys are the keys in the order in which they sign.
func (r *Ring) Keys() []SigningKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.keys)
}

// JWKS is the public halves of all keys as a JWK set, of those to come too.
func (r *Ring) JWKS() []byte {
	var public []ed25519.PublicKey
	for _, k := range r.Keys() {
		public = append(public, k.Private.Public().(ed25519.PublicKey))
	}
	return EncodeJWKS(public...)
}

func (r *Ring) signer(now time.Time) SigningKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return signer(r.keys, now)
}

// Issuer makes an issuer that names itself issuer, signs with the ring's key
// of the time and makes tokens for service alone.
func (r *Ring) Issuer(issuer, service string, now func() time.Time) (*Issuer, error) {
	if issuer == "" || service == "" {
		return nil, fmt.Errorf("token issuer: issuer %q and service %q are both needed", issuer, service)
	}
	return &Issuer{keys: r, issuer: issuer, service: service, now: now}, nil
}
