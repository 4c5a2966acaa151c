package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/listen"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/telemetry"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/api"
)

const (
	// clientGrace is how long requests in progress may take when the
	// supernode stops; agents have neighbours to ask.
	clientGrace = 10 * time.Second
	piecesGrace = time.Second
	// headersWithin bounds how long a client may take to send its headers.
	headersWithin = 10 * time.Second
	// idleFor is how long a connection may wait for its next request.
	idleFor = 2 * time.Minute
	// sweepEvery is how often what has expired is dropped from memory.
	sweepEvery = time.Minute
	// listenEvery is how often it is seen which hosts are silent.
	listenEvery = 5 * time.Second
	// ownRenewal is how often the supernode's own membership is made anew;
	// it lasts a day.
	ownRenewal = 8 * time.Hour
)

func serve(ctx context.Context, c config, errOut io.Writer) error {
	log := slog.New(slog.NewTextHandler(errOut, nil))
	h, err := open(ctx, c, log)
	if err != nil {
		return err
	}
	return errors.Join(h.run(ctx), h.close())
}

// readiness answers /readyz: 200 between the start and the stop.
type readiness struct{ up atomic.Bool }

func (r *readiness) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if !r.up.Load() {
		http.Error(w, "starting or stopping", http.StatusServiceUnavailable)
		return
	}
	telemetry.Alive(w, request)
}

func publicBytes(key crypto.PublicKey) ed25519.PublicKey {
	public, _ := key.(ed25519.PublicKey)
	return public
}

func (h *house) openDHT(ctx context.Context) (err error) {
	h.dht, err = dht.New(ctx, dht.Config{
		Key: h.key.Libp2p(), Listen: h.config.P2PListen, PSK: h.networkKey, Secret: h.providerSecret,
		Statement: func() []byte {
			membership, err := h.auth.Supernode(ctx, h.key.PeerID().String())
			if err != nil {
				h.log.Error("the own membership was not made", "error", err)
			}
			return membership
		},
		VerifyMember: func(raw []byte, peer string) error {
			m, err := identity.ParseMembership(raw, h.memberKey, time.Now())
			if err == nil && m.PeerID != peer {
				err = errors.New("the membership is another peer's")
			}
			return err
		},
		Revoked:   func(peer string) bool { return h.node.Admit(peer) != nil },
		SwarmAddr: h.config.SwarmListen,
		Seed:      true,
		Holdings:  func(d blob.Digest) (dht.Holding, bool) { return h.holding(ctx, d) },
		// While this supernode answers, the tracker names holders to those who
		// may know; the DHT is for when it does not.
		Allow:     func(string, blob.Digest) bool { return false },
		VerifyTag: h.trust.Verify,
		Log:       h.log,
	})
	if err != nil {
		return fmt.Errorf("open libp2p: %w; is --p2p-listen %s taken?", err, h.config.P2PListen)
	}
	h.log.Info("listening", "what", "libp2p", "address", h.config.P2PListen)
	h.closers = append(h.closers, h.dht.Close)
	return nil
}

func (h *house) holding(ctx context.Context, d blob.Digest) (dht.Holding, bool) {
	content, err := h.lookup(ctx, d)
	if err != nil {
		return dht.Holding{}, false
	}
	defer content.Close()
	have, _ := content.Progress()
	return dht.Holding{Size: content.Size(), Complete: have.Full(), Have: have}, have.Count() > 0
}

// welcome is all that a member is told; host is the address by which it
// reached this supernode.
func (h *house) welcome(membership []byte, host string) (*shoalv1.Welcome, error) {
	w := &shoalv1.Welcome{
		Membership: membership, Idc: h.config.IDC, MemberKey: h.memberKey,
		Signers: []string{h.key.PeerID().String()}, Jwks: string(h.auth.JWKS()),
		TokenIssuer: "shoal/" + h.key.PeerID().String(), TokenService: "shoal-registry",
		PublicNames: h.config.names(), NetworkKey: h.networkKey, ProviderSecret: h.providerSecret,
		OfflineGraceSeconds: int64(h.config.OfflineGrace.Seconds()),
		Supernodes: []*shoalv1.Supernode{{
			PeerId: h.key.PeerID().String(), SwarmAddr: reached(h.config.SwarmListen, host), P2PAddrs: h.dht.Addrs(),
		}},
	}
	for name, u := range h.config.Upstreams {
		one := &shoalv1.Upstream{Name: name, Url: u.URL, Credentials: u.Username != ""}
		if u.CAFile != "" {
			pem, err := os.ReadFile(u.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read the authority of upstream %s: %w", name, err)
			}
			one.CaPem = string(pem)
		}
		w.Upstreams = append(w.Upstreams, one)
	}
	return w, nil
}

// reached completes an address to listen on by the host it was reached at.
func reached(listen, host string) string {
	own, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(own); own == "" || ip != nil && ip.IsUnspecified() {
		own = host
	}
	return net.JoinHostPort(own, port)
}

