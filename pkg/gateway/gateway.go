// Package gateway reads manifests and blobs from the supernodes' registry as
// a member: over the piece listener's mutual TLS, with the reader's own token
// inside. It is how an agent resolves names, and the way round when no piece
// can be had.
package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// maxManifest is the largest manifest that is read, in bytes.
	maxManifest = 4 << 20
	// answerWithin bounds the wait for an answer's headers. A supernode that
	// must ask upstream first takes longer than one that knows.
	answerWithin = 20 * time.Second
)

// Headers between agent and supernode, beyond those of the OCI specification.
const (
	// HeaderUpstreamToken carries the reader's pull token of the upstream.
	HeaderUpstreamToken = "Shoal-Upstream-Token"
	// HeaderWantRecord asks for, and HeaderRecord carries, a signed tag record.
	HeaderWantRecord = "Shoal-Want-Tag-Record"
	HeaderRecord     = "Shoal-Tag-Record"
)

// ErrUnreachable says that no supernode answered.
var ErrUnreachable = errors.New("no supernode can be reached")

// Error is a refusal: the supernode answered, but not with what was asked
// for. It keeps the HTTP status, so that a 401 of an upstream stays one.
type Error struct {
	Status  int
	Message string        // the supernode's own words
	After   time.Duration // when to try again; 0 when it did not say
}

func (e *Error) Error() string {
	return fmt.Sprintf("the supernode answered %d %s: %s", e.Status, http.StatusText(e.Status), e.Message)
}

// HTTPStatus is the status of the answer.
func (e *Error) HTTPStatus() int { return e.Status }

// RetryAfter is the wait that the supernode asked for.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Client reads from whichever supernode answers.
type Client struct {
	http  *http.Client
	bases func() []string
}

// New makes a client; bases are the supernodes' URLs in the order to try.
func New(client *http.Client, bases func() []string) *Client {
	return &Client{http: client, bases: bases}
}

// Manifest is a manifest or an index as the supernode answered.
type Manifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	Age        time.Duration // how long ago it was known to be current
	// Records are signed statements that this repository has this manifest,
	// under the tag and under the digest; their signatures were not checked.
	Records []*blob.TagRecord
}

// Manifest reads a manifest by tag or digest and hashes it against the digest
// that was asked for.
func (c *Client) Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (Manifest, error) {
	var m Manifest
	header := http.Header{"Accept": accept, HeaderWantRecord: {"1"}}
	response, err := c.get(ctx, http.MethodGet, ref, "manifests/"+reference, token, header)
	if err != nil {
		return m, fmt.Errorf("manifest %s of %s: %w", reference, ref, err)
	}
	defer response.Body.Close()
	if m.Body, err = io.ReadAll(io.LimitReader(response.Body, maxManifest+1)); err != nil {
		return m, fmt.Errorf("manifest %s of %s: %w: %w", reference, ref, ErrUnreachable, err)
	}
	if len(m.Body) > maxManifest {
		return m, fmt.Errorf("manifest %s of %s is larger than %d bytes", reference, ref, maxManifest)
	}
	want, err := blob.ParseDigest(reference)
	if err != nil {
		if want, err = blob.ParseDigest(response.Header.Get("Docker-Content-Digest")); err != nil {
			return m, fmt.Errorf("manifest %s of %s: the supernode named no digest: %w", reference, ref, err)
		}
	}
	if got := want.Algorithm().FromBytes(m.Body); got != want {
		return m, fmt.Errorf("manifest %s of %s: %w: it is %s", reference, ref, blob.ErrDigestMismatch, got)
	}
	m.Descriptor = blob.Descriptor{MediaType: response.Header.Get("Content-Type"), Digest: want, Size: int64(len(m.Body))}
	if age, err := strconv.ParseInt(response.Header.Get("Age"), 10, 32); err == nil && age > 0 {
		m.Age = time.Duration(age) * time.Second
	}
	for _, text := range response.Header.Values(HeaderRecord) {
		// A record that can't be read is as good as none: the answer itself
		// came over an authenticated line.
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			if record, err := blob.DecodeTagRecord(raw); err == nil {
				m.Records = append(m.Records, record)
			}
		}
	}
	return m, nil
}

