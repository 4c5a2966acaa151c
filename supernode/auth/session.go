package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	sessionPrefix = "auth/session/"
	// sessionLife is for how long a browser stays logged in, used or not.
	sessionLife = 12 * time.Hour

	// secureCookie can only be set over TLS, for this very host, for all paths
	// (RFC 6265bis, 4.1.3.2); plainCookie is for plain HTTP on loopback.
	secureCookie = "__Host-shoal"
	plainCookie  = "shoal"

	// CSRFHeader carries the session's CSRF token where there is no form.
	CSRFHeader = "X-Shoal-CSRF"
	// maxCookie bounds a session cookie that is looked at, in bytes.
	maxCookie = 128
)

var (
	// ErrNoSession is wrapped when a request belongs to no session.
	ErrNoSession = errors.New("not logged in")
	// ErrCSRF is wrapped when a request does not prove that it comes from our
	// own pages.
	ErrCSRF = errors.New("the form is not from this login: open the page again")
)

// Session is one login in one browser.
type Session struct {
	User User
	// CSRF has to come back with each change, in a form or in CSRFHeader.
	CSRF string
}

// sessionRecord is a session as stored, under the hash of its cookie.
type sessionRecord struct {
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Expires time.Time `json:"expires"`
	Begun   Begun     `json:"begun"`
}

// LoginSession checks a password and begins a session: a new one, whatever
// cookie the browser came with. It refuses forms from other sites with
// ErrCSRF; otherwise its errors are Login's.
func (a *Auth) LoginSession(w http.ResponseWriter, r *http.Request, name, password string) (User, error) {
	if err := a.crossSite.Check(r); err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrCSRF, err)
	}
	user, err := a.Login(r, name, password)
	if err != nil {
		return User{}, err
	}
	return user, a.BeginSession(w, r, user, byPassword)
}

// BeginSession sets the cookie of a new session for a user who has proven who
// they are, by what is said. A session that the browser had before ends.
func (a *Auth) BeginSession(w http.ResponseWriter, r *http.Request, user User, by string) error {
	secret, err := newSecret()
	if err != nil {
		return err
	}
	key := sessionPrefix + hashed(secret)
	record := sessionRecord{User: user.Name, Epoch: user.epoch, Expires: a.cfg.Now().Add(sessionLife), Begun: a.begun(r, by)}
	err = update(r.Context(), a.cfg.Meta, key, func(*sessionRecord) (*sessionRecord, error) { return &record, nil })
	if err != nil {
		return fmt.Errorf("begin a session of %s: %w", user.Name, err)
	}
	if old, ok := sessionCookie(r); ok {
		if _, err := a.cfg.Meta.Commit(r.Context(), nil, []meta.Op{meta.Delete(sessionPrefix + hashed(old))}); err != nil {
			return fmt.Errorf("end the session before: %w", err)
		}
	}
	setCookie(w, r, secret, int(sessionLife/time.Second))
	a.tell(r, Deed{Subject: user.Name, Action: "session.begin"}, nil)
	return nil
}

// EndSession logs out: the session ends and the cookie goes. Call CheckCSRF
// before.
func (a *Auth) EndSession(w http.ResponseWriter, r *http.Request) error {
	setCookie(w, r, "", -1)
	secret, ok := sessionCookie(r)
	if !ok {
		return nil
	}
	key := sessionPrefix + hashed(secret)
	record, _, err := meta.ReadRecord[sessionRecord](r.Context(), a.cfg.Meta, key)
	if err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	if record == nil {
		return nil
	}
	if _, err := a.cfg.Meta.Commit(r.Context(), nil, []meta.Op{meta.Delete(key)}); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	a.tell(r, Deed{Subject: record.User, Action: "session.end"}, nil)
	return nil
}

// SessionFrom is the session that a request belongs to. The error wraps
// ErrNoSession, or tells of a fault on our side.
func (a *Auth) SessionFrom(r *http.Request) (Session, error) {
	secret, ok := sessionCookie(r)
	if !ok {
		return Session{}, ErrNoSession
	}
	hash := hashed(secret)
	user, err := a.sessionUser(r.Context(), sessionPrefix+hash)
	if err != nil {
		return Session{}, err
	}
	user.session = sessionID(hash)
	return Session{User: user, CSRF: csrfOf(secret)}, nil
}

func (a *Auth) sessionUser(ctx context.Context, key string) (User, error) {
	record, _, err := meta.ReadRecord[sessionRecord](ctx, a.cfg.Meta, key)
	if err != nil {
		return User{}, fmt.Errorf("look a session up: %w", err)
	}
	if record == nil || !a.cfg.Now().Before(record.Expires) {
		return User{}, fmt.Errorf("%w, or too long ago", ErrNoSession)
	}
	user, err := a.current(ctx, record.User, record.Epoch)
	if errors.Is(err, errEnded) {
		return User{}, fmt.Errorf("%w: the session was ended", ErrNoSession)
	}
	return user, err
}

// CheckCSRF looks twice at a request that changes something: that the browser
// does not say it comes from another site, and that it brings the session's
// CSRF token (from a form, or from CSRFHeader). The error wraps ErrCSRF.
func (a *Auth) CheckCSRF(r *http.Request, s Session, csrf string) error {
	if err := a.crossSite.Check(r); err != nil {
		return fmt.Errorf("%w: %w", ErrCSRF, err)
	}
	if s.CSRF == "" || subtle.ConstantTimeCompare([]byte(csrf), []byte(s.CSRF)) != 1 {
		return ErrCSRF
	}
	return nil
}

// csrfOf derives the CSRF token from the cookie, so that nothing more needs to
// be stored, and the token in a page does not give the cookie away.
func csrfOf(secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("shoal csrf v1"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return secureCookie
	}
	return plainCookie
}

func sessionCookie(r *http.Request) (string, bool) {
	c, err := r.Cookie(cookieName(r))
	if err != nil || c.Value == "" || len(c.Value) > maxCookie {
		return "", false
	}
	return c.Value, true
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: value, Path: "/", MaxAge: maxAge,
		Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}
