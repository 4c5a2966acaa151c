package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
)

const (
	joinPrefix = "auth/join/"

	// MaxJoinLife and MaxJoinUses bound what a join token may be made for.
	MaxJoinLife = 30 * 24 * time.Hour
	MaxJoinUses = 1000

	maxPool     = 63  // bytes
	maxServer   = 63  // bytes of a server's ID
	maxHostname = 253 // bytes

	// returnFresh is how far the time of a return may be from ours, either way.
	returnFresh = 15 * time.Minute
)

// ErrJoin is wrapped when a node may not join; it does not say which part of
// the token was wrong.
var ErrJoin = errors.New("may not join")

// joinRecord is a join token as stored.
type joinRecord struct {
	SecretHash string    `json:"secret_hash"` // SHA-256, hex
	Pool       string    `json:"pool,omitempty"`
	Uses       int       `json:"uses"`
	Peers      []string  `json:"peers,omitempty"` // who used it; at most Uses
	Expires    time.Time `json:"expires"`
	Server     string    `json:"server,omitempty"` // whom alone it is for, by ID
}

// CreateJoin makes a join token for uses nodes of a pool, good for ttl. The
// text is shown once and stored as a hash.
func (a *Auth) CreateJoin(ctx context.Context, ttl time.Duration, pool string, uses int) (text string, expires time.Time, err error) {
	return a.createJoin(ctx, ttl, joinRecord{Pool: pool, Uses: uses})
}

// CreateServerJoin makes a join token for the one host that is to be a server
// of the inventory: who joins by it is that server.
func (a *Auth) CreateServerJoin(ctx context.Context, ttl time.Duration, pool, server string) (text string, expires time.Time, err error) {
	if server == "" || len(server) > maxServer {
		return "", time.Time{}, fmt.Errorf("make a join token: a server's ID has 1 to %d bytes", maxServer)
	}
	return a.createJoin(ctx, ttl, joinRecord{Pool: pool, Uses: 1, Server: server})
}

func (a *Auth) createJoin(ctx context.Context, ttl time.Duration, record joinRecord) (text string, expires time.Time, err error) {
	pool, uses := record.Pool, record.Uses
	if ttl <= 0 || ttl > MaxJoinLife || uses < 1 || uses > MaxJoinUses {
		return "", time.Time{}, fmt.Errorf("make a join token: %d uses within %v, want 1 to %d within at most %v", uses, ttl, MaxJoinUses, MaxJoinLife)
	}
	if !poolName(pool) {
		return "", time.Time{}, fmt.Errorf("make a join token: a pool's name is at most %d of a-z, 0-9, - and .", maxPool)
	}
	raw := make([]byte, 8)
	if _, err := rand.Read(raw); err != nil {
		return "", time.Time{}, fmt.Errorf("make a join token: %w", err)
	}
	secret, err := newSecret()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("make a join token: %w", err)
	}
	id := hex.EncodeToString(raw)
	expires = a.cfg.Now().Add(ttl)
	record.SecretHash, record.Expires = hashed(secret), expires
	err = update(ctx, a.cfg.Meta, joinPrefix+id, func(old *joinRecord) (*joinRecord, error) {
		if old != nil {
			return nil, errors.New("the id was drawn twice; try again")
		}
		return &record, nil
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("keep a join token: %w", err)
	}
	return token.NewJoin(id, secret, a.cfg.CASHA256), expires, nil
}

// Redeemed is a use of a join token.
type Redeemed struct {
	PeerID  string
	Pool    string
	TokenID string
	Server  string // the ID that the token was bound to; may be empty
}

