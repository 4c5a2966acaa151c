package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/mirror"
)

const (
	// sameRequests is how close the requests for one manifest have to be to
	// belong to one pull: runtimes ask HEAD by tag, then GET by digest.
	sameRequests = 10 * time.Second
	// rememberedNames bounds the names that are kept for reports.
	rememberedNames = 512
)

// pulls is the mirror's source of content. It begins a report with each
// manifest that is read, so that the flights of its blobs are told together.
type pulls struct {
	fetcher *fetch.Fetcher

	mu    sync.Mutex // one report is begun at a time
	names *expirable.LRU[blob.Digest, named]
}

// named is how a manifest was asked for last.
type named struct {
	image string
	at    time.Time
}

func originToken(ref blob.Ref, g mirror.Grant) string {
	if ref.Registry == "" {
		return g.Login
	}
	return g.Token
}

func (p *pulls) Manifest(ctx context.Context, ref blob.Ref, reference string, g mirror.Grant) (mirror.Manifest, error) {
	m, err := p.fetcher.Manifest(ctx, ref, reference, fetch.Cred{Token: originToken(ref, g)})
	if err != nil {
		return mirror.Manifest{}, mirrorError(err)
	}
	p.begin(ref, reference, m)
	return mirror.Manifest{Descriptor: m.Descriptor, Body: m.Body, Age: m.Age}, nil
}

// begin opens a report unless the same manifest was just asked for.
func (p *pulls) begin(ref blob.Ref, reference string, m fetch.Manifest) {
	blobs := blobsOf(m.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	last, again := p.names.Get(m.Descriptor.Digest)
	fresh := again && time.Since(last.at) < sameRequests
	image := ref.String() + ":" + reference
	if reference == string(m.Descriptor.Digest) {
		image = ref.String() + "@" + reference
		if again {
			image = last.image
		}
	}
	p.names.Add(m.Descriptor.Digest, named{image, time.Now()})
	children := childrenOf(m.Body)
	for _, child := range children[:min(len(children), rememberedNames/4)] { // a large index must not displace all names
		p.names.Add(child.Digest, named{image: image})
	}
	if !fresh && len(blobs) > 0 {
		p.fetcher.BeginPull(image, blobs)
	}
}

// blobsOf lists the config and the layers of an image manifest.
func blobsOf(manifest []byte) []blob.Descriptor {
	var parsed struct {
		Config *blob.Descriptor  `json:"config"`
		Layers []blob.Descriptor `json:"layers"`
	}
	if json.Unmarshal(manifest, &parsed) != nil || parsed.Config == nil {
		return nil
	}
	return append(parsed.Layers, *parsed.Config)
}

// childrenOf lists the manifests of an index.
func childrenOf(manifest []byte) []blob.Descriptor {
	var parsed struct {
		Manifests []blob.Descriptor `json:"manifests"`
	}
	if json.Unmarshal(manifest, &parsed) != nil {
		return nil
	}
	return parsed.Manifests
}

func request(ref blob.Ref, d blob.Digest, g mirror.Grant) fetch.Request {
	return fetch.Request{Digest: d, Size: -1, Ref: ref, Class: "wait", OriginToken: originToken(ref, g)}
}

func (p *pulls) Stat(ctx context.Context, ref blob.Ref, d blob.Digest, g mirror.Grant) (int64, error) {
	size, err := p.fetcher.Stat(ctx, request(ref, d, g))
	return size, mirrorError(err)
}

func (p *pulls) Open(ctx context.Context, ref blob.Ref, d blob.Digest, rng blob.Range, g mirror.Grant) (mirror.Reader, error) {
	r, err := p.fetcher.Open(ctx, request(ref, d, g), rng)
	if err != nil {
		return nil, mirrorError(err)
	}
	return r, nil
}

// mirrorError says fetch's errors in the mirror's words.
func mirrorError(err error) error {
	for from, to := range map[error]error{
		fetch.ErrNotFound: mirror.ErrNotFound, fetch.ErrDenied: mirror.ErrUnauthorized, fetch.ErrUnavailable: mirror.ErrUnavailable,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", to, err)
		}
	}
	return err
}
