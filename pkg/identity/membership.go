package identity

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// RoleSupernode is the role of a data centre's own servers.
	RoleSupernode = "supernode"
	// RoleAgent is the role of a host.
	RoleAgent = "agent"

	// MembershipLife is for how long a membership is made out.
	MembershipLife = 24 * time.Hour
	// MaxSkew is how far a node's clock may be behind the clock that made a
	// membership out. It widens NotBefore alone, never NotAfter.
	MaxSkew = 15 * time.Minute

	// maxMembershipLife is the longest life that is believed; a member key
	// that was borrowed for a moment makes no member for ever.
	maxMembershipLife = MembershipLife + time.Hour

	membershipContext = "shoal membership v1"

	maxMembership = 32 << 10 // bytes of a whole statement
	maxPeerID     = 128      // bytes; an Ed25519 peer ID has 52
	maxName       = 253      // bytes of an IDC, a pool, a project

	// MaxProjects is how many projects a membership holds.
	MaxProjects = 128
)

// ErrBadMembership is what every refusal of a membership wraps.
var ErrBadMembership = errors.New("bad membership")

// ErrExpired is wrapped, besides ErrBadMembership, when only the time is wrong.
var ErrExpired = errors.New("not valid at this time")

// Membership says that a peer belongs to an IDC, in which role and pool.
type Membership struct {
	PeerID    string
	Role      string // RoleSupernode or RoleAgent
	IDC       string
	Pool      string
	Projects  []string  // granted to the node itself; sorted
	NotBefore time.Time // seconds precision
	NotAfter  time.Time // seconds precision; at most 25 h after NotBefore
	Epoch     uint64    // of the permissions it was made from
}

func (m *Membership) check() error {
	if _, err := PublicKeyOf(m.PeerID); err != nil {
		return fmt.Errorf("%w: %w", ErrBadMembership, err)
	}
	if m.Role != RoleSupernode && m.Role != RoleAgent {
		return fmt.Errorf("%w: role %q is neither %q nor %q", ErrBadMembership, m.Role, RoleSupernode, RoleAgent)
	}
	if m.IDC == "" || len(m.IDC) > maxName || len(m.Pool) > maxName {
		return fmt.Errorf("%w: IDC of %d bytes and pool of %d bytes, want 1 to %d and at most %d", ErrBadMembership, len(m.IDC), len(m.Pool), maxName, maxName)
	}
	if len(m.Projects) > MaxProjects {
		return fmt.Errorf("%w: %d projects, at most %d fit", ErrBadMembership, len(m.Projects), MaxProjects)
	}
	for i, p := range m.Projects {
		if p == "" || len(p) > maxName || i > 0 && m.Projects[i-1] >= p {
			return fmt.Errorf("%w: projects must be sorted, each once, of 1 to %d bytes", ErrBadMembership, maxName)
		}
	}
	if life := m.NotAfter.Sub(m.NotBefore); life <= 0 || life > maxMembershipLife {
		return fmt.Errorf("%w: a life of %v, want at most %v", ErrBadMembership, life, maxMembershipLife)
	}
	return nil
}

