package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/gateway"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/records"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/upstream"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// announceWithin bounds the wait for a place in the DHT's queue.
	announceWithin = time.Second
	// maxRefuted bounds the signers that are remembered as wrong.
	maxRefuted = 4096
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
		Sink: r.Blob, Peers: r.Peers, Class: r.Class, Claim: r.Claim, Got: r.Got, Grant: r.Grant, Hedged: r.Hedged,
	})
}

// gatewayOf makes the supernode's registry what fetch asks for.
type gatewayOf struct {
	*gateway.Client
	keeper *tagKeeper
}

func (g gatewayOf) Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (fetch.GatewayManifest, error) {
	m, err := g.Client.Manifest(ctx, ref, reference, token, accept)
	out := fetch.GatewayManifest{Descriptor: m.Descriptor, Body: m.Body, Age: m.Age}
	for _, r := range m.Records {
		switch {
		case r.Tag == reference:
			out.Record = r
		case r.Ref == ref && r.Tag == string(m.Descriptor.Digest) && r.Digest == m.Descriptor.Digest && r.Check(g.keeper.verify) == nil:
			if err := g.keeper.PutTag(r); err != nil {
				g.keeper.log.Warn("a signed record was not kept", "ref", ref, "error", err)
			}
		}
	}
	return out, err
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

// prover asks the registry that a reference names whether a reader may read.
type prover struct {
	own       *gateway.Client
	upstreams *upstreams
	records   *tagKeeper
}

func (p prover) Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, g mirror.Grant) (bool, error) {
	var may bool
	var err error
	switch {
	case ref.Registry == "":
		may, err = p.own.Readable(ctx, ref, reference, manifest, g.Login)
	case g.Login != "":
		// The supernode's own login there is open to some who are logged in at
		// the supernode; it knows to whom.
		may, err = p.own.ReadableAs(ctx, ref, reference, manifest, g.Login)
	default:
		may, err = p.upstreams.current.Load().Readable(ctx, ref, reference, manifest, g.Token)
		if err != nil {
			// That registry does not answer. The supernode remembers for a
			// while whom it let read.
			if known, asked := p.own.Readable(ctx, ref, reference, manifest, g.Token); asked == nil {
				may, err = known, nil
			}
		}
	}
	if err == nil || !manifest {
		return may, err
	}
	// Nobody can be asked: a supernode's signed record that this repository
	// has this manifest stands in, as long as the grace lasts.
	if record := p.records.find(ctx, ref, reference); record != nil {
		return true, nil
	}
	return false, err
}

// tagKeeper keeps signed tag records and tells neighbours that it has them.
type tagKeeper struct {
	*records.Store
	dht    *dht.Node // nil when switched off
	verify blob.VerifyFunc
	grace  time.Duration
	log    *slog.Logger
}

func (t *tagKeeper) PutTag(r *blob.TagRecord) error {
	if err := t.Store.PutTag(r); err != nil || t.dht == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), announceWithin)
	defer cancel()
	if err := t.dht.AnnounceTag(ctx, r.Ref, r.Tag); err != nil {
		t.log.Warn("a tag record was not announced in the DHT", "ref", r.Ref, "tag", r.Tag, "error", err)
	}
	return nil
}

// find looks for a believable record, here and at neighbours.
func (t *tagKeeper) find(ctx context.Context, ref blob.Ref, tag string) *blob.TagRecord {
	if t.grace <= 0 {
		return nil
	}
	young := func(r *blob.TagRecord) bool {
		return r != nil && time.Since(r.Time) < t.grace && r.Check(t.verify) == nil
	}
	if own, err := t.Tag(ref, tag); err == nil && young(own) {
		return own
	}
	if t.dht == nil {
		return nil
	}
	near, err := t.dht.FindTags(ctx, ref, tag)
	if err != nil {
		t.log.Debug("neighbours could not be asked for a tag", "ref", ref, "tag", tag, "error", err)
	}
	for _, r := range near {
		if young(r) {
			return r
		}
	}
	return nil
}

// believer decides whose signed piece hashes count: the supernodes' always,
// and while none of them can be reached those of other members, too, unless
// what they signed turned out wrong. The whole digest decides in the end.
type believer struct {
	trust *identity.Trust
	line  *control.Line

	refuted *expirable.LRU[string, struct{}] // by peer ID
}

func (b *believer) verify(signer string, message, signature []byte) error {
	err := b.trust.Verify(signer, message, signature)
	if err == nil || b.line.Reachable() {
		return err
	}
	if _, refuted := b.refuted.Get(signer); refuted {
		return fmt.Errorf("what %s signed before was wrong: %w", signer, err)
	}
	return identity.VerifyAny(signer, message, signature)
}

// blame is told of a signer whose hashes led to a wrong digest.
func (b *believer) blame(signer string, _ blob.Digest) {
	b.refuted.Add(signer, struct{}{})
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
