package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

// ChallengeError says that a request needs a login or another token. It
// becomes 401 with Challenge as the WWW-Authenticate header.
type ChallengeError struct {
	challenge string
	cause     error
}

// Error says why.
func (e *ChallengeError) Error() string { return e.cause.Error() }

// Unwrap is the cause.
func (e *ChallengeError) Unwrap() error { return e.cause }

// Challenge is the value of the WWW-Authenticate header.
func (e *ChallengeError) Challenge() string { return e.challenge }

// ErrDenied is wrapped when somebody who is known may not do a thing. It
// becomes 403.
var ErrDenied error = denial{}

type denial struct{}

func (denial) Error() string { return "not allowed" }

// Denied tells the registry that this is a refusal, not a fault.
func (denial) Denied() bool { return true }

// errNoLogin is the cause when a request carries no credentials at all.
var errNoLogin = errors.New("no login was sent")

// nodePrefix begins the subject of tokens that IssuePull made for a node. No
// user name holds a colon.
const nodePrefix = "node:"

// accessOf is the resource that Authorize's arguments mean; a zero Access
// asks only whether somebody is known.
func accessOf(repository string, actions []string) token.Access {
	switch {
	case repository == "" && len(actions) == 0:
		return token.Access{}
	case repository == "":
		return token.Access{Type: "registry", Name: "catalog", Actions: []string{"*"}}
	}
	return token.Access{Type: "repository", Name: repository, Actions: actions}
}

// Authorize decides about a request to the registry, by the Bearer token or
// the user and password that it carries, and names who asks. repository ""
// is the registry as a whole: without an action it asks whether the caller is
// known, with one ("catalog") whether they may list everything. The error is
// a *ChallengeError when another login could help, and wraps ErrDenied when
// it could not.
func (a *Auth) Authorize(r *http.Request, repository string, actions ...string) (subject string, err error) {
	want := accessOf(repository, actions)
	if raw, ok := bearer(r); ok {
		return a.authorizeBearer(r, raw, want)
	}
	user, err := a.basic(r)
	if errors.Is(err, errNoLogin) || errors.Is(err, ErrLogin) {
		return "", a.challenge(r, want, "", err)
	}
	if err != nil {
		return "", err
	}
	if want.Type == "" {
		return user.Name, nil
	}
	if err := a.may(r.Context(), user, want); err != nil {
		return "", err
	}
	return user.Name, nil
}

// may says whether a user has a right now, and makes the project that a system
// administrator pushes into.
func (a *Auth) may(ctx context.Context, user User, want token.Access) error {
	granted, at, err := a.decideNow(ctx, user, want)
	if err != nil {
		return err
	}
	// The repositories of other registries are not among our own.
	if !grants(granted, want) || want.Type == "repository" && upstreamName(want.Name) {
		return denied(user.Name, want)
	}
	if want.Type == "repository" && at.project == nil && slices.Contains(want.Actions, actionPush) {
		return a.ensureProject(ctx, user, projectOf(want.Name))
	}
	return nil
}

func (a *Auth) authorizeBearer(r *http.Request, raw string, want token.Access) (string, error) {
	claims, err := a.registryVerifier.Verify(raw)
	if err != nil {
		return "", a.challenge(r, want, "invalid_token", err)
	}
	user, err := a.subject(r.Context(), claims.Subject)
	if err == nil && user.Created.Truncate(time.Second).After(claims.ExpiresAt.Add(-token.Life)) {
		err = fmt.Errorf("%w: the token is older than its user", ErrNoUser)
	}
	if err == nil {
		err = a.stands(r.Context(), claims.Session, user)
	}
	if errors.Is(err, ErrNoUser) || errors.Is(err, ErrDenied) || errors.Is(err, errEnded) {
		return "", a.challenge(r, want, "invalid_token", err)
	}
	if err != nil {
		return "", err
	}
	covered := want.Type == "" || claims.Allows(want.Type, want.Name, want.Actions...)
	if covered && (want.Type == "" || user.node) {
		return claims.Subject, nil
	}
	if !covered {
		// A token for more helps only who has the right to more.
		granted, _, err := a.decideNow(r.Context(), user, want)
		if err != nil {
			return "", err
		}
		if grants(granted, want) {
			return "", a.challenge(r, want, "insufficient_scope", errors.New("the token does not cover this"))
		}
		return "", denied(claims.Subject, want)
	}
	// What a token grants is held only for as long as its user has the right.
	if err := a.may(r.Context(), user, want); err != nil {
		return "", err
	}
	return claims.Subject, nil
}

