package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/auth/openid"
)

const (
	// OpenIDCallback is the path to which the provider sends a browser back.
	OpenIDCallback = "/login/oidc/callback"

	// attemptLife is for how long a browser may be at the provider.
	attemptLife = 10 * time.Minute
	// The cookie that binds a login to the browser that began it: Lax, since
	// the way back from the provider is another site's link.
	secureAttempt = "__Host-shoal-oidc"
	plainAttempt  = "shoal-oidc"
	// maxDone bounds the logins of the last minutes that are remembered.
	maxDone = 8192
)

// ErrNoOpenID is returned where no login provider was configured.
var ErrNoOpenID = errors.New("this supernode has no login provider (oidc in its configuration)")

// OpenID reports whether people may log in at a provider.
func (a *Auth) OpenID() bool { return a.cfg.OpenID != nil }

// BeginOpenID sends a browser to the provider, bound to the login that it has
// begun by a cookie. Errors are those of openid.
func (a *Auth) BeginOpenID(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.OpenID == nil {
		return ErrNoOpenID
	}
	secret, err := newSecret()
	if err != nil {
		return err
	}
	target, err := a.cfg.OpenID.AuthURL(r.Context(), a.baseURL(r)+OpenIDCallback, secret)
	if err != nil {
		return err
	}
	setAttempt(w, r, secret, int(attemptLife/time.Second))
	http.Redirect(w, r, target, http.StatusFound)
	return nil
}

// FinishOpenID takes the provider's answer from a browser and begins a
// session. Errors are those of openid and of bindings, or a *LimitError.
func (a *Auth) FinishOpenID(w http.ResponseWriter, r *http.Request) (User, error) {
	user, err := a.finishOpenID(w, r)
	subject := user.Name
	if subject == "" {
		subject = unknown
	}
	a.tell(r, Deed{Subject: subject, Action: "login", Detail: map[string]string{"by": byOpenID}}, told(err))
	if err != nil {
		return User{}, err
	}
	return user, a.BeginSession(w, r, user, byOpenID)
}

func (a *Auth) finishOpenID(w http.ResponseWriter, r *http.Request) (User, error) {
	if a.cfg.OpenID == nil {
		return User{}, ErrNoOpenID
	}
	secret := attemptSecret(r)
	if a.attempts.done(secret, a.cfg.Now()) {
		return User{}, openid.ErrAttempt
	}
	// An answer makes us ask the provider: who sends wrong ones has to wait.
	address := addressOf(r.RemoteAddr)
	if d := a.limits.waitAddress(address, a.cfg.Now()); d > 0 {
		return User{}, &LimitError{After: d}
	}
	counted := a.limits.beginAddress(address, a.cfg.Now())
	person, err := a.cfg.OpenID.Finish(r.Context(), a.baseURL(r)+OpenIDCallback, secret, r.URL.Query())
	// Other sites can send a browser here with answers that fit to nothing:
	// they cost nobody the login that is under way, or the next.
	if err == nil || errors.Is(err, openid.ErrUnavailable) || errors.Is(err, openid.ErrAttempt) {
		a.limits.refundAddress(address, counted)
	}
	if !errors.Is(err, openid.ErrAttempt) {
		setAttempt(w, r, "", -1) // one answer for one login
	}
	if err != nil {
		return User{}, err
	}
	// Two answers of one login may have been under way.
	if !a.attempts.finish(secret, a.cfg.Now()) {
		return User{}, openid.ErrAttempt
	}
	return a.personUser(r.Context(), person)
}

// told is what an audit says of an error: not what the provider sent.
func told(err error) error {
	if err == nil {
		return nil
	}
	return openid.Told(err)
}

func attemptCookie(r *http.Request) string {
	if r.TLS != nil {
		return secureAttempt
	}
	return plainAttempt
}

func attemptSecret(r *http.Request) string {
	c, err := r.Cookie(attemptCookie(r))
	if err != nil || len(c.Value) > maxCookie {
		return ""
	}
	return c.Value
}

