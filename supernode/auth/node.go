package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/supernode/meta"
)

const nodeKeyPrefix = "auth/node/"

var (
	// ErrRevoked is wrapped when a node was turned away.
	ErrRevoked = errors.New("the node was revoked")
	// ErrNoNode is wrapped for a peer that never joined.
	ErrNoNode = errors.New("no such node")
)

// Node is a host that joined.
type Node struct {
	PeerID   string
	Pool     string
	Hostname string // as the node said when it joined
	Server   string // the ID in the inventory that its join token was bound to; may be empty
	Joined   time.Time
	LastSeen time.Time
	Revoked  time.Time // zero: it was not
}

// nodeRecord is a node as stored.
type nodeRecord struct {
	PeerID   string    `json:"peer_id"`
	Pool     string    `json:"pool,omitempty"`
	Hostname string    `json:"hostname,omitempty"`
	JoinID   string    `json:"join_id,omitempty"` // the token it came with
	Server   string    `json:"server,omitempty"`
	Joined   time.Time `json:"joined"`
	Renewed  time.Time `json:"renewed"`
	Revoked  time.Time `json:"revoked,omitzero"`
}

// Enrol keeps a record of a node that redeemed a token, and makes out its
// first membership. A node that was revoked stays so until Forget.
func (a *Auth) Enrol(ctx context.Context, redeemed Redeemed, public ed25519.PublicKey, hostname string) (membership []byte, err error) {
	peerID, err := identity.PeerIDOf(public)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	if peerID != redeemed.PeerID {
		return nil, fmt.Errorf("enrol: %w: the token was redeemed for another key", ErrJoin)
	}
	now := a.cfg.Now()
	err = update(ctx, a.cfg.Meta, nodeKeyPrefix+peerID, func(old *nodeRecord) (*nodeRecord, error) {
		joined := now
		if old != nil {
			if !old.Revoked.IsZero() {
				return nil, fmt.Errorf("%w: an admin has to forget it before it may join again", ErrRevoked)
			}
			joined = old.Joined
		}
		return &nodeRecord{PeerID: peerID, Pool: redeemed.Pool, Hostname: hostname, JoinID: redeemed.TokenID, Server: redeemed.Server, Joined: joined, Renewed: now}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", peerID, err)
	}
	return a.membership(ctx, peerID, identity.RoleAgent, redeemed.Pool)
}

// Renew makes out a node's next membership. The error wraps ErrRevoked or
// ErrNoNode.
func (a *Auth) Renew(ctx context.Context, peerID string) (membership []byte, err error) {
	now, pool := a.cfg.Now(), ""
	err = update(ctx, a.cfg.Meta, nodeKeyPrefix+peerID, func(old *nodeRecord) (*nodeRecord, error) {
		if old == nil {
			return nil, ErrNoNode
		}
		if !old.Revoked.IsZero() {
			return nil, ErrRevoked
		}
		next := *old
		next.Renewed, pool = now, old.Pool
		return &next, nil
	})
	if err != nil {
		return nil, fmt.Errorf("renew the membership of %s: %w", peerID, err)
	}
	return a.membership(ctx, peerID, identity.RoleAgent, pool)
}

// Supernode makes out the membership of a supernode itself.
func (a *Auth) Supernode(ctx context.Context, peerID string) (membership []byte, err error) {
	return a.membership(ctx, peerID, identity.RoleSupernode, "")
}

func (a *Auth) membership(ctx context.Context, peerID, role, pool string) ([]byte, error) {
	projects, err := a.poolProjects(ctx, pool)
	if err != nil {
		return nil, err
	}
	now := a.cfg.Now()
	return identity.SignMembership(identity.Membership{
		PeerID: peerID, Role: role, IDC: a.cfg.IDC, Pool: pool, Projects: projects,
		NotBefore: now, NotAfter: now.Add(identity.MembershipLife),
	}, a.cfg.MemberKey)
}

// Revoke turns a node away for good: it gets no more memberships, Revoked
// names it, OnRevoke is told, and the join token that it came with ends, since
// whoever has the node has that too.
func (a *Auth) Revoke(ctx context.Context, peerID string) error {
	for range conflictTries {
		err := a.tryRevoke(ctx, peerID)
		if errors.Is(err, meta.ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("revoke %s: %w", peerID, err)
		}
		a.mu.Lock()
		a.revoked[peerID] = a.cfg.Now()
		a.mu.Unlock()
		a.cfg.Log.WarnContext(ctx, "node revoked", "peer", peerID)
		if a.cfg.OnRevoke != nil {
			a.cfg.OnRevoke(peerID)
		}
		return nil
	}
	return fmt.Errorf("revoke %s: %w; try again", peerID, meta.ErrConflict)
}

func (a *Auth) tryRevoke(ctx context.Context, peerID string) error {
	record, revision, err := meta.ReadRecord[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix+peerID)
	if err != nil {
		return err
	}
	if record == nil {
		return ErrNoNode
	}
	if !record.Revoked.IsZero() {
		return nil
	}
	record.Revoked = a.cfg.Now()
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode the node: %w", err)
	}
	ops := []meta.Op{meta.Put(nodeKeyPrefix+peerID, data)}
	if record.JoinID != "" {
		ops = append(ops, meta.Delete(joinPrefix+record.JoinID))
	}
	_, err = a.cfg.Meta.Commit(ctx, []meta.Compare{{Key: nodeKeyPrefix + peerID, Revision: revision}}, ops)
	return err
}

