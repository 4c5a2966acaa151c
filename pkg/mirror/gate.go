package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
)

// provenFor is how long a registry's yes to a reader is believed.
const provenFor = time.Minute

// Verifier checks tokens of the supernode's registry, without asking it.
// pkg/token's Verifier fits.
type Verifier interface {
	Verify(raw string) (token.Claims, error)
}

// Prover asks the registry itself (for an empty ref.Registry: a supernode)
// whether the holder of g may read this content in this repository. An error
// means that no answer was to be had.
type Prover interface {
	Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, g Grant) (bool, error)
}

// TokenRequest is a login at the supernode.
type TokenRequest struct {
	User, Password string
	RefreshToken   string // instead of the two
	Scopes         []token.Access
	Offline        bool // the client wants a refresh token, too
}

// TokenAnswer is what a login gives.
type TokenAnswer struct {
	Token        string
	RefreshToken string        // empty: none
	ExpiresIn    time.Duration // of Token
}

// TokenSource logs in at the supernode. ErrUnauthorized and ErrDenied, by kind
// or HTTP status, are its noes; any other error means that it gave no answer.
type TokenSource interface {
	Token(ctx context.Context, r TokenRequest) (TokenAnswer, error)
}

// UpstreamLogin gets a pull token from an upstream with the reader's own
// credentials. pkg/upstream's Client fits. Errors: ErrUnauthorized,
// ErrDenied, ErrUnavailable by kind or HTTP status; anything else is a no.
type UpstreamLogin interface {
	Token(ctx context.Context, ref blob.Ref, user, pass string) (string, error)
}

// GateConfig is what a Gate is made of.
type GateConfig struct {
	Verifier  Verifier
	Prover    Prover
	Tokens    TokenSource
	Upstreams UpstreamLogin
	// Own and Upstream are those of Config.
	Own, Upstream func(name string) bool
	// NodeMay reports whether a project is granted to this node, so that
	// anonymous requests of this host may read it. Nil: none is.
	NodeMay func(project string) bool
	// OfflineGrace is for how long earlier answers count while nobody can be
	// asked; 0: not at all.
	OfflineGrace time.Duration
	// TrustedFor is the life of a link that needs no new proof; 0 means 1 h.
	TrustedFor time.Duration
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: discarded
}

// Gate is the agent's Authorizer, and the handler of its /token.
//
// Supplied credentials always decide alone. A reader needs two things: the
// right to the repository, and a proof that this repository links the digest
// asked for; knowing a digest, or naming it under a repository of one's own,
// opens nothing.
//
// The right comes from a token of the supernode, from the projects granted to
// this node, or, for an upstream, from that registry itself: it is asked
// whether it would serve this very content to this reader. Credentials for an
// upstream are spent here, on this host, for a pull token of that registry;
// the client gets a random handle that means it, valid on this host only.
type Gate struct {
	cfg      GateConfig
	names    names
	links    links
	handles  handles
	logins   logins
	attempts attempts

	mu      sync.Mutex
	proofs  *expirable.LRU[string, time.Time] // (reader, repository) → last yes; what is written is guarded by mu
	changes []Change                          // guarded by mu; the latest ones
	streams map[*stream]struct{}              // guarded by mu; on their way now
}

const maxProofs = 8192

