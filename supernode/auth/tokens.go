package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// maxForm bounds the body of a POST to /token, in bytes.
	maxForm = 64 << 10

	refreshPrefix = "auth/refresh/"
	// refreshLife is for how long a refresh token is good, from its making.
	refreshLife = 90 * 24 * time.Hour
	// everyService is that of a refresh token which stands for a whole login,
	// as a stored password does. No service has this name.
	everyService = "*"
)

// tokenAnswer is what /token says, in the words of both request forms.
type tokenAnswer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	ExpiresIn    int    `json:"expires_in"` // seconds; at least 60
	IssuedAt     string `json:"issued_at"`  // RFC 3339
	Scope        string `json:"scope,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// tokenRequest is a request to /token, of either form.
type tokenRequest struct {
	service string
	scopes  []token.Access
	offline bool // a refresh token is wanted as well
	begun   Begun
}

// requestError is a fault of the request itself: 400.
type requestError struct{ text string }

func (e *requestError) Error() string { return e.text }

// ServeToken answers /token: GET with Basic credentials (the Docker token
// flow, https://distribution.github.io/distribution/spec/auth/token/), and
// POST of a form with grant_type password or refresh_token (the OAuth 2 form,
// .../spec/auth/oauth/). Both name a service: the registry's, which is meant
// when none is named, or shoal-api.
func (a *Auth) ServeToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	var answer *tokenAnswer
	var err error
	switch r.Method {
	case http.MethodGet:
		answer, err = a.tokenByGet(r)
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		answer, err = a.tokenByPost(r)
	default:
		w.Header().Set("Allow", "GET, POST")
		writeError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "ask /token with GET or POST")
		return
	}
	if err != nil {
		a.WriteError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // a client that went away
}

func (a *Auth) tokenByGet(r *http.Request) (*tokenAnswer, error) {
	q := r.URL.Query()
	user, err := a.basic(r)
	if err != nil {
		return nil, err
	}
	req, err := a.parseRequest(q.Get("service"), q["scope"], q.Get("offline_token") == "true")
	if err != nil {
		return nil, err
	}
	return a.granted(r, user, req)
}

func (a *Auth) tokenByPost(r *http.Request) (*tokenAnswer, error) {
	if err := r.ParseForm(); err != nil {
		return nil, &requestError{"the form cannot be read, or is too long"}
	}
	// PostForm alone: a password in the URL would end in somebody's log.
	f := r.PostForm
	req, err := a.parseRequest(f.Get("service"), f["scope"], f.Get("access_type") == "offline")
	if err != nil {
		return nil, err
	}
	var user User
	switch f.Get("grant_type") {
	case "password":
		user, err = a.identify(r, f.Get("username"), f.Get("password"))
	case "refresh_token":
		if user, err = a.refresh(r.Context(), f.Get("refresh_token"), req.service); errors.Is(err, ErrLogin) {
			a.tell(r, Deed{Subject: unknown, Action: "login"}, err)
		}
	default:
		err = &requestError{"grant_type must be password or refresh_token"}
	}
	if err != nil {
		return nil, err
	}
	answer, err := a.granted(r, user, req)
	if err == nil && f.Get("grant_type") == "refresh_token" && !req.offline {
		answer.RefreshToken = f.Get("refresh_token") // it stays good
	}
	return answer, err
}

func (a *Auth) parseRequest(service string, scopes []string, offline bool) (tokenRequest, error) {
	if service == "" {
		service = a.cfg.Service
	}
	if service != a.cfg.Service && service != APIService {
		return tokenRequest{}, &requestError{"no such service: this supernode gives tokens for " + a.cfg.Service + " and " + APIService}
	}
	access, err := token.ParseScopes(scopes)
	if err != nil {
		return tokenRequest{}, &requestError{err.Error()}
	}
	return tokenRequest{service: service, scopes: access, offline: offline}, nil
}

// granted is grant, and tells of a token that lasts.
func (a *Auth) granted(r *http.Request, user User, req tokenRequest) (*tokenAnswer, error) {
	req.begun = a.begun(r, byPassword)
	answer, err := a.grant(r.Context(), user, req)
	if err == nil && answer.RefreshToken != "" {
		a.tell(r, Deed{Subject: user.Name, Action: "refresh_token.create", Object: req.service}, nil)
	}
	return answer, err
}

// grant makes the tokens: of the access asked for, what decide leaves. What
// is not granted is left out, as the flow has it; the registry says no.
func (a *Auth) grant(ctx context.Context, user User, req tokenRequest) (*tokenAnswer, error) {
	issuer := a.registry
	granted := []token.Access{}
	scope := ""
	if user.robot != nil {
		// Its secret is its refresh token, and the API is for people.
		if req.offline = false; req.service == APIService {
			return nil, fmt.Errorf("%w: robots use the registry alone", ErrDenied)
		}
	}
	if req.service == APIService {
		issuer = a.api // what its bearer may do follows from who it is, as of each request
		req.scopes = nil
	}
	for _, asked := range req.scopes {
		g, _, err := a.decideNow(ctx, user, asked)
		if err != nil {
			return nil, err
		}
		if len(g.Actions) > 0 {
			granted = append(granted, g)
			if scope != "" {
				scope += " "
			}
			scope += g.String()
		}
	}
	session, refresh := user.session, ""
	if req.offline {
		var err error
		if refresh, err = a.newRefresh(ctx, user, req.service, req.begun); err != nil {
			return nil, err
		}
		session = sessionID(hashed(refresh))
	}
	issued := a.cfg.Now()
	raw, err := issuer.IssueIn(session, user.Name, granted, token.Life)
	if err != nil {
		return nil, err
	}
	return &tokenAnswer{
		Token: raw, AccessToken: raw, Scope: scope, RefreshToken: refresh,
		ExpiresIn: int(token.Life / time.Second), IssuedAt: issued.UTC().Format(time.RFC3339),
	}, nil
}

// refreshRecord is a refresh token as stored, under the hash of its text.
type refreshRecord struct {
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Service string    `json:"service"` // it makes tokens for this one alone, or for everyService
	Expires time.Time `json:"expires"`
	Begun   Begun     `json:"begun"`
}

func (a *Auth) newRefresh(ctx context.Context, user User, service string, begun Begun) (string, error) {
	secret, err := newSecret()
	if err != nil {
		return "", err
	}
	record := refreshRecord{User: user.Name, Epoch: user.epoch, Service: service, Expires: a.cfg.Now().Add(refreshLife), Begun: begun}
	err = update(ctx, a.cfg.Meta, refreshPrefix+hashed(secret), func(*refreshRecord) (*refreshRecord, error) { return &record, nil })
	if err != nil {
		return "", fmt.Errorf("keep a refresh token of %s: %w", user.Name, err)
	}
	return secret, nil
}

// refresh is the user whose refresh token this is.
func (a *Auth) refresh(ctx context.Context, secret, service string) (User, error) {
	hash := hashed(secret)
	record, _, err := meta.ReadRecord[refreshRecord](ctx, a.cfg.Meta, refreshPrefix+hash)
	if err != nil {
		return User{}, fmt.Errorf("look a refresh token up: %w", err)
	}
	if record == nil || record.Service != service && record.Service != everyService || !a.cfg.Now().Before(record.Expires) {
		return User{}, fmt.Errorf("%w: the refresh token is unknown, expired or for another service: log in again", ErrLogin)
	}
	user, err := a.current(ctx, record.User, record.Epoch)
	if errors.Is(err, errEnded) {
		return User{}, fmt.Errorf("%w: the refresh token was ended: log in again", ErrLogin)
	}
	user.session = sessionID(hash)
	return user, err
}

// tellLater sets when to try again.
func tellLater(w http.ResponseWriter, err interface{ Later() (status, seconds int) }) {
	_, seconds := err.Later()
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
}

// WriteError answers with an error of this package in the OCI error format.
func (a *Auth) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	var challenge *ChallengeError
	var limited *LimitError
	var request *requestError
	switch {
	case errors.As(err, &challenge):
		w.Header().Set("WWW-Authenticate", challenge.Challenge())
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "log in first, or use a token that covers this: "+err.Error())
	case errors.Is(err, errNoLogin), errors.Is(err, ErrLogin):
		w.Header().Set("WWW-Authenticate", `Basic realm="shoal"`)
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", err.Error())
	case errors.As(err, &limited):
		tellLater(w, limited)
		writeError(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", err.Error())
	case errors.Is(err, errBusy):
		tellLater(w, busy{})
		writeError(w, http.StatusServiceUnavailable, "UNKNOWN", err.Error()+": try again in some seconds")
	case errors.As(err, &request):
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
	case errors.Is(err, ErrNoSession):
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", err.Error())
	case errors.Is(err, ErrDenied), errors.Is(err, ErrCSRF):
		writeError(w, http.StatusForbidden, "DENIED", err.Error())
	case r.Context().Err() != nil: // nobody is left to tell
		a.cfg.Log.DebugContext(r.Context(), "the client of a login went away", "error", err)
	default:
		a.cfg.Log.ErrorContext(r.Context(), "login cannot be decided", "path", r.URL.Path, "error", err)
		writeError(w, http.StatusInternalServerError, "UNKNOWN", "the supernode cannot check logins now; its log says why")
	}
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string][]one{"errors": {{code, message}}}) //nolint:errcheck // a client that went away
}
