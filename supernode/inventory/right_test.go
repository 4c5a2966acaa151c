package inventory

import (
	"errors"
	"testing"
)

// The whole matrix of who may do what to a pool.
func TestAllows(t *testing.T) {
	rights := []Right{View, Deploy, Manage, Govern}
	for _, c := range []struct {
		admin bool
		role  Role
		may   [4]bool // in the order of rights
	}{
		{false, "", [4]bool{}},
		{false, "owner", [4]bool{}}, // no role that there is
		{false, RoleViewer, [4]bool{true, false, false, false}},
		{false, RoleDeployer, [4]bool{true, true, false, false}},
		{false, RoleAdmin, [4]bool{true, true, true, false}},
		{true, "", [4]bool{true, true, true, true}},
		{true, RoleViewer, [4]bool{true, true, true, true}},
	} {
		for n, right := range rights {
			if got := allows(c.admin, c.role, right); got != c.may[n] {
				t.Errorf("admin %v, role %q, to %s: %v", c.admin, c.role, right, got)
			}
		}
		for _, none := range []Right{0, Govern + 1} {
			if allows(c.admin, c.role, none) {
				t.Errorf("admin %v, role %q may do %d, which is nothing", c.admin, c.role, none)
			}
		}
	}
}

func TestMay(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web"})
	b.pool(Pool{Name: "other"})
	for name, role := range map[string]Role{"vera": RoleViewer, "dora": RoleDeployer, "ada": RoleAdmin} {
		b.must(b.SetRole(ctx, sysAdmin, "web", name, role))
	}
	for _, c := range []struct {
		by    Caller
		pool  string
		right Right
		want  error
	}{
		{user("vera"), "web", View, nil},
		{user("vera"), "web", Deploy, ErrDenied},
		{user("dora"), "web", Deploy, nil},
		{user("dora"), "web", Manage, ErrDenied},
		{user("ada"), "web", Manage, nil},
		{user("ada"), "web", Govern, ErrDenied},
		{user("ada"), "other", View, ErrNoPool},
		{user("ada"), "nowhere", Manage, ErrNoPool},
		{user("ada"), "a/b", Manage, ErrNoPool},
		{user("nobody"), "web", View, ErrNoPool},
		{Caller{Name: "ada", ID: "another"}, "web", View, ErrNoPool}, // made anew under the name
		{Caller{Name: "ada"}, "web", View, ErrNoPool},
		{Caller{}, "web", View, ErrNoPool},
		{sysAdmin, "web", Govern, nil},
		{sysAdmin, "nowhere", View, ErrNoPool},
	} {
		p, err := b.May(ctx, c.by, c.pool, c.right)
		if !errors.Is(err, c.want) || err == nil && p.Name != c.pool {
			t.Errorf("%+v, pool %s, to %s: %v", c.by, c.pool, c.right, err)
		}
	}
	// What is not there and what one may not see read the same.
	_, hidden := b.May(ctx, user("ada"), "other", Manage)
	_, absent := b.May(ctx, user("ada"), "absnt", Manage)
	if len(hidden.Error()) != len(absent.Error()) {
		t.Errorf("%v\n%v", hidden, absent)
	}
	b.must(b.RemoveRole(ctx, user("ada"), "web", "dora"))
	if _, err := b.May(ctx, user("dora"), "web", View); !errors.Is(err, ErrNoPool) {
		t.Errorf("a role that was taken away: %v", err)
	}
	if err := b.RemoveRole(ctx, user("ada"), "web", "dora"); !errors.Is(err, ErrNoRole) {
		t.Errorf("taken away twice: %v", err)
	}
	if err := b.SetRole(ctx, user("vera"), "web", "vera", RoleAdmin); !errors.Is(err, ErrDenied) {
		t.Errorf("a viewer makes herself an admin: %v", err)
	}
	if err := b.SetRole(ctx, user("ada"), "web", "x", "boss"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a role that is none: %v", err)
	}
	b.ids["gone"] = ""
	if err := b.SetRole(ctx, user("ada"), "web", "gone", RoleViewer); !errors.Is(err, ErrInvalid) {
		t.Errorf("a role for nobody: %v", err)
	}
	// Somebody made anew under an old name is not listed with the old role.
	b.ids["vera"] = "another"
	roles, err := b.Roles(ctx, user("ada"), "web")
	if err != nil || len(roles) != 1 || roles[0].User != "ada" || roles[0].By != "admin" {
		t.Errorf("roles: %+v, %v", roles, err)
	}
}
