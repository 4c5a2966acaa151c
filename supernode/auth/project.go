package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/retention"
)

const (
	projectPrefix = "auth/project/"
	maxProject    = 100 // bytes of a project's name
	// maxPatterns and maxPattern bound the patterns of immutable tags.
	maxPatterns = 50
	maxPattern  = 128
)

var (
	// ErrNoProject is wrapped when there is no such project, and in the very
	// same words when it is none that the caller may see.
	ErrNoProject = errors.New("no such project, or none that you may see")
	// ErrProjectExists is wrapped when a name is taken.
	ErrProjectExists = errors.New("a project of this name exists")
	// ErrProjectHolds is wrapped when a project that is to go holds images.
	ErrProjectHolds = errors.New("the project still holds images")
	// ErrInvalid is wrapped when a name or a setting cannot be taken.
	ErrInvalid = errors.New("not valid")
	// ErrNoRule is wrapped when a project has no such retention rule.
	ErrNoRule = errors.New("no rule is about these repositories; look at them with 'dfget project retention show'")
)

// Settings are what a project's admins decide; the quota is the system
// administrators'.
type Settings struct {
	// Public lets everybody who is logged in pull.
	Public bool `json:"public,omitempty"`
	// DevelopersDelete lets developers delete as well.
	DevelopersDelete bool `json:"developers_delete,omitempty"`
	// ImmutableTags are patterns, as of path.Match, of tags that can neither
	// be moved to another digest nor deleted.
	ImmutableTags []string `json:"immutable_tags,omitempty"`
	// QuotaBytes bounds what the project holds, each digest counted once; 0 is
	// no limit.
	QuotaBytes int64 `json:"quota_bytes,omitempty"`
	// Retention lets tags go that none of the rules keeps. Without rules all
	// stay.
	Retention []retention.Rule `json:"retention,omitempty"`
}

// Project is all repositories whose first path element is its name.
type Project struct {
	Name     string    `json:"name"`
	Creator  string    `json:"creator"`
	Created  time.Time `json:"created"`
	Settings Settings  `json:"settings"`
	// Epoch grows with every change of the project, its members and robots. It
	// begins at a random number, so that a project made anew under an old name
	// does not repeat one.
	Epoch uint64 `json:"epoch"`
}

