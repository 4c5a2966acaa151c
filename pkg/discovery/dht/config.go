package dht

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multihash"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// MaxHolders is how many holders of one digest announce themselves.
	MaxHolders = 32
	// DefaultTTL is how long a provider record lasts.
	DefaultTTL = time.Hour

	defaultFindAgain = 15 * time.Second
	defaultJitter    = 300 * time.Millisecond
	defaultMaxConns  = 64
	// maxAnnounced bounds what one node announces: 16 Ki digests and tags.
	maxAnnounced = 16 << 10
)

// Holding says what this node has of a blob.
type Holding struct {
	Size     int64       // bytes
	Complete bool        // every piece is there and the digest was verified
	Have     blob.Bitmap // pieces that may be asked for
}

// KeyFunc makes a provider key. Kind is "blob" or "tag"; name is the digest,
// or registry, repository and tag with a zero byte between each.
type KeyFunc func(kind, name string) [32]byte

// SecretKey is the default KeyFunc: HMAC-SHA256(secret, kind "\0" name).
func SecretKey(secret []byte) KeyFunc {
	return func(kind, name string) (key [32]byte) {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(kind))
		mac.Write([]byte{0})
		mac.Write([]byte(name))
		mac.Sum(key[:0])
		return key
	}
}

// Config says who the node is and whom it asks. Key, PSK, Secret (or KeyFunc),
// Statement and VerifyMember must be set.
type Config struct {
	// Key is the node's Ed25519 key; its peer ID is the node's TLS identity.
	Key crypto.PrivKey
	// Listen is host:port, TCP. An empty host listens on every IPv4 address.
	Listen string
	// Advertise is the IP:port to tell others when it is not what Listen says.
	Advertise string
	// PSK is the private network's key, 32 bytes, given at join.
	PSK []byte
	// Secret makes the provider keys; all nodes of a data centre share it.
	Secret []byte
	// KeyFunc replaces SecretKey(Secret).
	KeyFunc KeyFunc
	// Bootstrap are multiaddrs with /p2p/ID: supernodes and the neighbours
	// that Known named before the last stop.
	Bootstrap []string

	// Statement is this node's signed membership statement, at most 4 KiB. It
	// is asked for at each handshake, because it is renewed.
	Statement func() []byte
	// VerifyMember says whether raw is a valid membership statement of peer.
	VerifyMember func(raw []byte, peer string) error
	// Revoked says whether a peer's membership was revoked. Nil: nobody's.
	Revoked func(peer string) bool

	// SwarmAddr is the host:port of this node's piece listener. When its host
	// is empty or unspecified, who asks uses the address it reached us at.
	SwarmAddr string
	// Seed says that this node is a supernode.
	Seed bool
	// Holdings says what this node has of a digest. Nil: nothing.
	Holdings func(d blob.Digest) (Holding, bool)
	// Tags are this node's signed records of a tag, newest first. Nil: none.
	Tags func(ref blob.Ref, tag string) []*blob.TagRecord
	// Allow says whether a peer may learn that this node holds a digest. It
	// guards tag records by the digest they name. Nil: every member may.
	Allow func(peer string, d blob.Digest) bool
	// VerifyTag checks the signature of a found tag record. Nil: FindTags finds
	// nothing.
	VerifyTag blob.VerifyFunc

	// TTL is how long provider records last here, and the measure of how often
	// own ones are announced again. 0: DefaultTTL. All nodes use the same.
	TTL time.Duration
	// FindAgain is the pause between two searches of one Find. 0: 15 s.
	// Negative: search once, then close the channel.
	FindAgain time.Duration
	// Jitter is the longest wait before a first announcement, so that a
	// thousand hosts that commit at once do not announce at once. 0: 300 ms.
	Jitter time.Duration
	// MaxConns bounds the connections. 0: 64.
	MaxConns int
	// Log takes what is worth telling. Nil: nothing is told.
	Log *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.Key == nil:
		return errors.New("dht: no node key given")
	case len(c.PSK) != 32:
		return fmt.Errorf("dht: the private network key has %d bytes, want 32; join again to get one", len(c.PSK))
	case c.Statement == nil || c.VerifyMember == nil:
		return errors.New("dht: membership functions are missing (Statement, VerifyMember)")
	case c.KeyFunc == nil && len(c.Secret) < 16:
		return fmt.Errorf("dht: the discovery secret has %d bytes, want at least 16; join again to get one", len(c.Secret))
	}
	return nil
}

func (c *Config) fill() {
	if c.KeyFunc == nil {
		c.KeyFunc = SecretKey(c.Secret)
	}
	if c.Revoked == nil {
		c.Revoked = func(string) bool { return false }
	}
	if c.Holdings == nil {
		c.Holdings = func(blob.Digest) (Holding, bool) { return Holding{}, false }
	}
	if c.Tags == nil {
		c.Tags = func(blob.Ref, string) []*blob.TagRecord { return nil }
	}
	if c.Allow == nil {
		c.Allow = func(string, blob.Digest) bool { return true }
	}
	if c.VerifyTag == nil {
		c.VerifyTag = func(string, []byte, []byte) error { return errors.New("no tag signer is trusted") }
	}
	if c.TTL <= 0 {
		c.TTL = DefaultTTL
	}
	if c.FindAgain == 0 {
		c.FindAgain = defaultFindAgain
	}
	if c.Jitter <= 0 {
		c.Jitter = defaultJitter
	}
	if c.MaxConns <= 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) blobKey(d blob.Digest) cid.Cid { return keyCid(c.KeyFunc("blob", string(d))) }

func (c *Config) tagKey(ref blob.Ref, tag string) cid.Cid {
	return keyCid(c.KeyFunc("tag", ref.Registry+"\x00"+ref.Repository+"\x00"+tag))
}

// keyCid dresses a key as the multihash that kad-dht wants.
func keyCid(key [32]byte) cid.Cid {
	hash, err := multihash.Encode(key[:], multihash.SHA2_256)
	if err != nil {
		panic("dht: a 32 byte multihash cannot be refused: " + err.Error())
	}
	return cid.NewCidV1(cid.Raw, hash)
}
