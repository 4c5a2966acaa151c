package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	tokenKeyFile = "token.key"
	// signsFrom is the header of a PEM block that says from when a key signs.
	signsFrom = "Signs-From"
)

// TokenKey is a key that signs tokens, and from when on; zero is ever since.
type TokenKey struct {
	Private ed25519.PrivateKey
	From    time.Time
}

// LoadOrCreateTokenKeys reads the keys that sign tokens from dir/token.key, in
// the order in which they sign, or makes one there, durably and with mode 0600.
func LoadOrCreateTokenKeys(dir string) ([]TokenKey, error) {
	path := filepath.Join(dir, tokenKeyFile)
	raw, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a token key: %w", err)
		}
		keys := []TokenKey{{Private: private}}
		return keys, SaveTokenKeys(dir, keys)
	}
	if err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	keys, err := parseTokenKeys(raw)
	if err != nil {
		return nil, fmt.Errorf("token keys: %s: %w", path, err)
	}
	return keys, nil
}

// SaveTokenKeys replaces the keys in dir/token.key: after a crash all of the
// old ones are there, or all of the new ones.
func SaveTokenKeys(dir string, keys []TokenKey) error {
	var raw bytes.Buffer
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k.Private)
		if err != nil {
			return fmt.Errorf("encode a token key: %w", err)
		}
		block := &pem.Block{Type: pemPrivateKey, Bytes: der}
		if !k.From.IsZero() {
			block.Headers = map[string]string{signsFrom: k.From.UTC().Format(time.RFC3339Nano)}
		}
		if err := pem.Encode(&raw, block); err != nil {
			return fmt.Errorf("encode a token key: %w", err)
		}
	}
	if raw.Len() > maxKeyFile {
		return fmt.Errorf("%d token keys do not fit their file of at most %d bytes", len(keys), maxKeyFile)
	}
	if err := durable.WriteFile(filepath.Join(dir, tokenKeyFile), raw.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keep the token keys: %w", err)
	}
	return nil
}

func parseTokenKeys(raw []byte) ([]TokenKey, error) {
	var keys []TokenKey
	for len(bytes.TrimSpace(raw)) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil {
			return nil, errors.New("not PEM private keys (PKCS #8)")
		}
		key, err := parsePKCS8(raw[:len(raw)-len(rest)])
		if err != nil {
			return nil, err
		}
		private, ok := key.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("it holds a %T, want Ed25519 keys", key)
		}
		one := TokenKey{Private: private}
		if text, dated := block.Headers[signsFrom]; dated {
			if one.From, err = time.Parse(time.RFC3339Nano, text); err != nil {
				return nil, fmt.Errorf("%s %q of a key is no time", signsFrom, text)
			}
		}
		keys, raw = append(keys, one), rest
	}
	if len(keys) == 0 {
		return nil, errors.New("it is empty; restore it from a backup, or remove it to have a new key made")
	}
	return keys, nil
}
