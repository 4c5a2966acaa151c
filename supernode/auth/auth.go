package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/auth/openid"
	"github.com/shoalproject/shoal/supernode/meta"
)

// APIService is the audience of tokens for the administrator's API. A token
// for the registry has another one and opens nothing there.
const APIService = "shoal-api"

// Store is what this package needs of meta.Store.
type Store interface {
	Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error)
	Get(ctx context.Context, key string) (meta.Value, error)
	List(ctx context.Context, prefix, from string, limit int) ([]meta.Value, error)
}

// Config is what an Auth is made of.
type Config struct {
	Meta      Store
	TokenKeys *token.Ring        // sign registry and API tokens
	MemberKey ed25519.PrivateKey // signs memberships
	IDC       string             // whose members nodes become
	Issuer    string             // iss of tokens
	Service   string             // audience of registry tokens, and service in challenges
	// ExternalURL, such as https://shoal.example.com:8001, is where /token is
	// said to be when a request's own Host is none of ours.
	ExternalURL string
	// PublicNames are the HOST[:PORT]s by which this supernode is known.
	PublicNames []string
	// CASHA256 goes into join tokens; all zero where there is no TLS.
	CASHA256 [sha256.Size]byte
	// OnRevoke is told of nodes that were turned away. May be nil.
	OnRevoke func(peerIDs ...string)
	// KeepKeys keeps the token keys, all of them, before they are used. May be
	// nil where they never change.
	KeepKeys func([]token.SigningKey) error
	// OnKeys is told when others must hear of the token keys again, after that
	// JWKS has them. May be nil.
	OnKeys func()
	// OnChange is told of each change of rights after it was committed, one
	// after the other. May be nil.
	OnChange func(Change)
	// OnPassword is told whose password is another one now. May be nil.
	OnPassword func(user string)
	// Audit is told of logins, sessions and changes of credentials. May be nil.
	Audit func(context.Context, Deed)
	// OpenID is where people may log in instead of with a password. May be nil.
	OpenID *openid.Provider
	Now    func() time.Time
	Log    *slog.Logger
}

// Auth is the gate. It is safe for concurrent use.
type Auth struct {
	cfg      Config
	external *url.URL
	registry *token.Issuer
	api      *token.Issuer
	// verifiers by audience; fixed after New.
	registryVerifier, apiVerifier *token.Verifier

	passwords *passwords
	limits    *limits
	devices   *devices
	attempts  *attemptsDone
	crossSite *http.CrossOriginProtection

	rotating sync.Mutex // held while the token keys change
	telling  sync.Mutex // held while OnChange is called

	mu       sync.Mutex
	stamped  int64                // number of the newest change; guarded by mu
	told     int64                // and of the newest that was told; guarded by mu
	revoked  map[string]time.Time // by peer ID, since when; guarded by mu
	lastSeen map[string]time.Time // known nodes only; guarded by mu
}

// New makes the gate and reads from meta which nodes were turned away.
func New(ctx context.Context, cfg Config) (*Auth, error) {
	if cfg.TokenKeys == nil {
		return nil, errors.New("auth: TokenKeys are needed")
	}
	if cfg.Meta == nil || cfg.Now == nil || cfg.Log == nil || cfg.IDC == "" || len(cfg.MemberKey) != ed25519.PrivateKeySize {
		return nil, errors.New("auth: Meta, Now, Log, IDC and MemberKey are all needed")
	}
	external, err := url.Parse(cfg.ExternalURL)
	if err != nil || external.Host == "" || external.Scheme != "http" && external.Scheme != "https" {
		return nil, fmt.Errorf("auth: external URL %q: want http(s)://host[:port]", cfg.ExternalURL)
	}
	if cfg.Service == APIService {
		return nil, fmt.Errorf("auth: the registry's service may not be named %q, which is the API's", APIService)
	}
	a := &Auth{
		cfg: cfg, external: external,
		passwords: newPasswords(defaultCost), limits: newLimits(), devices: newDevices(), attempts: newAttemptsDone(),
		crossSite: http.NewCrossOriginProtection(),
		lastSeen:  map[string]time.Time{},
	}
	a.cfg.PublicNames = slices.Clone(cfg.PublicNames)
	if a.registry, a.registryVerifier, err = tokenPair(cfg, cfg.Service); err != nil {
		return nil, fmt.Errorf("auth: registry tokens: %w", err)
	}
	if a.api, a.apiVerifier, err = tokenPair(cfg, APIService); err != nil {
		return nil, fmt.Errorf("auth: API tokens: %w", err)
	}
	if err := errors.Join(a.loadRevoked(ctx), a.loadChanged(ctx)); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return a, nil
}

