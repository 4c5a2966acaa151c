package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

// MaxManifest is the largest manifest that is taken, in bytes.
const MaxManifest = 4 << 20

// ManifestTypes are the media types asked for when the caller names none.
func ManifestTypes() []string {
	return []string{
		"application/vnd.oci.image.index.v1+json",
		"application/vnd.oci.image.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.docker.distribution.manifest.v2+json",
	}
}

// Manifest fetches a manifest by tag or digest. By digest, the bytes have
// been hashed against it; by tag, against the digest the registry named.
// token is a pull token from Token, or empty for the client's own login.
//
// Errors: ErrNotFound, ErrUnauthorized, ErrDenied, ErrDigestMismatch,
// ErrTooLarge, ErrUnavailable (a *RetryError says when to come back).
func (c *Client) Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, []byte, error) {
	fail := func(err error) (blob.Descriptor, []byte, error) {
		return blob.Descriptor{}, nil, fmt.Errorf("get manifest %s of %s: %w", clip(reference), ref, err)
	}
	want, err := parseReference(reference)
	if err != nil {
		return fail(err)
	}
	resp, err := c.do(ctx, manifestQuery(ref, http.MethodGet, reference, token, accept))
	if err != nil {
		return fail(err)
	}
	defer discard(resp)
	if resp.ContentLength > MaxManifest {
		return fail(fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, resp.ContentLength, MaxManifest))
	}
	body, err := readBounded(resp.Body, MaxManifest)
	if err != nil {
		return fail(err)
	}
	desc, err := describe(resp, want)
	if err != nil {
		return fail(err)
	}
	algorithm := digest.SHA256
	if desc.Digest != "" {
		algorithm = desc.Digest.Algorithm()
	}
	got := algorithm.FromBytes(body)
	if desc.Digest != "" && got != desc.Digest {
		return fail(fmt.Errorf("%w: want %s, got %s", ErrDigestMismatch, desc.Digest, got))
	}
	desc.Digest, desc.Size = got, int64(len(body))
	if desc.MediaType, err = mediaType(desc.MediaType, body); err != nil {
		return fail(err)
	}
	return desc, body, nil
}

// Head asks what a tag or digest names, without fetching it. A registry that
// leaves the digest or length out is asked for the whole manifest.
func (c *Client) Head(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, error) {
	want, err := parseReference(reference)
	if err != nil {
		return blob.Descriptor{}, fmt.Errorf("look up manifest %s of %s: %w", clip(reference), ref, err)
	}
	resp, err := c.do(ctx, manifestQuery(ref, http.MethodHead, reference, token, accept))
	if err != nil {
		return blob.Descriptor{}, fmt.Errorf("look up manifest %s of %s: %w", reference, ref, err)
	}
	discard(resp)
	desc, err := describe(resp, want)
	if err != nil {
		return blob.Descriptor{}, fmt.Errorf("look up manifest %s of %s: %w", reference, ref, err)
	}
	if desc.Digest == "" || desc.Size < 0 || desc.MediaType == "" {
		desc, _, err = c.Manifest(ctx, ref, reference, token, accept)
	}
	return desc, err
}

func manifestQuery(ref blob.Ref, method, reference, token string, accept []string) query {
	if len(accept) == 0 {
		accept = ManifestTypes()
	}
	return query{ref: ref, method: method, path: "manifests/" + reference, token: token,
		header: http.Header{"Accept": accept}}
}

// parseReference takes a tag (answer "") or a digest.
func parseReference(reference string) (blob.Digest, error) {
	if d, err := blob.ParseDigest(reference); err == nil {
		return d, nil
	}
	return "", blob.CheckTag(reference)
}

// describe reads the headers of a manifest answer. want is the digest asked
// for, empty for a tag; the digest the registry names must agree with it.
func describe(resp *http.Response, want blob.Digest) (blob.Descriptor, error) {
	desc := blob.Descriptor{Digest: want, Size: resp.ContentLength}
	if raw := resp.Header.Get("Docker-Content-Digest"); raw != "" {
		said, err := blob.ParseDigest(raw)
		switch {
		case err != nil:
			return desc, fmt.Errorf("%w: Docker-Content-Digest: %w", ErrMalformed, err)
		case want == "":
			desc.Digest = said
		case said != want && said.Algorithm() == want.Algorithm():
			return desc, fmt.Errorf("%w: asked for %s, it names %s", ErrDigestMismatch, want, said)
		}
	}
	if desc.Size > MaxManifest {
		return desc, fmt.Errorf("%w: a manifest of %d bytes, at most %d are taken", ErrTooLarge, desc.Size, MaxManifest)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
		desc.MediaType = t
	}
	return desc, nil
}

// mediaType settles what a manifest is: its own word and the header's must
// agree. Where the header says nothing in particular, its own word counts.
func mediaType(header string, body []byte) (string, error) {
	var own struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(body, &own); err != nil {
		return "", fmt.Errorf("%w: a manifest that is not JSON: %w", ErrMalformed, err)
	}
	switch header {
	case "", "application/json", "application/octet-stream", "text/plain":
		header = own.MediaType
	}
	if header == "" || own.MediaType != "" && own.MediaType != header {
		return "", fmt.Errorf("%w: content type %q, but the manifest says %q", ErrMalformed, clip(header), clip(own.MediaType))
	}
	return header, nil
}

// Stat asks for the size of a blob in bytes.
func (c *Client) Stat(ctx context.Context, ref blob.Ref, d blob.Digest, token string) (int64, error) {
	if _, err := blob.ParseDigest(d.String()); err != nil {
		return 0, err
	}
	resp, err := c.do(ctx, query{ref: ref, method: http.MethodHead, path: "blobs/" + d.String(), token: token})
	if err != nil {
		return 0, fmt.Errorf("look up blob %s of %s: %w", d, ref, err)
	}
	discard(resp)
	if resp.ContentLength < 0 {
		return 0, fmt.Errorf("look up blob %s of %s: %w: Content-Length %s", d, ref, ErrMalformed, strconv.Quote(resp.Header.Get("Content-Length")))
	}
	return resp.ContentLength, nil
}
