package dht

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	trimmer "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	dialTimeout = 5 * time.Second
	// streamWindow bounds what a stream buffers; the library's 16 MiB are for
	// bulk bytes, which do not travel here.
	streamWindow = 256 << 10
)

// newHost listens as cfg says: TCP under the private network's key, TLS,
// yamux, and nothing else.
func newHost(cfg *Config, gate connmgr.ConnectionGater) (_ host.Host, err error) {
	listen, err := multiaddrOf(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("discovery listen address %q: %w", cfg.Listen, err)
	}
	self, err := peer.IDFromPrivateKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("make peer ID from node key: %w", err)
	}
	addrs, err := addrsFactory(cfg.Advertise)
	if err != nil {
		return nil, err
	}
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, fmt.Errorf("make peer store: %w", err)
	}
	if err := errors.Join(store.AddPrivKey(self, cfg.Key), store.AddPubKey(self, cfg.Key.GetPublic())); err != nil {
		return nil, fmt.Errorf("keep node key in peer store: %w", err)
	}
	limits, err := newLimits(cfg.MaxConns)
	if err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	net, err := swarm.NewSwarm(self, store, bus,
		swarm.WithConnectionGater(gate), swarm.WithResourceManager(limits),
		swarm.WithDialTimeout(dialTimeout), swarm.WithDialTimeoutLocal(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("make libp2p network: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	if err := addTransport(net, cfg, gate, limits); err != nil {
		return nil, err
	}
	trim, err := trimmer.NewConnManager(cfg.MaxConns/2, cfg.MaxConns*3/4, trimmer.WithGracePeriod(20*time.Second))
	if err != nil {
		return nil, fmt.Errorf("make connection trimmer: %w", err)
	}
	h, err := basichost.NewHost(net, &basichost.HostOpts{
		EventBus:                bus,
		ConnManager:             trim,
		AddrsFactory:            addrs,
		NegotiationTimeout:      dialTimeout,
		UserAgent:               "shoal",
		ProtocolVersion:         "shoal/1",
		DisableSignedPeerRecord: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make libp2p host: %w", err)
	}
	h.Start()
	if err := net.Listen(listen); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for discovery on %q: %w; choose a free port or another address", cfg.Listen, err), h.Close())
	}
	return h, nil
}

func addTransport(net *swarm.Swarm, cfg *Config, gate connmgr.ConnectionGater, limits network.ResourceManager) error {
	config := *yamux.DefaultTransport.Config()
	config.MaxStreamWindowSize = streamWindow
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: (*yamux.Transport)(&config)}}
	security, err := libp2ptls.New(libp2ptls.ID, cfg.Key, muxers)
	if err != nil {
		return fmt.Errorf("make TLS identity: %w", err)
	}
	up, err := upgrader.New([]sec.SecureTransport{security}, muxers, pnet.PSK(cfg.PSK), limits, gate)
	if err != nil {
		return fmt.Errorf("make libp2p upgrader: %w", err)
	}
	transport, err := tcp.NewTCPTransport(up, limits, nil, tcp.DisableReuseport(), tcp.WithConnectionTimeout(dialTimeout))
	if err != nil {
		return fmt.Errorf("make TCP transport: %w", err)
	}
	if err := net.AddTransport(transport); err != nil {
		return fmt.Errorf("add TCP transport: %w", err)
	}
	return nil
}

