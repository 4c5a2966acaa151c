package openid

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// callTimeout bounds one request to the provider.
	callTimeout = 10 * time.Second
	// retryAfter is for how long a failure to read the provider's
	// configuration is remembered: strangers can make us ask.
	retryAfter = 5 * time.Second
	// connections bounds those to the provider, and so what strangers who
	// begin logins can make of them.
	connections = 8
	// maxAnswer bounds one answer of the provider, in bytes.
	maxAnswer = 1 << 20
)

var (
	// ErrUnavailable is wrapped when the provider does not answer, or not as
	// it has to; another try may help.
	ErrUnavailable = errors.New("the login provider cannot be used now")
	// ErrAttempt is wrapped when an answer belongs to no login that this
	// browser began.
	ErrAttempt = errors.New("this login was not begun in this browser, or too long ago: begin it again")
	// ErrRefused is wrapped when the provider, or the person there, said no.
	ErrRefused = errors.New("the login provider refused the login")
	// ErrUntrue is wrapped when what the provider sent does not prove who the
	// person is.
	ErrUntrue = errors.New("what the login provider sent is not believed")
	// ErrPending is returned while a person has not answered at the provider.
	ErrPending = errors.New("the login is not confirmed yet")
	// ErrSlowDown is ErrPending, and asks for longer pauses.
	ErrSlowDown = fmt.Errorf("%w; the login provider asks for longer pauses", ErrPending)
	// ErrNoDevice is returned when the provider has no device grant.
	ErrNoDevice = errors.New("the login provider offers no login from a terminal (device authorization grant)")
)

// Config says which provider is asked, and as whom.
type Config struct {
	// Issuer is the provider's name for itself, an https URL; plain http is
	// taken on loopback.
	Issuer                 string
	ClientID, ClientSecret string
	CA                     []byte // PEM; empty: the system's authorities
	// UsernameClaim is the claim that names a person here.
	UsernameClaim string
	// GroupsClaim lists a person's groups; who is in AdminGroup is a system
	// administrator. With no AdminGroup the provider has no say in that.
	GroupsClaim, AdminGroup string
	Scopes                  []string // besides openid
	Now                     func() time.Time
}

// Person is whom a provider named. Issuer and Subject together are the same
// for ever; Name is not.
type Person struct {
	Issuer, Subject string
	Name            string
	// DecidesAdmin says that the provider decides about Admin.
	DecidesAdmin, Admin bool
}

// Provider is one provider. It is safe for concurrent use.
type Provider struct {
	config Config
	client *http.Client
	turn   chan struct{} // held by whoever reads the provider's configuration

	mu       sync.Mutex
	known    *known    // nil: not read yet; guarded by mu
	failure  error     // of the last try; guarded by mu
	failedAt time.Time // guarded by mu
}

// known is what a provider says of itself.
type known struct {
	provider *oidc.Provider
	verifier *oidc.IDTokenVerifier
	oauth    oauth2.Config
	device   string // URL of the device authorization endpoint; may be empty
}

// New checks the settings. It does not speak to the provider.
func New(c Config) (*Provider, error) {
	if c.ClientID == "" || c.UsernameClaim == "" || c.Now == nil {
		return nil, errors.New("login provider: the client's ID and the claim that names people are both needed")
	}
	if c.AdminGroup != "" && c.GroupsClaim == "" {
		return nil, errors.New("login provider: a group of administrators needs the claim that lists groups")
	}
	if err := private(c.Issuer); err != nil {
		return nil, fmt.Errorf("login provider: issuer: %w", err)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxConnsPerHost: connections, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: callTimeout, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(c.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("login provider: the file of its authority holds no PEM certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	c.Scopes = slices.Clone(c.Scopes)
	return &Provider{
		config: c, turn: make(chan struct{}, 1),
		client: &http.Client{
			Transport: bounded{transport}, Timeout: callTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("the login provider redirects, which is not followed")
			},
		},
	}, nil
}

// private refuses a URL over which a secret would travel in the clear.
func private(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("%q: want https://HOST[/PATH]; plain http is for loopback only", raw)
	}
	return nil
}

// context carries the HTTP client, bounded in time.
func (p *Provider) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(oidc.ClientContext(ctx, p.client), callTimeout)
}

// discover reads the provider's configuration, once.
func (p *Provider) discover(ctx context.Context) (*known, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	p.mu.Lock()
	k, failure, at := p.known, p.failure, p.failedAt
	p.mu.Unlock()
	if k != nil {
		return k, nil
	}
	now := p.config.Now()
	if failure != nil && now.Sub(at) < retryAfter {
		return nil, failure
	}
	// Whoever asks may leave; the answer is for all.
	k, err := p.read(context.WithoutCancel(ctx))
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known, p.failure, p.failedAt = k, err, now
	return k, err
}

func (p *Provider) read(ctx context.Context) (*known, error) {
	ctx, cancel := p.context(ctx)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, p.config.Issuer)
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	var more struct {
		JWKS    string   `json:"jwks_uri"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := provider.Claims(&more); err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	endpoint := provider.Endpoint()
	for _, raw := range []string{endpoint.AuthURL, endpoint.TokenURL, more.JWKS} {
		if err := private(raw); err != nil {
			return nil, fmt.Errorf("its configuration names the endpoint %w", err)
		}
	}
	for _, raw := range []string{endpoint.DeviceAuthURL, provider.UserInfoEndpoint()} {
		if err := private(raw); raw != "" && err != nil {
			return nil, fmt.Errorf("its configuration names the endpoint %w", err)
		}
	}
	// Trying both ways would use up a code with the wrong one.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if len(more.Methods) > 0 && !slices.Contains(more.Methods, "client_secret_basic") || p.config.ClientSecret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &known{
		provider: provider,
		verifier: provider.VerifierContext(oidc.ClientContext(context.Background(), p.client), &oidc.Config{ClientID: p.config.ClientID, Now: p.config.Now}),
		oauth: oauth2.Config{
			ClientID: p.config.ClientID, ClientSecret: p.config.ClientSecret, Endpoint: endpoint,
			Scopes: append([]string{oidc.ScopeOpenID}, p.config.Scopes...),
		},
		device: endpoint.DeviceAuthURL,
	}, nil
}
