package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/meta"
)

// The actions on a repository.
const (
	actionPull   = "pull"
	actionPush   = "push"
	actionDelete = "delete"
)

// standing is what is stored about somebody and a project.
type standing struct {
	project  *Project // nil: there is none of that name
	role     Role     // "" for who is no member
	granted  bool     // for a node: its pool may pull from the project
	revision meta.Revision
}

// decide is the one place that says who may do what with images: of the
// access that user asks for, the part that is granted. at is where user stands
// in the project that is asked about.
//
// Every system administrator may do everything, in projects that are not there
// too. Of other registries everybody who is logged in may ask; whether they
// may read is decided there. The catalogue is granted to all and lists to each
// what they may pull.
func decide(user User, at standing, asked token.Access) (granted token.Access) {
	var may []string
	switch {
	case user.node: // besides, it has the rights that a token of its own names
		if asked.Type == "repository" && at.project != nil && at.granted {
			may = []string{actionPull}
		}
	case asked.Type == "registry" && asked.Name == "catalog":
		may = []string{"*"}
	case asked.Type != "repository":
	case upstreamName(asked.Name):
		may = []string{actionPull}
	case projectName(projectOf(asked.Name)):
		may = rights(user, at, projectOf(asked.Name))
	}
	granted = token.Access{Type: asked.Type, Name: asked.Name, Actions: []string{}}
	for _, action := range may {
		if asked.Allows(action) {
			granted.Actions = append(granted.Actions, action)
		}
	}
	return granted
}

// rights are the actions that user may take in a project.
func rights(user User, at standing, project string) []string {
	switch {
	case user.systemAdmin():
		return []string{actionPull, actionPush, actionDelete}
	case at.project == nil:
		return nil
	case user.robot != nil && user.robot.Project == project:
		may := slices.Clone(user.robot.May)
		if at.project.Settings.Public && !slices.Contains(may, actionPull) {
			may = append(may, actionPull)
		}
		return may
	case user.robot == nil && at.role == RoleAdmin:
		return []string{actionPull, actionPush, actionDelete}
	case user.robot == nil && at.role == RoleDeveloper:
		may := []string{actionPull, actionPush}
		if at.project.Settings.DevelopersDelete {
			may = append(may, actionDelete)
		}
		return may
	case user.robot == nil && at.role == RoleGuest, at.project.Settings.Public:
		return []string{actionPull}
	}
	return nil
}

// MemberOfAny tells whether a caller, as Authorize named it, has a place of
// its own in one of the projects: as a member, as the project's robot, or as a
// host of a pool that it was granted to. That a project is public is no place
// in it. System administrators have one everywhere.
func (a *Auth) MemberOfAny(ctx context.Context, subject string, projects []string) (bool, error) {
	user, err := a.subject(ctx, subject)
	if err != nil {
		return false, fmt.Errorf("look up who asks: %w", err)
	}
	if user.systemAdmin() {
		return true, nil
	}
	for _, name := range projects {
		at, err := a.standingIn(ctx, user, name)
		if err != nil {
			return false, err
		}
		if at.project != nil && (at.role.valid() || at.granted || user.robot != nil && user.robot.Project == name) {
			return true, nil
		}
	}
	return false, nil
}

// task is something done to a project rather than with its images.
type task int

const (
	seeProject    task = iota // that it is there, and its settings
	seeMembers                // who they are
	manageProject             // members, settings, robots
	endProject
)

// mayManage is decide's counterpart for the administration of one project.
func mayManage(user User, at standing, what task) bool {
	switch {
	case user.robot != nil || user.node || at.project == nil:
		return false
	case user.systemAdmin():
		return true
	}
	switch what {
	case seeProject:
		return slices.Contains(rights(user, at, at.project.Name), actionPull)
	case seeMembers:
		return at.role.valid()
	case manageProject:
		return at.role == RoleAdmin
	}
	return false
}

// allowed looks up where the caller stands in a project, for a task that they
// may do. Who may not even see the project hears the same as if it were not
// there.
func (a *Auth) allowed(ctx context.Context, by User, name string, what task) (standing, error) {
	at, err := a.standingIn(ctx, by, name)
	switch {
	case err != nil:
		return standing{}, err
	case mayManage(by, at, what):
		return at, nil
	case mayManage(by, at, seeProject):
		return standing{}, fmt.Errorf("%w: %s is %s there", ErrDenied, by.Name, at.role.describe())
	}
	return standing{}, ErrNoProject
}

// standingIn reads where somebody stands in a project.
func (a *Auth) standingIn(ctx context.Context, user User, name string) (standing, error) {
	p, revision, err := a.readProject(ctx, name)
	if err != nil || p == nil {
		return standing{}, err
	}
	at := standing{project: p, revision: revision}
	switch {
	case user.node:
		at.granted, err = a.poolMay(ctx, name, user.pool)
	case user.robot == nil:
		at.role, err = a.roleOf(ctx, name, user)
	}
	return at, err
}

// decideNow is decide with what is stored now.
func (a *Auth) decideNow(ctx context.Context, user User, asked token.Access) (granted token.Access, at standing, err error) {
	if asked.Type == "repository" {
		if at, err = a.standingIn(ctx, user, projectOf(asked.Name)); err != nil {
			return granted, at, err
		}
	}
	return decide(user, at, asked), at, nil
}

// Readable tells for one caller, as Authorize named it, which repositories it
// may pull from. Each project is looked up once.
func (a *Auth) Readable(ctx context.Context, subject string) (func(repository string) (bool, error), error) {
	user, err := a.subject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("look up who asks: %w", err)
	}
	return a.ReadableBy(ctx, user), nil
}

// ReadableBy is Readable for a user at hand.
func (a *Auth) ReadableBy(ctx context.Context, user User) func(repository string) (bool, error) {
	projects := map[string]bool{}
	return func(repository string) (bool, error) {
		name := projectOf(repository)
		may, known := projects[name]
		if known {
			return may, nil
		}
		if user.systemAdmin() {
			return true, nil
		}
		at, err := a.standingIn(ctx, user, name)
		if err != nil {
			return false, err
		}
		may = slices.Contains(rights(user, at, name), actionPull)
		projects[name] = may
		return may, nil
	}
}
