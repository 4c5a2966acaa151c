package upstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	readableYes     = time.Minute
	readableNo      = 15 * time.Second
	readableTimeout = 3 * time.Second
	maxReadable     = 8192
)

// readableCache keeps what registries answered about who may read.
type readableCache struct {
	flights singleflight.Group

	mu      sync.Mutex
	answers map[string]readableAnswer // guarded by mu
}

type readableAnswer struct {
	yes     bool
	expires time.Time
}

// Anonymous asks the registry, with no credentials at all, whether anybody
// may pull this manifest (tag or digest).
func (c *Client) Anonymous(ctx context.Context, ref blob.Ref, reference string) (bool, error) {
	return c.Readable(ctx, ref, reference, true, "")
}

// Readable asks whether the registry lets the holder of token (empty:
// anybody) read this manifest or blob in this repository. It is the proof
// that the repository links the digest: a right on a repository alone opens
// none. A yes is believed for one minute, a no for 15 s. An error means that
// no answer was to be had.
func (c *Client) Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, token string) (bool, error) {
	d, err := parseReference(reference)
	switch {
	case err != nil:
		return false, err
	case manifest:
		return c.askReadable(ctx, manifestQuery(ref, http.MethodHead, reference, token, nil))
	case d == "":
		return false, fmt.Errorf("%w: a blob has no tag %q", blob.ErrInvalidDigest, clip(reference))
	}
	return c.askReadable(ctx, query{ref: ref, method: http.MethodHead, path: "blobs/" + reference, token: token})
}

func (c *Client) askReadable(ctx context.Context, q query) (bool, error) {
	q.anonymous = true // the client's own login never vouches for somebody else
	if _, err := c.registry(q.ref); err != nil {
		return false, err
	}
	key := fmt.Sprintf("%s\x00%s\x00%s\x00%x", q.ref.Registry, q.ref.Repository, q.path, sha256.Sum256([]byte(q.token)))
	if yes, ok := c.readable.get(key, c.now()); ok {
		return yes, nil
	}
	flight := c.readable.flights.DoChan(key, func() (any, error) {
		// The answer serves everybody who waits, not only who asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readableTimeout)
		defer cancel()
		resp, err := c.do(ctx, q)
		switch {
		case err == nil:
			discard(resp)
		case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrDenied), errors.Is(err, ErrNotFound):
		default:
			return false, err
		}
		c.readable.put(key, err == nil, c.now())
		return err == nil, nil
	})
	select {
	case got := <-flight:
		if got.Err != nil {
			return false, fmt.Errorf("ask who may read %s: %w", q.ref, got.Err)
		}
		return got.Val.(bool), nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (r *readableCache) get(key string, now time.Time) (yes, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.answers[key]
	return a.yes, ok && now.Before(a.expires)
}

func (r *readableCache) put(key string, yes bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= maxReadable {
		for k, a := range r.answers {
			if !now.Before(a.expires) {
				delete(r.answers, k)
			}
		}
	}
	if r.answers == nil || len(r.answers) >= maxReadable {
		r.answers = make(map[string]readableAnswer)
	}
	life := readableNo
	if yes {
		life = readableYes
	}
	r.answers[key] = readableAnswer{yes: yes, expires: now.Add(life)}
}
