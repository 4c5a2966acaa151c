package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/net/publicsuffix"
)

// DockerHub is the name that docker.io has in image references.
const DockerHub = "docker.io"

// Registry is one upstream as the operator configured it.
type Registry struct {
	// URL is scheme://host[:port]. Empty means https:// and the registry's own
	// name (for docker.io its well-known endpoint), at public addresses only.
	// Plain HTTP and private addresses need a URL.
	URL string
	// Username and Password are what this node logs in with; Password is
	// asked for at each login, so that a changed file is seen. Nil: none.
	Username string
	Password func() (string, error)
	// CAFile and CAPEM: the authority this registry's certificate must come
	// from. Both empty: the system's.
	CAFile string
	CAPEM  []byte
	// TokenHosts are further hosts (host or host:port) that may be named as
	// token service, private addresses included. The registry's own host is
	// always allowed, and public hosts under its registrable domain.
	TokenHosts []string
	// RedirectHosts are hosts (host or host:port) at private addresses that
	// blobs may be redirected to. Public addresses are always allowed.
	RedirectHosts []string
}

// Config is what a Client is made of.
type Config struct {
	// Registries by the name that stands in image references ("docker.io",
	// "127.0.0.1:5000").
	Registries map[string]Registry
	// Attempts is how often a request is tried in all; 0 means 4.
	Attempts int
	// IdleTimeout ends a connection that delivers no byte for so long; 0
	// means 30 s.
	IdleTimeout time.Duration
	// Resolver looks names up; nil means the system's.
	Resolver *net.Resolver
	// Now is the clock of the caches; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger // nil: discarded
}

// Client asks the configured upstreams. Safe for concurrent use.
type Client struct {
	registries map[string]*registry // never changes after New
	attempts   int
	idle       time.Duration
	now        func() time.Time
	log        *slog.Logger
	readable   readableCache
}

// registry is one upstream at work.
type registry struct {
	name     string
	base     *url.URL
	username string
	password func() (string, error)
	// tokenHosts and redirectHosts hold "host" and "host:port" in lower case.
	tokenHosts, redirectHosts map[string]bool

	// Three separate pools: a connection that one rule let pass is never
	// reused under another.
	direct *http.Transport // the registry itself
	realm  *http.Transport // its token service
	away   *http.Transport // where it redirects to

	mu     sync.Mutex
	asked  *challenge                          // last challenge seen; guarded by mu
	tokens *expirable.LRU[string, cachedToken] // by repository and subject
}

// New checks the configuration and makes a client. It sends nothing.
func New(cfg Config) (*Client, error) {
	c := &Client{
		registries: make(map[string]*registry, len(cfg.Registries)),
		attempts:   cfg.Attempts,
		idle:       cfg.IdleTimeout,
		now:        cfg.Now,
		log:        cfg.Log,
	}
	if c.attempts <= 0 {
		c.attempts = 4
	}
	if c.idle <= 0 {
		c.idle = 30 * time.Second
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for name, r := range cfg.Registries {
		made, err := newRegistry(name, r, cfg.Resolver)
		if err != nil {
			return nil, fmt.Errorf("upstream %q: %w", name, err)
		}
		c.registries[name] = made
	}
	return c, nil
}

// Known reports whether name is configured. Only the exact name counts.
func (c *Client) Known(name string) bool { return c.registries[name] != nil }

// Credentials reports whether this client logs in at the registry with
// credentials of its own, so that what it can read is not for everybody.
func (c *Client) Credentials(name string) bool {
	r := c.registries[name]
	return r != nil && r.username != ""
}

// Close drops idle connections.
func (c *Client) Close() {
	for _, r := range c.registries {
		for _, t := range []*http.Transport{r.direct, r.realm, r.away} {
			t.CloseIdleConnections()
		}
	}
}

func newRegistry(name string, cfg Registry, resolver *net.Resolver) (*registry, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	base, err := parseBase(name, cfg.URL)
	if err != nil {
		return nil, err
	}
	own, others, err := roots(cfg)
	if err != nil {
		return nil, err
	}
	r := &registry{
		name:          name,
		base:          base,
		username:      cfg.Username,
		password:      cfg.Password,
		tokenHosts:    hostSet(cfg.TokenHosts),
		redirectHosts: hostSet(cfg.RedirectHosts),
		tokens:        expirable.NewLRU[string, cachedToken](maxCachedTokens, nil, 0),
	}
	named := cfg.URL != ""
	baseHost, basePort := hostPort(base)
	r.direct = newTransport(guard{resolver: resolver, named: func(h, p string) bool {
		return named && h == baseHost && p == basePort
	}}, own)
	r.realm = newTransport(guard{resolver: resolver, named: func(h, p string) bool {
		return named && h == baseHost || listed(r.tokenHosts, h, p)
	}}, others)
	r.away = newTransport(guard{resolver: resolver, named: func(h, p string) bool {
		return listed(r.redirectHosts, h, p)
	}}, others)
	return r, nil
}

func newTransport(g guard, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // a proxy would dial without the guard
		DialContext:            func(ctx context.Context, n, a string) (net.Conn, error) { return g.dial(ctx, n, a) },
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		MaxConnsPerHost:        64,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		Protocols:              onlyHTTP1(),
	}
}

