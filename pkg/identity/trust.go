package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
)

// ErrUntrusted is wrapped when a signer is not among those to be believed.
var ErrUntrusted = errors.New("signer is not trusted")

// ErrBadSignature is wrapped when a signature is not the signer's.
var ErrBadSignature = errors.New("bad signature")

// Trust is the set of signers whose piece maps and tag records are believed.
// It is safe for concurrent use.
type Trust struct {
	mu      sync.RWMutex
	signers map[string]ed25519.PublicKey // by peer ID; guarded by mu
}

// NewTrust makes a set of signers, named by peer ID. One that holds no
// Ed25519 key can sign nothing and is left out.
func NewTrust(signers ...string) *Trust {
	t := &Trust{}
	t.Set(signers...)
	return t
}

// Set replaces the whole set.
func (t *Trust) Set(signers ...string) {
	keys := make(map[string]ed25519.PublicKey, len(signers))
	for _, s := range signers {
		if key, err := PublicKeyOf(s); err == nil {
			keys[s] = key
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.signers = keys
}

// Verify checks sig over msg; it is a blob.VerifyFunc. The error wraps
// ErrUntrusted or ErrBadSignature.
func (t *Trust) Verify(signer string, msg, sig []byte) error {
	t.mu.RLock()
	key, ok := t.signers[signer]
	t.mu.RUnlock()
	if !ok {
		return fmt.Errorf("%w: %.80q", ErrUntrusted, signer)
	}
	return verify(key, signer, msg, sig)
}

// VerifyAny checks sig over msg with the key that the signer's peer ID holds,
// whoever that is. It is a blob.VerifyFunc for those who decide about the
// signer themselves.
func VerifyAny(signer string, msg, sig []byte) error {
	key, err := PublicKeyOf(signer)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	return verify(key, signer, msg, sig)
}

func verify(key ed25519.PublicKey, signer string, msg, sig []byte) error {
	if !ed25519.Verify(key, msg, sig) {
		return fmt.Errorf("%w of %s", ErrBadSignature, signer)
	}
	return nil
}
