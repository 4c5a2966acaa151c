// Package api is the supernode's front: it puts the routes of the registry,
// the tokens, the administrator's and the members' services and the console
// onto their listeners, and decides nothing by itself. Every route is closed
// unless it stands in the list of open ones.
package api

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/profile"
	"github.com/shoalproject/shoal/pkg/telemetry"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/console"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/retention"
	"github.com/shoalproject/shoal/supernode/seed"
	"github.com/shoalproject/shoal/supernode/tracker"
)

const (
	// maxMessage bounds a request to the services, in bytes.
	maxMessage = 4 << 20
	// maxJoin bounds a request by somebody who is not known yet, in bytes.
	maxJoin = 16 << 10
)

var errTooMuch = errors.New("the request names more than one answer can hold; send less at a time")

var errUndecided = errors.New("the supernode could not look up who you are; its log says why")

// Seed fetches what the swarm wants from outside.
type Seed interface {
	// Ensure says what this supernode has or does about a wanted blob, and
	// starts to fetch it where it can.
	Ensure(ctx context.Context, subject string, a *tracker.Announcement, origin blob.Origin)
	// Resolve finds the digest that a tag of an upstream names.
	Resolve(ctx context.Context, ref blob.Ref, tag string) (blob.Digest, error)
}

// Config is what the front stands before.
type Config struct {
	Auth     *auth.Auth
	Node     *identity.Node
	Registry *registry.Registry
	Pieces   http.Handler // the swarm's
	Tracker  *tracker.Tracker
	Grants   *Grants
	// Inventory is the book of servers, and decides about pools.
	Inventory *inventory.Inventory
	// Placements carries out what is placed.
	Placements *placement.Runner
	// Foreign reads a manifest of another registry as somebody who is logged in
	// here may.
	Foreign func(ctx context.Context, subject string, ref blob.Ref, reference string) (blob.Digest, []byte, error)
	// Initialiser has hosts carry out their pools' profiles.
	Initialiser *Initialiser
	// Running counts the containers that are placed on a server. May be nil.
	Running func(ctx context.Context, serverID string) (int, error)
	// Cost is the book of what was used.
	Cost  *cost.Book
	Fleet *fleet.Fleet
	Seed  Seed
	// Audit gets a row for every call, push, delete and refusal.
	Audit *audit.Log
	Meta  meta.Backuper
	// Welcome is all that a member is told; host is the address by which it
	// reached this supernode.
	Welcome func(membership []byte, host string) (*shoalv1.Welcome, error)
	IDC     string
	Ready   http.HandlerFunc
	// Stopping is closed when the supernode begins to stop: long answers end.
	Stopping <-chan struct{}
	Now      func() time.Time
	Log      *slog.Logger
}

// route is a pattern of http.ServeMux and who answers it.
type route struct {
	pattern string
	handler http.Handler
}

// OpenRoutes is the whole list of what is answered without credentials. A
// test asks every route without any and fails on one that answers and does
// not stand here.
var OpenRoutes = []string{
	"GET /healthz", "GET /readyz",
	"/token", "GET /.well-known/jwks.json",
	"POST /api/shoal.v1.JoinService/",
	"POST /api/shoal.v1.LoginService/",
	"GET /login", "POST /login", "GET /login/oidc", "GET /login/oidc/callback", "GET /style.css",
}

