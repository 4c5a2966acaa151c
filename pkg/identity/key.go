package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalproject/shoal/pkg/durable"
)

// maxKeyFile bounds what is read as a key or certificate file, in bytes.
const maxKeyFile = 64 << 10

// pemPrivateKey is the PEM type of PKCS #8 (RFC 7468, section 10).
const pemPrivateKey = "PRIVATE KEY"

// Key is a node's Ed25519 key: its identity on every road.
type Key struct {
	private ed25519.PrivateKey
	libp2p  crypto.PrivKey
	id      peer.ID
}

// NewKey makes a Key of an Ed25519 private key.
func NewKey(private ed25519.PrivateKey) (*Key, error) {
	if len(private) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("node key: %d bytes, want %d", len(private), ed25519.PrivateKeySize)
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("node key: derive the peer ID: %w", err)
	}
	return &Key{private: private, libp2p: key, id: id}, nil
}

// LoadOrCreateKey reads the node key at path (PKCS #8, PEM), or makes one
// there, durably and with mode 0600, when the file does not exist. A file that
// others may read is refused.
func LoadOrCreateKey(path string) (*Key, error) {
	private, err := loadOrCreateEd25519(path)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	return NewKey(private)
}

// LoadOrCreateMemberKey reads the key that signs memberships from
// dir/member.key, or makes it there, durably and with mode 0600.
func LoadOrCreateMemberKey(dir string) (ed25519.PrivateKey, error) {
	private, err := loadOrCreateEd25519(filepath.Join(dir, "member.key"))
	if err != nil {
		return nil, fmt.Errorf("member key: %w", err)
	}
	return private, nil
}

// PeerID is the libp2p peer ID, which holds the public key itself.
func (k *Key) PeerID() peer.ID { return k.id }

// Public is the public half.
func (k *Key) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Private is the key for signers that need it raw. It is never logged.
func (k *Key) Private() ed25519.PrivateKey { return k.private }

// Libp2p is the key as libp2p takes it.
func (k *Key) Libp2p() crypto.PrivKey { return k.libp2p }

// Sign signs msg; it is a blob.SignFunc. What msg begins with must say what
// it is, so that a signature for one thing never passes for another.
func (k *Key) Sign(msg []byte) (signer string, sig []byte, err error) {
	return k.id.String(), ed25519.Sign(k.private, msg), nil
}

// String hides the private half from logs.
func (k *Key) String() string { return "key of " + k.id.String() }

// GoString hides the private half from %#v.
func (k *Key) GoString() string { return k.String() }

// PublicKeyOf is the Ed25519 key that a peer ID holds. Peer IDs of any other
// kind of key are refused.
func PublicKeyOf(peerID string) (ed25519.PublicKey, error) {
	if len(peerID) > maxPeerID {
		return nil, fmt.Errorf("peer ID of %d bytes, at most %d are taken", len(peerID), maxPeerID)
	}
	id, err := peer.Decode(peerID)
	if err != nil {
		return nil, fmt.Errorf("peer ID %q: %w", peerID, err)
	}
	if id.String() != peerID {
		return nil, fmt.Errorf("peer ID %q is not in its usual form, %q", peerID, id.String())
	}
	key, err := id.ExtractPublicKey()
	if err != nil {
		return nil, fmt.Errorf("peer ID %q holds no key: %w", peerID, err)
	}
	return rawEd25519(key)
}

// PeerIDOf is the peer ID of an Ed25519 public key.
func PeerIDOf(public ed25519.PublicKey) (string, error) {
	key, err := crypto.UnmarshalEd25519PublicKey(public)
	if err != nil {
		return "", fmt.Errorf("public key of %d bytes: %w", len(public), err)
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("derive the peer ID: %w", err)
	}
	return id.String(), nil
}

func rawEd25519(key crypto.PubKey) (ed25519.PublicKey, error) {
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("a %s key; nodes have Ed25519 keys", key.Type())
	}
	raw, err := key.Raw()
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	return ed25519.PublicKey(raw), nil
}

func loadOrCreateEd25519(path string) (ed25519.PrivateKey, error) {
	raw, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createEd25519(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := parsePKCS8(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, want an Ed25519 key", path, key)
	}
	return private, nil
}

func createEd25519(path string) (ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := writeKey(path, private); err != nil {
		return nil, err
	}
	return private, nil
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is not a key file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others may read the key: make a new one, or run chmod 600 if it was never read", path, mode)
	}
	return os.ReadFile(path)
}

func parsePKCS8(raw []byte) (any, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != pemPrivateKey {
		return nil, errors.New("not a PEM private key (PKCS #8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a PKCS #8 private key") // the cause could quote the key
	}
	return key, nil
}

func writeKey(path string, private any) error {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of the key: %w", err)
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: der})
	if err := durable.WriteFile(path, raw, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
