package token

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

const (
	joinPrefix = "shoal-join"
	maxJoin    = 512 // bytes

	returnPrefix = "shoal-return."
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

// NewReturn is what a node that joined before sends in the place of a join
// token when its membership ran out while it was away. It holds the time, so
// that a proof over it that was overheard is of no use later. It is no secret.
func NewReturn(now time.Time) string {
	return returnPrefix + strconv.FormatInt(now.Unix(), 10)
}

// IsReturn tells a return from a join token.
func IsReturn(s string) bool { return strings.HasPrefix(s, returnPrefix) }

// ParseReturn reads the time of a return; whether it is fresh is the caller's
// to say. The error wraps ErrBadJoin.
func ParseReturn(s string) (time.Time, error) {
	text, ok := strings.CutPrefix(s, returnPrefix)
	seconds, err := strconv.ParseUint(text, 10, 33)
	if !ok || err != nil || strconv.FormatUint(seconds, 10) != text {
		return time.Time{}, fmt.Errorf("%w: the time of the return cannot be read", ErrBadJoin)
	}
	return time.Unix(int64(seconds), 0), nil
}

func plain(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !lower(c) && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}
