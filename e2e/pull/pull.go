// Package pull is a client as small as a client can be: it pulls one image
// from a registry or mirror over HTTP, a few layers at a time as containerd
// does, and keeps nothing. It speaks the token flow when it is asked to log
// in. The demo and the benchmark use it where no container engine is wanted.
package pull

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Image says what to pull and how.
type Image struct {
	Base       string // such as http://127.0.0.1:65001
	Repository string
	Reference  string // tag or digest
	Registry   string // sent as ns=; empty sends none
	User       string
	Password   string
	Parallel   int  // layers at once; 0 means 3, as containerd has it
	Verify     bool // hash every blob; costs 0.7 CPU-seconds per GiB
	Client     *http.Client
}

// Result is what a pull gave.
type Result struct {
	Digest    string
	Age       string // the manifest's Age header: how old the answer is, seconds
	Bytes     int64
	Began     time.Time
	FirstByte time.Time // of the first layer
	Done      time.Time
}

const accept = ocispec.MediaTypeImageIndex + ", " + ocispec.MediaTypeImageManifest +
	", application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"

// Pull fetches manifest, config and layers. Of an index it takes linux/amd64.
func Pull(ctx context.Context, img Image) (Result, error) {
	p := &puller{Image: img, client: cmp.Or(img.Client, http.DefaultClient)}
	p.result.Began = time.Now()
	m, err := p.manifest(ctx, img.Reference)
	if err != nil {
		return Result{}, fmt.Errorf("pull %s:%s: %w", img.Repository, img.Reference, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(img.Parallel, 3))
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		group.Go(func() error { return p.blob(ctx, d) })
	}
	if err := group.Wait(); err != nil {
		return Result{}, fmt.Errorf("pull %s:%s: %w", img.Repository, img.Reference, err)
	}
	p.result.Done = time.Now()
	return p.result, nil
}

type puller struct {
	Image
	client *http.Client

	mu     sync.Mutex
	token  string // guarded by mu
	result Result // guarded by mu while blobs come
}

func (p *puller) manifest(ctx context.Context, reference string) (ocispec.Manifest, error) {
	var m struct {
		ocispec.Manifest
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	resp, err := p.get(ctx, "manifests/"+reference)
	if err != nil {
		return m.Manifest, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return m.Manifest, fmt.Errorf("manifest: %w", err)
	}
	p.result.Bytes += int64(len(raw))
	if p.result.Digest == "" {
		sum := sha256.Sum256(raw)
		p.result.Digest = "sha256:" + hex.EncodeToString(sum[:])
		p.result.Age = resp.Header.Get("Age")
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m.Manifest, fmt.Errorf("manifest: %w", err)
	}
	for _, d := range m.Manifests {
		if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == "amd64" {
			return p.manifest(ctx, d.Digest.String())
		}
	}
	if len(m.Manifests) > 0 {
		return m.Manifest, errors.New("index without linux/amd64")
	}
	return m.Manifest, nil
}

// blob reads one blob to its end.
func (p *puller) blob(ctx context.Context, d ocispec.Descriptor) error {
	hash := sha256.New()
	sink := io.Discard
	if p.Verify {
		sink = hash
	}
	resp, err := p.get(ctx, "blobs/"+d.Digest.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(onlyWriter{sink}, &firstByte{resp.Body, p.first}, make([]byte, 256<<10))
	switch {
	case err != nil:
		return fmt.Errorf("blob %s after %d of %d bytes: %w", d.Digest, n, d.Size, err)
	case n != d.Size:
		return fmt.Errorf("blob %s: %d bytes, want %d", d.Digest, n, d.Size)
	case p.Verify && hex.EncodeToString(hash.Sum(nil)) != d.Digest.Encoded():
		return fmt.Errorf("blob %s: wrong bytes", d.Digest)
	}
	p.mu.Lock()
	p.result.Bytes += n
	p.mu.Unlock()
	return nil
}

// onlyWriter hides io.Discard's own way of reading, which takes 8 KiB at a
// time.
type onlyWriter struct{ io.Writer }

func (p *puller) first() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.result.FirstByte.IsZero() {
		p.result.FirstByte = time.Now()
	}
}

type firstByte struct {
	io.Reader
	seen func()
}

func (r *firstByte) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 && r.seen != nil {
		r.seen()
		r.seen = nil
	}
	return n, err
}

// get asks once, and once more after a 401 with what it asks for.
func (p *puller) get(ctx context.Context, what string) (*http.Response, error) {
	target := fmt.Sprintf("%s/v2/%s/%s", p.Base, p.Repository, what)
	if p.Registry != "" {
		target += "?ns=" + url.QueryEscape(p.Registry)
	}
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", accept)
		p.mu.Lock()
		token := p.token
		p.mu.Unlock()
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := p.client.Do(req)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || p.User == "" || attempt > 0 {
			return nil, fmt.Errorf("%s: %s: %s", what, resp.Status, body)
		}
		if err := p.login(ctx, resp.Header.Get("WWW-Authenticate")); err != nil {
			return nil, err
		}
	}
}

var challengeParam = regexp.MustCompile(`(realm|service|scope)="([^"]*)"`)

// login gets a token from the realm that the challenge names.
func (p *puller) login(ctx context.Context, challenge string) error {
	params := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(challenge, -1) {
		params[m[1]] = m[2]
	}
	realm, err := url.Parse(params["realm"])
	if err != nil || params["realm"] == "" {
		return fmt.Errorf("login: no realm in %q", challenge)
	}
	query := realm.Query()
	query.Set("service", params["service"])
	query.Set("scope", cmp.Or(params["scope"], "repository:"+p.Repository+":pull"))
	query.Set("account", p.User)
	realm.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	req.SetBasicAuth(p.User, p.Password)
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("login at %s: %s: %s", realm.Host, resp.Status, body)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("login at %s: %w", realm.Host, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = cmp.Or(answer.Token, answer.AccessToken)
	return nil
}
