package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/records"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/upstream"
	"github.com/shoalproject/shoal/supernode/api"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/seed"
	"github.com/shoalproject/shoal/supernode/tracker"
)

// staleTags is for how long a tag of a registry that cannot be reached is
// served as it was last known, with its age.
const staleTags = 24 * time.Hour

// openSeed makes the part that reads other registries once for everybody.
func (h *house) openSeed() (err error) {
	registries := map[string]upstream.Registry{}
	for name, u := range h.config.Upstreams {
		one := upstream.Registry{
			URL: u.URL, Username: u.Username, CAFile: u.CAFile, TokenHosts: u.TokenHosts, RedirectHosts: u.RedirectHosts,
		}
		if u.PasswordFile != "" {
			one.Password = func() (string, error) { return secret(u.PasswordFile) }
		}
		registries[name] = one
	}
	client, err := upstream.New(upstream.Config{Registries: registries, Log: h.log})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, func() error { client.Close(); return nil })
	if h.cache, err = store.Open(h.config.path("cache"), store.Options{MaxBytes: int64(h.config.CacheSize), Log: h.log}); err != nil {
		return err
	}
	h.closers = append(h.closers, h.cache.Close)
	tags, err := records.Open(h.config.path("records.db"))
	if err != nil {
		return err
	}
	h.closers = append(h.closers, tags.Close)
	h.seed = seed.New(seed.Config{
		Own: func(ctx context.Context, d blob.Digest) (seed.Content, error) {
			c, err := h.registry.Content(ctx, d)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Store: fetch.StoreOf(h.cache.Get, h.cache.Create), Upstream: client, MayLogin: h.mayLogin,
		Sign: h.key.Sign, Tags: tags, StaleTags: staleTags, Log: h.log, Metrics: h.metrics,
	})
	h.closers = append(h.closers, h.seed.Close)
	return nil
}

// mayLogin reports whether a subject may read what this supernode's own login
// at a registry may: the configuration names the projects it is for.
func (h *house) mayLogin(ctx context.Context, registry, subject string) (bool, error) {
	u := h.config.Upstreams[registry]
	if u.Username == "" {
		return false, nil
	}
	return h.auth.MemberOfAny(ctx, subject, u.Projects)
}

// origins lets the API ask the seed.
type origins struct{ *seed.Seed }

func (o origins) Ensure(ctx context.Context, subject string, a *tracker.Announcement, origin blob.Origin) {
	status := o.Seed.Ensure(ctx, seed.Want{Subject: subject, Digest: a.Digest, Size: a.Size, Ref: origin.Ref, Token: origin.Token})
	a.Seed = seedStates[status.State]
	a.RefusedStatus, a.RefusedReason = status.RefusedStatus, status.RefusedReason
}

// seedStates says the seed's states in the tracker's words.
var seedStates = map[seed.State]tracker.SeedState{
	seed.Absent: tracker.SeedAbsent, seed.Has: tracker.SeedHas, seed.Failed: tracker.SeedFailed,
	seed.Refused: tracker.SeedRefused, seed.Unneeded: tracker.SeedUnneeded, seed.Checking: tracker.SeedChecking,
}

func (o origins) Resolve(ctx context.Context, ref blob.Ref, tag string) (blob.Digest, error) {
	m, err := o.Manifest(ctx, seed.Reader{Operator: true}, ref, tag)
	return m.Descriptor.Digest, err
}

// passThrough lets the registry serve ns= of other registries from the seed.
type passThrough struct{ *seed.Seed }

func reader(ctx context.Context, subject string) seed.Reader {
	return seed.Reader{Subject: subject, Token: api.UpstreamToken(ctx)}
}

func (p passThrough) Manifest(ctx context.Context, subject string, ref blob.Ref, reference string) (registry.ForeignManifest, error) {
	m, err := p.Seed.Manifest(ctx, reader(ctx, subject), ref, reference)
	if err != nil {
		return registry.ForeignManifest{}, foreign(err)
	}
	return registry.ForeignManifest{Descriptor: m.Descriptor, Body: m.Body, Age: m.Age, Record: m.Record}, nil
}

func (p passThrough) Stat(ctx context.Context, subject string, ref blob.Ref, d blob.Digest) (int64, error) {
	size, err := p.Seed.Stat(ctx, reader(ctx, subject), ref, d)
	return size, foreign(err)
}

func (p passThrough) Blob(ctx context.Context, subject string, ref blob.Ref, d blob.Digest, part blob.Range) (io.ReadCloser, error) {
	rc, err := p.Seed.Blob(ctx, reader(ctx, subject), ref, d, part)
	return rc, foreign(err)
}

// foreign says the seed's errors in the registry's words.
func foreign(err error) error {
	for from, to := range map[error]error{
		seed.ErrUnknownUpstream: registry.ErrUnknownUpstream,
		fetch.ErrNotFound:       registry.ErrUpstreamNotFound,
		fetch.ErrDenied:         registry.ErrUpstreamDenied,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", to, err)
		}
	}
	return err
}
