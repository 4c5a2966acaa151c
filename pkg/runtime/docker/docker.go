// Package docker asks a Docker daemon on this host for the few things that a
// prepull needs, over its Unix socket with plain HTTP. The daemon's own SDK is
// forty times the size of these calls.
//
// Docker hands its mirror neither the registry's name nor credentials, so a
// pull through this host's mirror names the mirror in the reference
// (127.0.0.1:65001/registry.example.com/app:v1) and is tagged afterwards.
package docker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/shoalproject/shoal/pkg/runtime"
)

const (
	// DefaultSocket is where the daemon listens.
	DefaultSocket = "/var/run/docker.sock"

	maxAnswer = 1 << 20 // bytes of an answer that is read whole
)

// ErrNoImage says that the daemon has no such image.
var ErrNoImage = errors.New("docker has no such image")

// Client speaks with one daemon.
type Client struct {
	socket string
	http   *http.Client
}

// New makes a client for the daemon at a Unix socket; empty means
// DefaultSocket. It does not connect yet.
func New(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 30 * time.Second,
	}}}
}

// Close lets idle connections go.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Ping reports whether the daemon answers.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.whole(ctx, http.MethodGet, "/_ping", nil)
	return err
}

// Version is the daemon's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	raw, err := c.whole(ctx, http.MethodGet, "/version", nil)
	if err != nil {
		return "", err
	}
	var v struct{ Version string }
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("read version of docker at %s: %w", c.socket, err)
	}
	return v.Version, nil
}

// HasImage reports whether the daemon has an image of that name or ID.
func (c *Client) HasImage(ctx context.Context, image string) (bool, error) {
	path, err := imagePath(image)
	if err != nil {
		return false, err
	}
	_, err = c.whole(ctx, http.MethodGet, path+"/json", nil)
	if errors.Is(err, ErrNoImage) {
		return false, nil
	}
	return err == nil, err
}

// Tag gives an image another name.
func (c *Client) Tag(ctx context.Context, image, as string) error {
	name, tag, err := split(as)
	if err != nil {
		return err
	}
	path, err := imagePath(image)
	if err != nil {
		return err
	}
	_, err = c.whole(ctx, http.MethodPost, path+"/tag?"+url.Values{"repo": {name}, "tag": {tag}}.Encode(), nil)
	return err
}

// Pull makes the daemon pull an image; Docker always unpacks.
func (c *Client) Pull(ctx context.Context, p runtime.Pull) error {
	name, tag, err := split(p.Image)
	if err != nil {
		return err
	}
	query := url.Values{"fromImage": {name}, "tag": {tag}}
	if p.Platform != "" {
		query.Set("platform", p.Platform)
	}
	body, err := c.do(ctx, http.MethodPost, "/images/create?"+query.Encode(), authHeader(p))
	if err != nil {
		return fmt.Errorf("pull %s into docker: %w", p.Image, err)
	}
	defer body.Close()
	if err := follow(body, p.Progress); err != nil {
		return fmt.Errorf("pull %s into docker: %w", p.Image, err)
	}
	return nil
}

// split takes a reference apart as the daemon wants it: the name, and the tag
// or digest.
func split(image string) (name, tag string, err error) {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return "", "", fmt.Errorf("image %q: %w", image, err)
	}
	switch r := ref.(type) {
	case reference.Digested:
		return ref.Name(), r.Digest().String(), nil
	case reference.Tagged:
		return ref.Name(), r.Tag(), nil
	}
	return ref.Name(), "latest", nil
}

// imagePath is where the daemon keeps an image of that name or ID. What is no
// reference is refused, so that nothing else of the daemon can be named.
func imagePath(image string) (string, error) {
	if _, err := reference.ParseAnyReference(image); err != nil {
		return "", fmt.Errorf("image %q: %w", image, err)
	}
	return "/images/" + strings.ReplaceAll(url.PathEscape(image), "%2F", "/"), nil
}

// authHeader is X-Registry-Auth: base64url of a small JSON.
func authHeader(p runtime.Pull) http.Header {
	var auth map[string]string
	switch cred := p.Credential; {
	case p.Token != "":
		auth = map[string]string{"registrytoken": p.Token}
	case cred == nil:
		return nil
	case cred.Username == "":
		auth = map[string]string{"identitytoken": cred.Secret}
	default:
		auth = map[string]string{"username": cred.Username, "password": cred.Secret}
	}
	raw, err := json.Marshal(auth)
	if err != nil {
		panic("docker: a map of strings is always JSON: " + err.Error())
	}
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(raw)}}
}

// do sends a request and returns the body of a good answer.
func (c *Client) do(ctx context.Context, method, path string, header http.Header) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	for key, values := range header {
		request.Header[key] = values
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask docker at %s: %w; is the daemon running, and may this user open its socket?", c.socket, err)
	}
	if answer.StatusCode < 300 {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // a reason, as far as it came
	var reason struct{ Message string }
	if json.Unmarshal(raw, &reason) != nil || reason.Message == "" {
		reason.Message = answer.Status
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %s", ErrNoImage, reason.Message)
	}
	return nil, fmt.Errorf("docker at %s refused: %s", c.socket, reason.Message)
}

// whole is do for short answers.
func (c *Client) whole(ctx context.Context, method, path string, header http.Header) ([]byte, error) {
	body, err := c.do(ctx, method, path, header)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer of docker at %s: %w", c.socket, err)
	}
	return raw, nil
}

// follow reads the messages of a pull. The daemon says 200 before it starts,
// so an error comes as a message.
func follow(body io.Reader, report func(done, total int64)) error {
	type layer struct{ done, total int64 }
	layers := map[string]layer{}
	messages := json.NewDecoder(body)
	for {
		var m struct {
			ID             string
			Status         string
			Error          string
			ProgressDetail struct{ Current, Total int64 }
		}
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the daemon's report broke off: %w", err)
		case m.Error != "":
			return errors.New(m.Error)
		}
		old := layers[m.ID]
		switch {
		case m.Status == "Downloading" && m.ProgressDetail.Total > 0:
			layers[m.ID] = layer{m.ProgressDetail.Current, m.ProgressDetail.Total}
		case m.Status == "Download complete" || m.Status == "Pull complete":
			layers[m.ID] = layer{old.total, old.total}
		}
		if report == nil || old == layers[m.ID] {
			continue
		}
		var sum layer
		for _, l := range layers {
			sum.done += l.done
			sum.total += l.total
		}
		report(sum.done, sum.total)
	}
}
