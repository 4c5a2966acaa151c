package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/shoalproject/shoal/supernode/auth/openid"
	"github.com/shoalproject/shoal/supernode/meta"
)

const bindingPrefix = "auth/person/"

var (
	// ErrNameTaken is wrapped when the provider gives a person the name of a
	// user who is somebody else.
	ErrNameTaken = errors.New("a user of that name exists here and is not this person: an administrator has to remove that user, or the provider has to give another name")
	// ErrNoPassword is wrapped when somebody is to get a password who logs in
	// at the provider.
	ErrNoPassword = errors.New("this user logs in at the login provider and has no password here")
)

// binding is who somebody is at the login provider: never their name, which
// may be given to another person there.
type binding struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// key is where the name of the bound user is kept. The length of the issuer
// goes in, so that no two bindings have one key.
func (b binding) key() string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b.Issuer))))
	h.Write([]byte(b.Issuer + b.Subject))
	return bindingPrefix + hex.EncodeToString(h.Sum(nil))
}

// bindingRecord names the user of a binding.
type bindingRecord struct {
	User string `json:"user"`
}

// personUser is the user whom a person from the provider is here; at the first
// login one is made, who may do nothing yet.
func (a *Auth) personUser(ctx context.Context, p openid.Person) (User, error) {
	for range conflictTries {
		user, err := a.tryPersonUser(ctx, p)
		if !errors.Is(err, meta.ErrConflict) {
			return user, err
		}
	}
	return User{}, fmt.Errorf("log a person in: %w, %d times over; try again", meta.ErrConflict, conflictTries)
}

func (a *Auth) tryPersonUser(ctx context.Context, p openid.Person) (User, error) {
	who := binding{p.Issuer, p.Subject}
	bound, boundRevision, err := meta.ReadRecord[bindingRecord](ctx, a.cfg.Meta, who.key())
	if err != nil {
		return User{}, fmt.Errorf("look a person up: %w", err)
	}
	if bound != nil {
		record, revision, err := a.readUser(ctx, bound.User)
		if err != nil {
			return User{}, fmt.Errorf("look a person up: %w", err)
		}
		if record != nil && record.Bound != nil && *record.Bound == who {
			return a.updatePerson(ctx, p, record, revision)
		}
	}
	// People compare names without their case, and so do we.
	name := strings.ToLower(p.Name)
	if !userName(name) {
		return User{}, fmt.Errorf("log a person in: the provider's name for them is %w: 1 to %d of a-z, 0-9, and . _ - @ + after the first", ErrInvalid, maxUser)
	}
	taken, _, err := a.readUser(ctx, name)
	if err != nil {
		return User{}, fmt.Errorf("look a person up: %w", err)
	}
	if taken != nil {
		return User{}, fmt.Errorf("log %s in: %w", name, ErrNameTaken)
	}
	return a.newPerson(ctx, p, name, meta.Compare{Key: who.key(), Revision: boundRevision})
}

// updatePerson follows the provider's word on who administers, if it has any.
func (a *Auth) updatePerson(ctx context.Context, p openid.Person, record *userRecord, revision meta.Revision) (User, error) {
	if !p.DecidesAdmin || record.Admin == p.Admin {
		return record.user(), nil
	}
	next := *record
	next.Admin = p.Admin
	data, err := json.Marshal(next)
	if err != nil {
		return User{}, fmt.Errorf("encode the user %s: %w", next.Name, err)
	}
	number, stamp, err := a.stamp()
	if err != nil {
		return User{}, err
	}
	key := userPrefix + next.Name
	if _, err := a.cfg.Meta.Commit(ctx, []meta.Compare{{Key: key, Revision: revision}}, []meta.Op{meta.Put(key, data), stamp}); err != nil {
		return User{}, fmt.Errorf("log %s in: %w", next.Name, err)
	}
	a.changed(Change{Number: number, User: next.Name})
	return next.user(), nil
}

func (a *Auth) newPerson(ctx context.Context, p openid.Person, name string, free meta.Compare) (User, error) {
	epoch, err := newEpoch()
	if err != nil {
		return User{}, err
	}
	id, err := newSecret()
	if err != nil {
		return User{}, err
	}
	record := userRecord{Name: name, ID: id, Admin: p.DecidesAdmin && p.Admin, Created: a.cfg.Now(), Epoch: epoch, Bound: &binding{p.Issuer, p.Subject}}
	user, err := json.Marshal(record)
	if err != nil {
		return User{}, fmt.Errorf("encode the user %s: %w", name, err)
	}
	bound, err := json.Marshal(bindingRecord{User: name})
	if err != nil {
		return User{}, fmt.Errorf("encode the user %s: %w", name, err)
	}
	key := userPrefix + name
	_, err = a.cfg.Meta.Commit(ctx, []meta.Compare{free, {Key: key}}, []meta.Op{meta.Put(free.Key, bound), meta.Put(key, user)})
	if err != nil {
		return User{}, fmt.Errorf("log %s in: %w", name, err)
	}
	return record.user(), nil
}
