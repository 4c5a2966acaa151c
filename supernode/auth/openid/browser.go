package openid

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// A login in a browser is bound to one secret, which that browser alone keeps:
// the state, the nonce and the PKCE verifier all follow from it. So nothing
// is stored for strangers who begin logins, and an answer that another browser
// was led to fits to nothing.
const (
	ofState    = "shoal oidc state v1"
	ofNonce    = "shoal oidc nonce v1"
	ofVerifier = "shoal oidc verifier v1"
)

// maxCode bounds the code that a browser brings, in bytes.
const maxCode = 4096

func derive(secret, what string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(what))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// AuthURL is where the browser that keeps secret has to go; the provider sends
// it back to redirect.
func (p *Provider) AuthURL(ctx context.Context, redirect, secret string) (string, error) {
	k, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	oauth := k.oauth
	oauth.RedirectURL = redirect
	return oauth.AuthCodeURL(derive(secret, ofState), oidc.Nonce(derive(secret, ofNonce)),
		oauth2.S256ChallengeOption(derive(secret, ofVerifier))), nil
}

// Finish takes what the provider sent by the browser that keeps secret, and
// says who the person is. The redirect is that of AuthURL.
func (p *Provider) Finish(ctx context.Context, redirect, secret string, answer url.Values) (Person, error) {
	if secret == "" || !hmac.Equal([]byte(answer.Get("state")), []byte(derive(secret, ofState))) {
		return Person{}, ErrAttempt
	}
	// RFC 9207: the answer may say from whom it is.
	if iss := answer.Get("iss"); iss != "" && iss != p.config.Issuer {
		return Person{}, fmt.Errorf("%w: it comes from another provider", ErrUntrue)
	}
	if code := answer.Get("error"); code != "" {
		return Person{}, refusal(code)
	}
	code := answer.Get("code")
	if code == "" || len(code) > maxCode {
		return Person{}, fmt.Errorf("%w: it holds no code", ErrUntrue)
	}
	k, err := p.discover(ctx)
	if err != nil {
		return Person{}, err
	}
	ctx, cancel := p.context(ctx)
	defer cancel()
	oauth := k.oauth
	oauth.RedirectURL = redirect
	token, err := oauth.Exchange(ctx, code, oauth2.VerifierOption(derive(secret, ofVerifier)))
	var retrieve *oauth2.RetrieveError
	if errors.As(err, &retrieve) && retrieve.ErrorCode != "" {
		return Person{}, refusal(retrieve.ErrorCode)
	}
	if err != nil {
		return Person{}, fmt.Errorf("%w: exchange the code: %w", ErrUnavailable, redacted(err))
	}
	return p.person(ctx, k, token, derive(secret, ofNonce))
}

// redacted leaves out of an error what the provider answered: it may quote a
// token.
func redacted(err error) error {
	var retrieve *oauth2.RetrieveError
	if errors.As(err, &retrieve) {
		return fmt.Errorf("the answer was %s", retrieve.Response.Status)
	}
	return err
}

// refusal tells of an error code of OAuth 2 (RFC 6749, section 4.1.2.1), as
// long as it looks like one: it may come from anybody.
func refusal(code string) error {
	if len(code) > 64 {
		return ErrRefused
	}
	for _, c := range []byte(code) {
		if (c < 'a' || c > 'z') && c != '_' {
			return ErrRefused
		}
	}
	return fmt.Errorf("%w (%s)", ErrRefused, code)
}
