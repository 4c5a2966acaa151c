package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// Config says how an Exchange reaches its peers.
type Config struct {
	// Self is this node's own peer ID; it is left out of every peer list.
	Self string
	// Dial makes a connection on which the peer has proven its identity, as
	// identity.Node.Dial does. nil means plain HTTP, for a network that an
	// operator trusts: pieces are verified either way.
	Dial func(ctx context.Context, network, addr, peerID string) (net.Conn, error)
	// Verify checks the signatures of piece maps and batches.
	Verify blob.VerifyFunc
	// Report is told of peers that sent wrong bytes. It may be nil and must
	// not block.
	Report func(Bad)
	// DownloadLimit in bytes per second; its burst must be 64 KiB or more. nil
	// means no limit.
	DownloadLimit *rate.Limiter
	// Policy is the zero value for the policy that was measured.
	Policy policy.Params
	Log    *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Bad is a peer that sent bytes which do not match a signed hash.
type Bad struct {
	Peer   blob.Peer
	Digest blob.Digest
	Piece  int
	Reason string
}

// FetchRequest is one blob to fetch.
type FetchRequest struct {
	// Sink is filled. The caller commits and closes it.
	Sink Sink
	// Peers brings the peers to ask; the latest list wins. Closed means that
	// no more lists will come. This node's own address is left out.
	Peers <-chan []blob.Peer
	// Class is wait, rollout, prewarm or reseed; empty means rollout.
	Class string
	// Claim reserves a piece against whoever else fills the sink. It may be
	// nil.
	Claim func(i int) (release func(), ok bool)
	// Got is told the bytes of each verified piece and who sent them, by several
	// goroutines at once and before Fetch returns. It may be nil and must not
	// block.
	Got func(peer blob.Peer, bytes int64)
	// Grant is the leave to have this blob that is shown to peers, as of now;
	// nil: none is.
	Grant func() []byte
	// Hedged is told of each late piece that a second peer is asked for. It
	// may be nil and must not block.
	Hedged func()
}

// Exchange fetches blobs from peers. The download slots and what is known
// about peers are common to all blobs.
type Exchange struct {
	cfg     Config
	params  policy.Params
	metrics *exchangeMetrics

	mu      sync.Mutex
	rand    *rand.Rand              // guarded by mu
	peers   map[string]*policy.Peer // by peer ID, the values too; guarded by mu
	share   *policy.Share[*session] // guarded by mu
	clients map[blob.Peer]*client   // by ID and Addr alone; guarded by mu
}

// knownPeers is how many peers are remembered before those of no interest are
// forgotten.
const knownPeers = 4096

// NewExchange makes an exchange. Verify must be there.
func NewExchange(cfg Config) *Exchange {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Report == nil {
		cfg.Report = func(Bad) {}
	}
	params := cfg.Policy
	if params == (policy.Params{}) {
		params = policy.Default()
	}
	return &Exchange{
		cfg: cfg, params: params, metrics: newExchangeMetrics(cfg.Metrics),
		rand:    rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		peers:   map[string]*policy.Peer{},
		share:   policy.NewShare[*session](params.Downloads),
		clients: map[blob.Peer]*client{},
	}
}

// Fetch fills the sink. It returns nil when every piece is there, ErrNoPeers
// when there is nobody left to ask and the peer lists have ended, ErrNoProof
// when no peer can show signed piece hashes, the sink's own error when it
// cannot write, and otherwise what ended ctx.
func (e *Exchange) Fetch(ctx context.Context, req FetchRequest) error {
	class, err := policy.ParseClass(req.Class)
	if err != nil {
		return fmt.Errorf("fetch %s from peers: %w", req.Sink.Digest(), err)
	}
	if req.Claim == nil {
		req.Claim = func(int) (func(), bool) { return func() {}, true }
	}
	if req.Grant == nil {
		req.Grant = func() []byte { return nil }
	}
	if req.Hedged == nil {
		req.Hedged = func() {}
	}
	if req.Got == nil {
		req.Got = func(blob.Peer, int64) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := newSession(ctx, e, req, class)
	e.mu.Lock()
	e.share.Join(s, class)
	e.mu.Unlock()
	err = s.run()
	cancel()
	s.close()
	if err != nil {
		return fmt.Errorf("fetch %s from peers: %w", req.Sink.Digest(), err)
	}
	return nil
}

// Close drops the connections that are idle. Fetches that run go on.
func (e *Exchange) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, c := range e.clients {
		c.transport.CloseIdleConnections()
		if c.users == 0 {
			c.talk.end()
			delete(e.clients, key)
		}
	}
}

// peer is what is known about a peer; e.mu is held.
func (e *Exchange) peer(p blob.Peer) *policy.Peer {
	state := e.peers[p.ID]
	if state == nil {
		e.forget()
		state = &policy.Peer{}
		e.peers[p.ID] = state
	}
	state.Distance = p.Distance
	return state
}

// forget drops peers that nobody uses and that are in no disgrace; e.mu is
// held.
func (e *Exchange) forget() {
	if len(e.peers) < knownPeers {
		return
	}
	used := map[string]bool{}
	for key, c := range e.clients {
		if c.users > 0 {
			used[key.ID] = true
		}
	}
	now := time.Now()
	for id, p := range e.peers {
		if !used[id] && p.Ready(now) {
			delete(e.peers, id)
		}
	}
}

// judge changes what is known about a peer.
func (e *Exchange) judge(p *policy.Peer, f func(p *policy.Peer, now time.Time, r *rand.Rand)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(p, time.Now(), e.rand)
}

// acquire takes a download slot for s, or lets s wait for a grant.
func (e *Exchange) acquire(s *session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	ok := e.share.Acquire(s)
	if ok {
		e.metrics.slots.Inc()
	}
	return ok
}

// release gives a download slot back and wakes whoever has it now.
func (e *Exchange) release(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.releaseLocked(s)
}

func (e *Exchange) releaseLocked(s *session) {
	next, granted := e.share.Release(s)
	if granted {
		next.grants <- struct{}{} // holds as many as there are slots
	} else {
		e.metrics.slots.Dec()
	}
}

// leave takes a session that ends out of the share, with the grants that it
// has not seen.
func (e *Exchange) leave(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.share.Leave(s)
	for {
		select {
		case <-s.grants:
			e.releaseLocked(s)
		default:
			return
		}
	}
}
