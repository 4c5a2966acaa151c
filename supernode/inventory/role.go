package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// PoolRole is a user with a role on a pool.
type PoolRole struct {
	Pool  string    `json:"pool"`
	User  string    `json:"user"`
	Role  Role      `json:"role"`
	Since time.Time `json:"since"`
	By    string    `json:"by"` // who gave it
	// UserID is the very user's, so that one made anew under an old name
	// inherits nothing.
	UserID string `json:"user_id"`
}

// SetRole gives a user a role on a pool, in place of any other there. The
// pool's admins decide.
func (i *Inventory) SetRole(ctx context.Context, by Caller, pool, user string, role Role) error {
	if !role.valid() {
		return fmt.Errorf("the role %.40q is %w: give %s, %s or %s", role, ErrInvalid, RoleViewer, RoleDeployer, RoleAdmin)
	}
	err := i.changePool(ctx, by, pool, Manage, func(*Pool) ([]meta.Compare, []meta.Op, error) {
		id, err := i.cfg.UserID(ctx, user)
		if err != nil {
			return nil, nil, err
		}
		if id == "" || strings.Contains(user, "/") {
			return nil, nil, fmt.Errorf("%w: nobody is called %.70q", ErrInvalid, user)
		}
		write, err := meta.PutRecord(rolePrefix+pool+"/"+user, PoolRole{Pool: pool, User: user, Role: role, Since: i.cfg.Now().UTC(), By: by.Name, UserID: id})
		return nil, []meta.Op{write}, err
	})
	if err != nil {
		return fmt.Errorf("give a role on pool %.70q: %w", pool, err)
	}
	return nil
}

// RemoveRole takes a user's role on a pool away.
func (i *Inventory) RemoveRole(ctx context.Context, by Caller, pool, user string) error {
	err := i.changePool(ctx, by, pool, Manage, func(*Pool) ([]meta.Compare, []meta.Op, error) {
		key := rolePrefix + pool + "/" + user
		old, revision, err := meta.ReadRecord[PoolRole](ctx, i.cfg.Meta, key)
		if err != nil {
			return nil, nil, err
		}
		if old == nil {
			return nil, nil, fmt.Errorf("%.70q %w", user, ErrNoRole)
		}
		return []meta.Compare{{Key: key, Revision: revision}}, []meta.Op{meta.Delete(key)}, nil
	})
	if err != nil {
		return fmt.Errorf("take a role on pool %.70q away: %w", pool, err)
	}
	return nil
}

// Roles lists who has which role on a pool, by name, for who may see it.
func (i *Inventory) Roles(ctx context.Context, by Caller, pool string) ([]PoolRole, error) {
	if _, err := i.May(ctx, by, pool, View); err != nil {
		return nil, err
	}
	list, err := meta.Records[PoolRole](ctx, i.cfg.Meta, rolePrefix+pool+"/")
	if err != nil {
		return nil, fmt.Errorf("roles on pool %s: %w", pool, err)
	}
	current := list[:0]
	for _, r := range list {
		id, err := i.cfg.UserID(ctx, r.User)
		if err != nil {
			return nil, fmt.Errorf("roles on pool %s: %w", pool, err)
		}
		if id != "" && id == r.UserID {
			current = append(current, r)
		}
	}
	return current, nil
}

// roleOf is a caller's role on a pool, "" for none.
func (i *Inventory) roleOf(ctx context.Context, pool string, by Caller) (Role, error) {
	if by.ID == "" || by.Name == "" || strings.Contains(by.Name, "/") {
		return "", nil
	}
	r, _, err := meta.ReadRecord[PoolRole](ctx, i.cfg.Meta, rolePrefix+pool+"/"+by.Name)
	if err != nil || r == nil || r.UserID != by.ID || !r.Role.valid() {
		return "", err
	}
	return r.Role, nil
}
