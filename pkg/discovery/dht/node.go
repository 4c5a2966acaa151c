package dht

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

const (
	// bucketSize is Kademlia's k: how many nodes keep a provider record. With
	// 12, a record is lost once in 4,000 times when half of the hosts die at
	// once, and a provide costs half of what the public network's 20 would.
	bucketSize = 12
	// maxBootstrap is how many bootstrap addresses are remembered and how many
	// Known names.
	maxBootstrap = 64
	// fewNeighbours is the size of the routing table below which the node
	// calls its bootstrap peers again.
	fewNeighbours = 4
	// tendEvery is the pause between two looks at the routing table when all
	// is well; tendSoon when it is too empty.
	tendEvery = 30 * time.Second
	tendSoon  = time.Second

	// A provide costs about 12 ms of CPU over all nodes it touches.
	announceRate    = 10
	announceBurst   = 40
	announceWorkers = 4
)

// Node is one member of the private network. Its methods may be called from
// any goroutine.
type Node struct {
	cfg     Config
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	tasks   tasks
	host    *memberHost
	members *members
	kad     *kad.IpfsDHT

	limit *rate.Limiter // for announcing
	wake  chan struct{} // capacity 1: the schedule has changed

	mu        sync.Mutex
	bootstrap []peer.AddrInfo // guarded by mu
	plan      *schedule       // guarded by mu
}

// New starts a node; it ends with ctx or at Close. Unreachable bootstrap peers
// are no error: the node goes on calling them.
func New(ctx context.Context, cfg Config) (_ *Node, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.fill()
	n := &Node{
		cfg:   cfg,
		plan:  newSchedule(maxAnnounced),
		limit: rate.NewLimiter(announceRate, announceBurst),
		wake:  make(chan struct{}, 1),
	}
	n.ctx, n.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			n.cancel()
		}
	}()
	if err := n.AddBootstrap(cfg.Bootstrap...); err != nil {
		return nil, err
	}
	n.members = &members{
		ctx: n.ctx, tasks: &n.tasks,
		statement: cfg.Statement, verify: cfg.VerifyMember, revoked: cfg.Revoked, log: cfg.Log,
		known: map[peer.ID]*member{}, calls: map[peer.ID]*handshake{}, refused: map[peer.ID]time.Time{},
	}
	h, err := newHost(&n.cfg, &gater{refuse: n.members.refuse})
	if err != nil {
		return nil, err
	}
	n.host = &memberHost{Host: h, members: n.members}
	if err := n.serve(h); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	n.tasks.run(n.tend)
	for range announceWorkers {
		n.tasks.run(n.announceLoop)
	}
	context.AfterFunc(n.ctx, n.tasks.close)
	return n, nil
}

// serve puts the protocols on the host.
func (n *Node) serve(h host.Host) error {
	if err := n.members.start(h); err != nil {
		return err
	}
	n.host.SetStreamHandler(holdsProtocol, n.serveHolds)
	n.host.SetStreamHandler(tagsProtocol, n.serveTags)
	var err error
	n.kad, err = kad.New(n.host,
		kad.Mode(kad.ModeServer),
		kad.ProtocolPrefix("/shoal"),
		kad.BucketSize(bucketSize),
		kad.Concurrency(4),
		kad.DisableValues(),
		kad.Datastore(newRecordStore()),
		kad.ProviderManagerOpts(records.ProvideValidity(n.cfg.TTL), records.CleanupInterval(n.cfg.TTL/6), records.ProviderAddrTTL(n.cfg.TTL)),
		kad.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr { return addrs[:min(len(addrs), 8)] }),
		kad.RoutingTableFilter(func(_ any, p peer.ID) bool { return n.members.has(p) }),
		kad.QueryFilter(func(_ any, ai peer.AddrInfo) bool { return !n.members.refuse(ai.ID) }),
		kad.RoutingTablePeerDiversityFilter(nil),
		kad.BootstrapPeersFunc(n.bootstrapPeers))
	if err != nil {
		return fmt.Errorf("start DHT: %w", err)
	}
	return nil
}

// Close ends the node and waits for all it started.
func (n *Node) Close() error {
	n.cancel()
	n.tasks.close()
	err := errors.Join(n.kad.Close(), n.host.Close())
	n.tasks.group.Wait()
	if err != nil {
		return fmt.Errorf("close discovery: %w", err)
	}
	return nil
}

