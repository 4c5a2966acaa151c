package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
)

const (
	maxForm     = 64 << 10
	maxName     = 256     // bytes of a user name
	maxPassword = 8 << 10 // bytes; some registries' passwords are long tokens
)

// ask is a request at /token, in either of its two forms.
type ask struct {
	registry string
	TokenRequest
}

func (a ask) anonymous() bool { return a.User == "" && a.RefreshToken == "" }

// guessable tells passwords, which people choose, from refresh tokens, which
// are drawn at random: who tries wrong ones of these learns nothing, and must
// not slow the readers of the same host down.
func (a ask) guessable() bool { return a.User != "" && a.RefreshToken == "" }

// ServeHTTP answers /token: GET with Basic (docker, skopeo, crane) or POST of
// a form (containerd). Source: the Docker token and OAuth2 specifications.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	a, f := g.parseAsk(w, r)
	if f != nil {
		f.write(w)
		return
	}
	now := g.cfg.Now()
	key := a.User + "\x00" + remoteHost(r)
	if wait := g.attempts.waiting(key, now); wait > 0 && a.guessable() {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		fault{http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many failed logins; wait"}.write(w)
		return
	}
	answer, err := g.answer(r.Context(), a)
	switch {
	case err == nil:
		if a.guessable() {
			g.attempts.succeed(key)
		}
		writeToken(w, answer, now)
		return
	case is(err, ErrUnauthorized), errors.Is(err, errNotLately):
		if a.guessable() {
			g.attempts.fail(key, now)
		}
	}
	if is(err, ErrUnauthorized) {
		w.Header().Set("WWW-Authenticate", `Basic realm="shoal"`)
	}
	// Without the name: people type passwords there.
	g.cfg.Log.Info("login refused", "registry", a.registry, "err", err)
	faultOf(err, "NAME").write(w)
}

// parseAsk reads either form of a token request.
func (g *Gate) parseAsk(w http.ResponseWriter, r *http.Request) (ask, *fault) {
	bad := func(message string) (ask, *fault) {
		return ask{}, &fault{http.StatusBadRequest, "UNSUPPORTED", message}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		return ask{}, &fault{http.StatusMethodNotAllowed, "UNSUPPORTED", "/token takes GET and POST"}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return bad("the query cannot be read")
	}
	registry, ok := g.names.registry(query)
	if !ok {
		return ask{}, &fault{http.StatusNotFound, "NAME_UNKNOWN", "ns= names no configured registry"}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return bad("the form cannot be read")
	}
	a := ask{registry: registry}
	if a.Scopes, err = token.ParseScopes(r.Form["scope"]); err != nil {
		return bad("the scope cannot be read")
	}
	a.User, a.Password, _ = r.BasicAuth()
	a.Offline = r.Form.Get("offline_token") == "true" || r.Form.Get("access_type") == "offline"
	switch grant := r.PostForm.Get("grant_type"); {
	case r.Method == http.MethodGet:
	case grant == "password":
		a.User, a.Password = r.PostForm.Get("username"), r.PostForm.Get("password")
	case grant == "refresh_token" && r.PostForm.Get("refresh_token") != "":
		a.User, a.Password, a.RefreshToken = "", "", r.PostForm.Get("refresh_token")
	default:
		return bad("grant_type must be password or refresh_token")
	}
	if len(a.User) > maxName || len(a.Password) > maxPassword || len(a.RefreshToken) > maxPassword {
		return bad("the user name or password is too long")
	}
	return a, nil
}

