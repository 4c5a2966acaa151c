package dfget

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// maxTokenAnswer bounds what /token may answer, in bytes.
const maxTokenAnswer = 64 << 10

// identityAuth sends requests to the supernode's API with a token that it gets
// for a refresh token, once: no command outlasts it by much, and what does
// asks again.
type identityAuth struct {
	identity, base string
	next           http.RoundTripper

	mu    sync.Mutex
	token string // guarded by mu; empty: none yet, or it was refused
}

func (i *identityAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := i.current(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := i.next.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusUnauthorized {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.token == token {
			i.token = ""
		}
	}
	return response, err
}

func (i *identityAuth) current(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.token != "" {
		return i.token, nil
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {i.identity}, "service": {"shoal-api"}, "client_id": {"dfget"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.base+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := i.next.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", statusError("use the stored login", response)
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxTokenAnswer)).Decode(&answer); err != nil || answer.Token == "" {
		return "", fmt.Errorf("use the stored login: the answer of %s/token cannot be read", i.base)
	}
	i.token = answer.Token
	return i.token, nil
}