// Blob opens a range of a blob; End -1 means to the end. size is that of the
// whole blob, -1 when it was not said.
func (c *Client) Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error) {
	header := http.Header{}
	switch {
	case r.End >= 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.Start, r.End-1))
	case r.Start > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", r.Start))
	}
	response, err := c.get(ctx, http.MethodGet, ref, "blobs/"+string(d), token, header)
	if err != nil {
		return nil, -1, fmt.Errorf("blob %s of %s: %w", d, ref, err)
	}
	if response.StatusCode == http.StatusPartialContent {
		_, total, _ := strings.Cut(response.Header.Get("Content-Range"), "/")
		size, err := strconv.ParseInt(total, 10, 64)
		if err != nil {
			size = -1
		}
		return response.Body, size, nil
	}
	if header.Get("Range") != "" && r.Start > 0 {
		response.Body.Close()
		return nil, -1, fmt.Errorf("blob %s of %s: the supernode ignored the range", d, ref)
	}
	return response.Body, response.ContentLength, nil
}

// Readable asks whether the holder of the token may read this manifest or
// blob in this repository. An error means that no answer was to be had.
func (c *Client) Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, token string) (bool, error) {
	return c.readable(ctx, ref, reference, manifest, token, http.Header{"Accept": {"*/*"}})
}

// ReadableAs is Readable for who is logged in at the supernode, of another
// registry's repository too: what the supernode's own login there may read is
// open to some.
func (c *Client) ReadableAs(ctx context.Context, ref blob.Ref, reference string, manifest bool, login string) (bool, error) {
	return c.readable(ctx, ref, reference, manifest, "", http.Header{"Accept": {"*/*"}, "Authorization": {"Bearer " + login}})
}

func (c *Client) readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, token string, header http.Header) (bool, error) {
	what := "blobs/"
	if manifest {
		what = "manifests/"
	}
	response, err := c.get(ctx, http.MethodHead, ref, what+reference, token, header)
	var refused *Error
	if errors.As(err, &refused) && !errors.Is(err, ErrUnreachable) && refused.Status < http.StatusInternalServerError {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, response.Body.Close()
}

// get asks one supernode after the other; an answer of any kind ends it,
// unless the supernode itself is in trouble.
func (c *Client) get(ctx context.Context, method string, ref blob.Ref, what, token string, header http.Header) (*http.Response, error) {
	var errs []error
	for _, base := range c.bases() {
		response, err := c.ask(ctx, method, base, ref, what, token, header)
		if err == nil {
			return response, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, ErrUnreachable) {
			break
		}
	}
	if len(errs) == 0 {
		return nil, ErrUnreachable
	}
	return nil, errors.Join(errs...)
}

func (c *Client) ask(ctx context.Context, method, base string, ref blob.Ref, what, token string, header http.Header) (*http.Response, error) {
	address := base + "/v2/" + ref.Repository + "/" + what
	if ref.Registry != "" {
		address += "?" + url.Values{"ns": {ref.Registry}}.Encode()
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(answerWithin, cancel)
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	request.Header = header.Clone()
	switch {
	case token == "":
	case ref.Registry == "":
		request.Header.Set("Authorization", "Bearer "+token)
	default:
		request.Header.Set(HeaderUpstreamToken, token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		late.Stop()
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if !late.Stop() {
		response.Body.Close()
		cancel()
		return nil, fmt.Errorf("%w: %s took longer than %s", ErrUnreachable, base, answerWithin)
	}
	response.Body = body{response.Body, cancel}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusPartialContent {
		return response, nil
	}
	defer response.Body.Close()
	return nil, failure(response)
}

// body ends the request's context with the answer.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// failure reads a refusal. A supernode in trouble of its own counts as not
// reached, so that the next one is asked.
func failure(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
	e := &Error{Status: response.StatusCode, Message: strings.TrimSpace(string(text))}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.After = time.Duration(seconds) * time.Second
	}
	if e.Status == http.StatusInternalServerError || e.Status == http.StatusServiceUnavailable {
		return fmt.Errorf("%w: %w", ErrUnreachable, e)
	}
	return e
}
