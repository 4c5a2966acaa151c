package auth

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	userPrefix = "auth/user/"
	// FirstUser is who a fresh supernode has.
	FirstUser = "admin"
	maxUser   = 128 // bytes
)

var (
	// ErrLogin is wrapped for a wrong user name or password; it does not say which.
	ErrLogin = errors.New("wrong user name or password")
	// ErrUserExists is wrapped when a name is taken.
	ErrUserExists = errors.New("a user of this name exists")
	// ErrLastAdmin is wrapped when nobody would be left to administer.
	ErrLastAdmin = errors.New("the last admin stays; make another one first")
	// ErrNoUser is wrapped when nobody has a name.
	ErrNoUser = errors.New("no such user")
)

// User is somebody who may log in.
type User struct {
	Name       string
	Admin      bool
	MustChange bool // the password was given by somebody else
	Created    time.Time

	// OpenID says that the user logs in at the login provider, and has no
	// password here.
	OpenID bool

	id      string
	epoch   uint64
	session string // names the session that a request came with; may be empty
	robot   *Robot // nil: a person
	node    bool   // a node itself, or the bearer of its token
	pool    string // the node's
}

// ID is this very user's, whoever else has the name before or after; "" for a
// robot and a node.
func (u User) ID() string { return u.id }

// UserID is the ID of the user of a name, "" when nobody has it.
func (a *Auth) UserID(ctx context.Context, name string) (string, error) {
	record, _, err := a.readUser(ctx, name)
	if err != nil {
		return "", fmt.Errorf("look a user up: %w", err)
	}
	if record == nil {
		return "", nil
	}
	return record.ID, nil
}

// systemAdmin reports whether the user may do everything.
func (u User) systemAdmin() bool { return u.Admin && u.robot == nil && !u.node }

// userRecord is a user as stored.
type userRecord struct {
	Name string `json:"name"`
	// ID is this very user's, whoever else has the name before or after.
	ID         string    `json:"id"`
	Hash       string    `json:"hash"` // argon2id, PHC string; empty: no password opens anything
	Admin      bool      `json:"admin,omitempty"`
	MustChange bool      `json:"must_change,omitempty"`
	Created    time.Time `json:"created"`
	// Epoch counts what ends all of a user's sessions and refresh tokens. It
	// begins at a random number, so that a user made anew under an old name
	// does not inherit any.
	Epoch uint64 `json:"epoch"`
	// Bound is who this user is at the login provider; nil for a user of our own.
	Bound *binding `json:"bound,omitempty"`
}

func (u *userRecord) user() User {
	return User{Name: u.Name, Admin: u.Admin, MustChange: u.MustChange, Created: u.Created, OpenID: u.Bound != nil, id: u.ID, epoch: u.Epoch}
}

// FirstLogin makes the user admin when there is no user at all. The password
// is the first line of passwordFile, or, when that is empty, drawn at random,
// handed to save, and to be changed. save is called before the user exists:
// after a crash the next start makes a new one. Later starts change nothing.
func (a *Auth) FirstLogin(ctx context.Context, passwordFile string, save func(user, password string) error) (created bool, err error) {
	page, err := a.cfg.Meta.List(ctx, userPrefix, "", 1)
	if err != nil {
		return false, fmt.Errorf("look for users: %w", err)
	}
	if len(page) > 0 {
		return false, nil
	}
	var password string
	if passwordFile != "" {
		if password, err = readPassword(passwordFile); err != nil {
			return false, err
		}
	} else {
		raw := make([]byte, 15) // 120 bits, 24 letters and digits
		if _, err := rand.Read(raw); err != nil {
			return false, fmt.Errorf("draw the first password: %w", err)
		}
		password = strings.ToLower(base32.StdEncoding.EncodeToString(raw))
		if err := save(FirstUser, password); err != nil {
			return false, fmt.Errorf("keep the first password: %w", err)
		}
	}
	if err := a.createUser(ctx, FirstUser, password, true, passwordFile == ""); err != nil {
		return false, fmt.Errorf("make the first user: %w", err)
	}
	return true, nil
}

