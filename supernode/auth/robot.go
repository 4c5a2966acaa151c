package auth

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// robotPrefix is followed by project/name.
	robotPrefix = "auth/robot/"
	// robotLogin begins the names by which robots log in. No user's name holds
	// the sign.
	robotLogin = "robot$"
	maxRobot   = 64 // bytes of a robot's own name
	// longestRobot bounds how long a robot lives.
	longestRobot = 5 * 366 * 24 * time.Hour
)

var (
	// ErrNoRobot is wrapped when a project has no robot of a name.
	ErrNoRobot = errors.New("no such robot")
	// ErrRobotExists is wrapped when a name is taken.
	ErrRobotExists = errors.New("a robot of this name exists")
)

// Robot is an account for a program, of one project. It logs in at the
// registry alone.
type Robot struct {
	Project  string    `json:"project"`
	Name     string    `json:"name"`
	May      []string  `json:"may"` // of pull, push and delete
	Created  time.Time `json:"created"`
	Creator  string    `json:"creator"`
	Expires  time.Time `json:"expires"`
	Disabled bool      `json:"disabled,omitempty"`
}

// robotRecord is a robot as stored.
type robotRecord struct {
	Robot
	Secret string `json:"secret"` // SHA-256 of 256 random bits, hex
}

// Login is the name by which the robot logs in.
func (r Robot) Login() string { return robotLogin + r.Project + "+" + r.Name }

func robotName(s string) bool { return len(s) <= maxRobot && namePattern.MatchString(s) }

// parseRobot takes the name by which a robot logs in apart.
func parseRobot(login string) (project, name string, ok bool) {
	rest, ok := strings.CutPrefix(login, robotLogin)
	if !ok {
		return "", "", false
	}
	project, name, ok = strings.Cut(rest, "+")
	return project, name, ok && projectName(project) && robotName(name)
}

// CreateRobot makes a robot and returns its secret, which nobody can read
// again. The caller decides about the project's robots.
func (a *Auth) CreateRobot(ctx context.Context, by User, project, name string, may []string, life time.Duration) (robot Robot, secret string, err error) {
	if may, err = checkRobot(name, may, life); err != nil {
		return Robot{}, "", fmt.Errorf("make a robot: %w", err)
	}
	if secret, err = newSecret(); err != nil {
		return Robot{}, "", err
	}
	key := robotPrefix + project + "/" + name
	err = a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		now := a.cfg.Now().UTC()
		robot = Robot{Project: project, Name: name, May: may, Created: now, Creator: by.Name, Expires: now.Add(life)}
		old, revision, err := meta.ReadRecord[robotRecord](ctx, a.cfg.Meta, key)
		if err != nil {
			return edit{}, err
		}
		if old != nil {
			return edit{}, ErrRobotExists
		}
		data, err := json.Marshal(robotRecord{Robot: robot, Secret: hashed(secret)})
		if err != nil {
			return edit{}, fmt.Errorf("encode a robot: %w", err)
		}
		return edit{compares: []meta.Compare{{Key: key, Revision: revision}}, ops: []meta.Op{meta.Put(key, data)}}, nil
	})
	if err != nil {
		return Robot{}, "", fmt.Errorf("make a robot of project %q: %w", project, err)
	}
	return robot, secret, nil
}

// checkRobot looks at what a robot is to be, and puts its rights in order.
func checkRobot(name string, may []string, life time.Duration) ([]string, error) {
	if !robotName(name) {
		return nil, fmt.Errorf("the name is %w: 1 to %d of a-z and 0-9, with single _ - between them", ErrInvalid, maxRobot)
	}
	if life <= 0 || life > longestRobot {
		return nil, fmt.Errorf("the life of %v is %w: give up to five years", life, ErrInvalid)
	}
	var ordered []string
	for _, action := range []string{actionPull, actionPush, actionDelete} {
		if slices.Contains(may, action) {
			ordered = append(ordered, action)
		}
	}
	for _, action := range may {
		if !slices.Contains(ordered, action) {
			return nil, fmt.Errorf("the permission %.40q is %w: give some of pull, push and delete", action, ErrInvalid)
		}
	}
	if len(ordered) == 0 {
		return nil, fmt.Errorf("no permission is %w: give some of pull, push and delete", ErrInvalid)
	}
	return ordered, nil
}

