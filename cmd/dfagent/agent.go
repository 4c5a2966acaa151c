package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/time/rate"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/discovery/tracker"
	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/gateway"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/profile"
	"github.com/shoalproject/shoal/pkg/records"
	"github.com/shoalproject/shoal/pkg/runtime/containerd"
	"github.com/shoalproject/shoal/pkg/settings"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/supervise"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// agent is every room of a dfagent, wired.
type agent struct {
	config   config
	log      *slog.Logger
	registry *prometheus.Registry
	clock    clock

	key       *identity.Key
	node      *identity.Node
	trust     *identity.Trust
	believer  *believer
	grants    *token.Grants
	verifier  *token.Verifier
	line      *control.Line
	names     *names
	upstreams *upstreams

	store      *store.Store
	records    *records.Store
	runtime    *containerd.Runtime   // nil without one
	engine     engine.Engine         // nil without one
	pretends   unpacker              // the engine, when it only pretends
	supervisor *supervise.Supervisor // nil without an engine
	logs       *logs
	exchange   *swarm.Exchange
	pieces     *swarm.Server
	tracker    *tracker.Client
	held       chan tracker.Held
	dht        *dht.Node // nil when switched off
	gateway    *gateway.Client
	fetcher    *fetch.Fetcher
	gate       *mirror.Gate
	pulls      *pulls
	decided    *decided
	keeper     *profile.Keeper

	closers []func() error // in the order in which they were opened
}

// open brings up all that needs no listener. What it opened is closed again
// when it fails.
func open(ctx context.Context, c config, log *slog.Logger) (a *agent, err error) {
	a = &agent{config: c, log: log, registry: prometheus.NewRegistry(), held: make(chan tracker.Held, 1024)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return a, fmt.Errorf("make the data folder: %w; name another one with --data", err)
	}
	welcome, err := a.enter(ctx)
	if err != nil {
		return a, err
	}
	if err := a.openStores(ctx); err != nil {
		return a, err
	}
	a.openSwarm()
	if c.P2PListen != "" {
		if err := a.openDHT(ctx, welcome); err != nil {
			return a, err
		}
	}
	a.openFetch(welcome)
	if err := a.openContainers(ctx); err != nil {
		return a, err
	}
	return a, a.openKeeper()
}

// hear takes on what a welcome says; it is called for each new one.
func (a *agent) hear(w *shoalv1.Welcome) {
	a.trust.Set(w.Signers...)
	a.names.set(w)
	if err := a.verifier.Update([]byte(w.Jwks)); err != nil {
		a.log.Error("the supernode's token keys cannot be read; the old ones stay", "error", err)
	}
	if err := a.upstreams.set(w.Upstreams); err != nil {
		a.log.Error("the supernode's upstreams cannot be used; the old ones stay", "error", err)
	}
	if a.dht != nil {
		if err := a.dht.AddBootstrap(bootstrap(w)...); err != nil {
			a.log.Warn("a supernode's libp2p address cannot be used", "error", err)
		}
	}
}

func bootstrap(w *shoalv1.Welcome) []string {
	var out []string
	for _, s := range w.Supernodes {
		out = append(out, s.P2PAddrs...)
	}
	return out
}

func (a *agent) openStores(ctx context.Context) (err error) {
	if a.store, err = store.Open(a.config.path("blobs"), store.Options{MaxBytes: int64(a.config.CacheSize), Log: a.log}); err != nil {
		return err
	}
	a.closers = append(a.closers, a.store.Close)
	if a.records, err = records.Open(a.config.path("records.db")); err != nil {
		return err
	}
	a.closers = append(a.closers, a.records.Close)
	if a.config.Containerd != "" {
		a.runtime, err = containerd.Open(ctx, containerd.Options{
			Address: a.config.Containerd, Namespaces: namespaces(a.config.ContainerdNS),
			Mirror: a.config.Mirror, Log: a.log,
		})
		if err != nil {
			return err
		}
		a.closers = append(a.closers, a.runtime.Close)
	}
	return nil
}

// namespaces are the wanted one first, then containerd's own and Docker's.
func namespaces(first string) []string {
	out := []string{first}
	for _, other := range []string{"k8s.io", "default", "moby"} {
		if other != first {
			out = append(out, other)
		}
	}
	return out
}

func (a *agent) openSwarm() {
	a.believer = &believer{trust: a.trust, line: a.line, refuted: expirable.NewLRU[string, struct{}](maxRefuted, nil, 0)}
	a.grants = token.NewGrants(a.trust.Verify, a.clock.Now)
	a.exchange = swarm.NewExchange(swarm.Config{
		Self:          a.key.PeerID().String(),
		Dial:          a.node.Dial,
		Verify:        a.believer.verify,
		Report:        a.report,
		DownloadLimit: limiter(a.config.DownloadLimit),
		Log:           a.log,
		Metrics:       a.registry,
	})
	a.closers = append(a.closers, func() error { a.exchange.Close(); return nil })
	a.pieces = swarm.NewServer(swarm.ServerConfig{
		Lookup:      a.lookup,
		Member:      a.node.PeerID,
		Allow:       a.allow,
		Slots:       a.config.UploadSlots,
		UploadLimit: limiter(a.config.UploadLimit),
		Log:         a.log,
		Metrics:     a.registry,
	})
	a.tracker = tracker.New(tracker.Config{
		HTTP: a.line.HTTP(), Bases: a.line.Bases, Self: a.labels, Events: a.held, Holdings: a.holdings, Log: a.log,
	})
}

