package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// sessionIDBytes is how much of a stored hash names a session to people.
	sessionIDBytes = 16
	// maxListed bounds a list of sessions.
	maxListed = 1000
	// maxClient bounds what is kept of a User-Agent, in bytes.
	maxClient = 80
)

// The kinds of sessions, and what they were begun with.
const (
	KindConsole = "console"
	KindToken   = "token"

	byPassword = "password"
	byOpenID   = "oidc"
)

// ErrUnknownSession is wrapped when there is no such session, or it is
// somebody else's.
var ErrUnknownSession = errors.New("no such session")

// SessionInfo is one session as people see it: a browser's login, or a
// refresh token.
type SessionInfo struct {
	ID      string // names it, and opens nothing
	User    string
	Kind    string // KindConsole or KindToken
	Service string // of a token: what it makes tokens for; everyService for all
	Begun   Begun
	Expires time.Time
	Current bool // it is the one that the question came with
}

// Begun says how a session came about.
type Begun struct {
	At     time.Time `json:"at,omitzero"`
	By     string    `json:"by,omitempty"`     // password or oidc
	From   string    `json:"from,omitempty"`   // address, without a port
	Client string    `json:"client,omitempty"` // what it calls itself
}

// begun describes the session that a request begins.
func (a *Auth) begun(r *http.Request, by string) Begun {
	client := strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e {
			return '?'
		}
		return c
	}, r.UserAgent())
	return Begun{At: a.cfg.Now(), By: by, From: addressOf(r.RemoteAddr), Client: client[:min(len(client), maxClient)]}
}

// storedSession is what sessionRecord and refreshRecord have in common.
type storedSession struct {
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Service string    `json:"service"`
	Expires time.Time `json:"expires"`
	Begun   Begun     `json:"begun"`
}

// sessionID names the session that is stored under the hash of its secret.
func sessionID(hash string) string { return hash[:sessionIDBytes] }