// routes are those of the public listener.
func (c Config) routes() ([]route, error) {
	pages, err := console.New(console.Config{
		Doors: doors{c}, Images: c.images, Swarms: c.swarms, Fleet: c.pools, Services: c.services, Name: c.IDC, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	_, join := shoalv1connect.NewJoinServiceHandler(joinService{c}, connect.WithReadMaxBytes(maxJoin))
	_, admin := shoalv1connect.NewAdminServiceHandler(adminService{c}, c.recorded())
	_, projects := shoalv1connect.NewProjectServiceHandler(projectService{c}, c.recorded())
	_, rules := shoalv1connect.NewRetentionServiceHandler(retentionService{c}, c.recorded())
	_, users := shoalv1connect.NewUserServiceHandler(userService{c}, c.recorded())
	_, audits := shoalv1connect.NewAuditServiceHandler(auditService{c}, c.recorded())
	_, logins := shoalv1connect.NewLoginServiceHandler(loginService{c}, connect.WithReadMaxBytes(maxJoin))
	_, sessions := shoalv1connect.NewSessionServiceHandler(sessionService{c}, c.recorded())
	_, inventory := shoalv1connect.NewInventoryServiceHandler(inventoryService{Config: c}, c.recorded())
	_, placements := shoalv1connect.NewPlacementServiceHandler(placementService{c}, c.recorded())
	_, costs := shoalv1connect.NewCostServiceHandler(costService{c}, c.recorded())
	out := []route{
		{"/v2/", c.registryRecorded()},
		{"POST /api/shoal.v1.JoinService/", http.StripPrefix("/api", join)},
		{"/api/shoal.v1.AdminService/", http.StripPrefix("/api", c.adminsOnly(admin))},
		{"/api/shoal.v1.ProjectService/", http.StripPrefix("/api", c.usersOnly(projects))},
		{"/api/shoal.v1.RetentionService/", http.StripPrefix("/api", c.usersOnly(rules))},
		{"/api/shoal.v1.UserService/", http.StripPrefix("/api", c.usersOnly(users))},
		{"/api/shoal.v1.AuditService/", http.StripPrefix("/api", c.usersOnly(audits))},
		{"POST /api/shoal.v1.LoginService/", http.StripPrefix("/api", c.strangers(logins))},
		{"/api/shoal.v1.SessionService/", http.StripPrefix("/api", c.usersOnly(sessions))},
		{"/api/shoal.v1.InventoryService/", http.StripPrefix("/api", c.usersOnly(inventory))},
		{"/api/shoal.v1.PlacementService/", http.StripPrefix("/api", c.usersOnly(placements))},
		{"/api/shoal.v1.CostService/", http.StripPrefix("/api", c.usersOnly(costs))},
		{"/token", http.HandlerFunc(c.Auth.ServeToken)},
		{"GET /.well-known/jwks.json", http.HandlerFunc(c.Auth.ServeJWKS)},
		{"GET /healthz", http.HandlerFunc(telemetry.Alive)},
		{"GET /readyz", c.Ready},
	}
	for pattern, handler := range pages.Open() {
		out = append(out, route{pattern, handler})
	}
	for pattern, handler := range pages.Closed() {
		out = append(out, route{pattern, c.asSession(handler)})
	}
	return out, nil
}

// Public is the handler of the registry's listener.
func Public(c Config) (http.Handler, error) {
	routes, err := c.routes()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.pattern, r.handler)
	}
	return mux, nil
}

// Members is the handler of the piece listener: pieces, the members' service,
// and the registry as agents read it.
func Members(c Config) http.Handler {
	_, node := shoalv1connect.NewNodeServiceHandler(nodeService{c}, connect.WithReadMaxBytes(maxMessage))
	_, told := shoalv1connect.NewMirrorAuditServiceHandler(mirrorAuditService{c}, connect.WithReadMaxBytes(maxMessage))
	_, host := shoalv1connect.NewHostServiceHandler(hostService{Config: c}, connect.WithReadMaxBytes(maxMessage))
	mux := http.NewServeMux()
	mux.Handle("/swarm/v1/", c.Pieces)
	mux.Handle("/shoal.v1.NodeService/", c.membersOnly(node))
	mux.Handle("/shoal.v1.HostService/", c.membersOnly(host))
	mux.Handle("/shoal.v1.MirrorAuditService/", c.membersOnly(told))
	mux.Handle("GET /v2/", c.membersOnly(c.registryRecorded()))
	mux.Handle("POST /token", c.membersOnly(http.HandlerFunc(c.Auth.ServeToken)))
	return mux
}

// Admin is the handler of the socket in the data folder, whose file mode is
// the login.
func Admin(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(shoalv1connect.NewAdminServiceHandler(adminService{c}, c.recorded()))
	mux.Handle(shoalv1connect.NewKeyServiceHandler(keyService{c}, c.recorded()))
	return http.StripPrefix("/api", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(withCaller(r, auth.User{Name: operator, Admin: true})))
	}))
}

func (c Config) adminsOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := c.Auth.AuthorizeAdmin(r)
		if err != nil {
			c.refuse(w, r, user, err)
			return
		}
		c.Log.Info("administration", "user", user.Name, "call", strings.TrimPrefix(r.URL.Path, "/shoal.v1."), "from", r.RemoteAddr)
		next.ServeHTTP(w, r.WithContext(withCaller(r, user)))
	})
}

