package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"sync"

	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// membershipOID names the certificate extension that holds a membership. It
// is under the arc 1.2.840.113556.1.8000.2554, below which anybody may number
// from a GUID of his own, cut into 4, 4, 4, 4, 4, 6 and 6 hex digits
// (https://learn.microsoft.com/windows/win32/ad/obtaining-an-object-identifier);
// the GUID is 42496c77-9fe8-48dd-84f4-f386d62fd324.
var membershipOID = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 16969, 27767, 40936, 18653, 34036, 15959766, 3134244}

// ErrNotMember is what every refusal of a peer wraps.
var ErrNotMember = errors.New("not a member")

// Member is a peer whose key and membership were verified.
type Member struct {
	PeerID     string
	Membership Membership
}

// ServerTLS is the configuration of the piece listener: TLS 1.3, HTTP/1.1, a
// member's certificate asked of every client. The certificate it shows
// follows SetMembership.
func (n *Node) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequireAnyClientCert,
		// Pieces are long; small first records only cost.
		DynamicRecordSizingDisabled: true,
		SessionTicketsDisabled:      true, // a resumed session would skip VerifyConnection's freshness
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := n.verifyPeer(&cs)
			return err
		},
	}
}

// ClientTLS is the configuration for a call to one peer: whoever answers must
// be that peer and a member. An empty expect takes any member. There is no
// session cache, so nothing is resumed.
func (n *Node) ClientTLS(expect string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: true, // the chain is a single self-signed certificate; VerifyConnection judges it
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.certificate()
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			m, err := n.verifyPeer(&cs)
			if err == nil && expect != "" && m.PeerID != expect {
				err = fmt.Errorf("%w: %s answered where %s was expected", ErrNotMember, m.PeerID, expect)
			}
			return err
		},
	}
}

// PeerOf is the member at the other end of a connection, as of now: expiry,
// revocation and trust in the member key are looked at again at each call.
func (n *Node) PeerOf(cs *tls.ConnectionState) (Member, error) {
	if cs == nil || !cs.HandshakeComplete {
		return Member{}, fmt.Errorf("%w: the connection shows no certificate", ErrNotMember)
	}
	return n.verifyPeer(cs)
}

// FromRequest is PeerOf for an HTTP handler.
func (n *Node) FromRequest(r *http.Request) (Member, error) { return n.PeerOf(r.TLS) }

// PeerID is the peer ID of the member that sent r, as of now.
func (n *Node) PeerID(r *http.Request) (string, error) {
	m, err := n.PeerOf(r.TLS)
	return m.PeerID, err
}

func (n *Node) verifyPeer(cs *tls.ConnectionState) (Member, error) {
	if len(cs.PeerCertificates) != 1 {
		return Member{}, fmt.Errorf("%w: %d certificates shown, want one", ErrNotMember, len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	sum := sha256.Sum256(cert.Raw)
	proven, known := n.seen.get(sum)
	if !known {
		var err error
		if proven, err = proveCert(cert); err != nil {
			return Member{}, fmt.Errorf("%w: %w", ErrNotMember, err)
		}
	}
	if err := n.checkNow(proven); err != nil {
		return Member{}, fmt.Errorf("%w: %w", ErrNotMember, err)
	}
	if !known { // only members' are remembered: a stranger fills no memory
		n.seen.keep(sum, proven)
	}
	return proven.member, nil
}

// checkNow looks at what can change while a connection lives.
func (n *Node) checkNow(p provenCert) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if _, ok := n.memberKeys[string(p.issuer)]; !ok {
		return fmt.Errorf("%w: signed with a member key that is not trusted", ErrBadMembership)
	}
	if err := n.admit(p.member.PeerID); err != nil {
		return err
	}
	return p.member.Membership.checkTime(n.now())
}

// provenCert is what a certificate proves for ever: whose it is and which
// membership it carries, signed by whom. Time, trust and revocation are not
// part of it.
type provenCert struct {
	member Member
	issuer ed25519.PublicKey
}

// proveCert checks libp2p's proof of the key, the membership's signature and
// that both are of one key.
func proveCert(cert *x509.Certificate) (p provenCert, err error) {
	defer func() { // libp2p guards its own callback in the same way
		if r := recover(); r != nil {
			err = fmt.Errorf("certificate cannot be read: %v", r)
		}
	}()
	key, err := libp2ptls.PubKeyFromCertChain([]*x509.Certificate{cert})
	if err != nil {
		return provenCert{}, fmt.Errorf("certificate: %w", err)
	}
	public, err := rawEd25519(key)
	if err != nil {
		return provenCert{}, fmt.Errorf("certificate: %w", err)
	}
	id, err := PeerIDOf(public)
	if err != nil {
		return provenCert{}, fmt.Errorf("certificate: %w", err)
	}
	raw, err := membershipIn(cert)
	if err != nil {
		return provenCert{}, err
	}
	m, issuer, err := decodeMembership(raw)
	if err != nil {
		return provenCert{}, err
	}
	if m.PeerID != id {
		return provenCert{}, fmt.Errorf("%w: made out to %s, shown by %s", ErrBadMembership, m.PeerID, id)
	}
	if err := verifyMembership(raw, issuer); err != nil {
		return provenCert{}, err
	}
	return provenCert{member: Member{PeerID: id, Membership: m}, issuer: issuer}, nil
}

func membershipIn(cert *x509.Certificate) ([]byte, error) {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(membershipOID) {
			return ext.Value, nil
		}
	}
	return nil, fmt.Errorf("%w: the certificate carries none", ErrBadMembership)
}

// chainCacheHalf bounds the cache to twice as many certificates, of a few
// hundred bytes each.
const chainCacheHalf = 2048

// chainCache remembers what members' certificates prove, so that a request on
// a live connection costs a hash and not three signatures. What was not asked
// for while chainCacheHalf others came is forgotten.
type chainCache struct {
	mu          sync.Mutex
	young, aged map[[sha256.Size]byte]provenCert // guarded by mu
}

func (c *chainCache) get(sum [sha256.Size]byte) (provenCert, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.young[sum]
	if !ok {
		if p, ok = c.aged[sum]; ok {
			c.put(sum, p)
		}
	}
	return p, ok
}

func (c *chainCache) keep(sum [sha256.Size]byte, p provenCert) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(sum, p)
}

func (c *chainCache) put(sum [sha256.Size]byte, p provenCert) { // mu is held
	if c.young == nil || len(c.young) >= chainCacheHalf {
		c.young, c.aged = map[[sha256.Size]byte]provenCert{}, c.young
	}
	c.young[sum] = p
}
