package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// memberPrefix is followed by project/user.
const memberPrefix = "auth/member/"

// Role is what a member may do in a project.
type Role string

// The roles: a guest pulls; a developer pulls and pushes, and deletes where
// the project says so; an admin does that and decides about members, settings
// and robots.
const (
	RoleGuest     Role = "guest"
	RoleDeveloper Role = "developer"
	RoleAdmin     Role = "admin"
)

func (r Role) valid() bool { return r == RoleGuest || r == RoleDeveloper || r == RoleAdmin }

func (r Role) describe() string {
	if r == "" {
		return "no member"
	}
	return string(r)
}

// Member is a user with a role in a project.
type Member struct {
	Project string    `json:"project"`
	User    string    `json:"user"`
	Role    Role      `json:"role"`
	Since   time.Time `json:"since"`
	By      string    `json:"by"` // who gave the role
	// UserID is the very user's, so that one made anew under an old name
	// inherits nothing.
	UserID string `json:"user_id"`
}

// SetMember gives a user a role in a project, in place of any other there.
func (a *Auth) SetMember(ctx context.Context, by User, project, user string, role Role) error {
	if !role.valid() {
		return fmt.Errorf("the role %.40q is %w: give %s, %s or %s", role, ErrInvalid, RoleAdmin, RoleDeveloper, RoleGuest)
	}
	err := a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		record, revision, err := a.readUser(ctx, user)
		if err != nil {
			return edit{}, err
		}
		if record == nil {
			return edit{}, ErrNoUser
		}
		data, err := json.Marshal(Member{Project: project, User: user, Role: role, Since: a.cfg.Now().UTC(), By: by.Name, UserID: record.ID})
		if err != nil {
			return edit{}, fmt.Errorf("encode a member: %w", err)
		}
		return edit{
			compares: []meta.Compare{{Key: userPrefix + user, Revision: revision}},
			ops:      []meta.Op{meta.Put(memberPrefix+project+"/"+user, data)},
			user:     user,
		}, nil
	})
	if err != nil {
		return fmt.Errorf("member of project %q: %w", project, err)
	}
	return nil
}

// RemoveMember takes a user's role in a project away.
func (a *Auth) RemoveMember(ctx context.Context, by User, project, user string) error {
	err := a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		return a.unseat(ctx, project, user)
	})
	if err != nil {
		return fmt.Errorf("member of project %q: %w", project, err)
	}
	return nil
}

func (a *Auth) unseat(ctx context.Context, project, user string) (edit, error) {
	if !userName(user) {
		return edit{}, ErrNoUser
	}
	key := memberPrefix + project + "/" + user
	old, _, err := meta.ReadRecord[Member](ctx, a.cfg.Meta, key)
	if err != nil {
		return edit{}, err
	}
	if old == nil {
		return edit{}, fmt.Errorf("%w among the members", ErrNoUser)
	}
	return edit{ops: []meta.Op{meta.Delete(key)}, user: user}, nil
}

// Members lists a project's members by name, for members and system
// administrators.
func (a *Auth) Members(ctx context.Context, by User, project string) ([]Member, error) {
	if _, err := a.allowed(ctx, by, project, seeMembers); err != nil {
		return nil, fmt.Errorf("members of project %q: %w", project, err)
	}
	list, err := meta.Records[Member](ctx, a.cfg.Meta, memberPrefix+project+"/")
	if err != nil {
		return nil, fmt.Errorf("members of project %s: %w", project, err)
	}
	current := list[:0]
	for _, m := range list {
		record, _, err := a.readUser(ctx, m.User)
		if err != nil {
			return nil, fmt.Errorf("members of project %s: %w", project, err)
		}
		if record != nil && record.ID == m.UserID {
			current = append(current, m)
		}
	}
	return current, nil
}

// roleOf is a user's role in a project, "" for none.
func (a *Auth) roleOf(ctx context.Context, project string, user User) (Role, error) {
	if !userName(user.Name) {
		return "", nil
	}
	m, _, err := meta.ReadRecord[Member](ctx, a.cfg.Meta, memberPrefix+project+"/"+user.Name)
	if err != nil {
		return "", fmt.Errorf("look a member up: %w", err)
	}
	if m == nil || m.UserID != user.id || !m.Role.valid() {
		return "", nil
	}
	return m.Role, nil
}

// unseatEverywhere takes a removed user's roles away. What it does not get to
// counts for nobody, since nobody has the ID.
func (a *Auth) unseatEverywhere(ctx context.Context, user, id string) error {
	projects, err := meta.Records[Project](ctx, a.cfg.Meta, projectPrefix)
	if err != nil {
		return err
	}
	for _, p := range projects {
		key := memberPrefix + p.Name + "/" + user
		m, _, err := meta.ReadRecord[Member](ctx, a.cfg.Meta, key)
		if err != nil {
			return err
		}
		if m == nil || m.UserID != id {
			continue
		}
		err = a.changeProject(ctx, User{Name: user, Admin: true}, p.Name, manageProject, func(*Project) (edit, error) {
			m, revision, err := meta.ReadRecord[Member](ctx, a.cfg.Meta, key)
			if err != nil || m == nil || m.UserID != id {
				return edit{}, err
			}
			return edit{compares: []meta.Compare{{Key: key, Revision: revision}}, ops: []meta.Op{meta.Delete(key)}, user: user}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
