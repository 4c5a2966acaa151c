package dht

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const (
	memberProtocol = "/shoal/member/1"
	// handshakeTimeout is how long a peer may take to show its statement.
	handshakeTimeout = 10 * time.Second
	// trustFor is how long a verified statement is not looked at again.
	trustFor = time.Minute
	// refuseFor is how long a peer with a bad statement is kept out.
	refuseFor = 10 * time.Second
	// maxRefused bounds how many of those are remembered.
	maxRefused = 1024

	// A peer's streams are read at this rate and no faster, bytes/s.
	paceRate  = 128 << 10
	paceBurst = 512 << 10
	// A peer may ask so many questions a second (holds, tags).
	askRate  = 50
	askBurst = 200
)

// errNotMember is what everything wraps that is denied to a peer without a
// valid membership.
var errNotMember = errors.New("not a member of this private network")

// member is what is known of a connected peer that passed the handshake.
type member struct {
	statement []byte
	checked   time.Time
	bytes     *rate.Limiter
	asks      *rate.Limiter
}

// handshake is one on its way, which others wait for.
type handshake struct {
	done chan struct{}
	err  error // valid once done is closed
}

// members knows which peers have proven their membership. Entries live as
// long as the connection.
type members struct {
	ctx       context.Context // ends with the node
	tasks     *tasks
	host      host.Host
	statement func() []byte
	verify    func(raw []byte, peer string) error
	revoked   func(peer string) bool
	passed    event.Emitter // tells the DHT to look at a peer again
	log       *slog.Logger

	mu      sync.Mutex
	known   map[peer.ID]*member    // guarded by mu
	calls   map[peer.ID]*handshake // guarded by mu
	refused map[peer.ID]time.Time  // guarded by mu: until when
}

// start takes over the handshake protocol and the fate of new connections.
func (m *members) start(h host.Host) error {
	m.host = h
	var err error
	if m.passed, err = h.EventBus().Emitter(new(event.EvtPeerProtocolsUpdated)); err != nil {
		return fmt.Errorf("make libp2p event emitter: %w", err)
	}
	h.SetStreamHandler(memberProtocol, m.answer)
	h.Network().Notify(&network.NotifyBundle{ConnectedF: m.connected, DisconnectedF: m.disconnected})
	return nil
}

// refuse is the connection gater's question.
func (m *members) refuse(p peer.ID) bool {
	if m.revoked(p.String()) {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	until, there := m.refused[p]
	if there && time.Now().After(until) {
		delete(m.refused, p)
		return false
	}
	return there
}

// has reports whether p has passed, without asking it.
func (m *members) has(p peer.ID) bool {
	if m.revoked(p.String()) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[p] != nil
}

func (m *members) connected(_ network.Network, c network.Conn) {
	m.tasks.run(func() {
		p := c.RemotePeer()
		ctx, cancel := context.WithTimeout(m.ctx, handshakeTimeout)
		defer cancel()
		if c.Stat().Direction == network.DirInbound && m.awaitCaller(ctx, c) {
			return
		}
		if err := m.ensure(ctx, p); err != nil && m.ctx.Err() == nil {
			m.log.Debug("disconnected a peer that showed no membership", "peer", p.String(), "error", err)
			_ = c.Close()
		}
	})
}

// awaitCaller gives the caller half of the time to show its statement first,
// as callers do. It reports whether that happened or the connection ended.
func (m *members) awaitCaller(ctx context.Context, c network.Conn) bool {
	wait := time.NewTimer(handshakeTimeout / 2)
	defer wait.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c.IsClosed() || m.has(c.RemotePeer()) {
				return true
			}
		case <-wait.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
}

func (m *members) disconnected(n network.Network, c network.Conn) {
	p := c.RemotePeer()
	if n.Connectedness(p) == network.Connected {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, p)
}

// ensure returns nil once p has proven a membership that is still valid; it
// connects and shakes hands where needed. Calls for one peer share a handshake.
func (m *members) ensure(ctx context.Context, p peer.ID) error {
	if m.revoked(p.String()) {
		m.drop(p)
		return fmt.Errorf("peer %s is revoked: %w", p, errNotMember)
	}
	m.mu.Lock()
	if k := m.known[p]; k != nil {
		if time.Since(k.checked) < trustFor {
			m.mu.Unlock()
			return nil
		}
		if m.verify(k.statement, p.String()) == nil {
			k.checked = time.Now()
			m.mu.Unlock()
			return nil
		}
		delete(m.known, p) // it may have a newer statement: ask
	}
	call := m.calls[p]
	if call == nil {
		call = &handshake{done: make(chan struct{})}
		m.calls[p] = call
		if !m.tasks.run(func() { m.shake(p, call) }) {
			call.err = fmt.Errorf("discovery is closing: %w", context.Canceled)
			delete(m.calls, p)
			close(call.done)
		}
	}
	m.mu.Unlock()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return fmt.Errorf("wait for membership of %s: %w", p, ctx.Err())
	}
}

