package mirror

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Manifest is a manifest whose bytes match Descriptor.Digest.
type Manifest struct {
	Descriptor blob.Descriptor // media type, digest, size
	Body       []byte
	// Age says how long ago a tag was last known to mean this; 0 when it was
	// just asked for, or for a digest.
	Age time.Duration
}

// Reader is a range of a blob. Size is that of the whole blob in bytes. A
// Reader that is an io.WriterTo writes itself (sendfile).
type Reader interface {
	io.ReadCloser
	Size() int64
}

// Fetcher is where content comes from. It is called for authorised requests
// only. Errors wrap ErrNotFound, ErrUnauthorized, ErrDenied or ErrUnavailable.
type Fetcher interface {
	Manifest(ctx context.Context, ref blob.Ref, reference string, g Grant) (Manifest, error)
	// Stat is the size of a blob in bytes.
	Stat(ctx context.Context, ref blob.Ref, d blob.Digest, g Grant) (int64, error)
	// Open returns as soon as the size is known; it does not wait for bytes.
	// It fails rather than promise what nobody can deliver. An End of -1
	// means to the end. ctx ends the reader, too.
	Open(ctx context.Context, ref blob.Ref, d blob.Digest, rng blob.Range, g Grant) (Reader, error)
}

// Request is one question to the Authorizer.
type Request struct {
	Ref       blob.Ref
	Reference string      // as asked: tag or digest
	Digest    blob.Digest // empty for a tag
	Manifest  bool        // false: a blob
	// Authorization is the header as it came, empty when there was none.
	Authorization string
}

// Grant is a yes.
type Grant struct {
	Subject string // for logs and reports; "" is anybody
	// Login is the token of the supernode's registry that the reader brought;
	// it is for the supernode only.
	Login string
	// Token is a pull token of the upstream that the Ref names; it may be
	// shown to that registry and to the supernode that fetches there.
	Token string
}

// Decision is what was decided about a request to read.
type Decision struct {
	Ref       blob.Ref
	Reference string // tag or digest of a manifest; "" for a blob
	Subject   string // as in Grant
	From      string // the reader's address
	Refused   bool
}

// Authorizer decides about each request, cache hits included. With an error,
// the grant names who asked, as far as that is known.
type Authorizer interface {
	Authorize(ctx context.Context, r Request) (Grant, error)
	// Guard ends the context that it returns when the right which Authorize saw
	// ends. The caller calls done when the request is over.
	Guard(ctx context.Context, r Request, g Grant) (guarded context.Context, done func())
	// Login decides about a bare `/v2/` of the supernode's own registry.
	Login(ctx context.Context, authorization string) error
	// Learn is told of each manifest that a reader was given in a repository:
	// what it names is linked there.
	Learn(ref blob.Ref, m Manifest)
}

// Config is what a mirror is made of.
type Config struct {
	Fetcher Fetcher
	Auth    Authorizer
	// Token answers /token; nil: 404.
	Token http.Handler
	// Own reports names of the supernode's own registry, Upstream those of
	// configured upstreams. Both are asked for exact names.
	Own, Upstream func(name string) bool
	// OnlyRegistry, when set, is what every request of this listener means
	// (docker.io for Docker's registry-mirrors). Its readers bring no
	// credentials, so they are sent no challenge.
	OnlyRegistry string
	// Hosts are names and addresses, besides loopback, by which clients may
	// call this listener.
	Hosts []string
	// PushTo names where pushes go, for the message of a refused one.
	PushTo string
	// Service is the service name in challenges.
	Service string
	// Told hears of each decision and must not block; nil: nobody does. A
	// request that nobody could decide about is none.
	Told func(Decision)
	// OpenTimeout bounds the wait for a size and a source; 0 means 10 s. A
	// runtime waits 30 s or for ever, so it must end well before.
	OpenTimeout time.Duration
	// MaxRequests bounds the requests in progress; 0 means 1024.
	MaxRequests int
	Log         *slog.Logger // nil: discarded
}

// Mirror is the handler. Safe for concurrent use.
type Mirror struct {
	cfg   Config
	names names
	hosts map[string]bool
	slots chan struct{}
}

