package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	caLife = 20 * 365 * 24 * time.Hour
	// serverCertLife stays below the 398 days that browsers take at most.
	serverCertLife = 90 * 24 * time.Hour
	// serverCertRenew is how long before its end a certificate is replaced.
	serverCertRenew = 30 * 24 * time.Hour
	// backdate makes certificates good for clients whose clock is behind.
	backdate = 24 * time.Hour
)

// CA is the supernode's own certificate authority for HTTPS. Its keys are
// ECDSA P-256 (FIPS 186-5), which browsers, containerd and Docker all take.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// LoadOrCreateCA reads dir/ca.pem and dir/ca.key, or makes them, durably and
// with mode 0600. One without the other is an error: a new authority would
// lock out every client that trusts the old one.
func LoadOrCreateCA(dir string) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := readSecret(keyPath)
	switch {
	case errors.Is(certErr, fs.ErrNotExist):
		// A key alone is what a crash between the two files leaves.
		return createCA(certPath, keyPath)
	case certErr != nil:
		return nil, fmt.Errorf("read the certificate authority: %w", certErr)
	case keyErr != nil:
		return nil, fmt.Errorf("read the certificate authority's key: %w; restore it, or remove %s to start a new authority that every client must be told of", keyErr, certPath)
	}
	ca, err := parseCA(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority in %s: %w", dir, err)
	}
	return ca, nil
}

func parseCA(certPEM, keyPEM []byte) (*CA, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("ca.pem is not a PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca.pem: %w", err)
	}
	private, err := parsePKCS8(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("ca.key: %w", err)
	}
	key, ok := private.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("ca.key is not the key of ca.pem")
	}
	return &CA{cert: cert, key: key}, nil
}

func createCA(certPath, keyPath string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Shoal CA " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the new certificate authority: %w", err)
	}
	ca := &CA{cert: cert, key: key}
	if err := writeKey(keyPath, key); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if err := durable.WriteFile(certPath, ca.PEM(), 0o600); err != nil {
		return nil, fmt.Errorf("write %s: %w", certPath, err)
	}
	return ca, nil
}

func newSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	raw[0] = raw[0]&0x7f | 0x40 // positive and of full length (RFC 5280, 4.1.2.2)
	return new(big.Int).SetBytes(raw), nil
}

// PEM is the authority's certificate, for clients' trust stores.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// SHA256 is the hash of the certificate's DER; join tokens carry it.
func (ca *CA) SHA256() [sha256.Size]byte { return sha256.Sum256(ca.cert.Raw) }

// Fingerprint is SHA256 in hex.
func (ca *CA) Fingerprint() string {
	sum := ca.SHA256()
	return hex.EncodeToString(sum[:])
}

// ServerCert makes a certificate for names (DNS names and IP addresses), good
// for 90 days from now. The chain ends with the authority itself, so that a
// client that knows only its hash can check it.
func (ca *CA) ServerCert(names []string, now time.Time) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, errors.New("make a server certificate: no name given")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a server key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Shoal supernode"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(serverCertLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a server certificate for %q: %w", names, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the new server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// ServerTLS is an HTTPS configuration that shows a certificate for names and
// replaces it 30 days before it ends.
func (ca *CA) ServerTLS(names []string, now func() time.Time) (*tls.Config, error) {
	s := &serverCert{ca: ca, names: slices.Clone(names), now: now}
	if _, err := s.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // older container engines have no 1.3
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current() },
	}, nil
}

type serverCert struct {
	ca    *CA
	names []string
	now   func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate // guarded by mu
}

func (s *serverCert) current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.cert != nil && now.Before(s.cert.Leaf.NotAfter.Add(-serverCertRenew)) && now.After(s.cert.Leaf.NotBefore) {
		return s.cert, nil
	}
	cert, err := s.ca.ServerCert(s.names, now)
	if err != nil {
		return nil, err
	}
	s.cert = &cert
	return s.cert, nil
}