func setAttempt(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: attemptCookie(r), Value: value, Path: "/", MaxAge: maxAge,
		Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// attemptsDone remembers which logins have ended in a session, so that an
// answer that was seen on its way opens none again, whatever the provider
// says. Only a login that succeeded gets in, so strangers cannot fill it.
type attemptsDone struct {
	mu  sync.Mutex
	set map[[sha256.Size]byte]time.Time // hash of the secret → when; guarded by mu
}

func newAttemptsDone() *attemptsDone {
	return &attemptsDone{set: map[[sha256.Size]byte]time.Time{}}
}

func (d *attemptsDone) done(secret string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.set[sha256.Sum256([]byte(secret))]
	return ok && now.Sub(at) < attemptLife
}

// finish reports whether a login ends for the first time.
func (d *attemptsDone) finish(secret string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := sha256.Sum256([]byte(secret))
	if at, ok := d.set[sum]; ok && now.Sub(at) < attemptLife {
		return false
	}
	if len(d.set) >= maxDone {
		for sum, at := range d.set {
			if now.Sub(at) >= attemptLife {
				delete(d.set, sum)
			}
		}
	}
	if len(d.set) >= maxDone {
		return false // 8192 logins in ten minutes; the next is a minute away
	}
	d.set[sum] = now
	return true
}

// DeviceLogin is a login from a terminal that has begun.
type DeviceLogin struct {
	Handle                     string // secret: whoever has it gets the login
	UserCode, URL, CompleteURL string
	Life, Interval             time.Duration
}

// StartDevice begins a login from a terminal at the provider. Errors are those
// of openid, or a *LimitError.
func (a *Auth) StartDevice(r *http.Request) (DeviceLogin, error) {
	if a.cfg.OpenID == nil {
		return DeviceLogin{}, ErrNoOpenID
	}
	address, now := addressOf(r.RemoteAddr), a.cfg.Now()
	handle, err := newSecret()
	if err != nil {
		return DeviceLogin{}, err
	}
	// The place is taken first, so that many at once do not pass the bounds.
	entry, err := a.devices.add(hashed(handle), address, now)
	if err != nil {
		return DeviceLogin{}, err
	}
	d, err := a.cfg.OpenID.StartDevice(r.Context())
	if err != nil {
		a.devices.remove(hashed(handle))
		return DeviceLogin{}, err
	}
	a.devices.begin(entry, d)
	return DeviceLogin{
		Handle: handle, UserCode: d.UserCode, URL: d.URL, CompleteURL: d.CompleteURL,
		Life: d.Expires.Sub(now), Interval: d.Interval,
	}, nil
}

// FinishDevice asks whether a login from a terminal was confirmed. It gives
// the user and a refresh token for every service, once. The error wraps
// openid.ErrPending while nobody has answered.
func (a *Auth) FinishDevice(r *http.Request, handle string) (User, string, error) {
	if a.cfg.OpenID == nil {
		return User{}, "", ErrNoOpenID
	}
	key := hashed(handle)
	code, err := a.devices.ask(key, a.cfg.Now())
	if err != nil {
		return User{}, "", err
	}
	person, err := a.cfg.OpenID.FinishDevice(r.Context(), code)
	a.devices.answered(key, a.cfg.Now(), err)
	if errors.Is(err, openid.ErrPending) || errors.Is(err, openid.ErrUnavailable) {
		return User{}, "", err
	}
	var user User
	if err == nil {
		user, err = a.personUser(r.Context(), person)
	}
	subject := user.Name
	if subject == "" {
		subject = unknown
	}
	a.tell(r, Deed{Subject: subject, Action: "login", Detail: map[string]string{"by": byOpenID, "flow": "device"}}, told(err))
	if err != nil {
		return User{}, "", err
	}
	refresh, err := a.newRefresh(r.Context(), user, everyService, a.begun(r, byOpenID))
	if err != nil {
		return User{}, "", fmt.Errorf("log %s in: %w", user.Name, err)
	}
	a.tell(r, Deed{Subject: user.Name, Action: "refresh_token.create", Object: everyService}, nil)
	return user, refresh, nil
}