// Redeem uses a join token up for a peer that has proven its key. The same
// peer may come again with the same token until it expires, since an answer
// can be lost on its way; it counts once. The error wraps ErrJoin.
func (a *Auth) Redeem(ctx context.Context, id, secret, peerID string) (Redeemed, error) {
	var pool, server string
	err := update(ctx, a.cfg.Meta, joinPrefix+id, func(old *joinRecord) (*joinRecord, error) {
		given, stored := hashed(secret), hashed("")
		if old != nil {
			stored = old.SecretHash
		}
		right := subtle.ConstantTimeCompare([]byte(given), []byte(stored)) == 1
		if old == nil || !right || !a.cfg.Now().Before(old.Expires) {
			return nil, fmt.Errorf("%w: the token is unknown or expired; make a new one with `supernode join-token`", ErrJoin)
		}
		pool, server = old.Pool, old.Server
		if slices.Contains(old.Peers, peerID) {
			return nil, nil
		}
		if len(old.Peers) >= old.Uses {
			return nil, fmt.Errorf("%w: the token was used already; make a new one with `supernode join-token`", ErrJoin)
		}
		next := *old
		next.Peers = append(slices.Clone(old.Peers), peerID)
		return &next, nil
	})
	if err != nil {
		return Redeemed{}, err
	}
	return Redeemed{PeerID: peerID, Pool: pool, TokenID: id, Server: server}, nil
}

// Joining is what a node sends to become a member.
type Joining struct {
	// Token is a join token, or token.NewReturn's for a node that joined before
	// and whose membership ran out.
	Token     string
	PublicKey ed25519.PublicKey
	Proof     []byte // identity.JoinProof over Token
	Hostname  string // as the node says; for people to read
}

// Joined is the outcome.
type Joined struct {
	PeerID     string
	Pool       string
	Server     string // the ID in the inventory that its token was bound to; may be empty
	Membership []byte
}

// Join checks the proof of the key, redeems the token, keeps a record of the
// node and makes out its membership. The error wraps ErrJoin or ErrRevoked,
// or tells of a fault on our side.
func (a *Auth) Join(ctx context.Context, j Joining) (Joined, error) {
	if err := identity.CheckJoinProof(j.PublicKey, j.Token, j.Proof); err != nil {
		return Joined{}, fmt.Errorf("%w: %w", ErrJoin, err)
	}
	peerID, err := identity.PeerIDOf(j.PublicKey)
	if err != nil {
		return Joined{}, fmt.Errorf("%w: %w", ErrJoin, err)
	}
	if len(j.Hostname) > maxHostname || strings.ContainsFunc(j.Hostname, unprintable) {
		return Joined{}, fmt.Errorf("%w: the host's name is longer than %d bytes or not printable", ErrJoin, maxHostname)
	}
	if token.IsReturn(j.Token) {
		if err := a.checkReturn(j.Token); err != nil {
			return Joined{}, err
		}
		return a.renewed(ctx, peerID)
	}
	parsed, err := token.ParseJoin(j.Token)
	if err != nil {
		return Joined{}, fmt.Errorf("%w: %w", ErrJoin, err)
	}
	redeemed, err := a.Redeem(ctx, parsed.ID, parsed.Secret, peerID)
	if err != nil {
		return Joined{}, err
	}
	membership, err := a.Enrol(ctx, redeemed, j.PublicKey, j.Hostname)
	if err != nil {
		return Joined{}, err
	}
	return Joined{PeerID: peerID, Pool: redeemed.Pool, Server: redeemed.Server, Membership: membership}, nil
}

func (a *Auth) renewed(ctx context.Context, peerID string) (Joined, error) {
	membership, err := a.Renew(ctx, peerID)
	if err != nil {
		return Joined{}, err
	}
	m, err := identity.ParseMembership(membership, a.cfg.MemberKey.Public().(ed25519.PublicKey), a.cfg.Now())
	if err != nil {
		return Joined{}, fmt.Errorf("read back a membership: %w", err)
	}
	server, err := a.ServerOf(ctx, peerID)
	return Joined{PeerID: peerID, Pool: m.Pool, Server: server, Membership: membership}, err
}

func (a *Auth) checkReturn(text string) error {
	at, err := token.ParseReturn(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJoin, err)
	}
	if d := a.cfg.Now().Sub(at); d > returnFresh || d < -returnFresh {
		return fmt.Errorf("%w: the node's clock is %v off ours; set it", ErrJoin, d.Round(time.Second))
	}
	return nil
}

func unprintable(r rune) bool { return !strconv.IsPrint(r) }

func poolName(s string) bool {
	return len(s) <= maxPool && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	})
}