// Forget removes the record of a node that was revoked, so that it may join
// again with a new token.
func (a *Auth) Forget(ctx context.Context, peerID string) error {
	record, revision, err := meta.ReadRecord[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix+peerID)
	if err != nil {
		return fmt.Errorf("forget %s: %w", peerID, err)
	}
	if record == nil || record.Revoked.IsZero() {
		return fmt.Errorf("forget %s: %w that was revoked", peerID, ErrNoNode)
	}
	key := nodeKeyPrefix + peerID
	if _, err := a.cfg.Meta.Commit(ctx, []meta.Compare{{Key: key, Revision: revision}}, []meta.Op{meta.Delete(key)}); err != nil {
		return fmt.Errorf("forget %s: %w", peerID, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.revoked, peerID)
	delete(a.lastSeen, peerID)
	return nil
}

// Seen notes that a member was heard from just now. It is kept in memory; a
// renewal writes it down.
func (a *Auth) Seen(peerID string) {
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastSeen[peerID] = now
}

// Nodes lists all nodes, revoked ones included, by peer ID.
func (a *Auth) Nodes(ctx context.Context) ([]Node, error) {
	records, err := meta.Records[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Node, len(records))
	for i, r := range records {
		out[i] = Node{PeerID: r.PeerID, Pool: r.Pool, Hostname: r.Hostname, Server: r.Server, Joined: r.Joined, LastSeen: r.Renewed, Revoked: r.Revoked}
		if seen := a.lastSeen[r.PeerID]; seen.After(r.Renewed) {
			out[i].LastSeen = seen
		}
	}
	return out, nil
}

// ServerOf is the ID of the server that a node's join token was bound to, ""
// for none and for a node that is not known.
func (a *Auth) ServerOf(ctx context.Context, peerID string) (string, error) {
	record, _, err := meta.ReadRecord[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix+peerID)
	if err != nil {
		return "", fmt.Errorf("look a node's server up: %w", err)
	}
	if record == nil {
		return "", nil
	}
	return record.Server, nil
}

// Revoked are the nodes that were turned away since a time, in no order. A
// membership that was made out before MembershipLife ago has ended anyway.
func (a *Auth) Revoked(since time.Time) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for id, at := range a.revoked {
		if !at.Before(since) {
			out = append(out, id)
		}
	}
	return out
}

// nodeUser is a node as somebody who asks, with what was recorded when it
// joined.
func (a *Auth) nodeUser(ctx context.Context, peerID string) (User, error) {
	user := User{Name: nodePrefix + peerID, node: true}
	if err := a.admit(peerID); err != nil {
		return user, err
	}
	record, _, err := meta.ReadRecord[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix+peerID)
	if err != nil {
		return user, fmt.Errorf("look a node up: %w", err)
	}
	if record != nil {
		user.pool = record.Pool
	}
	return user, nil
}

func (a *Auth) admit(peerID string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.revoked[peerID]; ok {
		return fmt.Errorf("%w: %w", ErrDenied, ErrRevoked)
	}
	return nil
}

func (a *Auth) loadRevoked(ctx context.Context) error {
	records, err := meta.Records[nodeRecord](ctx, a.cfg.Meta, nodeKeyPrefix)
	if err != nil {
		return fmt.Errorf("read which nodes were revoked: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = map[string]time.Time{}
	for _, r := range records {
		if !r.Revoked.IsZero() {
			a.revoked[r.PeerID] = r.Revoked
		}
	}
	return nil
}