// subject looks up whom a token was made for, as of now: a user or robot that
// was removed and a node that was turned away are refused before their tokens
// end.
func (a *Auth) subject(ctx context.Context, name string) (User, error) {
	if peerID, ok := strings.CutPrefix(name, nodePrefix); ok {
		return a.nodeUser(ctx, peerID)
	}
	if strings.HasPrefix(name, robotLogin) {
		record, user, err := a.robotUser(ctx, name)
		if err == nil && record == nil {
			err = ErrNoUser
		}
		return user, err
	}
	record, _, err := a.readUser(ctx, name)
	if err != nil {
		return User{}, fmt.Errorf("look a user up: %w", err)
	}
	if record == nil {
		return User{}, ErrNoUser
	}
	return record.user(), nil
}

func grants(granted, want token.Access) bool {
	for _, action := range want.Actions {
		if !slices.Contains(granted.Actions, action) {
			return false
		}
	}
	return want.Type == "" || len(want.Actions) > 0
}

// IssuePull makes a token with which one node may pull from one repository,
// for orders that a supernode gives.
func (a *Auth) IssuePull(peerID, repository string, ttl time.Duration) (string, error) {
	if err := a.admit(peerID); err != nil {
		return "", fmt.Errorf("issue a pull token: %w", err)
	}
	access := []token.Access{{Type: "repository", Name: repository, Actions: []string{"pull"}}}
	return a.registry.Issue(nodePrefix+peerID, access, ttl)
}

// basic logs in whoever a request's Basic credentials name: a user or a robot.
func (a *Auth) basic(r *http.Request) (User, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return User{}, errNoLogin
	}
	return a.identify(r, name, password)
}

// identify logs a user or a robot in.
func (a *Auth) identify(r *http.Request, name, password string) (User, error) {
	if strings.HasPrefix(name, robotLogin) {
		user, err := a.robotWith(r.Context(), name, password)
		a.tellRobot(r, name, err)
		return user, err
	}
	return a.Login(r, name, password)
}

func bearer(r *http.Request) (string, bool) {
	scheme, raw, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return raw, ok && strings.EqualFold(scheme, "Bearer")
}

// challenge is the answer to who should get a token, and where (the Docker
// and OCI token flow; RFC 6750, section 3, for reason).
func (a *Auth) challenge(r *http.Request, want token.Access, reason string, cause error) error {
	// All parts are ours, or were checked to hold no quote.
	text := fmt.Sprintf(`Bearer realm="%s/token",service="%s"`, a.baseURL(r), a.cfg.Service)
	if want.Type != "" {
		if _, err := token.ParseScope(want.String()); err == nil {
			text += fmt.Sprintf(`,scope="%s"`, want)
		}
	}
	if reason != "" {
		text += fmt.Sprintf(`,error="%s"`, reason)
	}
	return &ChallengeError{challenge: text, cause: cause}
}

// baseURL is where this supernode is for who sent r: the name they used, if
// it is one of ours or the address that they reached, else the configured URL.
func (a *Auth) baseURL(r *http.Request) string {
	switch {
	case !a.publicName(r.Host) && !reached(r):
		return a.external.Scheme + "://" + a.external.Host
	case r.TLS != nil:
		return "https://" + r.Host
	case reached(r):
		return "http://" + r.Host
	}
	return a.external.Scheme + "://" + r.Host // TLS may have ended before us
}

// publicName reports whether host is a name of ours. A name that was
// configured without a port is meant with any.
func (a *Auth) publicName(host string) bool {
	if strings.EqualFold(host, a.external.Host) {
		return true
	}
	bare, port, err := net.SplitHostPort(host)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		bare = host
	}
	for _, name := range a.cfg.PublicNames {
		if strings.EqualFold(host, name) || strings.EqualFold(bare, name) {
			return true
		}
	}
	return false
}

// reached reports whether r names, as its host, the very address at which its
// connection arrived.
func reached(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	at = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	return r.Host == at.String() || at.Addr().IsLoopback() && r.Host == fmt.Sprintf("localhost:%d", at.Port())
}
