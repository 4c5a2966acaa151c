package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Errors that a PullThrough wraps; any other becomes 502.
var (
	// ErrUnknownUpstream says that no registry of that name is configured.
	ErrUnknownUpstream = errors.New("no such upstream")
	// ErrUpstreamNotFound says that the upstream has no such content.
	ErrUpstreamNotFound = errors.New("the upstream has no such content")
	// ErrUpstreamDenied says that the caller may not read it there.
	ErrUpstreamDenied = errors.New("the upstream refuses this reader")
)

// ForeignManifest is a manifest of another registry, its bytes verified
// against its digest.
type ForeignManifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	Age        time.Duration   // how long ago a tag was last known to name it
	Record     *blob.TagRecord // signed by this node; nil for a digest
}

// PullThrough reads from other registries. It decides itself whether the
// subject may read there, before it answers anything else.
type PullThrough interface {
	// Manifest gives a manifest by tag or digest, with a verified digest.
	Manifest(ctx context.Context, subject string, ref blob.Ref, reference string) (ForeignManifest, error)
	// Stat gives a blob's size in bytes.
	Stat(ctx context.Context, subject string, ref blob.Ref, d blob.Digest) (size int64, err error)
	// Blob gives a part of a blob. Its reader fails rather than give bytes
	// that do not belong to the digest.
	Blob(ctx context.Context, subject string, ref blob.Ref, d blob.Digest, part blob.Range) (io.ReadCloser, error)
}

// foreign reports whether the request is about another registry, and which.
func (g *Registry) foreign(r *http.Request) (string, bool) {
	ns := r.URL.Query().Get("ns")
	return ns, ns != "" && !slices.Contains(g.PublicNames, ns)
}

func (g *Registry) servePullThrough(w http.ResponseWriter, r *http.Request, route route, ns string) error {
	subject, err := g.Auth.Authorize(r, "")
	if err != nil {
		return authError(err)
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case !read:
		w.Header().Set("Allow", "GET, HEAD")
		return &Error{Status: http.StatusMethodNotAllowed, Code: codeUnsupported,
			Message: "other registries can only be read through this one; push to them directly, or leave ns out"}
	case g.PullThrough == nil:
		return errUpstream(fmt.Errorf("%w: %s", ErrUnknownUpstream, ns))
	}
	ref := blob.Ref{Registry: ns, Repository: route.repository}
	switch route.kind {
	case kindPing:
		return g.ping(w, nil)
	case kindManifest:
		return g.upstreamManifest(w, &request{Request: r, route: route, subject: subject}, ref)
	case kindBlob:
		return g.upstreamBlob(w, &request{Request: r, route: route, subject: subject}, ref)
	}
	return &Error{Status: http.StatusNotFound, Code: codeUnsupported,
		Message: "of other registries only manifests and blobs can be read through this one"}
}

func (g *Registry) upstreamManifest(w http.ResponseWriter, q *request, ref blob.Ref) error {
	m, err := g.PullThrough.Manifest(q.Context(), q.subject, ref, q.reference())
	if err != nil {
		return errUpstream(err)
	}
	desc, body := m.Descriptor, m.Body
	if q.digest != "" && desc.Digest != q.digest || desc.Digest.Algorithm().FromBytes(body) != desc.Digest {
		return errUpstream(fmt.Errorf("the manifest of %s %s does not have its digest", ref, q.reference()))
	}
	if m.Age > 0 {
		w.Header().Set("Age", strconv.FormatInt(int64(m.Age.Seconds()), 10))
	}
	if m.Record != nil && q.Header.Get(HeaderWantTagRecord) != "" {
		w.Header().Set(HeaderTagRecord, base64.StdEncoding.EncodeToString(m.Record.Encode()))
	}
	return serveContent(w, q.Request, desc.Digest, desc.MediaType, int64(len(body)), func(r blob.Range) error {
		_, err := w.Write(body[r.Start:r.End])
		return err
	})
}

func (g *Registry) upstreamBlob(w http.ResponseWriter, q *request, ref blob.Ref) error {
	size, err := g.PullThrough.Stat(q.Context(), q.subject, ref, q.digest)
	if err != nil {
		return errUpstream(err)
	}
	// A part that breaks off closes the connection, since Content-Length was
	// promised: the client sees that bytes are missing.
	return serveContent(w, q.Request, q.digest, octetStream, size, func(part blob.Range) error {
		reader, err := g.PullThrough.Blob(q.Context(), q.subject, ref, q.digest, part)
		if err != nil {
			return err
		}
		defer reader.Close()
		_, err = io.CopyN(w, reader, part.Len())
		return err
	})
}

// errUpstream makes a PullThrough's error an answer.
func errUpstream(err error) error {
	var answered *Error
	var retry interface{ RetryAfter() int }
	switch {
	case errors.As(err, &answered):
		return err
	case errors.Is(err, ErrUnknownUpstream):
		return &Error{Status: http.StatusNotFound, Code: codeNameUnknown, cause: err,
			Message: "ns names a registry that is not configured here; an administrator can add it under upstreams"}
	case errors.Is(err, ErrUpstreamNotFound):
		return &Error{Status: http.StatusNotFound, Code: codeManifestUnknown, cause: err,
			Message: "the upstream registry has no such content"}
	case errors.Is(err, ErrUpstreamDenied):
		// Their 401 stays one: a 404 would say that the image is gone.
		return &Error{Status: http.StatusUnauthorized, Code: codeDenied, cause: err,
			Message: "the upstream registry does not let you read this"}
	}
	e := &Error{Status: http.StatusBadGateway, Code: codeUnknown, cause: err,
		Message: "the upstream registry could not be read; try again, or look into this registry's log"}
	if errors.As(err, &retry) {
		e.Header = http.Header{"Retry-After": {strconv.Itoa(retry.RetryAfter())}}
	}
	return e
}