// newLimits bounds what peers may make this node keep: connections, streams,
// memory of buffers. One address may hold many nodes (address translation,
// tests on loopback), so it is not limited more than the whole is.
func newLimits(maxConns int) (network.ResourceManager, error) {
	all := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(maxConns), ConnsInbound: rcmgr.LimitVal(maxConns * 3 / 4), ConnsOutbound: rcmgr.LimitVal(maxConns),
		FD:      rcmgr.LimitVal(maxConns),
		Streams: rcmgr.LimitVal(maxConns * 8), StreamsInbound: rcmgr.LimitVal(maxConns * 4), StreamsOutbound: rcmgr.LimitVal(maxConns * 4),
		Memory: rcmgr.LimitVal64(maxConns) * 2 * streamWindow,
	}
	arriving := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(maxConns), ConnsInbound: rcmgr.LimitVal(maxConns / 2), ConnsOutbound: rcmgr.LimitVal(maxConns),
		FD:      rcmgr.LimitVal(maxConns),
		Streams: rcmgr.LimitVal(maxConns * 4), StreamsInbound: rcmgr.LimitVal(maxConns * 2), StreamsOutbound: rcmgr.LimitVal(maxConns * 2),
		Memory: rcmgr.LimitVal64(maxConns) * streamWindow,
	}
	one := rcmgr.ResourceLimits{
		Conns: 4, ConnsInbound: 2, ConnsOutbound: 3, FD: 4,
		Streams: 48, StreamsInbound: 24, StreamsOutbound: 24, Memory: 16 * streamWindow,
	}
	config := rcmgr.PartialLimitConfig{System: all, Transient: arriving, PeerDefault: one}
	limiter := rcmgr.NewFixedLimiter(config.Build(rcmgr.DefaultLimits.AutoScale()))
	manager, err := rcmgr.NewResourceManager(limiter, rcmgr.WithMetricsDisabled(), rcmgr.WithLimitPerSubnet(
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: math.MaxInt}},
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: math.MaxInt}}))
	if err != nil {
		return nil, fmt.Errorf("make resource limits: %w", err)
	}
	return manager, nil
}

// multiaddrOf turns host:port into a multiaddr; an empty host is 0.0.0.0.
func multiaddrOf(hostport string) (ma.Multiaddr, error) {
	name, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("want IP:port: %w", err)
	}
	if name == "" {
		name = "0.0.0.0"
	}
	addr, err := netip.ParseAddrPort(net.JoinHostPort(name, port))
	if err != nil {
		return nil, fmt.Errorf("want IP:port: %w", err)
	}
	return manet.FromNetAddr(net.TCPAddrFromAddrPort(addr))
}

// addrsFactory decides what others are told: the advertised address alone, or
// else all that is listened on.
func addrsFactory(advertise string) (func([]ma.Multiaddr) []ma.Multiaddr, error) {
	if advertise == "" {
		return basichost.DefaultAddrsFactory, nil
	}
	fixed, err := multiaddrOf(advertise)
	if err != nil {
		return nil, fmt.Errorf("discovery address to advertise %q: %w", advertise, err)
	}
	return func([]ma.Multiaddr) []ma.Multiaddr { return []ma.Multiaddr{fixed} }, nil
}

// gater refuses connections with peers that refuse() names, as early as the
// peer is known.
type gater struct{ refuse func(peer.ID) bool }

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gater) InterceptPeerDial(p peer.ID) bool { return !g.refuse(p) }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept implements connmgr.ConnectionGater; the peer is not known yet.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater; TLS has proven the peer.
func (g *gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !g.refuse(p)
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// memberHost is a host that speaks with members alone: each stream, in either
// direction, waits for the membership handshake. The DHT is given this host.
type memberHost struct {
	host.Host
	members *members
}

// Connect implements host.Host.
func (h *memberHost) Connect(ctx context.Context, ai peer.AddrInfo) error {
	if err := h.Host.Connect(ctx, ai); err != nil {
		return err
	}
	return h.members.ensure(ctx, ai.ID)
}

// NewStream implements host.Host.
func (h *memberHost) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if err := h.members.ensure(ctx, p); err != nil {
		return nil, err
	}
	return h.Host.NewStream(ctx, p, protocols...)
}

// SetStreamHandler implements host.Host.
func (h *memberHost) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		p := s.Conn().RemotePeer()
		if err := h.members.ensure(h.members.ctx, p); err != nil {
			_ = s.Reset() // the peer is being disconnected; nothing is owed to it
			return
		}
		handle(&pacedStream{Stream: s, pace: h.members.pace(p), ctx: h.members.ctx})
	})
}
