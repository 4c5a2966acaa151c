package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/time/rate"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/api"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/seed"
	"github.com/shoalproject/shoal/supernode/tracker"
)

// secretLength is that of the network key and the provider secret, in bytes.
const secretLength = 32

// house is every room of a supernode, wired.
type house struct {
	config  config
	log     *slog.Logger
	metrics *prometheus.Registry

	meta     *meta.Bolt
	objects  *objects.Files
	key      *identity.Key
	node     *identity.Node
	trust    *identity.Trust
	tls      *tls.Config // nil on loopback
	audit    *audit.Log
	auth     *auth.Auth
	registry *registry.Registry
	cache    *store.Store
	seed     *seed.Seed
	tracker  *tracker.Tracker
	grants   *api.Grants   // makes them out
	shown    *token.Grants // checks those that are shown
	fleet    *fleet.Fleet
	book     *inventory.Inventory
	machines *provision.Reconciler
	cost     *cost.Book

	placements *placement.Runner

	dht      *dht.Node
	pieces   *swarm.Server
	api      api.Config
	stopping chan struct{}

	networkKey, providerSecret []byte
	memberKey                  []byte
	ready                      readiness

	closers []func() error // in the order in which they were opened
}

// open brings up all that needs no listener. What it opened is closed again
// when it fails.
func open(ctx context.Context, c config, log *slog.Logger) (h *house, err error) {
	h = &house{config: c, log: log, metrics: prometheus.NewRegistry(), stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	h.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return h, fmt.Errorf("make the data folder: %w; name another one with --data", err)
	}
	if err := h.openStores(); err != nil {
		return h, err
	}
	if err := h.openGate(ctx); err != nil {
		return h, err
	}
	if err := h.openBook(); err != nil {
		return h, err
	}
	if err := h.openCost(ctx); err != nil {
		return h, err
	}
	if err := h.openMachines(); err != nil {
		return h, err
	}
	if err := h.openSeed(); err != nil {
		return h, err
	}
	if err := h.openRegistry(ctx); err != nil {
		return h, err
	}
	h.openSwarm()
	h.openPlacements()
	if err := h.openDHT(ctx); err != nil {
		return h, err
	}
	h.openAPI()
	return h, h.resumeBook(ctx)
}

func (h *house) openStores() (err error) {
	// bbolt's lock on this file keeps a second supernode out of the folder.
	if h.meta, err = meta.OpenBolt(h.config.path("meta.db")); err != nil {
		return err
	}
	h.closers = append(h.closers, h.meta.Close)
	if h.objects, err = objects.OpenFiles(h.config.path("objects")); err != nil {
		return err
	}
	h.closers = append(h.closers, h.objects.Close)
	return nil
}

// secretFile reads a random secret, or makes it at the first start.
func (h *house) secretFile(name string) ([]byte, error) {
	path := h.config.path("keys", name)
	secret, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		secret = make([]byte, secretLength)
		rand.Read(secret)
		return secret, durable.WriteFile(path, secret, 0o600)
	}
	if err == nil && len(secret) != secretLength {
		err = fmt.Errorf("%s holds %d bytes, not %d; restore it from a backup", path, len(secret), secretLength)
	}
	return secret, err
}

// openGate makes or reads the keys, and the auth gateway that uses them.
func (h *house) openGate(ctx context.Context) error {
	keys := h.config.path("keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return fmt.Errorf("make the folder for keys: %w", err)
	}
	var err error
	if h.key, err = identity.LoadOrCreateKey(h.config.path("keys", "node.key")); err != nil {
		return err
	}
	memberKey, err := identity.LoadOrCreateMemberKey(keys)
	if err != nil {
		return err
	}
	tokenKeys, err := openTokenKeys(keys)
	if err != nil {
		return err
	}
	if h.networkKey, err = h.secretFile("network.key"); err != nil {
		return err
	}
	if h.providerSecret, err = h.secretFile("provider.key"); err != nil {
		return err
	}
	pin, err := h.openTLS(keys)
	if err != nil {
		return err
	}
	public := memberKey.Public()
	h.memberKey = publicBytes(public)
	h.node = identity.NewNode(h.key, time.Now)
	h.trust = identity.NewTrust(h.key.PeerID().String())
	if err := h.openAudit(); err != nil {
		return err
	}
	scheme := "https"
	if h.tls == nil {
		scheme = "http"
	}
	provider, err := h.config.OIDC.provider()
	if err != nil {
		return err
	}
	h.auth, err = auth.New(ctx, auth.Config{
		Meta: h.meta, TokenKeys: tokenKeys, KeepKeys: keepTokenKeys(keys), OnKeys: h.tellKeys, OnPassword: h.passwordChanged, MemberKey: memberKey, IDC: h.config.IDC,
		Issuer: "shoal/" + h.key.PeerID().String(), Service: "shoal-registry",
		ExternalURL: scheme + "://" + h.config.names()[0], PublicNames: h.config.names(), CASHA256: pin,
		OnRevoke: h.revoked, Audit: api.Deeds(h.audit), OnChange: h.rightsChanged, OpenID: provider, Now: time.Now, Log: h.log,
	})
	if err != nil {
		return err
	}
	h.node.Revoke(h.auth.Revoked(time.Time{})...)
	if err := h.renewOwn(ctx); err != nil {
		return err
	}
	if _, err = h.auth.FirstLogin(ctx, h.config.AdminPassword, h.firstLogin); err != nil {
		return err
	}
	return h.dropUsedLogin(ctx)
}