// NewGate makes a gate.
func NewGate(cfg GateConfig) *Gate {
	if cfg.NodeMay == nil {
		cfg.NodeMay = func(string) bool { return false }
	}
	if cfg.TrustedFor <= 0 {
		cfg.TrustedFor = linkLife
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Gate{
		cfg:     cfg,
		names:   names{own: cfg.Own, upstream: cfg.Upstream},
		logins:  newLogins(),
		proofs:  expirable.NewLRU[string, time.Time](maxProofs, nil, 0),
		streams: make(map[*stream]struct{}),
	}
}

// reader is who asks.
type reader struct {
	grant Grant
	key   string // stands for the reader in the proofs; "" is anybody
	// sure: the right to the repository is settled without asking.
	sure bool
}

// Authorize decides about one request.
func (g *Gate) Authorize(ctx context.Context, r Request) (Grant, error) {
	who, err := g.identify(r)
	nobody := Grant{Subject: who.grant.Subject}
	if err != nil {
		return nobody, err
	}
	now := g.cfg.Now()
	last := g.lastProof(who.key, r.Ref)
	fresh := who.sure || now.Sub(last) < provenFor
	known := proven // a tag is resolved by the registry itself
	if r.Digest != "" {
		known = g.links.get(r.Ref, r.Digest, now)
	}
	if fresh && known == proven {
		return who.grant, nil
	}
	yes, err := g.cfg.Prover.Readable(ctx, r.Ref, r.Reference, r.Manifest, who.grant)
	switch {
	case err != nil:
		inGrace := g.cfg.OfflineGrace > 0 && (who.sure || now.Sub(last) < g.cfg.OfflineGrace)
		if inGrace && known >= named && ctx.Err() == nil {
			return who.grant, nil
		}
		return nobody, fmt.Errorf("%w: ask whether %q may read %s: %w", ErrUnavailable, who.grant.Subject, r.Ref, err)
	case yes:
		g.prove(who.key, r.Ref, now)
		if r.Digest != "" {
			g.links.put(r.Ref, r.Digest, proven, now.Add(g.cfg.TrustedFor))
		}
		return who.grant, nil
	case fresh:
		return nobody, fmt.Errorf("%w: %s does not link %s", ErrNotFound, r.Ref, r.Reference)
	}
	g.disprove(who.key, r.Ref)
	return nobody, fmt.Errorf("%w: %s does not let %q read %s", ErrUnauthorized, r.Ref.Registry, who.grant.Subject, r.Ref.Repository)
}

// identify finds out who asks, and whether they have a right to the
// repository. ErrUnauthorized and ErrDenied end it here.
func (g *Gate) identify(r Request) (reader, error) {
	if r.Authorization == "" {
		switch {
		case r.Ref.Registry != "":
			return reader{}, nil
		case g.cfg.NodeMay(project(r.Ref.Repository)):
			return reader{grant: Grant{Subject: "node"}, key: "node", sure: true}, nil
		}
		return reader{}, fmt.Errorf("%w: no credentials for %s", ErrUnauthorized, r.Ref)
	}
	raw, err := bearer(r.Authorization)
	if err != nil {
		return reader{}, err
	}
	if h, ok := g.handles.get(raw, g.cfg.Now()); ok {
		if h.registry != r.Ref.Registry || !allows(h.access, r.Ref.Repository) {
			return reader{grant: Grant{Subject: h.subject}}, fmt.Errorf("%w: the token is for another repository", ErrUnauthorized)
		}
		// The upstream may have given its token to anybody: it must still be
		// asked. A handle for the own registry was a login here.
		return reader{grant: Grant{Subject: h.subject, Token: h.token}, key: h.key, sure: r.Ref.Registry == ""}, nil
	}
	claims, err := g.cfg.Verifier.Verify(raw)
	if err != nil {
		return reader{}, fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	name := r.Ref.String() // an upstream's repository is named with its registry in front
	if !claims.Allows("repository", name, "pull") {
		return reader{grant: Grant{Subject: claims.Subject}}, fmt.Errorf("%w: the token of %q does not allow pulling %s", ErrUnauthorized, claims.Subject, name)
	}
	return reader{
		grant: Grant{Subject: claims.Subject, Login: raw}, key: userKey + claims.Subject,
		sure: !g.outdated(claims.IssuedAt, r.Ref, claims.Subject),
	}, nil
}

// Login decides about `/v2/` of the supernode's own registry.
func (g *Gate) Login(_ context.Context, authorization string) error {
	raw, err := bearer(authorization)
	if err != nil {
		return err
	}
	if h, ok := g.handles.get(raw, g.cfg.Now()); ok && h.registry == "" {
		return nil
	}
	if _, err := g.cfg.Verifier.Verify(raw); err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return nil
}

// Learn remembers what a manifest proves about its repository.
func (g *Gate) Learn(ref blob.Ref, m Manifest) {
	now := g.cfg.Now()
	g.links.put(ref, m.Descriptor.Digest, proven, now.Add(g.cfg.TrustedFor))
	linked, mentioned := children(m.Body)
	for _, d := range linked {
		g.links.put(ref, d, proven, now.Add(g.cfg.TrustedFor))
	}
	for _, d := range mentioned {
		g.links.put(ref, d, named, now.Add(g.cfg.OfflineGrace))
	}
}

func bearer(authorization string) (string, error) {
	scheme, raw, _ := strings.Cut(authorization, " ")
	if raw = strings.TrimSpace(raw); !strings.EqualFold(scheme, "Bearer") || raw == "" {
		return "", fmt.Errorf("%w: want a Bearer token from /token", ErrUnauthorized)
	}
	return raw, nil
}

// project is the first path element of a repository.
func project(repository string) string {
	name, _, _ := strings.Cut(repository, "/")
	return name
}

func allows(access []token.Access, repository string) bool {
	for _, a := range access {
		if a.Type == "repository" && a.Name == repository && a.Allows("pull") {
			return true
		}
	}
	return false
}

// userKey begins the keys of those who showed a token of the supernode.
const userKey = "user\x00"

func proofKey(reader string, ref blob.Ref) string {
	return reader + "\x00" + ref.Registry + "\x00" + ref.Repository
}

func splitProof(key string) (reader string, ref blob.Ref) {
	rest, repository := cutNul(key)
	reader, registry := cutNul(rest)
	return reader, blob.Ref{Registry: registry, Repository: repository}
}

func cutNul(s string) (before, after string) {
	i := strings.LastIndexByte(s, 0)
	return s[:max(i, 0)], s[i+1:]
}

func (g *Gate) lastProof(reader string, ref blob.Ref) time.Time {
	at, _ := g.proofs.Get(proofKey(reader, ref))
	return at
}

func (g *Gate) prove(reader string, ref blob.Ref, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proofs.Add(proofKey(reader, ref), now)
}

func (g *Gate) disprove(reader string, ref blob.Ref) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proofs.Remove(proofKey(reader, ref))
}

var (
	_ Authorizer   = (*Gate)(nil)
	_ http.Handler = (*Gate)(nil)
)

// errNoScope is why a request at /token for an upstream is refused.
var errNoScope = errors.New("scope names no repository to pull")
