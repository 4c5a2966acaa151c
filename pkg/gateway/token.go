package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxToken bounds the answer to a login, in bytes.
const maxToken = 64 << 10

// Login is a reader's login, passed on to the supernode as it came.
type Login struct {
	User, Password string
	RefreshToken   string   // instead of the two
	Scopes         []string // such as repository:project/app:pull
	Offline        bool     // a refresh token is wanted, too
}

// Token is what a login gives.
type Token struct {
	Token        string
	RefreshToken string // empty: none
	ExpiresIn    time.Duration
}

// Token logs in by the POST form of the Docker token specification. A refusal
// is an *Error of status 401 or 403.
func (c *Client) Token(ctx context.Context, login Login) (Token, error) {
	form := url.Values{"client_id": {"dfagent"}, "scope": {strings.Join(login.Scopes, " ")}}
	if login.RefreshToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", login.RefreshToken)
	} else {
		form.Set("grant_type", "password")
		form.Set("username", login.User)
		form.Set("password", login.Password)
	}
	if login.Offline {
		form.Set("access_type", "offline")
	}
	var errs []error
	for _, base := range c.bases() {
		t, err := c.login(ctx, base, form)
		if err == nil {
			return t, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, ErrUnreachable) {
			break
		}
	}
	if len(errs) == 0 {
		return Token{}, ErrUnreachable
	}
	return Token{}, fmt.Errorf("log in at the supernode: %w", errors.Join(errs...))
}

func (c *Client) login(ctx context.Context, base string, form url.Values) (t Token, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return t, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := c.http.Do(request)
	if err != nil {
		return t, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return t, failure(response)
	}
	var answer struct {
		Token        string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxToken)).Decode(&answer); err != nil || answer.Token == "" {
		return t, fmt.Errorf("%w: the answer to the login holds no token (%w)", ErrUnreachable, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return Token{answer.Token, answer.RefreshToken, time.Duration(answer.ExpiresIn) * time.Second}, nil
}