func (h *house) openAPI() {
	h.api = api.Config{
		Auth: h.auth, Node: h.node, Registry: h.registry, Pieces: h.pieces, Tracker: h.tracker, Grants: h.grants, Fleet: h.fleet,
		Inventory: h.book, Initialiser: api.NewInitialiser(h.book, h.fleet, time.Now, h.log),
		Cost: h.cost, Placements: h.placements, Foreign: h.foreignManifest, Running: h.placements.RunningOn,
		Seed: origins{h.seed}, Audit: h.audit, Meta: h.meta, Welcome: h.welcome, IDC: h.config.IDC, Ready: h.ready.ServeHTTP,
		Stopping: h.stopping, Now: time.Now, Log: h.log,
	}
}

// run serves until ctx ends or a listener fails.
func (h *house) run(ctx context.Context) error {
	addresses, err := h.listen(ctx)
	if err != nil {
		addresses.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	addresses.Serve(group)
	group.Go(func() error { return h.keepHouse(ctx) })
	group.Go(func() error { h.listenForHosts(ctx); return nil })
	group.Go(func() error { h.machines.Run(ctx); return nil })
	group.Go(func() error { return h.cost.Run(ctx, h.used) })
	group.Go(func() error { return h.placements.Run(ctx) })
	group.Go(func() error { return h.api.Initialiser.Run(ctx) })
	h.ready.up.Store(true)
	group.Go(func() error {
		<-ctx.Done()
		h.ready.up.Store(false)
		close(h.stopping)
		addresses.Stop()
		return nil
	})
	return group.Wait()
}

// listenForHosts closes the lines of hosts that are silent, without being kept
// by other housework: services wait for that to be placed again.
func (h *house) listenForHosts(ctx context.Context) {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, host := range h.fleet.Sweep(now) {
				h.log.Warn("a host is silent; its line is closed", "hostname", host.Hostname, "peer", host.PeerID)
			}
		case <-ctx.Done():
			return
		}
	}
}

// keepHouse does what comes round again: sweeping, renewal, garbage.
func (h *house) keepHouse(ctx context.Context) error {
	sweep, renewal := time.NewTicker(sweepEvery), time.NewTicker(ownRenewal)
	defer sweep.Stop()
	defer renewal.Stop()
	var garbage <-chan time.Time
	if h.config.GCEvery > 0 {
		ticker := time.NewTicker(h.config.GCEvery)
		defer ticker.Stop()
		garbage = ticker.C
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return h.registry.NotePulls(context.WithoutCancel(ctx))
		case now := <-sweep.C:
			h.tracker.Sweep(now)
			h.grants.Sweep()
			err = errors.Join(h.auth.Sweep(ctx), h.book.Sweep(ctx), h.registry.NotePulls(ctx), h.makeRoom(ctx))
		case <-renewal.C:
			err = h.renewOwn(ctx)
		case <-garbage:
			_, err = h.api.Collect(ctx)
		}
		if err != nil && ctx.Err() == nil {
			h.log.Error("housekeeping failed; it is tried again", "error", err)
		}
	}
}

// makeRoom ends uploads that rest while the disk is full.
func (h *house) makeRoom(ctx context.Context) error {
	_, err := h.registry.MakeRoom(ctx)
	return err
}

// listen opens every address of the supernode.
func (h *house) listen(ctx context.Context) (*listen.Set, error) {
	set := listen.New(h.log)
	public, err := api.Public(h.api)
	if err != nil {
		return set, err
	}
	insides, err := telemetry.Server(h.metrics, h.config.MetricsToken, h.ready.ServeHTTP)
	if err != nil {
		return set, err
	}
	secure := func(l net.Listener) net.Listener {
		if h.tls == nil {
			return l
		}
		return tls.NewListener(l, h.tls)
	}
	for _, a := range []listen.Address{
		{Name: "registry", Flag: "listen", Addr: h.config.Listen, Grace: clientGrace, Wrap: secure, Server: &http.Server{
			Handler: public, ReadHeaderTimeout: headersWithin, IdleTimeout: idleFor, MaxHeaderBytes: 64 << 10,
		}},
		{Name: "pieces", Flag: "swarm-listen", Addr: h.config.SwarmListen, Grace: piecesGrace,
			Wrap:   func(l net.Listener) net.Listener { return h.node.Listener(swarm.Listen(l)) },
			Server: swarm.HTTPServer(api.Members(h.api))},
		{Name: "metrics", Flag: "metrics-listen", Addr: h.config.MetricsListen, Grace: piecesGrace, Server: insides},
	} {
		if err := set.Open(ctx, a); err != nil {
			return set, err
		}
	}
	admin := &http.Server{Handler: api.Admin(h.api), ReadHeaderTimeout: headersWithin}
	return set, set.OpenSocket(ctx, h.config.path(adminSocket), admin, piecesGrace)
}