// ID is this node's peer ID.
func (n *Node) ID() string { return n.host.ID().String() }

// Addrs are the multiaddrs, with /p2p/ID, under which others reach this node.
func (n *Node) Addrs() []string {
	return texts(peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()})
}

// Known are multiaddrs, with /p2p/ID, of members that this node is connected
// to or has in its routing table: at most 64. Who keeps them can start without
// any supernode (Config.Bootstrap).
func (n *Node) Known() []string {
	var out []string
	seen := map[peer.ID]bool{n.host.ID(): true}
	for _, p := range append(n.host.Network().Peers(), n.kad.RoutingTable().ListPeers()...) {
		connected := n.host.Network().Connectedness(p) == network.Connected
		if seen[p] || connected && !n.members.has(p) || n.cfg.Revoked(p.String()) {
			continue
		}
		seen[p] = true
		if found := texts(n.host.Peerstore().PeerInfo(p)); len(found) > 0 {
			out = append(out, found...)
		}
		if len(out) >= maxBootstrap {
			break
		}
	}
	return out[:min(len(out), maxBootstrap)]
}

// Neighbours is the number of peers in the routing table.
func (n *Node) Neighbours() int { return n.kad.RoutingTable().Size() }

// Drop disconnects peers, because they were revoked. Config.Revoked must name
// them too, or they come back.
func (n *Node) Drop(peers ...string) {
	for _, text := range peers {
		p, err := peer.Decode(text)
		if err != nil {
			continue // what is no peer ID is connected to nobody
		}
		n.kad.RoutingTable().RemovePeer(p)
		n.members.drop(p)
	}
}

// AddBootstrap adds peers to call when neighbours are few: multiaddrs with
// /p2p/ID. The newest 64 peers are kept.
func (n *Node) AddBootstrap(addrs ...string) error {
	var parsed []ma.Multiaddr
	for _, text := range addrs {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return fmt.Errorf("bootstrap address %q: %w; want /ip4/ADDRESS/tcp/PORT/p2p/ID", text, err)
		}
		parsed = append(parsed, addr)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(parsed...)
	if err != nil {
		return fmt.Errorf("bootstrap addresses: %w; want /ip4/ADDRESS/tcp/PORT/p2p/ID", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, info := range infos {
		n.bootstrap = slices.DeleteFunc(n.bootstrap, func(old peer.AddrInfo) bool { return old.ID == info.ID })
		n.bootstrap = append(n.bootstrap, info)
	}
	if extra := len(n.bootstrap) - maxBootstrap; extra > 0 {
		n.bootstrap = slices.Clone(n.bootstrap[extra:])
	}
	return nil
}

func (n *Node) bootstrapPeers() []peer.AddrInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.bootstrap)
}

// tend keeps the routing table filled and sweeps the members.
func (n *Node) tend() {
	pause := time.Duration(0)
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(pause):
		}
		n.members.sweep()
		if n.Neighbours() >= fewNeighbours {
			pause = tendEvery
			continue
		}
		n.callBootstrap()
		if n.Neighbours() > 0 {
			pause = tendEvery
		} else {
			pause = min(max(2*pause, tendSoon), tendEvery)
		}
	}
}

// callBootstrap connects to all bootstrap peers at once; the answer of one is
// enough to go on.
func (n *Node) callBootstrap() {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	var calls sync.WaitGroup
	for _, info := range n.bootstrapPeers() {
		if info.ID == n.host.ID() {
			continue
		}
		calls.Go(func() {
			n.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
			if err := n.host.Connect(ctx, info); err != nil {
				n.cfg.Log.Debug("bootstrap peer does not answer", "peer", info.ID.String(), "error", err)
			}
		})
	}
	calls.Wait()
	if err := n.kad.Bootstrap(ctx); err != nil {
		n.cfg.Log.Debug("bootstrap of the DHT failed", "error", err)
	}
}

func texts(info peer.AddrInfo) []string {
	addrs, err := peer.AddrInfoToP2pAddrs(&info)
	if err != nil {
		return nil
	}
	out := make([]string, len(addrs))
	for i, addr := range addrs {
		out[i] = addr.String()
	}
	return out
}
