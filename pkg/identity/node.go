package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

var (
	// ErrRevoked is wrapped when a peer's membership was taken back.
	ErrRevoked = errors.New("membership was revoked")
	// ErrNoMembership is returned while this node is not a member itself.
	ErrNoMembership = errors.New("this node is not a member yet: it must join first")
)

// revokedKept is for how long a revocation is remembered here: until the
// longest membership that could still be shown has ended.
const revokedKept = maxMembershipLife + MaxSkew

// Node is this process's place among the members: its own certificate, whose
// memberships it believes, and whom it turned away. Safe for concurrent use.
type Node struct {
	key *Key
	now func() time.Time

	mu         sync.RWMutex
	memberKeys map[string]struct{}              // raw Ed25519 keys; guarded by mu
	membership Membership                       // guarded by mu
	cert       *tls.Certificate                 // nil before the first membership; guarded by mu
	revoked    map[string]time.Time             // peer ID → when; guarded by mu
	onRevoke   []func(peerIDs []string)         // guarded by mu
	conns      map[string]map[net.Conn]struct{} // open connections by peer ID; guarded by mu

	seen chainCache
}

// NewNode makes a node that believes memberships signed with memberKeys. now
// is the clock by which memberships end.
func NewNode(key *Key, now func() time.Time, memberKeys ...ed25519.PublicKey) *Node {
	n := &Node{
		key: key, now: now,
		memberKeys: map[string]struct{}{},
		revoked:    map[string]time.Time{},
		conns:      map[string]map[net.Conn]struct{}{},
	}
	for _, k := range memberKeys {
		n.AddMemberKey(k)
	}
	return n
}

// Key is the node's key.
func (n *Node) Key() *Key { return n.key }

// AddMemberKey makes memberships signed with one more IDC's key believed.
func (n *Node) AddMemberKey(memberKey ed25519.PublicKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memberKeys[string(memberKey)] = struct{}{}
}

// RemoveMemberKey stops believing a key, for live connections as well.
func (n *Node) RemoveMemberKey(memberKey ed25519.PublicKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.memberKeys, string(memberKey))
}

// SetMembership takes this node's own membership, signed with memberKey, and
// makes a new certificate that carries it. Connections made from now on show
// it; memberKey is believed from now on.
func (n *Node) SetMembership(raw []byte, memberKey ed25519.PublicKey) error {
	m, err := ParseMembership(raw, memberKey, n.now())
	if err != nil {
		return fmt.Errorf("set own membership: %w", err)
	}
	if m.PeerID != n.key.id.String() {
		return fmt.Errorf("set own membership: %w: made out to %s, this node is %s", ErrBadMembership, m.PeerID, n.key.id)
	}
	cert, err := makeCertificate(n.key, raw)
	if err != nil {
		return fmt.Errorf("set own membership: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memberKeys[string(memberKey)] = struct{}{}
	n.membership, n.cert = m, cert
	return nil
}

// Membership is this node's own, or ErrNoMembership. It may have expired.
func (n *Node) Membership() (Membership, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.cert == nil {
		return Membership{}, ErrNoMembership
	}
	return n.membership, nil
}

// Admit reports whether a peer was not revoked; else the error wraps ErrRevoked.
func (n *Node) Admit(peerID string) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.admit(peerID)
}

func (n *Node) admit(peerID string) error { // mu is held
	if _, ok := n.revoked[peerID]; ok {
		return fmt.Errorf("peer %s: %w", peerID, ErrRevoked)
	}
	return nil
}

// Revoke turns peers away: their requests on live connections are refused,
// their connections through Listener and Dial are closed, and the OnRevoke
// hooks are called. It is remembered for as long as a membership could live.
func (n *Node) Revoke(peerIDs ...string) {
	now := n.now()
	n.mu.Lock()
	var open []net.Conn
	for id, at := range n.revoked {
		if now.Sub(at) > revokedKept {
			delete(n.revoked, id)
		}
	}
	for _, id := range peerIDs {
		n.revoked[id] = now
		for c := range n.conns[id] {
			open = append(open, c)
		}
	}
	hooks := slices.Clone(n.onRevoke)
	n.mu.Unlock()
	for _, c := range open {
		c.Close() // it is being cut off; whether it was still open is all the same
	}
	for _, hook := range hooks {
		hook(peerIDs)
	}
}

// Readmit takes a revocation back, for a peer that joined anew.
func (n *Node) Readmit(peerIDs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range peerIDs {
		delete(n.revoked, id)
	}
}

// OnRevoke adds a hook that is called after each revocation, outside any lock.
func (n *Node) OnRevoke(hook func(peerIDs []string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onRevoke = append(n.onRevoke, hook)
}

func (n *Node) certificate() (*tls.Certificate, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.cert == nil {
		return nil, ErrNoMembership
	}
	return n.cert, nil
}

// makeCertificate makes libp2p's TLS certificate with the membership in it.
// Its own dates are wide: the membership's are what counts, and they are
// looked at with the node's own clock.
func makeCertificate(key *Key, membership []byte) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:    serial,
		Subject:         pkix.Name{SerialNumber: serial.String()},
		NotBefore:       time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:        time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		ExtraExtensions: []pkix.Extension{{Id: membershipOID, Value: membership}},
	}
	id, err := libp2ptls.NewIdentity(key.libp2p, libp2ptls.WithCertTemplate(template))
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	config, _ := id.ConfigForPeer("")
	cert := config.Certificates[0]
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, fmt.Errorf("read the own certificate: %w", err)
	}
	return &cert, nil
}