// checkTime reports whether the membership is good at the time now.
func (m *Membership) checkTime(now time.Time) error {
	if now.Before(m.NotBefore.Add(-MaxSkew)) {
		return fmt.Errorf("%w: %w: good from %s on; check this host's clock", ErrBadMembership, ErrExpired, m.NotBefore.UTC().Format(time.RFC3339))
	}
	if !now.Before(m.NotAfter) {
		return fmt.Errorf("%w: %w: ended at %s; the node must renew it or join again", ErrBadMembership, ErrExpired, m.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// SignMembership encodes m and signs it with an IDC's member key. Projects
// are put in order first.
func SignMembership(m Membership, memberKey ed25519.PrivateKey) ([]byte, error) {
	if len(memberKey) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign membership: member key of %d bytes", len(memberKey))
	}
	m.Projects = slices.Compact(slices.Sorted(slices.Values(m.Projects)))
	m.NotBefore, m.NotAfter = m.NotBefore.Truncate(time.Second), m.NotAfter.Truncate(time.Second)
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("sign membership: %w", err)
	}
	statement := m.encode(memberKey.Public().(ed25519.PublicKey))
	return append(statement, ed25519.Sign(memberKey, statement)...), nil
}

// ParseMembership checks raw against one member key and the time now.
func ParseMembership(raw []byte, memberKey ed25519.PublicKey, now time.Time) (Membership, error) {
	m, issuer, err := decodeMembership(raw)
	if err != nil {
		return Membership{}, err
	}
	if !issuer.Equal(memberKey) {
		return Membership{}, fmt.Errorf("%w: signed with a member key that is not trusted", ErrBadMembership)
	}
	if err := verifyMembership(raw, issuer); err != nil {
		return Membership{}, err
	}
	if err := m.checkTime(now); err != nil {
		return Membership{}, err
	}
	return m, nil
}

func verifyMembership(raw []byte, issuer ed25519.PublicKey) error {
	at := len(raw) - ed25519.SignatureSize
	if !ed25519.Verify(issuer, raw[:at], raw[at:]) {
		return fmt.Errorf("%w: the signature is wrong", ErrBadMembership)
	}
	return nil
}

// encode is the statement that is signed: the context, the member key, then
// each field, strings with a length of 16 bits before them, numbers in 64
// bits, most significant byte first. The signature follows it.
func (m *Membership) encode(issuer ed25519.PublicKey) []byte {
	b := appendString(nil, membershipContext)
	b = append(b, issuer...)
	b = appendString(b, m.PeerID)
	b = appendString(b, m.Role)
	b = appendString(b, m.IDC)
	b = appendString(b, m.Pool)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Projects)))
	for _, p := range m.Projects {
		b = appendString(b, p)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(m.NotBefore.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(m.NotAfter.Unix()))
	return binary.BigEndian.AppendUint64(b, m.Epoch)
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// decodeMembership takes a statement apart and checks its shape. The
// signature and the time are still the caller's.
func decodeMembership(raw []byte) (Membership, ed25519.PublicKey, error) {
	if len(raw) > maxMembership || len(raw) < ed25519.SignatureSize {
		return Membership{}, nil, fmt.Errorf("%w: %d bytes", ErrBadMembership, len(raw))
	}
	r := reader{raw: raw[:len(raw)-ed25519.SignatureSize]}
	if r.text(len(membershipContext)) != membershipContext {
		return Membership{}, nil, fmt.Errorf("%w: does not begin with %q", ErrBadMembership, membershipContext)
	}
	issuer := ed25519.PublicKey(slices.Clone(r.take(ed25519.PublicKeySize)))
	m := Membership{PeerID: r.text(maxPeerID), Role: r.text(maxName), IDC: r.text(maxName), Pool: r.text(maxName)}
	n := int(r.uint16())
	if n > MaxProjects {
		return Membership{}, nil, fmt.Errorf("%w: %d projects, at most %d are taken", ErrBadMembership, n, MaxProjects)
	}
	for range n {
		m.Projects = append(m.Projects, r.text(maxName))
	}
	m.NotBefore, m.NotAfter = r.time(), r.time()
	m.Epoch = r.uint64()
	if r.bad || len(r.raw) > 0 {
		return Membership{}, nil, fmt.Errorf("%w: cut short or too long", ErrBadMembership)
	}
	if err := m.check(); err != nil {
		return Membership{}, nil, err
	}
	return m, issuer, nil
}

// reader takes a statement apart. The first fault sticks and every later read
// returns zero.
type reader struct {
	raw []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.raw) {
		r.bad = true
		return nil
	}
	out := r.raw[:n]
	r.raw = r.raw[n:]
	return out
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text(limit int) string {
	n := int(r.uint16())
	if n > limit {
		r.bad = true
	}
	return string(r.take(n))
}

// time reads seconds since 1970 within the years that time.Time subtracts
// without overflow.
func (r *reader) time() time.Time {
	s := r.uint64()
	if s > 1<<33 {
		r.bad = true
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}
