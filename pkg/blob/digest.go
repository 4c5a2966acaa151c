package blob

import (
	"errors"
	"fmt"
	"strings"

	_ "crypto/sha256" // go-digest looks its algorithms up in the crypto registry
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Digest is an OCI digest, "algorithm:hex". A value of this type that came
// from outside has passed ParseDigest.
type Digest = digest.Digest

// Descriptor is an OCI content descriptor.
type Descriptor = ocispec.Descriptor

// ErrInvalidDigest is what ParseDigest wraps for anything it refuses.
var ErrInvalidDigest = errors.New("invalid digest")

// ParseDigest is the only way by which a digest from outside enters. It takes
// sha256 and sha512 in lower-case hex and nothing else, so a digest can be
// used as a file name without a second look.
func ParseDigest(s string) (Digest, error) {
	algorithm, hex, found := strings.Cut(s, ":")
	want := 0
	switch algorithm {
	case "sha256":
		want = 64
	case "sha512":
		want = 128
	}
	if !found || want == 0 {
		return "", fmt.Errorf("%w %q: want sha256:<64 hex digits> or sha512:<128 hex digits>", ErrInvalidDigest, clip(s))
	}
	if len(hex) != want {
		return "", fmt.Errorf("%w %q: %s needs %d hex digits, got %d", ErrInvalidDigest, clip(s), algorithm, want, len(hex))
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("%w %q: only 0-9 and a-f may follow the colon", ErrInvalidDigest, clip(s))
		}
	}
	return Digest(s), nil
}

// clip keeps a stranger's text from filling a log line.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Ref names where a digest is known under: a registry and a repository in it.
// An empty Registry means the supernode's own.
type Ref struct {
	Registry   string
	Repository string
}

// String is the reference as people write it.
func (r Ref) String() string {
	if r.Registry == "" {
		return r.Repository
	}
	return r.Registry + "/" + r.Repository
}

// Peer is a node that may hold a blob.
type Peer struct {
	ID       string // libp2p peer ID; the TLS identity must match it
	Addr     string // host:port of its piece listener
	Seed     bool   // a supernode: it chooses what to hand out so that each piece leaves it once
	Complete bool   // said to hold every piece
	Distance int    // 0 this host, 1 rack, 2 zone, 3 IDC, 4 beyond
}
