package dht

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	searchTimeout = 10 * time.Second
	// askTimeout bounds one question to one holder, connecting included.
	askTimeout = 4 * time.Second
	// asksAtOnce is how many holders one search asks at the same time.
	asksAtOnce = 8
	// distance of a holder that only the DHT named: somewhere in this IDC.
	distance = 3
)

// Find looks for holders of d. Each value on the channel is the whole list of
// those known so far, in no order that means anything; a reader that is slow
// gets the newest. A list, empty perhaps, is sent after each search, and Find
// searches again every Config.FindAgain until ctx ends; then the channel is
// closed. Size is what the blob is known to have in bytes, -1 when unknown;
// who claims another size is left out.
func (n *Node) Find(ctx context.Context, d blob.Digest, size int64) <-chan []blob.Peer {
	list := &peerList{out: make(chan []blob.Peer, 1), peers: map[peer.ID]blob.Peer{}}
	started := n.tasks.run(func() {
		defer close(list.out)
		ctx, cancel := n.bound(ctx)
		defer cancel()
		for {
			n.search(ctx, d, size, list)
			if n.cfg.FindAgain < 0 || ctx.Err() != nil {
				return
			}
			list.publish()
			select {
			case <-ctx.Done():
				return
			case <-time.After(n.cfg.FindAgain):
			}
		}
	})
	if !started {
		close(list.out)
	}
	return list.out
}

// bound makes a context that ends with ctx or with the node.
func (n *Node) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// search asks every provider once and keeps the list to what they answer now.
func (n *Node) search(ctx context.Context, d blob.Digest, size int64, list *peerList) {
	n.askProviders(ctx, n.cfg.blobKey(d), func(ctx context.Context, p peer.ID) {
		found, err := n.askHolds(ctx, p, d)
		switch {
		case err != nil:
			n.cfg.Log.Debug("holder does not answer", "peer", p.String(), "digest", string(d), "error", err)
			list.remove(p)
		case found == nil || size >= 0 && found.size != size:
			list.remove(p)
		default:
			list.add(p, found.Peer)
		}
	})
}

// askProviders runs ask for each provider of a key, a few at a time, until the
// search ends or ctx does.
func (n *Node) askProviders(ctx context.Context, key cid.Cid, ask func(context.Context, peer.ID)) {
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	slots := make(chan struct{}, asksAtOnce)
	var asks sync.WaitGroup
	for info := range n.kad.FindProvidersAsync(ctx, key, MaxHolders+1) {
		if info.ID == n.host.ID() {
			continue
		}
		slots <- struct{}{}
		asks.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			n.learn(ctx, info)
			ask(ctx, info.ID)
		})
	}
	asks.Wait()
}

// learn makes sure that a provider's address is known, asking the DHT where
// the record came without.
func (n *Node) learn(ctx context.Context, info peer.AddrInfo) {
	if n.host.Network().Connectedness(info.ID) == network.Connected {
		return
	}
	n.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
	if len(n.host.Peerstore().Addrs(info.ID)) > 0 {
		return
	}
	if found, err := n.kad.FindPeer(ctx, info.ID); err == nil {
		n.host.Peerstore().AddAddrs(found.ID, found.Addrs, peerstore.TempAddrTTL)
	}
}

type foundPeer struct {
	blob.Peer
	size int64
}

// askHolds asks one node for one digest; nil when it does not hold it.
func (n *Node) askHolds(ctx context.Context, p peer.ID, d blob.Digest) (*foundPeer, error) {
	raw, seen, err := n.ask(ctx, p, holdsProtocol, []byte(d), maxHolds)
	if err != nil {
		return nil, err
	}
	answer, err := decodeHolds(raw)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", p, err)
	}
	if !answer.held {
		return nil, nil
	}
	addr, err := pieceAddr(answer.addr, seen)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", p, err)
	}
	return &foundPeer{
		Peer: blob.Peer{ID: p.String(), Addr: addr, Seed: answer.seed, Complete: answer.holding.Complete, Distance: distance},
		size: answer.holding.Size,
	}, nil
}

// ask sends one request to a member and reads one answer of at most limit
// bytes. It also returns the IP address that the peer was reached at.
func (n *Node) ask(ctx context.Context, p peer.ID, protocol protocol.ID, request []byte, limit int) ([]byte, netip.Addr, error) {
	s, err := n.host.NewStream(ctx, p, protocol)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("open %s to %s: %w", protocol, p, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	raw, err := exchange(s, request, limit)
	if err != nil {
		_ = s.Reset()
		return nil, netip.Addr{}, fmt.Errorf("ask %s on %s: %w", p, protocol, err)
	}
	return raw, seenAddr(s.Conn()), s.Close()
}

func exchange(s network.Stream, request []byte, limit int) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	if err := writeFrame(s, request); err != nil {
		return nil, err
	}
	return readFrame(s, limit)
}

func seenAddr(c network.Conn) netip.Addr {
	ip, err := manet.ToIP(c.RemoteMultiaddr())
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// peerList is what a Find has found. Its channel holds the newest list.
type peerList struct {
	out chan []blob.Peer // capacity 1

	mu    sync.Mutex
	order []peer.ID             // guarded by mu
	peers map[peer.ID]blob.Peer // guarded by mu
}

func (l *peerList) add(id peer.ID, p blob.Peer) {
	l.mu.Lock()
	old, there := l.peers[id]
	if !there {
		l.order = append(l.order, id)
	}
	l.peers[id] = p
	l.mu.Unlock()
	if old != p {
		l.publish()
	}
}

func (l *peerList) remove(id peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.peers, id)
	l.order = slices.DeleteFunc(l.order, func(other peer.ID) bool { return other == id })
}

// publish replaces what is on the channel by the list of now.
func (l *peerList) publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]blob.Peer, 0, len(l.order))
	for _, id := range l.order {
		list = append(list, l.peers[id])
	}
	select {
	case <-l.out:
	default:
	}
	l.out <- list
}

// FindTags asks neighbours for signed records of a tag: valid ones, newest
// first by (Epoch, Time). It waits until the search ends, or half a second
// after the first record came. None found is an empty list, no error.
func (n *Node) FindTags(ctx context.Context, ref blob.Ref, tag string) ([]*blob.TagRecord, error) {
	request := tagsRequest{ref: ref, tag: tag}
	if max(len(ref.Registry), len(ref.Repository), len(tag)) > maxName {
		return nil, fmt.Errorf("find tag %s:%s: %w: a name is longer than %d bytes", ref, tag, errBadMessage, maxName)
	}
	search, cancel := n.bound(ctx)
	defer cancel()
	found := recordSet{}
	n.askProviders(search, n.cfg.tagKey(ref, tag), func(ctx context.Context, p peer.ID) {
		raw, _, err := n.ask(ctx, p, tagsProtocol, request.encode(), maxTags)
		if err != nil {
			n.cfg.Log.Debug("neighbour does not answer for a tag", "peer", p.String(), "error", err)
			return
		}
		records, err := decodeTags(raw)
		if err != nil {
			n.cfg.Log.Debug("neighbour answers nonsense for a tag", "peer", p.String(), "error", err)
			return
		}
		for _, r := range records {
			if r.Ref != ref || r.Tag != tag || r.Check(n.cfg.VerifyTag) != nil {
				continue
			}
			if found.add(r) {
				time.AfterFunc(tagGrace, cancel)
			}
		}
	})
	if err := errors.Join(ctx.Err(), n.ctx.Err()); err != nil && len(found.records) == 0 {
		return nil, fmt.Errorf("find tag %s:%s: %w", ref, tag, err)
	}
	return found.sorted(), nil
}
