package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
)

const joinContext = "shoal join v1\x00"

// ErrBadProof is returned when a node does not prove the key it names.
var ErrBadProof = errors.New("the join proof is not of this key and this token")

// JoinProof proves, to who also knows the join token, that the node holds
// key: a signature over "shoal join v1", a zero byte, and the token's SHA-256.
func JoinProof(key *Key, token string) []byte {
	return ed25519.Sign(key.private, joinStatement(token))
}

// CheckJoinProof checks a JoinProof. The error is or wraps ErrBadProof.
func CheckJoinProof(public ed25519.PublicKey, token string, proof []byte) error {
	if len(public) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: a public key of %d bytes, want %d", ErrBadProof, len(public), ed25519.PublicKeySize)
	}
	if !ed25519.Verify(public, joinStatement(token), proof) {
		return ErrBadProof
	}
	return nil
}

func joinStatement(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return append([]byte(joinContext), sum[:]...)
}
