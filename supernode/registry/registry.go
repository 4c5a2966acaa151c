package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

// Authorizer decides who may do what. repository "" asks about the registry
// as a whole: without an action whether the caller is anybody known, with
// "catalog" whether they may list repositories, of which they are shown those
// that Readable lets pass. Actions on a repository are pull, push and delete. subject names the caller; an upload session
// belongs to the one who began it.
//
// An error that has a method Challenge() string becomes 401 with that
// WWW-Authenticate header; one with Denied() bool 403; one with Later(), which
// gives a status and the seconds after which to try again, that status with
// Retry-After. Any other is a fault of this side and becomes 500.
type Authorizer interface {
	Authorize(r *http.Request, repository string, actions ...string) (subject string, err error)
	// Readable tells which repositories a subject that Authorize named may pull
	// from now. All repositories with the same first path element get the same
	// answer.
	Readable(ctx context.Context, subject string) (func(repository string) (bool, error), error)
}

// Config is what a Registry is made of. Meta, Objects, Auth and Sign are
// needed, the rest has defaults.
type Config struct {
	Meta    meta.Store
	Objects objects.Store
	Auth    Authorizer
	// Sign signs piece maps and tag records with the node's key.
	Sign blob.SignFunc
	// PublicNames are the names by which this registry is known: a request
	// with ns= one of these is one for its own repositories.
	PublicNames []string
	// Policy bounds what projects hold and which tags move; nil: nothing does.
	Policy Policy
	// PullThrough serves ns= of other registries; nil: there are none.
	PullThrough PullThrough
	// Origin names this data centre in log entries and tag records.
	Origin string
	// Lease is how long a pushed, mounted or asked for blob is safe from GC
	// without a manifest that names it. Default 24 h.
	Lease time.Duration
	// UploadTTL is how long an upload may rest before it is dropped. Default 24 h.
	UploadTTL time.Duration
	// DeleteDelay is how long an object outlives its last name: the longest
	// read. Default 1 h.
	DeleteDelay time.Duration
	// UntaggedTTL, when not 0, makes GC delete manifests pushed longer ago that
	// neither a tag nor an index nor a subject that stays names.
	UntaggedTTL time.Duration
	// LogRetention is how long log entries are kept. Default 30 days.
	LogRetention time.Duration
	// MaxBlobBytes bounds one blob. Default and limit 1 TiB.
	MaxBlobBytes int64
	Now          func() time.Time
	Log          *slog.Logger
}

// Registry serves /v2/ and gives the rest of the supernode what it holds.
type Registry struct {
	Config
	journal   *journal
	gc        sync.Mutex // one collection at a time
	pulls     pulls
	inlineMap int // maxInlineMap, but in tests
}

// maxBlobBytes is where the saved hashes of an upload session still fit one
// metadata commit.
const maxBlobBytes = 1 << 40

// New checks the configuration and begins or continues the replication log.
func New(ctx context.Context, c Config) (*Registry, error) {
	if c.Meta == nil || c.Objects == nil || c.Auth == nil || c.Sign == nil {
		return nil, errors.New("registry: Meta, Objects, Auth and Sign must be set")
	}
	setDefault(&c.Lease, 24*time.Hour)
	setDefault(&c.UploadTTL, 24*time.Hour)
	setDefault(&c.DeleteDelay, time.Hour)
	setDefault(&c.LogRetention, 30*24*time.Hour)
	setDefault(&c.MaxBlobBytes, maxBlobBytes)
	if c.MaxBlobBytes > maxBlobBytes {
		return nil, fmt.Errorf("registry: MaxBlobBytes is %d, at most %d are taken", c.MaxBlobBytes, int64(maxBlobBytes))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.PublicNames = slices.Clone(c.PublicNames)
	j, err := openJournal(ctx, c.Meta, c.Origin, c.Now)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	g := &Registry{Config: c, journal: j, inlineMap: maxInlineMap}
	j.account = g.account
	return g, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// ServeHTTP implements http.Handler for everything under /v2/.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := g.serve(w, r); err != nil {
		g.writeError(w, r, err)
	}
}

// serve authorises and dispatches.
func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	route, routeErr := parseRoute(r.URL.Path)
	actions, methodErr := route.actions(r.Method)
	if err := errors.Join(routeErr, methodErr); err != nil {
		// Even a wrong question is answered to those only who are known.
		if _, authErr := g.Auth.Authorize(r, ""); authErr != nil {
			return authError(authErr)
		}
		if routeErr != nil {
			return routeErr
		}
		w.Header().Set("Allow", route.allow())
		return methodErr
	}
	if ns, other := g.foreign(r); other {
		return g.servePullThrough(w, r, route, ns)
	}
	subject, err := g.Auth.Authorize(r, route.repository, actions...)
	if err != nil {
		return authError(err)
	}
	q := &request{Request: r, route: route, subject: subject}
	return route.handler(r.Method)(g, w, q)
}

// request is a request whose right was checked.
type request struct {
	*http.Request
	route
	subject string
}

// ping is GET /v2/: who is known may go on.
func (g *Registry) ping(w http.ResponseWriter, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write([]byte("{}"))
	return clientGone(err)
}