// SetRobotDisabled shuts a robot out at once, or lets it in again.
func (a *Auth) SetRobotDisabled(ctx context.Context, by User, project, name string, disabled bool) error {
	return a.editRobot(ctx, by, project, name, func(key string, r *robotRecord) (meta.Op, error) {
		r.Disabled = disabled
		data, err := json.Marshal(r)
		if err != nil {
			return meta.Op{}, fmt.Errorf("encode a robot: %w", err)
		}
		return meta.Put(key, data), nil
	})
}

// RemoveRobot ends a robot at once.
func (a *Auth) RemoveRobot(ctx context.Context, by User, project, name string) error {
	return a.editRobot(ctx, by, project, name, func(key string, _ *robotRecord) (meta.Op, error) { return meta.Delete(key), nil })
}

func (a *Auth) editRobot(ctx context.Context, by User, project, name string, change func(key string, r *robotRecord) (meta.Op, error)) error {
	err := a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		r, err := a.readRobot(ctx, project, name)
		if err != nil {
			return edit{}, err
		}
		if r == nil {
			return edit{}, ErrNoRobot
		}
		op, err := change(robotPrefix+project+"/"+name, r)
		return edit{ops: []meta.Op{op}}, err
	})
	if err != nil {
		return fmt.Errorf("robot of project %q: %w", project, err)
	}
	return nil
}

// Robots lists a project's robots by name, for who decides about them.
func (a *Auth) Robots(ctx context.Context, by User, project string) ([]Robot, error) {
	if _, err := a.allowed(ctx, by, project, manageProject); err != nil {
		return nil, fmt.Errorf("robots of project %q: %w", project, err)
	}
	records, err := meta.Records[robotRecord](ctx, a.cfg.Meta, robotPrefix+project+"/")
	if err != nil {
		return nil, fmt.Errorf("robots of project %s: %w", project, err)
	}
	out := make([]Robot, len(records))
	for i := range records {
		out[i] = records[i].Robot
	}
	return out, nil
}

// readRobot returns nil for a name that no robot has or could have.
func (a *Auth) readRobot(ctx context.Context, project, name string) (*robotRecord, error) {
	if !projectName(project) || !robotName(name) {
		return nil, nil
	}
	r, _, err := meta.ReadRecord[robotRecord](ctx, a.cfg.Meta, robotPrefix+project+"/"+name)
	if err != nil {
		return nil, fmt.Errorf("look a robot up: %w", err)
	}
	return r, nil
}

// robotUser is the account of a robot that may log in now, or nil.
func (a *Auth) robotUser(ctx context.Context, login string) (*robotRecord, User, error) {
	project, name, ok := parseRobot(login)
	if !ok {
		return nil, User{}, nil
	}
	r, err := a.readRobot(ctx, project, name)
	if err != nil || r == nil || r.Disabled || !a.cfg.Now().Before(r.Expires) {
		return nil, User{}, err
	}
	return r, User{Name: login, Created: r.Created, robot: &r.Robot}, nil
}

// robotWith logs a robot in. Its secret has 256 random bits, so that there is
// nothing to slow down: failures bind nobody.
func (a *Auth) robotWith(ctx context.Context, login, secret string) (User, error) {
	if len(secret) > maxPassword {
		return User{}, ErrLogin
	}
	record, user, err := a.robotUser(ctx, login)
	if err != nil {
		return User{}, err
	}
	stored := hashed("") // nobody's
	if record != nil {
		stored = record.Secret
	}
	right := subtle.ConstantTimeCompare([]byte(hashed(secret)), []byte(stored)) == 1
	if !right || record == nil {
		a.cfg.Log.WarnContext(ctx, "login of a robot failed")
		return User{}, ErrLogin
	}
	return user, nil
}
