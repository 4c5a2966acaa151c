package inventory

import (
	"context"
	"errors"
	"fmt"
)

// Caller is who asks.
type Caller struct {
	Name string
	// ID is the very user's, so that one made anew under an old name inherits
	// no role.
	ID    string
	Admin bool // a system administrator
}

// Role is what somebody may do with a pool.
type Role string

// The roles: a viewer sees the pool and its servers, a deployer places on them
// as well, an admin does that and creates, drains and retires servers and
// decides who has which role.
const (
	RoleViewer   Role = "viewer"
	RoleDeployer Role = "deployer"
	RoleAdmin    Role = "admin"
)

func (r Role) valid() bool { return r == RoleViewer || r == RoleDeployer || r == RoleAdmin }

// Right is something that is done to a pool.
type Right int

// The rights. Govern is about what a pool costs and how large it may become,
// and about its beginning and end.
const (
	View Right = iota + 1
	Deploy
	Manage
	Govern
)

func (r Right) String() string {
	switch r {
	case View:
		return "see it"
	case Deploy:
		return "place on it"
	case Manage:
		return "manage its servers and roles"
	case Govern:
		return "set its price, quota, beginning and end"
	}
	return "do that"
}

// allows decides who may do what to a pool: the one place that does.
func allows(admin bool, role Role, right Right) bool {
	if admin {
		return right >= View && right <= Govern
	}
	switch right {
	case View:
		return role.valid()
	case Deploy:
		return role == RoleDeployer || role == RoleAdmin
	case Manage:
		return role == RoleAdmin
	}
	return false
}

var (
	// ErrDenied is wrapped when somebody may see a pool, but not do that.
	ErrDenied = errors.New("not allowed")
	// ErrNoPool is wrapped when there is no such pool, and in the very same
	// words when it is none that the caller may see.
	ErrNoPool = errors.New("no such pool, or none that you may see")
)

// May decides whether somebody may do something to a pool, and returns the
// pool. The error wraps ErrDenied, or ErrNoPool for who may not even see it. A
// pool that hosts joined by themselves and that nobody made is the system
// administrators'.
func (i *Inventory) May(ctx context.Context, by Caller, pool string, right Right) (Pool, error) {
	at, err := i.standing(ctx, by, pool)
	if err != nil {
		return Pool{}, fmt.Errorf("pool %q: %w", pool, err)
	}
	if err := at.permit(by, pool, right); err != nil {
		return Pool{}, err
	}
	at.pool.Role = at.role
	return *at.pool, nil
}

// permit tells why somebody may not do that to a pool, nil if they may.
func (at standing) permit(by Caller, pool string, right Right) error {
	switch {
	case at.pool == nil, !allows(by.Admin, at.role, View):
		return fmt.Errorf("pool %q: %w", pool, ErrNoPool)
	case !allows(by.Admin, at.role, right):
		return fmt.Errorf("pool %s: %w: as %s you may not %s; %s", pool, ErrDenied, at.role, right, whoMay(right))
	}
	return nil
}

func whoMay(right Right) string {
	if right == Govern {
		return "ask a system administrator"
	}
	return "ask an admin of the pool"
}
