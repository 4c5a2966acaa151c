package dfget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/settings"
)

// maxManifest is the largest manifest that is read, in bytes.
const maxManifest = 4 << 20

var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}

// registry reads one repository through the agent's mirror.
type registry struct {
	client *http.Client
	base   string // http://mirror/v2/repository
	ref    blob.Ref
}

// mirror logs in to the agent's mirror for one repository, with the
// credentials that belong to the registry the image names.
func (a *app) mirror(addr string, ref blob.Ref) (*registry, error) {
	if addr == "" {
		return nil, fmt.Errorf("the agent on this host serves no mirror; start it with --mirror")
	}
	host := ref.Registry
	if host == "" {
		u, err := a.supernodeURL()
		if err == nil {
			host = u.Host
		}
	}
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	auth := authn.Anonymous
	if host != "" {
		creds, err := credentialsFor(host)
		if err != nil {
			return nil, err
		}
		switch {
		case creds.identity != "":
			auth = authn.FromConfig(authn.AuthConfig{Username: creds.user, IdentityToken: creds.identity})
		case creds.user != "":
			auth = &authn.Basic{Username: creds.user, Password: creds.password}
		}
	}
	repository, err := name.NewRepository(addr+"/"+ref.Repository, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", settings.ErrUsage, err)
	}
	return &registry{
		client: &http.Client{Transport: &lazyLogin{
			repository: repository, auth: auth, next: withNamespace{ref.Registry, http.DefaultTransport},
		}},
		base: "http://" + addr + "/v2/" + ref.Repository,
		ref:  ref,
	}, nil
}

// lazyLogin does the token exchange with the first request, inside its context.
type lazyLogin struct {
	repository name.Repository
	auth       authn.Authenticator
	next       withNamespace
	ready      http.RoundTripper
}

func (l *lazyLogin) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.ready == nil {
		ready, err := transport.NewWithContext(r.Context(), l.repository.Registry, l.auth, l.next,
			[]string{l.repository.Scope(transport.PullScope)})
		if err != nil {
			return nil, l.refusal(err)
		}
		l.ready = ready
	}
	return l.ready.RoundTrip(r)
}

// refusal says in one line why the mirror did not let us in. The library tells
// of each way that it tried, HTTPS to the loopback mirror among them.
func (l *lazyLogin) refusal(err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return fmt.Errorf("log in at the agent's mirror: %w", err)
	}
	said := http.StatusText(refused.StatusCode)
	if len(refused.Errors) > 0 {
		said = refused.Errors[0].Message
	}
	err = fmt.Errorf("log in at the agent's mirror: the answer was %d: %s", refused.StatusCode, said)
	switch refused.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %w; log in with 'dfget login'", errDenied, err)
	case http.StatusNotFound: // the mirror knows this registry not at all
		return fmt.Errorf("%w: %s is no upstream of the supernode (%w)", errNotFound, l.next.registry, err)
	}
	return err
}

// withNamespace adds ns= as containerd does, so that the mirror knows which
// registry is meant.
type withNamespace struct {
	registry string
	next     http.RoundTripper
}

func (w withNamespace) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.registry != "" {
		r = r.Clone(r.Context())
		q := r.URL.Query()
		q.Set("ns", w.registry)
		r.URL.RawQuery = q.Encode()
	}
	return w.next.RoundTrip(r)
}

func (g *registry) get(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, g.base+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		request.Header[k] = v
	}
	response, err := g.client.Do(request)
	if err != nil {
		return nil, cleanURLError(err)
	}
	return response, nil
}

// cleanURLError takes the address of the mirror off an error: it says nothing
// to a person who asked for an image.
func cleanURLError(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // only the outermost error is meant
		err = u.Err
	}
	return err
}

// manifest fetches a manifest or index and checks it against its digest.
func (g *registry) manifest(ctx context.Context, reference string) (blob.Descriptor, []byte, error) {
	var d blob.Descriptor
	response, err := g.get(ctx, http.MethodGet, "/manifests/"+reference, http.Header{"Accept": manifestTypes})
	if err != nil {
		return d, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return d, nil, statusError("manifest "+reference, response)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	if err != nil {
		return d, nil, fmt.Errorf("read manifest %s: %w", reference, err)
	}
	if len(body) > maxManifest {
		return d, nil, fmt.Errorf("manifest %s is larger than %d bytes", reference, maxManifest)
	}
	algorithm := blob.Digest("sha256:")
	if want, err := blob.ParseDigest(reference); err == nil {
		algorithm = want
	}
	d.Digest = algorithm.Algorithm().FromBytes(body)
	d.Size = int64(len(body))
	d.MediaType = response.Header.Get("Content-Type")
	if strings.Contains(reference, ":") && string(d.Digest) != reference {
		return d, nil, fmt.Errorf("the mirror answered with another manifest: its digest is %s", d.Digest)
	}
	return d, body, nil
}

// hasBlob reports whether the mirror serves this blob; false also when the
// registry is no configured upstream.
func (g *registry) hasBlob(ctx context.Context, d blob.Digest) (bool, error) {
	response, err := g.get(ctx, http.MethodHead, "/blobs/"+string(d), nil)
	if errors.Is(err, errNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK, nil
}

// blob opens a blob from offset on; size is of the whole.
func (g *registry) blob(ctx context.Context, d blob.Digest, offset int64) (body io.ReadCloser, size int64, err error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := g.get(ctx, http.MethodGet, "/blobs/"+string(d), header)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case response.StatusCode == http.StatusOK && offset == 0, response.StatusCode == http.StatusPartialContent && offset > 0:
		return response.Body, wholeSize(response, offset), nil
	}
	defer response.Body.Close()
	return nil, 0, statusError("blob "+string(d), response)
}