// shake runs one handshake and publishes its outcome.
func (m *members) shake(p peer.ID, call *handshake) {
	ctx, cancel := context.WithTimeout(m.ctx, handshakeTimeout)
	defer cancel()
	call.err = m.exchange(ctx, p)
	m.mu.Lock()
	delete(m.calls, p)
	m.mu.Unlock()
	close(call.done)
}

// exchange shows our statement to p and takes its own.
func (m *members) exchange(ctx context.Context, p peer.ID) error {
	s, err := m.host.NewStream(ctx, p, memberProtocol)
	if err != nil {
		if m.host.Network().Connectedness(p) == network.Connected {
			_ = m.host.Network().ClosePeer(p) // it is there and does not speak the protocol
		}
		return fmt.Errorf("ask %s for its membership: %w", p, err)
	}
	defer s.Close()
	raw, err := m.swap(s, true)
	if err != nil {
		_ = s.Reset()
		return fmt.Errorf("exchange membership statements with %s: %w", p, err)
	}
	return m.admit(p, raw)
}

// answer is the other end of exchange: it verifies before it answers, so that
// who got an answer knows that it was admitted.
func (m *members) answer(s network.Stream) {
	p := s.Conn().RemotePeer()
	raw, err := m.swap(s, false)
	if err == nil {
		err = m.admit(p, raw)
	}
	if err == nil {
		err = writeFrame(s, m.statement())
	}
	if err != nil {
		m.log.Debug("refused a peer", "peer", p.String(), "error", err)
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (m *members) swap(s network.Stream, speakFirst bool) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	if speakFirst {
		if err := writeFrame(s, m.statement()); err != nil {
			return nil, err
		}
	}
	return readFrame(s, maxStatement)
}

// admit verifies a statement. A bad one ends the connection.
func (m *members) admit(p peer.ID, raw []byte) error {
	if m.revoked(p.String()) {
		m.drop(p)
		return fmt.Errorf("peer %s is revoked: %w", p, errNotMember)
	}
	if err := m.verify(raw, p.String()); err != nil {
		m.mu.Lock()
		if len(m.refused) < maxRefused {
			m.refused[p] = time.Now().Add(refuseFor)
		}
		m.mu.Unlock()
		m.drop(p)
		return fmt.Errorf("%w: statement of %s: %w", errNotMember, p, err)
	}
	m.mu.Lock()
	if k := m.known[p]; k != nil {
		k.statement, k.checked = raw, time.Now()
	} else {
		m.known[p] = &member{
			statement: raw, checked: time.Now(),
			bytes: rate.NewLimiter(paceRate, paceBurst), asks: rate.NewLimiter(askRate, askBurst),
		}
	}
	m.mu.Unlock()
	if err := m.passed.Emit(event.EvtPeerProtocolsUpdated{Peer: p}); err != nil {
		m.log.Debug("could not tell the DHT of a new member", "peer", p.String(), "error", err)
	}
	return nil
}

// drop disconnects p and forgets it.
func (m *members) drop(p peer.ID) {
	m.mu.Lock()
	delete(m.known, p)
	m.mu.Unlock()
	_ = m.host.Network().ClosePeer(p)
}

// pace is the limiter for the bytes that p sends.
func (m *members) pace(p peer.ID) *rate.Limiter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.known[p]; k != nil {
		return k.bytes
	}
	return rate.NewLimiter(paceRate, paceBurst)
}

// mayAsk takes one question of p's allowance.
func (m *members) mayAsk(p peer.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.known[p]
	return k != nil && k.asks.Allow()
}

// sweep disconnects who was revoked and forgets old refusals.
func (m *members) sweep() {
	for _, p := range m.host.Network().Peers() {
		if m.revoked(p.String()) {
			m.drop(p)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, until := range m.refused {
		if time.Now().After(until) {
			delete(m.refused, p)
		}
	}
	for p := range m.known {
		if m.host.Network().Connectedness(p) != network.Connected {
			delete(m.known, p)
		}
	}
}

// pacedStream is a stream whose sender is slowed to a rate, so that no member
// can keep a node busy.
type pacedStream struct {
	network.Stream
	pace *rate.Limiter
	ctx  context.Context
}

// Read implements io.Reader.
func (s *pacedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if n > 0 {
		if wait := s.pace.WaitN(s.ctx, min(n, paceBurst)); wait != nil {
			return n, wait
		}
	}
	return n, err
}

// tasks counts goroutines, so that Close can wait for them.
type tasks struct {
	mu     sync.Mutex
	closed bool // guarded by mu
	group  sync.WaitGroup
}

// run starts f, unless the tasks were closed.
func (t *tasks) run(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.group.Go(f)
	return true
}

// close lets nothing start any more.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}
