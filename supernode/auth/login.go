package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// LimitError says that too many logins failed, and for how long to wait.
type LimitError struct {
	After time.Duration
	what  string // there is too much of; empty: failed logins
}

// Error says what to do.
func (e *LimitError) Error() string {
	return fmt.Sprintf("too many %s: try again in %v", cmp.Or(e.what, "failed logins"), e.After.Round(time.Second))
}

// Later is the status of the answer and the seconds after which to try again.
func (e *LimitError) Later() (status, seconds int) {
	return http.StatusTooManyRequests, int(math.Ceil(e.After.Seconds()))
}

// Login checks a user name and password that came with r. The error wraps
// ErrLogin, or is a *LimitError, or tells of a fault on our side. A name that
// nobody has costs the same time as a wrong password.
func (a *Auth) Login(r *http.Request, name, password string) (User, error) {
	ctx, address := r.Context(), addressOf(r.RemoteAddr)
	if len(name) > maxUser || len(password) > maxPassword {
		return User{}, ErrLogin
	}
	record, err := a.credentials(ctx, name)
	if err != nil {
		return User{}, err
	}
	// The limit comes first: what is remembered is fast to guess at.
	if d := a.limits.wait(name, address, a.cfg.Now()); d > 0 {
		err := &LimitError{After: d}
		a.tellLogin(r, record, err)
		return User{}, err
	}
	if record.Name != "" && a.passwords.proven(name, password, record.Hash, a.cfg.Now()) {
		return record.user(), nil
	}
	release, err := a.passwords.slotFor(ctx, address)
	if err != nil {
		return User{}, err
	}
	defer release()
	// Much may have happened while waiting for room.
	if record, err = a.credentials(ctx, name); err != nil {
		return User{}, err
	}
	now := a.cfg.Now()
	if d := a.limits.wait(name, address, now); d > 0 {
		err := &LimitError{After: d}
		a.tellLogin(r, record, err)
		return User{}, err
	}
	if record.Name != "" && a.passwords.proven(name, password, record.Hash, now) {
		return record.user(), nil
	}
	counted := a.limits.begin(name, address, now)
	right, err := a.passwords.matches(password, record.Hash)
	if err != nil {
		return User{}, fmt.Errorf("log %s in: %w", record.Name, err)
	}
	if !right || record.Name == "" {
		a.cfg.Log.WarnContext(ctx, "login failed", "user", loggable(record), "address", address)
		a.tellLogin(r, record, ErrLogin)
		return User{}, ErrLogin
	}
	a.limits.succeed(name, address, counted, now)
	a.passwords.prove(name, password, record.Hash, now)
	a.tellLogin(r, record, nil)
	return record.user(), nil
}

// credentials is the stored user, or, for a name that nobody has, a nameless
// record with a hash of the same cost that no password has.
func (a *Auth) credentials(ctx context.Context, name string) (*userRecord, error) {
	record, _, err := a.readUser(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look a user up: %w", err)
	}
	if record == nil {
		record = &userRecord{Hash: a.passwords.decoy}
	}
	if record.Hash == "" { // nor has any who logs in elsewhere
		record.Hash = a.passwords.decoy
	}
	return record, nil
}

// loggable leaves out names that nobody has: people type passwords there.
func loggable(u *userRecord) string {
	if u.Name == "" {
		return unknown
	}
	return u.Name
}

// current reads a user again by name, and refuses when what was given out
// under epoch has been ended since.
func (a *Auth) current(ctx context.Context, name string, epoch uint64) (User, error) {
	record, _, err := a.readUser(ctx, name)
	if err != nil {
		return User{}, fmt.Errorf("look a user up: %w", err)
	}
	if record == nil || record.Epoch != epoch {
		return User{}, errEnded
	}
	return record.user(), nil
}

var errEnded = errors.New("it was ended: log in again")
