package ssh

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	gossh "golang.org/x/crypto/ssh"
)

// maxHostKey bounds a host key as text; RSA of 16,384 bits takes 2.8 KB.
const maxHostKey = 8 << 10

const fingerprintPrefix = "SHA256:"

// families are the algorithms by which a host can show a key, by the kind of
// key. A server shows one key for each connection, the first that the client
// names and the server has, so each family takes a connection of its own.
var families = [][]string{
	{gossh.KeyAlgoED25519},
	{gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521},
	{gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256},
}

// HostKey is what a host must show.
type HostKey struct {
	fingerprint string // SHA256:…, as ssh-keygen -l prints it
	families    [][]string
}

// ParseHostKey reads one line of known_hosts, a public key as it stands in
// ssh_host_…_key.pub, or a fingerprint "SHA256:…".
func ParseHostKey(text string) (HostKey, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return HostKey{}, errors.New("no host key was given: take it from ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub on the machine's console")
	case len(text) > maxHostKey || strings.ContainsAny(text, "\r\n"):
		return HostKey{}, fmt.Errorf("the host key must be one line of at most %d bytes", maxHostKey)
	case strings.HasPrefix(text, fingerprintPrefix):
		sum, err := base64.RawStdEncoding.Strict().DecodeString(text[len(fingerprintPrefix):])
		if err != nil || len(sum) != 32 {
			return HostKey{}, errors.New("the host key's fingerprint is not SHA256: and 43 characters, as ssh-keygen -l prints it")
		}
		return HostKey{fingerprint: text, families: families}, nil
	}
	key, err := publicKey(text)
	if err != nil {
		return HostKey{}, err
	}
	for _, family := range families {
		// A key of RSA is named otherwise than the signatures by it.
		if slices.Contains(family, key.Type()) || key.Type() == gossh.KeyAlgoRSA && slices.Contains(family, gossh.KeyAlgoRSASHA256) {
			return HostKey{fingerprint: gossh.FingerprintSHA256(key), families: [][]string{family}}, nil
		}
	}
	return HostKey{}, fmt.Errorf("a host key of the type %.40q is not taken; give one of ed25519, ecdsa or rsa", key.Type())
}

func publicKey(line string) (gossh.PublicKey, error) {
	marker, _, key, _, _, err := gossh.ParseKnownHosts([]byte(line))
	if err == nil && marker != "" {
		return nil, fmt.Errorf("the host key is marked @%.20s; give the line of the host's own key", marker)
	}
	if err == nil {
		return key, nil
	}
	key, _, options, _, err := gossh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || !bytes.HasPrefix([]byte(line), []byte(key.Type())) {
		return nil, errors.New("the host key is neither a line of known_hosts nor a fingerprint SHA256:…")
	}
	return key, nil
}

// String is the fingerprint.
func (k HostKey) String() string { return k.fingerprint }

func (k HostKey) fits(shown gossh.PublicKey) bool {
	return gossh.FingerprintSHA256(shown) == k.fingerprint
}