func tokenPair(cfg Config, service string) (*token.Issuer, *token.Verifier, error) {
	issuer, err := cfg.TokenKeys.Issuer(cfg.Issuer, service, cfg.Now)
	if err != nil {
		return nil, nil, err
	}
	verifier, err := token.NewVerifier(issuer.JWKS(), cfg.Issuer, service, cfg.Now)
	return issuer, verifier, err
}

// JWKS is the set of public keys by which others verify registry tokens.
func (a *Auth) JWKS() []byte { return a.cfg.TokenKeys.JWKS() }

// ServeJWKS answers /.well-known/jwks.json.
func (a *Auth) ServeJWKS(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Write(a.JWKS()) //nolint:errcheck // a client that went away
}

// Sweep removes what has expired: sessions, refresh tokens, join tokens, token
// keys. Call it every minute or so.
func (a *Auth) Sweep(ctx context.Context) error {
	if err := a.sweepKeys(); err != nil {
		return err
	}
	for _, prefix := range []string{sessionPrefix, refreshPrefix, joinPrefix} {
		from := ""
		for {
			page, err := a.cfg.Meta.List(ctx, prefix, from, meta.MaxOps)
			if err != nil {
				return fmt.Errorf("sweep %s: %w", prefix, err)
			}
			if err := a.sweepPage(ctx, page); err != nil {
				return fmt.Errorf("sweep %s: %w", prefix, err)
			}
			if len(page) < meta.MaxOps {
				break
			}
			from = page[len(page)-1].Key + "\x00"
		}
	}
	return nil
}

func (a *Auth) sweepPage(ctx context.Context, page []meta.Value) error {
	var ops []meta.Op
	for _, v := range page {
		var record struct {
			Expires time.Time `json:"expires"`
		}
		if err := json.Unmarshal(v.Data, &record); err != nil {
			return fmt.Errorf("read %s: %w", v.Key, err)
		}
		if !a.cfg.Now().Before(record.Expires) {
			ops = append(ops, meta.Delete(v.Key))
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err := a.cfg.Meta.Commit(ctx, nil, ops)
	return err
}

// conflictTries bounds how often update reads again after somebody else wrote.
const conflictTries = 32

// update reads the record under key, lets change make a new one of it, and
// commits that if nobody wrote in between; else it starts again. old is nil
// when there is none. A nil result without an error leaves things as they are.
func update[T any](ctx context.Context, s Store, key string, change func(old *T) (*T, error)) error {
	for range conflictTries {
		old, revision, err := meta.ReadRecord[T](ctx, s, key)
		if err != nil {
			return err
		}
		next, err := change(old)
		if err != nil || next == nil {
			return err
		}
		write, err := meta.PutRecord(key, next)
		if err != nil {
			return err
		}
		_, err = s.Commit(ctx, []meta.Compare{{Key: key, Revision: revision}}, []meta.Op{write})
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("write %s: %w, %d times over; try again", key, meta.ErrConflict, conflictTries)
}

// newSecret is 256 random bits as text.
func newSecret() (string, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw a secret: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// hashed is how a secret of newSecret is stored.
func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
