package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/pkg/durable"
)

const maxKeyFile = 64 << 10 // bytes

// LoadOrCreateKey reads the key by which the supernode logs in on hosts, or
// makes one, durably and with mode 0600, when the file does not exist.
func LoadOrCreateKey(path string) (gossh.Signer, error) {
	signer, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return signer, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for SSH: %w", err)
	}
	block, err := gossh.MarshalPrivateKey(private, "shoal supernode")
	if err != nil {
		return nil, fmt.Errorf("encode the key for SSH: %w", err)
	}
	if err := durable.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("keep the key for SSH: %w", err)
	}
	return LoadKey(path)
}

// LoadKey reads a private key without a passphrase, as ssh-keygen writes it.
// A file that others may read is refused. The error wraps fs.ErrNotExist when
// there is none.
func LoadKey(path string) (gossh.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the key for SSH: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the key for SSH: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key for SSH %s may be read by others (mode %04o); chmod 600 it", path, info.Mode().Perm())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read the key for SSH: %w", err)
	}
	signer, err := gossh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("the key for SSH %s: %w; it must be a private key without a passphrase", path, err)
	}
	return signer, nil
}

// AuthorizedKey is the public half as a line of authorized_keys.
func AuthorizedKey(signer gossh.Signer, comment string) string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + comment
}