// New makes a mirror.
func New(cfg Config) *Mirror {
	if cfg.OpenTimeout <= 0 {
		cfg.OpenTimeout = 10 * time.Second
	}
	if cfg.MaxRequests <= 0 {
		cfg.MaxRequests = 1024
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mirror{
		cfg:   cfg,
		names: names{own: cfg.Own, upstream: cfg.Upstream, only: cfg.OnlyRegistry},
		hosts: make(map[string]bool, len(cfg.Hosts)),
		slots: make(chan struct{}, cfg.MaxRequests),
	}
	for _, h := range cfg.Hosts {
		m.hosts[strings.ToLower(strings.Trim(h, "[]"))] = true
	}
	return m
}

// bodyTimeout bounds the wait for a request's body, which only /token reads.
const bodyTimeout = 10 * time.Second

// NewServer wraps the mirror with the limits that its listener needs. There
// is no write timeout, since a runtime that unpacks reads slowly, and no read
// timeout, since it would end the watch for clients that went away.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers one request.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	default:
		fault{http.StatusServiceUnavailable, "TOOMANYREQUESTS", "the mirror is busy"}.write(w)
		return
	}
	if r.ContentLength != 0 {
		deadline := time.Now().Add(bodyTimeout)
		if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil {
			m.cfg.Log.Debug("set a deadline for a request's body", "err", err)
		}
	}
	h := w.Header()
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case !hostAllowed(r.Host, m.hosts):
		fault{http.StatusMisdirectedRequest, "DENIED", "this mirror does not answer to that host name"}.write(w)
		return
	case site != "" && site != "none" && site != "same-origin":
		fault{http.StatusForbidden, "DENIED", "this mirror does not answer to other sites' pages"}.write(w)
		return
	}
	m.serve(w, r, parsePath(r.URL.Path))
}

func (m *Mirror) serve(w http.ResponseWriter, r *http.Request, to route) {
	if to.kind == tokenPath && m.cfg.Token != nil {
		m.cfg.Token.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fault{http.StatusMethodNotAllowed, "UNSUPPORTED", "this mirror only reads; push to the supernode" + m.pushTo()}.write(w)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	registry, ok := m.names.registry(query)
	switch {
	case err != nil || !ok:
		fault{http.StatusNotFound, "NAME_UNKNOWN", "ns= names no configured registry"}.write(w)
		return
	case to.kind == pingPath:
		m.ping(w, r, registry)
		return
	case to.kind != manifestPath && to.kind != blobPath:
		fault{http.StatusNotFound, "UNSUPPORTED", "this mirror serves /v2/<name>/manifests/ and /v2/<name>/blobs/"}.write(w)
		return
	}
	req := Request{
		Ref:           blob.Ref{Registry: registry, Repository: to.repository},
		Reference:     to.reference,
		Digest:        to.digest,
		Manifest:      to.kind == manifestPath,
		Authorization: r.Header.Get("Authorization"),
	}
	grant, err := m.cfg.Auth.Authorize(r.Context(), req)
	m.tell(r, req, grant.Subject, err)
	if err != nil {
		m.refuse(w, r, req, err)
		return
	}
	if req.Manifest {
		m.manifest(w, r, req, grant)
	} else {
		m.blob(w, r, req, grant)
	}
}

func (m *Mirror) tell(r *http.Request, req Request, subject string, err error) {
	refused := is(err, ErrUnauthorized) || is(err, ErrDenied) || is(err, ErrNotFound)
	if m.cfg.Told == nil || err != nil && !refused {
		return
	}
	d := Decision{Ref: req.Ref, Subject: subject, From: r.RemoteAddr, Refused: refused}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		d.From = host
	}
	if req.Manifest {
		d.Reference = req.Reference
	}
	m.cfg.Told(d)
}

func (m *Mirror) pushTo() string {
	if m.cfg.PushTo == "" {
		return ""
	}
	return " at " + m.cfg.PushTo
}

// ping answers `/v2/`. Docker's login begins here, so the supernode's own
// registry asks for one; what an upstream lets pass is decided by content.
func (m *Mirror) ping(w http.ResponseWriter, r *http.Request, registry string) {
	if registry == "" {
		if err := m.cfg.Auth.Login(r.Context(), r.Header.Get("Authorization")); err != nil {
			m.refuse(w, r, Request{}, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	w.WriteHeader(http.StatusOK)
	io.WriteString(w, "{}") //nolint:errcheck // the client may be gone
}

// refuse ends a request that has sent nothing yet.
func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, req Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody listens any more
	}
	what := "BLOB"
	if req.Manifest {
		what = "MANIFEST"
	}
	f := faultOf(err, what)
	level := slog.LevelDebug
	if f.status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	m.cfg.Log.Log(r.Context(), level, "mirror refuses", "ref", req.Ref.String(), "reference", req.Reference, "status", f.status, "err", err)
	if f.status == http.StatusUnauthorized && m.cfg.OnlyRegistry == "" {
		w.Header().Set("WWW-Authenticate", m.challenge(r, req))
	}
	f.write(w)
}

// challenge names this mirror's own /token. All parts have passed a grammar
// without quotes; the host was checked.
func (m *Mirror) challenge(r *http.Request, req Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	realm := url.URL{Scheme: scheme, Host: r.Host, Path: "/token"}
	if req.Ref.Registry != "" {
		realm.RawQuery = url.Values{"ns": {req.Ref.Registry}}.Encode()
	}
	out := `Bearer realm="` + realm.String() + `",service="` + m.cfg.Service + `"`
	if req.Ref.Repository != "" {
		out += `,scope="repository:` + req.Ref.Repository + `:pull"`
	}
	if req.Authorization != "" {
		out += `,error="invalid_token"`
	}
	return out
}
