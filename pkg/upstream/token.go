package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	maxAnswer       = 64 << 10 // bytes of a token or error answer
	maxCachedTokens = 1024     // per registry
	minTokenLife    = 60 * time.Second
	maxTokenLife    = time.Hour
	tokenMargin     = 10 * time.Second
)

type cachedToken struct {
	token   string
	expires time.Time
}

// login is whom a request speaks for.
type login struct {
	user, pass string
}

// Token logs in at the registry with the reader's own credentials and
// returns a pull token for the repository, to be given back as the token of
// other calls. Empty with a nil error: that registry asks nobody for one.
//
// Errors: ErrUnauthorized when the credentials are refused, ErrNoToken when
// the registry knows Basic authentication only.
func (c *Client) Token(ctx context.Context, ref blob.Ref, user, pass string) (string, error) {
	r, err := c.registry(ref)
	if err != nil {
		return "", err
	}
	ch, err := c.ask(ctx, r)
	switch {
	case err != nil:
		return "", fmt.Errorf("ask %s how to log in: %w", r.name, err)
	case ch == nil:
		return "", nil
	case ch.scheme != "bearer":
		return "", fmt.Errorf("log in at %s: %w", r.name, ErrNoToken)
	}
	got, err := c.fetchToken(ctx, r, ch, repository(ref), login{user, pass})
	if err != nil {
		return "", fmt.Errorf("log in at %s for %s: %w", r.name, ref.Repository, err)
	}
	return got.token, nil
}

// ask pings the registry for its challenge; nil: it wants no login.
func (c *Client) ask(ctx context.Context, r *registry) (*challenge, error) {
	if ch := r.challenge(); ch != nil {
		return ch, nil
	}
	resp, err := c.retry(ctx, func(ctx context.Context) (*http.Response, error) {
		return r.send(ctx, http.MethodGet, "/v2/", nil, "")
	})
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return r.note(resp)
	case resp.StatusCode/100 == 2:
		return nil, nil
	}
	return nil, statusError(resp)
}

func (r *registry) challenge() *challenge {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// note keeps the challenge of a 401.
func (r *registry) note(resp *http.Response) (*challenge, error) {
	ch, err := chooseChallenge(resp.Header)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = ch
	return ch, nil
}

// own is this client's own login at the registry, empty when it has none.
func (r *registry) own() (login, error) {
	if r.username == "" || r.password == nil {
		return login{}, nil
	}
	pass, err := r.password()
	if err != nil {
		return login{}, fmt.Errorf("read the password for upstream %s: %w", r.name, err)
	}
	return login{r.username, pass}, nil
}

// authorization answers a challenge with an Authorization header; empty when
// there is nothing to answer with.
func (c *Client) authorization(ctx context.Context, r *registry, ch *challenge, repo string, l login) (string, error) {
	if ch.scheme == "basic" {
		if l.user == "" {
			return "", nil
		}
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user+":"+l.pass)), nil
	}
	got, err := c.fetchToken(ctx, r, ch, repo, l)
	if err != nil {
		return "", err
	}
	r.keep(repo, l.user, got)
	return "Bearer " + got.token, nil
}

func (r *registry) cached(repo, subject string, now time.Time) string {
	if t, ok := r.tokens.Get(repo + "\x00" + subject); ok && now.Before(t.expires) {
		return t.token
	}
	return ""
}

func (r *registry) keep(repo, subject string, t cachedToken) {
	r.tokens.Add(repo+"\x00"+subject, t)
}

func (r *registry) forget(repo, subject string) {
	r.tokens.Remove(repo + "\x00" + subject)
}

// fetchToken asks the token service that ch names. Credentials go there only
// when realmAllowed says so.
func (c *Client) fetchToken(ctx context.Context, r *registry, ch *challenge, repo string, l login) (cachedToken, error) {
	realm, err := url.Parse(ch.realm)
	if err != nil {
		return cachedToken{}, fmt.Errorf("%w: token service: %w", ErrMalformed, err)
	}
	if err := r.realmAllowed(realm); err != nil {
		return cachedToken{}, err
	}
	resp, err := c.retry(ctx, func(ctx context.Context) (*http.Response, error) {
		req, err := tokenRequest(ctx, realm, ch.service, "repository:"+repo+":pull", l)
		if err != nil {
			return nil, err
		}
		return r.realm.RoundTrip(req)
	})
	if err != nil {
		return cachedToken{}, fmt.Errorf("ask token service %s: %w", realm.Host, err)
	}
	defer discard(resp)
	if resp.StatusCode != http.StatusOK {
		return cachedToken{}, statusError(resp)
	}
	raw, err := readBounded(resp.Body, maxAnswer)
	if err != nil {
		return cachedToken{}, fmt.Errorf("read the answer of token service %s: %w", realm.Host, err)
	}
	return parseToken(raw, c.now())
}

// tokenRequest is a GET with Basic, or, for an identity token (user name
// "<token>", as Docker keeps them), a POST with a refresh token.
func tokenRequest(ctx context.Context, realm *url.URL, service, scope string, l login) (*http.Request, error) {
	q := realm.Query()
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	set("service", service)
	set("scope", scope)
	u := *realm
	if l.user == "<token>" {
		set("grant_type", "refresh_token")
		set("refresh_token", l.pass)
		set("client_id", "shoal")
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(q.Encode()))
		if err != nil {
			return nil, fmt.Errorf("build a token request: %w", err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("User-Agent", userAgent)
		return req, nil
	}
	set("account", l.user)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("build a token request: %w", err)
	}
	req.Header.Set("User-Agent", userAgent)
	if l.user != "" {
		req.SetBasicAuth(l.user, l.pass)
	}
	return req, nil
}

func parseToken(raw []byte, now time.Time) (cachedToken, error) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return cachedToken{}, fmt.Errorf("%w: token answer: %w", ErrMalformed, err)
	}
	token := answer.Token
	if token == "" {
		token = answer.AccessToken
	}
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return cachedToken{}, fmt.Errorf("%w: %w", ErrMalformed, errors.New("the token service's answer holds no usable token"))
	}
	seconds := min(max(answer.ExpiresIn, minTokenLife.Seconds()), maxTokenLife.Seconds())
	life := time.Duration(seconds * float64(time.Second))
	return cachedToken{token: token, expires: now.Add(life - tokenMargin)}, nil
}