// refuse answers in the form that Connect clients read, and puts the call down
// in the audit; by is who it was, as far as that is known. A fault of this side
// is in the log, and its words are for nobody else.
func (c Config) refuse(w http.ResponseWriter, r *http.Request, by auth.User, err error) {
	var challenge *auth.ChallengeError
	var later interface{ Later() (status, seconds int) }
	code, status := connect.CodeInternal, http.StatusInternalServerError
	switch {
	case errors.As(err, &challenge):
		code, status = connect.CodeUnauthenticated, http.StatusUnauthorized
	case errors.As(err, &later):
		var seconds int
		status, seconds = later.Later()
		if code = connect.CodeResourceExhausted; status == http.StatusServiceUnavailable {
			code = connect.CodeUnavailable
		}
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	case errors.Is(err, auth.ErrDenied):
		code, status = connect.CodePermissionDenied, http.StatusForbidden
	default:
		c.Log.Error("a call was not decided", "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
		err = errUndecided
	}
	c.recordDoor(r, by, code)
	if err := connect.NewErrorWriter().Write(w, r, connect.NewError(code, err)); err != nil {
		http.Error(w, code.String(), status)
	}
}

// coded gives an error the code by which clients choose their exit status.
func coded(err error) error {
	code := connect.CodeInternal
	var oci *registry.Error
	var limit *auth.LimitError
	switch {
	case errors.Is(err, auth.ErrInvalid), errors.Is(err, retention.ErrInvalid), errors.Is(err, inventory.ErrInvalid), errors.Is(err, cost.ErrInvalid), errors.Is(err, placement.ErrInvalid):
		code = connect.CodeInvalidArgument
	case errors.Is(err, auth.ErrUserExists), errors.Is(err, auth.ErrProjectExists), errors.Is(err, auth.ErrRobotExists), errors.Is(err, inventory.ErrExists), errors.Is(err, placement.ErrExists):
		code = connect.CodeAlreadyExists
	case errors.Is(err, auth.ErrProjectHolds), errors.Is(err, auth.ErrLastAdmin), errors.Is(err, auth.ErrNoPassword), errors.Is(err, auth.ErrRotating), errors.Is(err, token.ErrRotating),
		errors.Is(err, inventory.ErrHolds), errors.Is(err, inventory.ErrPhase), errors.Is(err, inventory.ErrQuota), errors.Is(err, cost.ErrTooMuch), errors.Is(err, placement.ErrBusy), errors.Is(err, placement.ErrStopped), errors.Is(err, placement.ErrNotPlaced), errors.Is(err, placement.ErrNoRoom), errors.Is(err, placement.ErrTooMany),
		errors.Is(err, errNoProfile), errors.Is(err, errUnderWay), errors.Is(err, errRefusedThere), errors.Is(err, profile.ErrInvalid), errors.Is(err, fleet.ErrNotConnected):
		code = connect.CodeFailedPrecondition
	case errors.Is(err, auth.ErrLogin):
		code = connect.CodePermissionDenied
	case errors.As(err, &limit):
		code = connect.CodeResourceExhausted
	case errors.Is(err, auth.ErrJoin), errors.Is(err, auth.ErrRevoked), errors.Is(err, auth.ErrDenied), errors.Is(err, fetch.ErrDenied), errors.Is(err, inventory.ErrDenied):
		code = connect.CodePermissionDenied
	case errors.Is(err, placement.ErrNotFound), errors.Is(err, placement.ErrNoRevision), errors.Is(err, inventory.ErrNoPool), errors.Is(err, inventory.ErrNoServer), errors.Is(err, inventory.ErrNoCluster), errors.Is(err, inventory.ErrNoRole), errors.Is(err, cost.ErrNoBudget),
		errors.Is(err, auth.ErrNoProject), errors.Is(err, auth.ErrNoUser), errors.Is(err, auth.ErrNoRobot), errors.Is(err, auth.ErrNoRule), errors.Is(err, auth.ErrNoNode), errors.Is(err, auth.ErrUnknownSession), errors.Is(err, fleet.ErrNoHosts), errors.Is(err, fetch.ErrNotFound),
		errors.Is(err, seed.ErrUnknownUpstream), errors.As(err, &oci) && oci.Status == http.StatusNotFound:
		code = connect.CodeNotFound
	case errors.Is(err, fetch.ErrUnavailable), errors.Is(err, errStopping):
		code = connect.CodeUnavailable
	}
	return connect.NewError(code, err)
}

// joinService is the door for nodes that are not yet members.
type joinService struct{ Config }

func (s joinService) Join(ctx context.Context, req *connect.Request[shoalv1.JoinRequest]) (*connect.Response[shoalv1.JoinResponse], error) {
	m := req.Msg
	joined, err := s.Auth.Join(ctx, auth.Joining{
		Token: m.Token, PublicKey: ed25519.PublicKey(m.PublicKey), Proof: m.Proof, Hostname: m.Hostname,
	})
	if err == nil {
		err = s.arrived(ctx, inventory.Arrival{PeerID: joined.PeerID, Hostname: m.Hostname, Pool: joined.Pool, Server: joined.Server})
	}
	s.Audit.Record(joinEvent(m, hostOf(req.Peer().Addr), joined, err))
	if err != nil {
		s.Log.Warn("a node was not taken in", "from", req.Peer().Addr, "error", err)
		return nil, coded(err)
	}
	welcome, err := s.Welcome(joined.Membership, localHost(ctx))
	if err != nil {
		return nil, coded(err)
	}
	s.Log.Info("a node joined", "peer", joined.PeerID, "hostname", m.Hostname, "pool", joined.Pool, "from", req.Peer().Addr)
	return connect.NewResponse(&shoalv1.JoinResponse{Welcome: welcome}), nil
}