func isSessionID(s string) bool {
	if len(s) != sessionIDBytes {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Sessions lists what stands of a user's sessions, or of everybody's when name
// is empty: the youngest first, at most 1000. Whoever asks is for marking the
// session that they ask with.
func (a *Auth) Sessions(ctx context.Context, by User, name string) ([]SessionInfo, error) {
	var out []SessionInfo
	epochs := map[string]uint64{}
	now := a.cfg.Now()
	for prefix, kind := range map[string]string{sessionPrefix: KindConsole, refreshPrefix: KindToken} {
		err := a.eachSession(ctx, prefix, func(key string, s storedSession) error {
			if name != "" && s.User != name || !now.Before(s.Expires) {
				return nil
			}
			epoch, ok := epochs[s.User]
			if !ok {
				record, _, err := a.readUser(ctx, s.User)
				if err != nil {
					return err
				}
				if record != nil {
					epoch = record.Epoch
				}
				epochs[s.User] = epoch
			}
			if epoch != s.Epoch {
				return nil // it was ended with all of that user's
			}
			id := sessionID(strings.TrimPrefix(key, prefix))
			out = append(out, SessionInfo{
				ID: id, User: s.User, Kind: kind, Service: s.Service, Begun: s.Begun, Expires: s.Expires,
				Current: id == by.session && s.User == by.Name,
			})
			if len(out) >= 2*maxListed {
				out = youngest(out)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the sessions: %w", err)
		}
	}
	return youngest(out), nil
}

func youngest(list []SessionInfo) []SessionInfo {
	slices.SortFunc(list, func(x, y SessionInfo) int {
		return cmp.Or(y.Begun.At.Compare(x.Begun.At), cmp.Compare(x.ID, y.ID))
	})
	return list[:min(len(list), maxListed)]
}

func (a *Auth) eachSession(ctx context.Context, prefix string, do func(key string, s storedSession) error) error {
	from := ""
	for {
		page, err := a.cfg.Meta.List(ctx, prefix, from, 0)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, v := range page {
			var s storedSession
			if err := json.Unmarshal(v.Data, &s); err != nil {
				return fmt.Errorf("read %s: %w", v.Key, err)
			}
			if err := do(v.Key, s); err != nil {
				return err
			}
		}
		from = page[len(page)-1].Key + "\x00"
	}
}

// RevokeSession ends one session at once, with what was made from it. An empty
// id means the session that by asks with. System administrators end
// everybody's, others their own; who may not see a session gets the answer
// that there is none.
func (a *Auth) RevokeSession(r *http.Request, by User, id string) error {
	ctx := r.Context()
	if id == "" {
		id = by.session
	}
	if !isSessionID(id) {
		return fmt.Errorf("end a session: %w", ErrUnknownSession)
	}
	for _, prefix := range []string{sessionPrefix, refreshPrefix} {
		page, err := a.cfg.Meta.List(ctx, prefix+id, "", 1)
		if err != nil {
			return fmt.Errorf("end a session: %w", err)
		}
		if len(page) == 0 {
			continue
		}
		var s storedSession
		if err := json.Unmarshal(page[0].Data, &s); err != nil {
			return fmt.Errorf("read %s: %w", page[0].Key, err)
		}
		if s.User != by.Name && !by.systemAdmin() {
			continue
		}
		return a.endSession(ctx, page[0].Key, s.User)
	}
	return fmt.Errorf("end a session: %w", ErrUnknownSession)
}

// endSession removes one, and tells the agents to ask about the tokens that
// were made from it.
func (a *Auth) endSession(ctx context.Context, key, user string) error {
	number, stamp, err := a.stamp()
	if err != nil {
		return err
	}
	if _, err := a.cfg.Meta.Commit(ctx, nil, []meta.Op{meta.Delete(key), stamp}); err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	a.changed(Change{Number: number, User: user})
	return nil
}

// RevokeSessions ends all sessions of a user at once.
func (a *Auth) RevokeSessions(r *http.Request, by User, name string) error {
	if name != by.Name && !by.systemAdmin() {
		return fmt.Errorf("%w: only system administrators end the sessions of others", ErrDenied)
	}
	if !userName(name) {
		return fmt.Errorf("end the sessions: %w", ErrNoUser)
	}
	for range conflictTries {
		err := a.endSessions(r.Context(), name)
		if err == nil {
			return nil
		}
		if !errors.Is(err, meta.ErrConflict) {
			return fmt.Errorf("end the sessions of a user: %w", err)
		}
	}
	return fmt.Errorf("end the sessions of %s: %w, %d times over; try again", name, meta.ErrConflict, conflictTries)
}

func (a *Auth) endSessions(ctx context.Context, name string) error {
	record, revision, err := a.readUser(ctx, name)
	if err != nil {
		return err
	}
	if record == nil {
		return ErrNoUser
	}
	record.Epoch++
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode the user %s: %w", name, err)
	}
	number, stamp, err := a.stamp()
	if err != nil {
		return err
	}
	key := userPrefix + name
	if _, err := a.cfg.Meta.Commit(ctx, []meta.Compare{{Key: key, Revision: revision}}, []meta.Op{meta.Put(key, data), stamp}); err != nil {
		return err
	}
	a.changed(Change{Number: number, User: name})
	return nil
}

// stands refuses a token that was made from a session which has ended.
func (a *Auth) stands(ctx context.Context, id string, user User) error {
	if id == "" {
		return nil
	}
	if !isSessionID(id) {
		return errEnded
	}
	page, err := a.cfg.Meta.List(ctx, refreshPrefix+id, "", 1)
	if err != nil {
		return fmt.Errorf("look a session up: %w", err)
	}
	if len(page) == 0 {
		return errEnded
	}
	var s storedSession
	if err := json.Unmarshal(page[0].Data, &s); err != nil {
		return fmt.Errorf("read %s: %w", page[0].Key, err)
	}
	if s.User != user.Name || s.Epoch != user.epoch || !a.cfg.Now().Before(s.Expires) {
		return errEnded
	}
	return nil
}