func onlyHTTP1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// roots are the authorities for the registry itself and for its token and
// blob hosts: a custom authority is the only one for the former.
func roots(cfg Registry) (own, others *x509.CertPool, err error) {
	raw := cfg.CAPEM
	if cfg.CAFile != "" {
		if raw, err = os.ReadFile(cfg.CAFile); err != nil {
			return nil, nil, fmt.Errorf("read its ca_file: %w", err)
		}
	}
	if len(raw) == 0 {
		return nil, nil, nil // the system's
	}
	own = x509.NewCertPool()
	if !own.AppendCertsFromPEM(raw) {
		return nil, nil, fmt.Errorf("its ca_file %q holds no PEM certificate", cfg.CAFile)
	}
	if others, err = x509.SystemCertPool(); err != nil {
		others = x509.NewCertPool()
	}
	others.AppendCertsFromPEM(raw)
	return own, others, nil
}

// checkName takes "host" or "host:port" and nothing more.
func checkName(name string) error {
	u, err := url.Parse("https://" + name)
	if err != nil || u.Host != name || u.Hostname() == "" || strings.ToLower(name) != name {
		return fmt.Errorf("a registry's name is a lower-case host or host:port")
	}
	return nil
}

func parseBase(name, raw string) (*url.URL, error) {
	if raw == "" {
		host := name
		if name == DockerHub {
			host = "registry-1.docker.io"
		}
		raw = "https://" + host
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("parse its url: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("its url %q must be http:// or https:// and host[:port], without user, path or query", u.Redacted())
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

// hostPort is a URL's host in lower case and its port, the scheme's when it
// names none.
func hostPort(u *url.URL) (host, port string) {
	host, port = strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return host, port
}

func hostSet(hosts []string) map[string]bool {
	set := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		set[strings.ToLower(h)] = true
	}
	return set
}

func listed(set map[string]bool, host, port string) bool {
	return set[host] || set[net.JoinHostPort(host, port)]
}

// realmAllowed decides whether credentials for this registry may go to u.
func (r *registry) realmAllowed(u *url.URL) error {
	host, port := hostPort(u)
	baseHost, _ := hostPort(r.base)
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || r.base.Scheme != "http"):
		return fmt.Errorf("%w: token service %s is not https", ErrMalformed, u.Redacted())
	case u.User != nil || host == "" || u.Fragment != "":
		return fmt.Errorf("%w: token service %s", ErrMalformed, u.Redacted())
	case host == baseHost, listed(r.tokenHosts, host, port), sameDomain(host, baseHost):
		return nil
	}
	return fmt.Errorf("%w: %s names %s as its token service; if that is right, add it to the upstream's token_hosts",
		ErrForbiddenAddress, r.name, host)
}

// sameDomain reports whether two host names lie under one registrable domain.
// Addresses and bare names have none.
func sameDomain(a, b string) bool {
	if net.ParseIP(a) != nil || net.ParseIP(b) != nil {
		return false
	}
	da, err := publicsuffix.EffectiveTLDPlusOne(a)
	if err != nil {
		return false
	}
	db, err := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && da == db
}
