package token

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	joinPrefix = "shoal-join"
	maxJoin    = 512 // bytes
)

// ErrBadJoin is what ParseJoin wraps.
var ErrBadJoin = errors.New("bad join token")

// Join is a join token taken apart. Its text is a secret.
type Join struct {
	ID     string
	Secret string
	// CASHA256 pins the certificate authority of the supernode; all zero
	// means that the supernode has no TLS (it listens on loopback alone).
	CASHA256 [sha256.Size]byte
}

// NewJoin is the text form: shoal-join.<id>.<secret>.<SHA-256 of the CA in hex>.
func NewJoin(id, secret string, caSHA256 [sha256.Size]byte) string {
	return joinPrefix + "." + id + "." + secret + "." + hex.EncodeToString(caSHA256[:])
}

// ParseJoin reads the text form. Errors do not quote it.
func ParseJoin(s string) (Join, error) {
	parts := strings.Split(s[:min(len(s), maxJoin+1)], ".")
	if len(s) > maxJoin || len(parts) != 4 || parts[0] != joinPrefix {
		return Join{}, fmt.Errorf("%w: want shoal-join.<id>.<secret>.<sha256>, as `supernode join-token` prints it", ErrBadJoin)
	}
	j := Join{ID: parts[1], Secret: parts[2]}
	if !plain(j.ID) || !plain(j.Secret) {
		return Join{}, fmt.Errorf("%w: its id and secret are letters, digits, - and _; was it cut when it was copied?", ErrBadJoin)
	}
	if len(parts[3]) != 2*sha256.Size || strings.ToLower(parts[3]) != parts[3] {
		return Join{}, fmt.Errorf("%w: its last part must be %d hex digits; was it cut when it was copied?", ErrBadJoin, 2*sha256.Size)
	}
	if _, err := hex.Decode(j.CASHA256[:], []byte(parts[3])); err != nil {
		return Join{}, fmt.Errorf("%w: its last part must be %d hex digits", ErrBadJoin, 2*sha256.Size)
	}
	return j, nil
}

// String leaves the secret out.
func (j Join) String() string { return joinPrefix + "." + j.ID + ".…" }

// GoString leaves the secret out of %#v.
func (j Join) GoString() string { return j.String() }

// LogValue leaves the secret out of logs.
func (j Join) LogValue() slog.Value { return slog.StringValue(j.String()) }

func plain(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !lower(c) && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}
