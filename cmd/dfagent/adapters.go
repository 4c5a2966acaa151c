package main

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/gateway"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/upstream"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"

	"io"
)

// names are those by which the supernodes' own registry is called in ns=.
type names struct {
	mu   sync.RWMutex
	all  map[string]bool // guarded by mu
	main string          // guarded by mu; the one to write into image names
}

func (n *names) set(w *shoalv1.Welcome) {
	all := map[string]bool{}
	for _, name := range w.PublicNames {
		all[name] = true
		// A name without a port means the usual one.
		if host, port, err := net.SplitHostPort(name); err == nil && port == "443" {
			all[host] = true
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = all
	n.main = ""
	if len(w.PublicNames) > 0 {
		n.main = w.PublicNames[0]
	}
}

// first is the name that image names of the own registry begin with.
func (n *names) first() string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.main
}

func (n *names) own(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.all[name]
}

// upstreams is a client for the registries outside that the supernode named
// last. Credentials stay with the supernode.
type upstreams struct {
	log     *slog.Logger
	current atomic.Pointer[upstream.Client]
}

func newUpstreams(list []*shoalv1.Upstream, log *slog.Logger) (*upstreams, error) {
	u := &upstreams{log: log}
	return u, u.set(list)
}

func (u *upstreams) set(list []*shoalv1.Upstream) error {
	registries := map[string]upstream.Registry{}
	for _, one := range list {
		registries[one.Name] = upstream.Registry{URL: one.Url, CAPEM: []byte(one.CaPem)}
	}
	client, err := upstream.New(upstream.Config{Registries: registries, Log: u.log})
	if err != nil {
		return err
	}
	// The client before is not closed: flights may still read from it, and
	// its idle connections end by themselves.
	u.current.Store(client)
	return nil
}

// Known reports whether a name is that of a configured upstream.
func (u *upstreams) Known(name string) bool { return u.current.Load().Known(name) }

// Blob and Manifest read from the upstream that ref names.
func (u *upstreams) Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error) {
	return u.current.Load().Blob(ctx, ref, d, r, token)
}

func (u *upstreams) Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, []byte, error) {
	return u.current.Load().Manifest(ctx, ref, reference, token, accept)
}

// Token logs a reader in at an upstream.
func (u *upstreams) Token(ctx context.Context, ref blob.Ref, user, pass string) (string, error) {
	return u.current.Load().Token(ctx, ref, user, pass)
}

// exchangeOf makes the swarm's exchange what fetch asks for.
type exchangeOf struct{ *swarm.Exchange }

func (e exchangeOf) Fetch(ctx context.Context, r fetch.SwarmRequest) error {
	return e.Exchange.Fetch(ctx, swarm.FetchRequest{
		Sink: r.Blob, Peers: r.Peers, Class: r.Class, Claim: r.Claim, Got: r.Got,
	})
}

// gatewayOf makes the supernode's registry what fetch asks for.
type gatewayOf struct{ *gateway.Client }

func (g gatewayOf) Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (fetch.GatewayManifest, error) {
	m, err := g.Client.Manifest(ctx, ref, reference, token, accept)
	return fetch.GatewayManifest{Descriptor: m.Descriptor, Body: m.Body, Age: m.Age, Record: m.Record}, err
}

// finderOf makes the DHT one of fetch's finders.
type finderOf struct{ *dht.Node }

func (f finderOf) Find(ctx context.Context, w blob.Want) <-chan blob.Neighbours {
	out := make(chan blob.Neighbours)
	go func() {
		defer close(out)
		for peers := range f.Node.Find(ctx, w.Digest, w.Size) {
			select {
			case out <- blob.Neighbours{Peers: peers}:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

type tagFinderOf struct{ *dht.Node }

func (t tagFinderOf) FindTags(ctx context.Context, ref blob.Ref, tag string) ([]*blob.TagRecord, error) {
	return t.Node.FindTags(ctx, ref, tag)
}

// proverOf asks the registry that a reference names whether a reader may read.
type proverOf struct {
	own       *gateway.Client
	upstreams *upstreams
}

func (p proverOf) Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, g mirror.Grant) (bool, error) {
	if ref.Registry == "" {
		return p.own.Readable(ctx, ref, reference, manifest, g.Login)
	}
	return p.upstreams.current.Load().Readable(ctx, ref, reference, manifest, g.Token)
}

// tokensOf logs readers in at the supernode.
type tokensOf struct{ *gateway.Client }

func (t tokensOf) Token(ctx context.Context, r mirror.TokenRequest) (mirror.TokenAnswer, error) {
	var scopes []string
	for _, s := range r.Scopes {
		scopes = append(scopes, s.String())
	}
	answer, err := t.Client.Token(ctx, gateway.Login{
		User: r.User, Password: r.Password, RefreshToken: r.RefreshToken, Scopes: scopes, Offline: r.Offline,
	})
	return mirror.TokenAnswer{Token: answer.Token, RefreshToken: answer.RefreshToken, ExpiresIn: answer.ExpiresIn}, err
}
