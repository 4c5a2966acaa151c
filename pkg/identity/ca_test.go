package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := LoadOrCreateCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func serveHTTPS(t *testing.T, config *tls.Config) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(tls.NewListener(l, config)) }() // ends with Close
	t.Cleanup(func() { s.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func TestCASurvivesOnDisk(t *testing.T) {
	dir := t.TempDir()
	ca, err := LoadOrCreateCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateCA(dir)
	if err != nil || ca.Fingerprint() != again.Fingerprint() {
		t.Fatalf("the authority changed: %v", err)
	}
	for _, name := range []string{"ca.pem", "ca.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateCA(dir); err == nil {
		t.Fatal("a certificate without its key was taken or replaced")
	}
	other := t.TempDir()
	if _, err := LoadOrCreateCA(other); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(other, "ca.key"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateCA(dir); err == nil || !strings.Contains(err.Error(), "not the key") {
		t.Fatalf("another's key: %v", err)
	}
}

// Threat 5: TLS is verified, also by who knows only the authority's hash.
func TestThreat5PinnedAuthority(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	config, err := ca.ServerTLS([]string{"127.0.0.1", "shoal.example.com"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	port := serveHTTPS(t, config)
	// Somebody else's server, which also shows the authority it does not have.
	imposterCert, err := other.ServerCert([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	imposterCert.Certificate = append(imposterCert.Certificate, ca.cert.Raw)
	imposter := serveHTTPS(t, &tls.Config{Certificates: []tls.Certificate{imposterCert}})

	var seen *x509.Certificate
	keep := func(c *x509.Certificate) { seen = c }
	for name, c := range map[string]struct {
		config *tls.Config
		port   string
		good   bool
	}{
		"by address":           {PinnedTLS(ca.SHA256(), "127.0.0.1", time.Now, keep), port, true},
		"by name":              {PinnedTLS(ca.SHA256(), "shoal.example.com", time.Now, nil), port, true},
		"another name":         {PinnedTLS(ca.SHA256(), "evil.example.com", time.Now, nil), port, false},
		"another address":      {PinnedTLS(ca.SHA256(), "127.0.0.2", time.Now, nil), port, false},
		"another pin":          {PinnedTLS(other.SHA256(), "127.0.0.1", time.Now, nil), port, false},
		"an imposter":          {PinnedTLS(ca.SHA256(), "127.0.0.1", time.Now, nil), imposter, false},
		"after its end":        {PinnedTLS(ca.SHA256(), "127.0.0.1", func() time.Time { return time.Now().Add(200 * 24 * time.Hour) }, nil), port, false},
		"a day before, skewed": {PinnedTLS(ca.SHA256(), "127.0.0.1", func() time.Time { return time.Now().Add(-time.Hour) }, nil), port, true},
	} {
		_, _, err := get(t, httpClient(t, c.config), "127.0.0.1:"+c.port)
		if c.good != (err == nil) || err != nil && !errors.Is(err, ErrPin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seen == nil || sha256.Sum256(seen.Raw) != ca.SHA256() {
		t.Fatal("the authority was not handed over")
	}
	// Who keeps it verifies in the ordinary way from then on.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	if _, _, err := get(t, httpClient(t, &tls.Config{RootCAs: roots}), "127.0.0.1:"+port); err != nil {
		t.Fatalf("with the authority in the trust store: %v", err)
	}
}

func TestPinOfAnOwnCertificate(t *testing.T) {
	ca := newCA(t)
	cert, err := ca.ServerCert([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if pin, err := PinOf(cert); err != nil || pin != ca.SHA256() {
		t.Fatalf("%x %v", pin, err)
	}
	// An operator's chain without its root: the certificate itself is pinned.
	cert.Certificate = cert.Certificate[:1]
	pin, err := PinOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	port := serveHTTPS(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	if _, _, err := get(t, httpClient(t, PinnedTLS(pin, "127.0.0.1", time.Now, nil)), "127.0.0.1:"+port); err != nil {
		t.Fatal(err)
	}
	if _, err := PinOf(tls.Certificate{}); err == nil {
		t.Fatal("an empty chain has a pin")
	}
}

func TestServerCertificateIsReplacedBeforeItEnds(t *testing.T) {
	c := &clock{}
	config, err := newCA(t).ServerTLS([]string{"localhost"}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	current := func() *tls.Certificate {
		cert, err := config.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := current()
	c.advance(serverCertLife - serverCertRenew - time.Second)
	if current() != first {
		t.Fatal("replaced too early")
	}
	c.advance(time.Second)
	second := current()
	if second == first || !second.Leaf.NotAfter.Equal(c.now().Add(serverCertLife)) {
		t.Fatal("not replaced 30 days before its end")
	}
	if _, err := newCA(t).ServerTLS(nil, c.now); err == nil {
		t.Fatal("a certificate for nobody")
	}
}