func (g *Gate) answer(ctx context.Context, a ask) (TokenAnswer, error) {
	switch {
	case a.registry != "":
		return g.upstreamToken(ctx, a)
	case a.anonymous():
		return g.nodeToken(a)
	}
	answer, err := g.cfg.Tokens.Token(ctx, a.TokenRequest)
	switch {
	case err == nil:
		g.noteLogin(a, answer)
		return answer, nil
	case is(err, ErrUnauthorized):
		// A wrong guess must not cost the true user the offline login; a
		// password that was right before and is refused now does.
		if _, was := g.logins.check(a.User, a.Password, time.Time{}); was {
			g.logins.forget(a.User)
		}
	case is(err, ErrDenied), is(err, ErrNotFound):
	case a.User != "" && g.cfg.OfflineGrace > 0 && ctx.Err() == nil:
		return g.offlineToken(a, err)
	default:
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return TokenAnswer{}, err
}

// upstreamToken spends a reader's credentials for an upstream at that
// upstream. They go nowhere else.
func (g *Gate) upstreamToken(ctx context.Context, a ask) (TokenAnswer, error) {
	if a.anonymous() {
		return TokenAnswer{}, fmt.Errorf("%w: what anybody may read at %s needs no token here", ErrUnauthorized, a.registry)
	}
	user, pass := a.User, a.Password
	if a.RefreshToken != "" {
		user, pass = "<token>", a.RefreshToken // as Docker keeps identity tokens
	}
	for _, s := range a.Scopes {
		if s.Type != "repository" || !s.Allows("pull") || blob.CheckRepository(s.Name) != nil {
			continue
		}
		got, err := g.cfg.Upstreams.Token(ctx, blob.Ref{Registry: a.registry, Repository: s.Name}, user, pass)
		if err != nil {
			if !is(err, ErrUnavailable) {
				err = fmt.Errorf("%w: %w", ErrUnauthorized, err)
			}
			return TokenAnswer{}, err
		}
		h := handle{
			registry: a.registry,
			access:   []token.Access{{Type: s.Type, Name: s.Name, Actions: []string{"pull"}}},
			subject:  user + "@" + a.registry,
			token:    got,
		}
		return g.local(h), nil
	}
	return TokenAnswer{}, fmt.Errorf("%w: %w", ErrDenied, errNoScope)
}

// nodeToken is for a client that wants a token before it asks: what this node
// may read, anybody on this host may.
func (g *Gate) nodeToken(a ask) (TokenAnswer, error) {
	var granted []token.Access
	for _, s := range a.Scopes {
		if s.Type == "repository" && s.Allows("pull") && g.cfg.NodeMay(project(s.Name)) {
			granted = append(granted, token.Access{Type: s.Type, Name: s.Name, Actions: []string{"pull"}})
		}
	}
	if len(granted) == 0 {
		return TokenAnswer{}, fmt.Errorf("%w: no credentials", ErrUnauthorized)
	}
	return g.local(handle{access: granted, subject: "node"}), nil
}

// noteLogin remembers a login and what it allowed, for offlineToken.
func (g *Gate) noteLogin(a ask, answer TokenAnswer) {
	if a.User == "" || g.cfg.OfflineGrace <= 0 {
		return
	}
	claims, err := g.cfg.Verifier.Verify(answer.Token)
	if err != nil {
		g.cfg.Log.Warn("the supernode's token does not verify here", "user", a.User, "err", err)
		return
	}
	g.logins.remember(a.User, a.Password, claims.Access, g.cfg.Now())
}

// errNotLately ends a login that nobody can check.
var errNotLately = errors.New("nobody logged in here lately with this name and password")

// offlineToken lets a user in whom the supernode let in not long ago, to what
// it allowed then, while it cannot be asked.
func (g *Gate) offlineToken(a ask, why error) (TokenAnswer, error) {
	allowed, ok := g.logins.check(a.User, a.Password, g.cfg.Now().Add(-g.cfg.OfflineGrace))
	if !ok {
		return TokenAnswer{}, fmt.Errorf("%w: %w: %w", ErrUnavailable, errNotLately, why)
	}
	g.cfg.Log.Info("login without a supernode", "user", a.User)
	return g.local(handle{access: intersect(a.Scopes, allowed), subject: a.User}), nil
}

func (g *Gate) local(h handle) TokenAnswer {
	return TokenAnswer{Token: g.handles.issue(h, g.cfg.Now()), ExpiresIn: handleLife}
}

func writeToken(w http.ResponseWriter, t TokenAnswer, now time.Time) {
	body, err := json.Marshal(struct {
		Token        string    `json:"token"`
		AccessToken  string    `json:"access_token"`
		ExpiresIn    int       `json:"expires_in"` // seconds
		IssuedAt     time.Time `json:"issued_at"`
		RefreshToken string    `json:"refresh_token,omitempty"`
	}{t.Token, t.Token, max(60, int(t.ExpiresIn.Seconds())), now.UTC().Truncate(time.Second), t.RefreshToken})
	if err != nil {
		fault{http.StatusInternalServerError, "UNKNOWN", "the token cannot be written"}.write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) //nolint:errcheck // the client may be gone
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
