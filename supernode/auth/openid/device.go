package openid

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// usualInterval is the pause between questions where the provider names
	// none (RFC 8628, section 3.2).
	usualInterval = 5 * time.Second
	// longestLogin bounds how long a login from a terminal may take.
	longestLogin = 15 * time.Minute
	maxUserCode  = 64   // bytes
	maxURL       = 2048 // bytes
)

// Device is one login from a terminal.
type Device struct {
	Code string // secret, for FinishDevice

	// The person opens URL and enters UserCode; CompleteURL, which may be
	// empty, holds the code already.
	UserCode, URL, CompleteURL string

	Expires  time.Time
	Interval time.Duration // the shortest pause between two questions
}

// StartDevice begins a login from a terminal.
func (p *Provider) StartDevice(ctx context.Context) (Device, error) {
	k, err := p.discover(ctx)
	if err != nil {
		return Device{}, err
	}
	if k.device == "" {
		return Device{}, ErrNoDevice
	}
	var answer struct {
		DeviceCode  string `json:"device_code"`
		UserCode    string `json:"user_code"`
		URL         string `json:"verification_uri"`
		CompleteURL string `json:"verification_uri_complete"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
		Interval    int64  `json:"interval"`   // seconds
	}
	if _, err := p.post(ctx, k, k.device, url.Values{"scope": {strings.Join(k.oauth.Scopes, " ")}}, &answer); err != nil {
		return Device{}, fmt.Errorf("begin a login from a terminal: %w", err)
	}
	d := Device{
		Code: answer.DeviceCode, UserCode: answer.UserCode, URL: answer.URL, CompleteURL: answer.CompleteURL,
		Interval: usualInterval,
	}
	if answer.Interval > 0 && answer.Interval < int64(longestLogin/time.Second) {
		d.Interval = time.Duration(answer.Interval) * time.Second
	}
	life := longestLogin
	if answer.ExpiresIn > 0 && answer.ExpiresIn < int64(longestLogin/time.Second) {
		life = time.Duration(answer.ExpiresIn) * time.Second
	}
	d.Expires = p.config.Now().Add(life)
	return d, d.check()
}

// check refuses what a terminal should not print: the person acts on it.
func (d Device) check() error {
	urls := []string{d.URL}
	if d.CompleteURL != "" {
		urls = append(urls, d.CompleteURL)
	}
	for _, raw := range urls {
		if err := private(raw); err != nil || len(raw) > maxURL || !printable(raw) {
			return fmt.Errorf("%w: the address for people to open is none", ErrUnavailable)
		}
	}
	if d.Code == "" || len(d.Code) > maxCode || d.UserCode == "" || len(d.UserCode) > maxUserCode || !printable(d.UserCode) {
		return fmt.Errorf("%w: it gave no code for people to enter", ErrUnavailable)
	}
	return nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// FinishDevice asks once whether the person has confirmed: ErrPending or
// ErrSlowDown while they have not.
func (p *Provider) FinishDevice(ctx context.Context, code string) (Person, error) {
	k, err := p.discover(ctx)
	if err != nil {
		return Person{}, err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		IDToken     string `json:"id_token"`
	}
	refused, err := p.post(ctx, k, k.oauth.Endpoint.TokenURL, url.Values{"grant_type": {deviceGrant}, "device_code": {code}}, &answer)
	switch {
	case refused == "authorization_pending":
		return Person{}, ErrPending
	case refused == "slow_down":
		return Person{}, ErrSlowDown
	case err != nil:
		return Person{}, fmt.Errorf("finish a login from a terminal: %w", err)
	}
	token := (&oauth2.Token{AccessToken: answer.AccessToken, TokenType: answer.TokenType}).WithExtra(map[string]any{"id_token": answer.IDToken})
	ctx, cancel := p.context(ctx)
	defer cancel()
	return p.person(ctx, k, token, "")
}

// post sends a form as the client, and reads the answer. Of a refusal it
// returns the error code as well.
func (p *Provider) post(ctx context.Context, k *known, target string, form url.Values, answer any) (refused string, err error) {
	ctx, cancel := p.context(ctx)
	defer cancel()
	form.Set("client_id", p.config.ClientID)
	if p.config.ClientSecret != "" && k.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInParams {
		form.Set("client_secret", p.config.ClientSecret)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	if k.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInHeader {
		// RFC 6749, section 2.3.1: both are form-encoded first.
		request.SetBasicAuth(url.QueryEscape(p.config.ClientID), url.QueryEscape(p.config.ClientSecret))
	}
	response, err := p.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	if response.StatusCode == http.StatusOK {
		if err := decoder.Decode(answer); err != nil {
			return "", fmt.Errorf("%w: its answer cannot be read", ErrUnavailable)
		}
		return "", nil
	}
	var said struct {
		Error string `json:"error"`
	}
	if err := decoder.Decode(&said); err != nil || said.Error == "" {
		return "", fmt.Errorf("%w: the answer was %s", ErrUnavailable, response.Status)
	}
	return said.Error, refusal(said.Error)
}
