package token

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// grantContext begins what is signed, so that a grant's signature is none
	// for anything else.
	grantContext = "shoal piece grant v1"
	// maxGrant bounds an encoded grant, in bytes.
	maxGrant = 1024
	// maxChecked bounds the verified grants that are remembered.
	maxChecked = 4096
)

// ErrGrant is what CheckGrant wraps for anything it refuses.
var ErrGrant = errors.New("no valid piece grant")

// NewGrant lets one peer fetch the pieces of one digest until expires. Who
// signs has checked that a repository which the peer's reader may read links
// the digest.
//
// The form is: expiry (8 bytes, Unix seconds), then peer ID, digest, signer
// and signature, each after its length (2 bytes); numbers are big endian.
func NewGrant(peerID string, d blob.Digest, expires time.Time, sign blob.SignFunc) ([]byte, error) {
	body := binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))
	body = appendText(appendText(body, peerID), string(d))
	signer, signature, err := sign(append([]byte(grantContext), body...))
	if err != nil {
		return nil, fmt.Errorf("sign the grant of %s for %s: %w", d, peerID, err)
	}
	return appendText(appendText(body, signer), string(signature)), nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// cutText takes a length and that many bytes off b.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}

// Grants checks grants. It remembers those whose signature was good, so that
// the pieces of a flight cost one verification. Safe for concurrent use.
type Grants struct {
	verify blob.VerifyFunc
	now    func() time.Time

	checked *expirable.LRU[[sha256.Size]byte, struct{}]
}

// NewGrants makes a checker; verify believes the supernodes of this data
// centre.
func NewGrants(verify blob.VerifyFunc, now func() time.Time) *Grants {
	return &Grants{verify: verify, now: now,
		checked: expirable.NewLRU[[sha256.Size]byte, struct{}](maxChecked, nil, 0)}
}

// Check verifies that raw grants d to the peer with this ID, the one that the
// connection proved, and has not run out. The error wraps ErrGrant.
func (g *Grants) Check(raw []byte, peerID string, d blob.Digest) error {
	if len(raw) < 8 || len(raw) > maxGrant {
		return fmt.Errorf("%w: %d bytes", ErrGrant, len(raw))
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)
	peer, rest, ok1 := cutText(raw[8:])
	digest, rest, ok2 := cutText(rest)
	body := raw[:len(raw)-len(rest)]
	signer, rest, ok3 := cutText(rest)
	signature, rest, ok4 := cutText(rest)
	switch {
	case !ok1 || !ok2 || !ok3 || !ok4 || len(rest) > 0:
		return fmt.Errorf("%w: it is malformed", ErrGrant)
	case peer != peerID:
		return fmt.Errorf("%w: it is another peer's", ErrGrant)
	case digest != string(d):
		return fmt.Errorf("%w: it is for another digest", ErrGrant)
	case !g.now().Before(expires):
		return fmt.Errorf("%w: it ran out at %s", ErrGrant, expires.UTC().Format(time.RFC3339))
	}
	// Everything is in the key, the signature too: nothing passes on the
	// strength of another grant's check.
	key := sha256.Sum256(raw)
	if _, known := g.checked.Get(key); known {
		return nil
	}
	if err := g.verify(signer, append([]byte(grantContext), body...), []byte(signature)); err != nil {
		return fmt.Errorf("%w: %w", ErrGrant, err)
	}
	g.checked.Add(key, struct{}{})
	return nil
}

// Forget drops what was remembered, as when a signer is believed no more.
func (g *Grants) Forget() {
	g.checked.Purge()
}