func readPassword(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the admin's password: %w", err)
	}
	defer f.Close() // opened for reading only
	raw, err := io.ReadAll(io.LimitReader(f, maxPassword+2))
	if err != nil {
		return "", fmt.Errorf("read the admin's password: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// CreateUser makes a user whose password was chosen by somebody else, and so
// must be changed. ErrUserExists when the name is taken.
func (a *Auth) CreateUser(ctx context.Context, name, password string, admin bool) error {
	return a.createUser(ctx, name, password, admin, true)
}

func (a *Auth) createUser(ctx context.Context, name, password string, admin, mustChange bool) error {
	if !userName(name) {
		return fmt.Errorf("make a user: the name is %w: 1 to %d of a-z, 0-9, and . _ - @ + after the first", ErrInvalid, maxUser)
	}
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("make user %s: %w", name, err)
	}
	epoch, err := newEpoch()
	if err != nil {
		return err
	}
	id, err := newSecret()
	if err != nil {
		return err
	}
	err = update(ctx, a.cfg.Meta, userPrefix+name, func(old *userRecord) (*userRecord, error) {
		if old != nil {
			return nil, ErrUserExists
		}
		return &userRecord{Name: name, ID: id, Hash: hash, Admin: admin, MustChange: mustChange, Created: a.cfg.Now(), Epoch: epoch}, nil
	})
	if err != nil {
		return fmt.Errorf("make user %s: %w", name, err)
	}
	return nil
}

// RemoveUser ends a user, all sessions and refresh tokens included. The last
// admin stays.
func (a *Auth) RemoveUser(ctx context.Context, name string) error {
	list, err := a.Users(ctx)
	if err != nil {
		return err
	}
	record, revision, err := a.readUser(ctx, name)
	if err != nil {
		return fmt.Errorf("remove user: %w", err)
	}
	if record == nil {
		return fmt.Errorf("remove user: %w", ErrNoUser)
	}
	compares := []meta.Compare{{Key: userPrefix + name, Revision: revision}}
	if record.Admin {
		other := ""
		for _, u := range list {
			// The provider may take its admins away.
			if u.Admin && u.Name != name && !u.OpenID {
				other = u.Name
			}
		}
		rest, otherRevision, err := a.readUser(ctx, other)
		if err != nil {
			return fmt.Errorf("remove user %s: %w", name, err)
		}
		if rest == nil || !rest.Admin {
			return fmt.Errorf("remove user %s: %w", name, ErrLastAdmin)
		}
		// The other admin must still be there when this one goes.
		compares = append(compares, meta.Compare{Key: userPrefix + other, Revision: otherRevision})
	}
	number, stamp, err := a.stamp()
	if err != nil {
		return err
	}
	ops := []meta.Op{meta.Delete(userPrefix + name), stamp}
	if record.Bound != nil {
		ops = append(ops, meta.Delete(record.Bound.key()))
	}
	if _, err := a.cfg.Meta.Commit(ctx, compares, ops); err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	a.changed(Change{Number: number, User: name})
	if err := a.unseatEverywhere(ctx, name, record.ID); err != nil {
		return fmt.Errorf("take the roles of %s away, who is removed: %w", name, err)
	}
	return nil
}

// ChangePassword is a user's own doing: it takes the old password, which is
// limited like a login. All sessions and refresh tokens of the user end.
func (a *Auth) ChangePassword(r *http.Request, name, old, next string) error {
	record, _, err := a.readUser(r.Context(), name)
	if err != nil {
		return fmt.Errorf("change the password: %w", err)
	}
	if record != nil && record.Bound != nil {
		return fmt.Errorf("change the password: %w", ErrNoPassword)
	}
	if old == next {
		return fmt.Errorf("change the password: the new one is %w: it is the old one", ErrInvalid)
	}
	if _, err := a.Login(r, name, old); err != nil {
		return fmt.Errorf("change the password: %w", err)
	}
	err = a.setPassword(r.Context(), name, next, false)
	a.tell(r, Deed{Subject: name, Action: "password.change", Object: "user:" + name}, err)
	return err
}

// SetPassword is an admin's doing: the user must change it. All sessions and
// refresh tokens of the user end.
func (a *Auth) SetPassword(ctx context.Context, name, password string) error {
	return a.setPassword(ctx, name, password, true)
}

func (a *Auth) setPassword(ctx context.Context, name, password string, mustChange bool) error {
	if !userName(name) {
		return fmt.Errorf("set a password: %w", ErrNoUser)
	}
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("set the password of %s: %w", name, err)
	}
	err = update(ctx, a.cfg.Meta, userPrefix+name, func(old *userRecord) (*userRecord, error) {
		if old == nil {
			return nil, ErrNoUser
		}
		if old.Bound != nil {
			return nil, ErrNoPassword
		}
		next := *old
		next.Hash, next.MustChange = hash, mustChange
		next.Epoch++
		return &next, nil
	})
	if err != nil {
		return fmt.Errorf("set the password of %s: %w", name, err)
	}
	if a.cfg.OnPassword != nil {
		a.cfg.OnPassword(name)
	}
	return nil
}

// Users lists all users by name.
func (a *Auth) Users(ctx context.Context) ([]User, error) {
	records, err := meta.Records[userRecord](ctx, a.cfg.Meta, userPrefix)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	out := make([]User, len(records))
	for i := range records {
		out[i] = records[i].user()
	}
	return out, nil
}

// readUser returns nil for a name that nobody has or could have.
func (a *Auth) readUser(ctx context.Context, name string) (*userRecord, meta.Revision, error) {
	if !userName(name) {
		return nil, 0, nil
	}
	return meta.ReadRecord[userRecord](ctx, a.cfg.Meta, userPrefix+name)
}

func userName(s string) bool {
	if s == "" || len(s) > maxUser {
		return false
	}
	for i, c := range []byte(s) {
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || !strings.ContainsRune("._-@+", rune(c))) {
			return false
		}
	}
	return true
}

func newEpoch() (uint64, error) {
	var raw [6]byte // below 2^53, so that JSON readers of any kind keep it
	if _, err := rand.Read(raw[:]); err != nil {
		return 0, fmt.Errorf("draw an epoch: %w", err)
	}
	var n uint64
	for _, b := range raw {
		n = n<<8 | uint64(b)
	}
	return n, nil
}
