package auth

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

// AuthorizeAPI says who sends a request to the API: by a token whose audience
// is shoal-api, by Basic credentials, or by a console session with its CSRF
// token in CSRFHeader. A registry's token is none of these. The error is a
// *ChallengeError, a *LimitError, or tells of a fault on our side.
func (a *Auth) AuthorizeAPI(r *http.Request) (User, error) {
	user, err := a.apiUser(r)
	if errors.Is(err, errNoLogin) || errors.Is(err, ErrLogin) || errors.Is(err, ErrNoSession) {
		challenge := fmt.Sprintf(`Bearer realm="%s/token",service="%s"`, a.baseURL(r), APIService)
		return User{}, &ChallengeError{challenge: challenge, cause: err}
	}
	return user, err
}

// AuthorizeAdmin is AuthorizeAPI for what only admins may do; others get an
// error that wraps ErrDenied, and the user with it.
func (a *Auth) AuthorizeAdmin(r *http.Request) (User, error) {
	user, err := a.AuthorizeAPI(r)
	if err != nil {
		return User{}, err
	}
	if !user.Admin {
		return user, fmt.Errorf("%w: %s is no admin", ErrDenied, user.Name)
	}
	return user, nil
}

func (a *Auth) apiUser(r *http.Request) (User, error) {
	if r.Header.Get("Authorization") == "" {
		return a.apiSession(r)
	}
	raw, ok := bearer(r)
	if !ok {
		name, password, ok := r.BasicAuth()
		if !ok {
			return User{}, errNoLogin
		}
		return a.Login(r, name, password) // robots have no business here
	}
	claims, err := a.apiVerifier.Verify(raw)
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrLogin, err)
	}
	record, _, err := a.readUser(r.Context(), claims.Subject)
	if err != nil {
		return User{}, fmt.Errorf("look a user up: %w", err)
	}
	if record == nil || record.Created.Truncate(time.Second).After(claims.ExpiresAt.Add(-token.Life)) {
		return User{}, fmt.Errorf("%w: the user is gone", ErrLogin)
	}
	user := record.user()
	if err := a.stands(r.Context(), claims.Session, user); errors.Is(err, errEnded) {
		return User{}, fmt.Errorf("%w: %w", ErrLogin, err)
	} else if err != nil {
		return User{}, err
	}
	user.session = claims.Session
	return user, nil
}

// apiSession takes a cookie only with the CSRF token beside it, whatever the
// method: a Connect call may be a GET.
func (a *Auth) apiSession(r *http.Request) (User, error) {
	s, err := a.SessionFrom(r)
	if errors.Is(err, ErrNoSession) {
		return User{}, errNoLogin
	}
	if err != nil {
		return User{}, err
	}
	if err := a.CheckCSRF(r, s, r.Header.Get(CSRFHeader)); err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrNoSession, err)
	}
	return s.User, nil
}