// burst lets a limited line still send in buffers worth a system call.
const burst = 256 << 10

func limiter(r settings.Rate) *rate.Limiter {
	if r == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(r), burst)
}

func (a *agent) labels() tracker.Labels {
	return tracker.Labels{SwarmAddr: a.config.SwarmListen, Rack: a.config.Rack, Zone: a.config.Zone}
}

// report tells the tracker of a peer that sent wrong bytes, without keeping
// the flight waiting.
func (a *agent) report(bad swarm.Bad) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.tracker.Report(ctx, bad.Peer.ID, bad.Digest, bad.Piece, bad.Reason); err != nil {
			a.log.Warn("a bad peer was not reported", "peer", bad.Peer.ID, "error", err)
		}
	}()
}

func (a *agent) openDHT(ctx context.Context, w *shoalv1.Welcome) (err error) {
	a.dht, err = dht.New(ctx, dht.Config{
		Key:       a.key.Libp2p(),
		Listen:    a.config.P2PListen,
		PSK:       w.NetworkKey,
		Secret:    w.ProviderSecret,
		Bootstrap: append(bootstrap(w), a.knownPeers()...),
		Statement: func() []byte { return a.line.Welcome().Membership },
		VerifyMember: func(raw []byte, peer string) error {
			m, err := identity.ParseMembership(raw, ed25519.PublicKey(a.line.Welcome().MemberKey), time.Now())
			if err == nil && m.PeerID != peer {
				err = errors.New("the membership is another peer's")
			}
			return err
		},
		Revoked:   func(peer string) bool { return a.node.Admit(peer) != nil },
		SwarmAddr: a.config.SwarmListen,
		Holdings:  a.holding,
		Tags:      a.tagRecords,
		Allow:     func(string, blob.Digest) bool { return a.onItsOwn() },
		VerifyTag: a.trust.Verify,
		Log:       a.log,
	})
	if err != nil {
		return fmt.Errorf("open libp2p: %w; is --p2p-listen %s taken?", err, a.config.P2PListen)
	}
	a.log.Info("listening", "what", "libp2p", "address", a.config.P2PListen)
	a.closers = append(a.closers, func() error { a.keepPeers(); return a.dht.Close() })
	return nil
}

// peersFile keeps the neighbours of the last run, one multiaddr a line: with
// them a host finds the swarm again when every supernode is gone.
const peersFile = "peers"

func (a *agent) knownPeers() []string {
	raw, err := os.ReadFile(a.config.path(peersFile))
	if err != nil {
		return nil // a first start, or nothing lost
	}
	return strings.Fields(string(raw))
}

func (a *agent) keepPeers() {
	known := a.dht.Known()
	if len(known) == 0 {
		return
	}
	if err := os.WriteFile(a.config.path(peersFile), []byte(strings.Join(known, "\n")), 0o600); err != nil {
		a.log.Warn("the neighbours were not remembered", "error", err)
	}
}

func (a *agent) openFetch(w *shoalv1.Welcome) {
	a.gateway = gateway.New(a.line.HTTP(), a.line.Bases)
	grace := time.Duration(w.OfflineGraceSeconds) * time.Second
	keeper := &tagKeeper{Store: a.records, dht: a.dht, verify: a.trust.Verify, grace: grace, log: a.log}
	config := fetch.Config{
		Store:        fetch.StoreOf(a.store.Get, a.store.Create),
		Swarm:        exchangeOf{a.exchange},
		Tracker:      a.tracker,
		Upstream:     a.upstreams,
		Gateway:      gatewayOf{a.gateway, keeper},
		Tags:         keeper,
		Blame:        a.believer.blame,
		Verify:       a.trust.Verify,
		Sign:         a.key.Sign,
		OfflineGrace: grace,
		Log:          a.log,
		Metrics:      a.registry,
	}
	if a.runtime != nil {
		config.Local = a.runtime
	}
	if a.dht != nil {
		config.DHT, config.TagsNear = finderOf{a.dht}, tagFinderOf{a.dht}
	}
	a.fetcher = fetch.New(config)
	a.closers = append(a.closers, a.fetcher.Close)
	a.pulls = &pulls{fetcher: a.fetcher, names: expirable.NewLRU[blob.Digest, named](rememberedNames, nil, 0)}
	a.decided = &decided{counts: map[mirror.Decision]uint64{}}
	a.gate = mirror.NewGate(mirror.GateConfig{
		Verifier: a.verifier, Prover: prover{a.gateway, a.upstreams, keeper}, Tokens: tokensOf{a.gateway}, Upstreams: a.upstreams,
		Own: a.names.own, Upstream: a.upstreams.Known, NodeMay: a.mayPull, OfflineGrace: grace, Log: a.log,
	})
}

// mayPull reports whether this host's pool may pull a project's images.
func (a *agent) mayPull(project string) bool {
	m, err := a.node.Membership()
	return err == nil && slices.Contains(m.Projects, project)
}

// close closes what was opened, last first.
func (a *agent) close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	a.closers = nil
	return errors.Join(errs...)
}
