package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	userAgent    = "shoal"
	maxRedirects = 5
)

// send makes one request of the registry and follows its redirects. What
// travels beyond the registry's own host is Accept and Range and nothing else.
func (r *registry) send(ctx context.Context, method, path string, header http.Header, authorization string) (*http.Response, error) {
	target := *r.base
	target.Path = path
	for hop := 0; ; hop++ {
		req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("build a request to %s: %w", target.Host, err)
		}
		for _, k := range []string{"Accept", "Range"} {
			req.Header[k] = header[k]
		}
		req.Header.Set("User-Agent", userAgent)
		transport := r.away
		if sameOrigin(&target, r.base) {
			transport = r.direct
			if authorization != "" {
				req.Header.Set("Authorization", authorization)
			}
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		if !redirect(resp.StatusCode) {
			return resp, r.plausible(resp, &target)
		}
		discard(resp)
		if hop == maxRedirects {
			return nil, fmt.Errorf("%w: %s redirects more than %d times", ErrMalformed, r.name, maxRedirects)
		}
		if target, err = r.next(target, resp.Header.Get("Location")); err != nil {
			return nil, err
		}
	}
}

// plausible refuses a challenge that does not come from the registry itself:
// nobody else may ask for its credentials.
func (r *registry) plausible(resp *http.Response, from *url.URL) error {
	if resp.StatusCode == http.StatusUnauthorized && !sameOrigin(from, r.base) {
		discard(resp)
		return fmt.Errorf("%w: %s redirects to %s, which asks for a login", ErrDenied, r.name, from.Host)
	}
	return nil
}

func redirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// next is where a redirect leads. Addresses are the dialer's business.
func (r *registry) next(from url.URL, location string) (url.URL, error) {
	to, err := from.Parse(location)
	if err != nil || location == "" {
		return url.URL{}, fmt.Errorf("%w: %s redirects to nowhere", ErrMalformed, r.name)
	}
	plain := to.Scheme == "http" && from.Scheme == "http" && r.base.Scheme == "http"
	if to.Scheme != "https" && !plain || to.User != nil || to.Hostname() == "" {
		return url.URL{}, fmt.Errorf("%w: %s redirects to %s", ErrForbiddenAddress, r.name, to.Redacted())
	}
	return *to, nil
}

func sameOrigin(a, b *url.URL) bool {
	hostA, portA := hostPort(a)
	hostB, portB := hostPort(b)
	return a.Scheme == b.Scheme && hostA == hostB && portA == portB
}

// query is one request of a repository.
type query struct {
	ref    blob.Ref
	method string
	path   string // beneath /v2/<repository>/
	header http.Header
	// token, when set, is the only credential used. anonymous means none at
	// all; else the client's own login answers a challenge.
	token     string
	anonymous bool
}

// do sends q with retries and answers one challenge. The response is a 2xx.
func (c *Client) do(ctx context.Context, q query) (*http.Response, error) {
	r, err := c.registry(q.ref)
	if err != nil {
		return nil, err
	}
	repo := repository(q.ref)
	if err := blob.CheckRepository(repo); err != nil {
		return nil, err
	}
	resp, err := c.retry(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.authorized(ctx, r, repo, q)
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer discard(resp)
		return nil, statusError(resp)
	}
	return resp, nil
}

// authorized sends q once, and once more when a challenge can be answered.
func (c *Client) authorized(ctx context.Context, r *registry, repo string, q query) (*http.Response, error) {
	path := "/v2/" + repo + "/" + q.path
	if q.token != "" {
		return r.send(ctx, q.method, path, q.header, "Bearer "+q.token)
	}
	var l login
	if !q.anonymous {
		var err error
		if l, err = r.own(); err != nil {
			return nil, err
		}
	}
	authorization := ""
	if t := r.cached(repo, l.user, c.now()); t != "" {
		authorization = "Bearer " + t
	} else if ch := r.challenge(); ch != nil && ch.scheme == "basic" && l.user != "" {
		var err error
		if authorization, err = c.authorization(ctx, r, ch, repo, l); err != nil {
			return nil, err
		}
	}
	resp, err := r.send(ctx, q.method, path, q.header, authorization)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	r.forget(repo, l.user)
	ch, err := r.note(resp)
	if err != nil || ch.scheme == "basic" && authorization != "" {
		return resp, nil // the 401 itself is the answer
	}
	again, err := c.authorization(ctx, r, ch, repo, l)
	if err != nil {
		discard(resp)
		return nil, err
	}
	if again == "" {
		return resp, nil
	}
	discard(resp)
	return r.send(ctx, q.method, path, q.header, again)
}

func (c *Client) registry(ref blob.Ref) (*registry, error) {
	r := c.registries[ref.Registry]
	if r == nil {
		return nil, fmt.Errorf("%w: %q; name it under upstreams in the supernode's configuration", ErrUnknownRegistry, clip(ref.Registry))
	}
	return r, nil
}

// repository is the name as the registry knows it: Docker Hub keeps its
// official images under library/.
func repository(ref blob.Ref) string {
	if ref.Registry == DockerHub && !strings.Contains(ref.Repository, "/") {
		return "library/" + ref.Repository
	}
	return ref.Repository
}

// statusError turns a status into an error, with the registry's own words.
func statusError(resp *http.Response) error {
	said := ""
	if raw, err := readBounded(resp.Body, maxAnswer); err == nil {
		said = ociMessage(raw)
	}
	var kind error
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		kind = ErrNotFound
	case http.StatusUnauthorized:
		kind = ErrUnauthorized
	case http.StatusForbidden:
		kind = ErrDenied
	default:
		if transient(resp.StatusCode) {
			return &RetryError{Status: resp.StatusCode}
		}
		kind = fmt.Errorf("%w: status %d", ErrMalformed, resp.StatusCode)
	}
	if said == "" {
		return kind
	}
	return fmt.Errorf("%w: it says %q", kind, said)
}

// ociMessage is the first error of an OCI error body, short enough for a log.
func ociMessage(raw []byte) string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(raw, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return clip(strings.TrimSpace(body.Errors[0].Code + " " + body.Errors[0].Message))
}

func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// readBounded reads all of body, or fails with ErrTooLarge beyond limit.
func readBounded(body io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return raw, nil
}

// discard reads a little of what is left, so that the connection can be used
// again, and closes it.
func discard(resp *http.Response) {
	_, err := io.CopyN(io.Discard, resp.Body, maxAnswer)
	if closeErr := resp.Body.Close(); closeErr != nil && (err == nil || errors.Is(err, io.EOF)) {
		return // nothing is lost: the answer is not wanted
	}
}
