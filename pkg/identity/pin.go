package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrPin is wrapped when a server does not show the certificate that was
// pinned, or one that it vouches for.
var ErrPin = errors.New("the server's certificate does not come from the pinned authority")

// PinOf is the hash that a client of this chain pins: of the last certificate
// in it, be it the authority or, where there is only one, the server's own.
func PinOf(cert tls.Certificate) ([sha256.Size]byte, error) {
	if len(cert.Certificate) == 0 {
		return [sha256.Size]byte{}, errors.New("pin a certificate: the chain is empty")
	}
	return sha256.Sum256(cert.Certificate[len(cert.Certificate)-1]), nil
}

// PinnedTLS trusts, for calls to host (a DNS name or an IP address, without a
// port), the one authority whose certificate has this SHA-256. The server has
// to send that certificate in its chain; names, dates and signatures are
// verified as ever. seen, if not nil, gets the authority's certificate after
// each verified handshake, so that a node can keep it.
func PinnedTLS(pin [sha256.Size]byte, host string, now func() time.Time, seen func(authority *x509.Certificate)) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         host,
		InsecureSkipVerify: true, // the authority is known by its hash alone; VerifyConnection does all the checks
		VerifyConnection: func(cs tls.ConnectionState) error {
			authority, err := verifyPinned(cs.PeerCertificates, pin, host, now())
			if err != nil {
				return err
			}
			if seen != nil {
				seen(authority)
			}
			return nil
		},
	}
}

func verifyPinned(chain []*x509.Certificate, pin [sha256.Size]byte, host string, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: it shows none", ErrPin)
	}
	var authority *x509.Certificate
	between := x509.NewCertPool()
	for _, c := range chain {
		if sha256.Sum256(c.Raw) == pin {
			authority = c
		} else {
			between.AddCert(c)
		}
	}
	if authority == nil {
		return nil, fmt.Errorf("%w %x: check that the address is the supernode's own and that nothing in between ends its TLS", ErrPin, pin[:6])
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	// The name is checked here and not taken from the connection's state,
	// which leaves it empty for IP addresses.
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPin, err)
	}
	return authority, nil
}