// Contents tells about a project's images, and takes away what holds none.
type Contents interface {
	// Vacate forgets the repositories of a project when none of them holds an
	// image; otherwise it changes nothing and returns how many do.
	Vacate(ctx context.Context, project string) (holding int, err error)
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+((_|__|-+)[a-z0-9]+)*$`)

// projectName reports whether a project may have this name: a path element of
// a repository's name without dots, since a first element with a dot, a colon
// or the word localhost is taken for the name of a registry.
func projectName(s string) bool {
	return len(s) <= maxProject && namePattern.MatchString(s) && !upstreamName(s)
}

// projectOf is the name of the project that a repository belongs to.
func projectOf(repository string) string {
	name, _, _ := strings.Cut(repository, "/")
	return name
}

// upstreamName reports whether a name is that of another registry's
// repository, as image names have it.
func upstreamName(name string) bool {
	first := projectOf(name)
	return first == "localhost" || strings.ContainsAny(first, ".:")
}

// CreateProject makes a project. Only system administrators may.
func (a *Auth) CreateProject(ctx context.Context, by User, name string, s Settings) (Project, error) {
	if !by.systemAdmin() {
		return Project{}, fmt.Errorf("%w: only system administrators make projects", ErrDenied)
	}
	if !projectName(name) {
		return Project{}, fmt.Errorf("make a project: the name is %w: 1 to %d of a-z and 0-9, with single _ - between them", ErrInvalid, maxProject)
	}
	if err := s.check(); err != nil {
		return Project{}, fmt.Errorf("make project %s: %w", name, err)
	}
	epoch, err := newEpoch()
	if err != nil {
		return Project{}, err
	}
	p := Project{Name: name, Creator: by.Name, Created: a.cfg.Now().UTC(), Settings: s, Epoch: epoch}
	err = update(ctx, a.cfg.Meta, projectPrefix+name, func(old *Project) (*Project, error) {
		if old != nil {
			return nil, ErrProjectExists
		}
		return &p, nil
	})
	if err != nil {
		return Project{}, fmt.Errorf("make project %s: %w", name, err)
	}
	return p, nil
}

// ensureProject makes the project that a system administrator pushes into.
func (a *Auth) ensureProject(ctx context.Context, by User, name string) error {
	_, err := a.CreateProject(ctx, by, name, Settings{})
	switch {
	case errors.Is(err, ErrProjectExists):
		return nil
	case errors.Is(err, ErrInvalid):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case err == nil:
		a.cfg.Log.InfoContext(ctx, "a push made its project", "project", name, "user", by.Name)
	}
	return err
}

// Projects lists those that the caller may pull from, by name, each with the
// caller's own role in it.
func (a *Auth) Projects(ctx context.Context, by User) ([]Project, []Role, error) {
	all, err := meta.Records[Project](ctx, a.cfg.Meta, projectPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list projects: %w", err)
	}
	var seen []Project
	var roles []Role
	for _, p := range all {
		at, err := a.standingIn(ctx, by, p.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("list projects: %w", err)
		}
		if mayManage(by, at, seeProject) {
			seen, roles = append(seen, *at.project), append(roles, at.role)
		}
	}
	return seen, roles, nil
}

// Project looks one up, for who may pull from it, with the caller's role.
func (a *Auth) Project(ctx context.Context, by User, name string) (Project, Role, error) {
	at, err := a.allowed(ctx, by, name, seeProject)
	if err != nil {
		return Project{}, "", fmt.Errorf("project %q: %w", name, err)
	}
	return *at.project, at.role, nil
}

// MayManage decides whether somebody may decide about a project as its admins
// do.
func (a *Auth) MayManage(ctx context.Context, by User, name string) error {
	if _, err := a.allowed(ctx, by, name, manageProject); err != nil {
		return fmt.Errorf("project %q: %w", name, err)
	}
	return nil
}

// SetSettings changes settings, which change is given as they are.
func (a *Auth) SetSettings(ctx context.Context, by User, name string, change func(*Settings)) (Project, error) {
	var changed Project
	err := a.changeProject(ctx, by, name, manageProject, func(p *Project) (edit, error) {
		before := p.Settings.QuotaBytes
		p.Settings.ImmutableTags = slices.Clone(p.Settings.ImmutableTags)
		change(&p.Settings)
		if p.Settings.QuotaBytes != before && !by.systemAdmin() {
			return edit{}, fmt.Errorf("%w: only system administrators set a quota", ErrDenied)
		}
		changed = *p
		return edit{}, p.Settings.check()
	})
	if err != nil {
		return Project{}, fmt.Errorf("settings of project %q: %w", name, err)
	}
	changed.Epoch++
	return changed, nil
}

func (s Settings) check() error {
	if s.QuotaBytes < 0 {
		return fmt.Errorf("the quota is %w: give a number of bytes, or 0 for no limit", ErrInvalid)
	}
	if len(s.ImmutableTags) > maxPatterns {
		return fmt.Errorf("%d patterns of immutable tags are %w: give at most %d", len(s.ImmutableTags), ErrInvalid, maxPatterns)
	}
	for _, pattern := range s.ImmutableTags {
		if _, err := path.Match(pattern, "x"); err != nil || pattern == "" || len(pattern) > maxPattern {
			return fmt.Errorf("the pattern %.150q of immutable tags is %w: use * ? [a-z] as in v*, at most %d bytes", pattern, ErrInvalid, maxPattern)
		}
	}
	return checkRetention(s.Retention)
}

// DeleteProject removes a project that holds no images, with its members and
// robots. Only system administrators may.
func (a *Auth) DeleteProject(ctx context.Context, by User, name string, contents Contents) error {
	if _, err := a.allowed(ctx, by, name, endProject); err != nil {
		return fmt.Errorf("delete project %q: %w", name, err)
	}
	holding, err := contents.Vacate(ctx, name)
	if err != nil {
		return fmt.Errorf("delete project %s: %w", name, err)
	}
	if holding > 0 {
		return fmt.Errorf("delete project %s: %w: %d repositories do; delete their manifests first", name, ErrProjectHolds, holding)
	}
	for done := false; !done; {
		err := a.changeProject(ctx, by, name, endProject, func(*Project) (out edit, err error) {
			for _, prefix := range []string{memberPrefix, robotPrefix, poolPrefix} {
				page, err := a.cfg.Meta.List(ctx, prefix+name+"/", "", meta.MaxOps/3-1)
				if err != nil {
					return out, err
				}
				for _, v := range page {
					out.ops = append(out.ops, meta.Delete(v.Key))
				}
			}
			// Whoever adds a member writes the project: none is overlooked.
			done = len(out.ops) == 0
			out.removes = done
			return out, nil
		})
		if err != nil {
			return fmt.Errorf("delete project %s: %w", name, err)
		}
	}
	return nil
}

// edit is what a change of a project writes besides the project itself.
type edit struct {
	compares []meta.Compare
	ops      []meta.Op
	removes  bool // the project itself goes
	// user is whom alone the change is about, and pools that it is about what
	// pools may pull; for Change.
	user  string
	pools bool
}

// changeProject is the one way in which a project, its members and its robots
// change: the caller's right is looked at, and project and edit are committed
// as one with the next epoch, if nothing changed in between.
func (a *Auth) changeProject(ctx context.Context, by User, name string, what task, change func(*Project) (edit, error)) error {
	for range conflictTries {
		at, err := a.allowed(ctx, by, name, what)
		if err != nil {
			return err
		}
		next := *at.project
		out, err := change(&next)
		if err != nil {
			return err
		}
		next.Epoch++
		data, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode project %s: %w", name, err)
		}
		key := projectPrefix + name
		write := meta.Put(key, data)
		if out.removes {
			write = meta.Delete(key)
		}
		// A change of the caller's own role writes the project too, so that
		// this compare holds for what was allowed as well.
		number, stamp, err := a.stamp()
		if err != nil {
			return err
		}
		_, err = a.cfg.Meta.Commit(ctx, append(out.compares, meta.Compare{Key: key, Revision: at.revision}), append(out.ops, write, stamp))
		if err == nil {
			a.changed(Change{Number: number, Project: name, User: out.user, Pools: out.pools || out.removes})
		}
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w, %d times over; try again", meta.ErrConflict, conflictTries)
}

// Quota is how many bytes a project may hold; 0 is no limit.
func (a *Auth) Quota(ctx context.Context, project string) (int64, error) {
	p, _, err := a.readProject(ctx, project)
	if err != nil || p == nil {
		return 0, err
	}
	return p.Settings.QuotaBytes, nil
}

// Immutable reports whether a tag that is set must stay as it is.
func (a *Auth) Immutable(ctx context.Context, repository, tag string) (bool, error) {
	p, _, err := a.readProject(ctx, projectOf(repository))
	if err != nil || p == nil {
		return false, err
	}
	for _, pattern := range p.Settings.ImmutableTags {
		match, err := path.Match(pattern, tag)
		if match || err != nil {
			return true, err
		}
	}
	return false, nil
}

// readProject returns nil for a name that no project has or could have.
func (a *Auth) readProject(ctx context.Context, name string) (*Project, meta.Revision, error) {
	if !projectName(name) {
		return nil, 0, nil
	}
	p, revision, err := meta.ReadRecord[Project](ctx, a.cfg.Meta, projectPrefix+name)
	if err != nil {
		return nil, 0, fmt.Errorf("look project %s up: %w", name, err)
	}
	return p, revision, nil
}