func (h *house) openAudit() (err error) {
	h.audit, err = audit.Open(audit.Config{
		Dir: h.config.path("audit"), Sign: h.key.Sign, Verify: h.trust.Verify, Keep: h.config.AuditKeep, MaxBytes: int64(h.config.AuditSize),
		Metrics: h.metrics, Now: time.Now, Log: h.log,
	})
	if err == nil {
		h.closers = append(h.closers, h.audit.Close)
	}
	return err
}

// renewOwn makes out this supernode's own membership.
func (h *house) renewOwn(ctx context.Context) error {
	membership, err := h.auth.Supernode(ctx, h.key.PeerID().String())
	if err != nil {
		return err
	}
	return h.node.SetMembership(membership, h.memberKey)
}

// openTLS decides how the registry's listener speaks and returns what join
// tokens pin: nothing on loopback, where there is no TLS.
func (h *house) openTLS(keys string) (pin [32]byte, err error) {
	if h.config.loopback() && h.config.TLSCert == "" {
		return pin, nil
	}
	if h.config.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(h.config.TLSCert, h.config.TLSKey)
		if err != nil {
			return pin, fmt.Errorf("read --tls-cert and --tls-key: %w", err)
		}
		h.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		return identity.PinOf(cert)
	}
	ca, err := identity.LoadOrCreateCA(keys)
	if err != nil {
		return pin, err
	}
	if h.tls, err = ca.ServerTLS(hostsOf(h.config.names()), time.Now); err != nil {
		return pin, err
	}
	// Clients that are given this file trust the supernode.
	return ca.SHA256(), durable.WriteFile(h.config.path("ca.pem"), ca.PEM(), 0o644)
}

// hostsOf strips the ports off names.
func hostsOf(names []string) []string {
	var out []string
	for _, name := range names {
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		out = append(out, name)
	}
	return out
}

// revoked cuts nodes off everywhere.
func (h *house) revoked(peerIDs ...string) {
	h.node.Revoke(peerIDs...)
	if h.tracker == nil {
		return // at the start, nothing is connected yet
	}
	h.tracker.Remove(peerIDs...)
	h.grants.Remove(peerIDs...)
	if h.dht != nil {
		h.dht.Drop(peerIDs...)
	}
	h.fleet.Tell(&shoalv1.Order{What: &shoalv1.Order_Revoked{Revoked: &shoalv1.Revoked{PeerIds: peerIDs}}})
}

// rightsChanged lets no host go by what it remembers about a right that is
// another one now.
func (h *house) rightsChanged(c auth.Change) {
	if h.fleet == nil {
		return // at the start, nothing is connected yet
	}
	h.fleet.Tell(api.RightsChanged(c))
}

func (h *house) openRegistry(ctx context.Context) (err error) {
	h.registry, err = registry.New(ctx, registry.Config{
		Meta: h.meta, Objects: h.objects, Auth: api.Gatekeeper{Auth: h.auth}, Policy: h.auth, Sign: h.key.Sign,
		PublicNames: h.config.names(), PullThrough: passThrough{h.seed}, Origin: h.config.IDC, Now: time.Now, Log: h.log,
	})
	return err
}

func (h *house) openSwarm() {
	h.fleet = fleet.New()
	h.grants = api.NewGrants(h.key.Sign, time.Now)
	h.shown = token.NewGrants(h.trust.Verify, time.Now)
	h.tracker = tracker.New(tracker.Config{Seeds: h.seeds})
	h.pieces = swarm.NewServer(swarm.ServerConfig{
		Lookup: h.lookup,
		Member: h.node.PeerID,
		Allow: func(_ context.Context, peerID string, d blob.Digest, grant []byte) error {
			return h.shown.Check(grant, peerID, d)
		},
		Seed:  true,
		Slots: h.config.UploadSlots, UploadLimit: h.limiter(), Log: h.log, Metrics: h.metrics,
	})
}

// burst lets a limited line still send in buffers worth a system call.
const burst = 256 << 10

func (h *house) limiter() *rate.Limiter {
	if h.config.UploadLimit == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(h.config.UploadLimit), burst)
}

// seeds names this supernode as a peer of every swarm. Its address is left
// without a host: each node knows the one by which it reached us.
func (h *house) seeds() []blob.Peer {
	return []blob.Peer{{ID: h.key.PeerID().String(), Addr: h.config.SwarmListen, Seed: true, Complete: true, Distance: 3}}
}

// lookup finds what the swarm may have from here.
func (h *house) lookup(ctx context.Context, d blob.Digest) (swarm.Content, error) {
	c, err := h.seed.Content(ctx, d)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// close closes what was opened, last first.
func (h *house) close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i]())
	}
	h.closers = nil
	return errors.Join(errs...)
}
